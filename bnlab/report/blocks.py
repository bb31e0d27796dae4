"""What a section is made of; every renderer knows these and nothing else."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from bnlab.analysis import Comparison

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas


@dataclass(frozen=True)
class Text:
    """A paragraph.

    Attributes:
        text: Plain text.
        kind: `plain`, `note` (small print) or `warning`.
    """

    text: str
    kind: Literal["plain", "note", "warning"] = "plain"


@dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Column:
    """A table's column.

    Attributes:
        name: Heading.
        numeric: Whether it is aligned to the right.
        detail: Whether a narrow terminal leaves it out.
    """

    name: str
    numeric: bool = True
    detail: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of text under headings."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plot:
    """A figure, drawn when a renderer wants it.

    Attributes:
        name: Stem of its file.
        caption: What it shows, in words.
        draw: Makes it; imports matplotlib.
    """

    name: str
    caption: str
    draw: Callable[[], "Canvas"]


Block: TypeAlias = Text | Bullets | Table | Plot


@dataclass(frozen=True)
class Section:
    """A part of the report; without blocks it does not appear.

    Attributes:
        key: Anchor.
        title: Heading.
        blocks: Content, in order.
    """

    key: str
    title: str
    blocks: tuple[Block, ...]


SectionFunction: TypeAlias = Callable[[Comparison], Section]
