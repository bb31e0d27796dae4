"""What commands print: results to stdout, for people or as JSON; remarks to stderr."""

import io
import json
import logging
import os
import sys
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TextIO, cast

import typer

from bnlab.errors import shown_json, shown_lines

if TYPE_CHECKING:
    from bnlab.report.blocks import Section


class _Unheard:
    """stderr, which carries progress and remarks: when it takes no more, nothing ends of it.

    Everything but writing is the stream's own.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except (OSError, ValueError) as error:
            self._give_up(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self._give_up(error)

    def _give_up(self, error: OSError | ValueError) -> None:
        if isinstance(error, ValueError) and not self._stream.closed:
            raise error
        with suppress(OSError, ValueError):  # what it still holds must not fail at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())


def prepare_streams() -> None:
    """Let a run live whatever becomes of the streams that this process was given.

    Where one was closed (`2>&-`), the first file that training opens would take its place, and
    with it whatever a library writes there.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free one: this
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - stays open
    sys.stderr = cast("TextIO", _Unheard(sys.stderr))
    _replace_what_cannot_be_encoded()


class _Shown(logging.Formatter):
    """Warnings quote files and runs, which may be anybody's."""

    def format(self, record: logging.LogRecord) -> str:
        return shown_lines(super().format(record))


def warn_on_stderr() -> None:
    """Print what the package warns of as a command's other remarks."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Shown("bnlab: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)


def _replace_what_cannot_be_encoded() -> None:
    """Print `?` for a character that stdout's encoding lacks, as latin-1 lacks a sparkline's."""
    stream = sys.stdout
    if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
        stream.reconfigure(errors="replace")


def print_line(text: str) -> None:
    """A line, or several, on stdout.

    A reader that has left (`| head`) is no failure: the command goes on in silence and ends with
    the exit code it would have had.
    """
    try:
        typer.echo(shown_lines(text))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_parts(*parts: str) -> None:
    """Paragraphs on stdout, without the empty ones, as wide as the terminal."""
    print_wrapped("\n\n".join(part for part in parts if part))


def print_wrapped(text: str) -> None:
    """Lines on stdout, longer ones broken between words and indented from the second on."""
    width = stdout_width()
    print_line("\n".join(wrapped(line, width) for line in text.split("\n")))


def stdout_width() -> int:
    """Characters of a line on stdout."""
    from bnlab.report.terminal import stdout_console

    return stdout_console().width


def wrapped(line: str, width: int) -> str:
    """A line in lines of at most so many characters; a word that is longer stands alone."""
    if len(line) <= width:
        return line
    indent = " " * (len(line) - len(line.lstrip()))
    return textwrap.fill(
        line.strip(),
        width,
        initial_indent=indent,
        subsequent_indent=f"{indent}  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def print_json(data: Mapping[str, Any]) -> None:
    """One JSON object on stdout."""
    print_line(shown_json(json.dumps(data, indent=2)))


def print_sections(sections: "Sequence[Section]") -> None:
    """Sections of a report on stdout."""
    from bnlab.report import terminal

    terminal.print_sections(sections, terminal.stdout_console())


def remark(text: str) -> None:
    """A line on stderr, beside the result."""
    typer.echo(shown_lines(text), err=True)


def this_command() -> list[str]:
    """The command as it was given, to try again."""
    return ["bnlab", *sys.argv[1:]]
