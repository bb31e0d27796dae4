"""The exceptions that users see: each is one clear message and an exit code, never a traceback."""

import difflib
from collections.abc import Iterable


class BnlabError(Exception):
    """A failure that the user can act on; `cli.py` prints the message, exits with `exit_code`."""

    exit_code = 1


class ConfigError(BnlabError):
    """The command line or a configuration is wrong; the message lists every fault found."""

    exit_code = 2


class DataError(BnlabError):
    """A data set is missing, truncated or unusable."""

    exit_code = 2


class RefusedError(BnlabError):
    """The request is understood but would overwrite or mix up results."""

    exit_code = 5


class StopRequestedError(BnlabError):
    """The run was asked to stop (a signal) and has written a checkpoint.

    Args:
        message: What was saved and how to go on.
        exit_code: 75 for SIGTERM (preempted), 130 for Ctrl-C.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def shown(text: str, *, limit: int | None = 80) -> str:
    """A user's text as a message echoes it: on one line, what cannot be seen escaped, cut short.

    Args:
        text: What the user wrote.
        limit: The most characters of it; None for all.
    """
    if limit is not None and len(text) > limit:
        text = f"{text[: limit - 1]}…"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def shown_lines(text: str) -> str:
    """Several lines for a terminal, in which no other control character is left to act."""
    return "\n".join(shown(line, limit=None) for line in text.split("\n"))


def shown_json(text: str) -> str:
    """JSON in which nothing is left to act, and that means the same."""
    if text.isascii() and "\x7f" not in text:
        return text
    return "\n".join(
        "".join(c if c.isprintable() else _json_escape(c) for c in line)
        for line in text.split("\n")
    )


def _json_escape(character: str) -> str:
    pair = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{pair[start : start + 4]}" for start in range(0, len(pair), 4))


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """The tail of an unknown-name message: the nearest known name, if one is near, and all of them.

    Args:
        name: What the user wrote.
        known: The names that would have been accepted.
    """
    names = sorted(known)
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.6)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{hint} (known: {', '.join(names)})"
