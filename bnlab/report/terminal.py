"""Sections on a terminal: sentences and tables, without plots."""

import re
from collections.abc import Sequence
from contextlib import suppress
from typing import ClassVar

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text as RichText

from bnlab.report.blocks import Block, Bullets, Section, Table, Text
from bnlab.report.safe import plain

WIDE = 110
"""Columns from which tables show their details."""

PIPED = 120
"""Columns for a reader that is no terminal."""


class _Stdout(Console):
    """A console that falls silent when its reader has left (`| head`), where rich would exit 1."""

    def on_broken_pipe(self) -> None:
        with suppress(SystemExit):
            super().on_broken_pipe()


def stdout_console() -> Console:
    """Rich on stdout; without a terminal it does not guess a narrow one."""
    console = _Stdout(highlight=False)
    if not console.is_terminal:
        import os

        wished = os.environ.get("COLUMNS", "")
        width = int(wished) if wished.isascii() and wished.isdigit() else 0
        console = _Stdout(highlight=False, width=min(width, 10_000) or PIPED)
    return console


def print_sections(sections: Sequence[Section], console: Console) -> None:
    """Print what a terminal can show."""
    for section in sections:
        blocks = [block for block in section.blocks if isinstance(block, (Text, Bullets, Table))]
        if not blocks:
            continue
        console.print(RichText(plain(section.title), style="bold"))
        for block in blocks:
            _print(block, console)
        console.print()


def print_markdown(page: str) -> None:
    """Print a page of the documentation, of whose links a terminal shows what leads somewhere."""
    from rich.markdown import Markdown, TableElement

    class Whole(TableElement):
        """Rich would cut what is wider than its column."""

        def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
            for table in super().__rich_console__(console, options):
                assert isinstance(table, RichTable)
                for column in table.columns:
                    column.overflow = "fold"
                yield table

    class Page(Markdown):
        elements: ClassVar = {**Markdown.elements, "table_open": Whole}

    text = re.sub(r"!?\[([^\]]+)\]\((?!https?:)[^)]+\)", r"\1", page)
    stdout_console().print(Page(text, hyperlinks=False))


def _print(block: Block, console: Console) -> None:
    if isinstance(block, Text):
        style = {"plain": "", "lead": "", "note": "dim", "warning": "bold yellow"}[block.kind]
        console.print(RichText(plain(block.text), style=style))
    elif isinstance(block, Bullets):
        for item in block.items:
            _hanging(f"• {item}", console)
    elif isinstance(block, Table):
        _print_table(block, console)


def _hanging(text: str, console: Console, style: str = "") -> None:
    lines = RichText(plain(text), style=style).wrap(console, console.width - 2)
    for number, line in enumerate(lines):
        console.print(Padding(line, (0, 0, 0, 2 if number else 0), expand=False))


FIRST = 8
"""Least width of the column that says what a row is of; numbers must not squeeze it out."""

WORDS = 12
"""Letters that a column of words is left with, at least, where the names are not broken: those of
the longest verdict."""

FEW = 9
"""Columns of a table that is too wide for names that are not broken."""


def _print_table(table: Table, console: Console) -> None:
    wide = console.width >= WIDE
    shown = [place for place, column in enumerate(table.columns) if wide or not column.detail]
    grid = RichTable(
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
        header_style="dim",
        show_header=any(column.name for column in table.columns),
    )
    few = len(table.columns) < FEW
    whole = few and _least(table, shown) <= console.width
    for place in shown:
        column = table.columns[place]
        grid.add_column(
            RichText(plain(column.name)),
            justify="right" if column.numeric else "left",
            overflow="fold",
            min_width=FIRST if place == 0 else None,
            no_wrap=few and (column.numeric or (place == 0 and whole)),
        )
    for row in table.rows:
        grid.add_row(*(RichText(plain(row[place])) for place in shown))
    if table.title:
        console.print(RichText(plain(table.title), style="italic"))
    console.print(grid)
    left_out = {column.name for column in table.columns if column.detail and not wide}
    for note in table.notes:
        if note.partition(":")[0] in left_out:
            continue
        _hanging(f"• {note}", console, style="dim")


def _least(table: Table, shown: Sequence[int]) -> int:
    """Characters that a table takes whose names and numbers are not broken."""
    widths = [
        max(cell_len(plain(cell)) for cell in (table.columns[place].name, *column))
        if place == 0 or table.columns[place].numeric
        else WORDS
        for place, column in ((place, [row[place] for row in table.rows]) for place in shown)
    ]
    return sum(widths) + 2 * len(widths)
