"""Text made safe for where it goes: names and words may come from someone else's runs.

Nothing is taken away: what could act is escaped, and what cannot be seen is shown. Each function
serves one kind of output, whose writer passes all text through it. What commands print beside
sections goes through `errors.shown_lines`.
"""

import hashlib
import re

from bnlab.errors import shown

NAME = 100
"""Most characters of a file's or link's name, well below the 255 bytes that a disk takes."""

_MARKDOWN = re.compile(r"([\\`*_\[\]<>|~$@])|(?<=[A-Za-z])(:)(?=//)|(?<=\bwww)(\.)", re.IGNORECASE)
_MARKDOWN_BLOCK = re.compile(r"^(\s*)([#+=-]|\d+(?=[.)]))")
_FORMULA = ("=", "+", "-", "@")


def plain(text: str) -> str:
    """For a page, a figure, a terminal's line, a TensorBoard tag: one line that can be seen."""
    return shown(text, limit=None)


def markdown(text: str) -> str:
    """For Markdown: no heading, list, link, image, formula or mention is made of it."""
    escaped = _MARKDOWN.sub(r"\\\g<0>", plain(text))
    return _MARKDOWN_BLOCK.sub(_escape_block, escaped)


def _escape_block(start: re.Match[str]) -> str:
    space, mark = start.groups()
    return f"{space}{mark}\\" if mark.isdigit() else f"{space}\\{mark}"


def cell(value: object) -> object:
    """For CSV: text that a spreadsheet would take for a formula gets an apostrophe in front."""
    if not isinstance(value, str):
        return value
    text = plain(value)
    return f"'{text}" if text.startswith(_FORMULA) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def tick(text: str) -> str:
    """For the label of a tick, whose dollars matplotlib would read as formulas."""
    return plain(text).replace("$", r"\$")


def identifier(text: str) -> str:
    """For an id or a file's stem: letters, digits, `_` and `-` alone; other texts stay apart."""
    return _named(text, r"[^A-Za-z0-9_-]")


def folder_name(text: str) -> str:
    """For a run as TensorBoard shows it: `norm=batch, widths=[4, 8]`; no path, no other place."""
    return _named(text, r"[^A-Za-z0-9_ .,=+()\[\]-]|^\.+")


def _named(text: str, unwanted: str) -> str:
    name = re.sub(unwanted, "-", text)
    if name == text and 0 < len(name) <= NAME:
        return name
    digest = hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()[:8]
    return f"{name[: NAME - 9]}-{digest}"
