"""What commands print: results to stdout, for people or as JSON; remarks to stderr."""

import io
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from bnlab.errors import shown_lines

if TYPE_CHECKING:
    from bnlab.report.blocks import Section


def replace_what_cannot_be_encoded() -> None:
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
    """Paragraphs on stdout, without the empty ones."""
    print_line("\n\n".join(part for part in parts if part))


def print_json(data: Mapping[str, Any]) -> None:
    """One JSON object on stdout."""
    print_line(json.dumps(data, indent=2))


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
