"""What a section is made of; every renderer knows these and nothing else."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from bnlab.analysis import Comparison
from bnlab.report.safe import identifier

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas


@dataclass(frozen=True)
class Text:
    """A paragraph.

    Attributes:
        text: Plain text.
        kind: `plain`, `lead` (the answer), `note` (small print) or `warning`.
    """

    text: str
    kind: Literal["plain", "lead", "note", "warning"] = "plain"


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
        badge: Whether its cells are verdicts, which a page colors.
    """

    name: str
    numeric: bool = True
    detail: bool = False
    badge: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of text under headings.

    Attributes:
        title: Above it.
        columns: Headings.
        rows: Cells, as text.
        notes: Below it.
        links: Where the first cell of each row leads on a page: to the section `#key`, or to the
            folder of the run of this path; nothing for "".
        folded: Whether a page opens it on being asked.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    folded: bool = False


@dataclass(frozen=True)
class Plot:
    """A figure, drawn when a renderer wants it.

    Attributes:
        name: Stem of its file and of the ids in it, of letters, digits, `_` and `-` whatever it
            is made of.
        caption: What it shows, in words.
        draw: Makes it; imports matplotlib.
    """

    name: str
    caption: str
    draw: Callable[[], "Canvas"]

    def __post_init__(self) -> None:
        """Names come from runs, which may be anybody's."""
        object.__setattr__(self, "name", identifier(self.name))


Block: TypeAlias = Text | Bullets | Table | Plot


@dataclass(frozen=True)
class Section:
    """A part of the report; without blocks it does not appear.

    Attributes:
        key: Anchor, as safe as a plot's name.
        title: Heading.
        blocks: Content, in order.
    """

    key: str
    title: str
    blocks: tuple[Block, ...]

    def __post_init__(self) -> None:
        """A claim's name may come from another package."""
        object.__setattr__(self, "key", identifier(self.key))


SectionFunction: TypeAlias = Callable[[Comparison], Section]
