"""Sections as an HTML page and as Markdown."""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from bnlab import __version__
from bnlab.report.blocks import Block, Bullets, Plot, Section, Table, Text
from bnlab.report.safe import markdown, plain

BESIDE = "report.md, report.json (every number), runs.csv, curves.csv and the figures as SVG"
"""What else is in the folder of a comparison's page."""


def render_html(
    title: str, sections: Sequence[Section], drawings: Mapping[str, str], beside: str = BESIDE
) -> str:
    """One self-contained page.

    Args:
        title: Its heading.
        sections: Its parts.
        drawings: SVG elements by the name of their plot.
        beside: What else is in the page's folder, in words.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
    )
    environment.filters["breakable"] = _breakable
    template = environment.get_template("report.html.j2")
    return (
        template.render(
            title=title,
            sections=sections,
            drawings=drawings,
            beside=beside,
            groups=_groups,
            version=__version__,
        )
        + "\n"
    )


def _finalize(value: object) -> object:
    """All text that the page shows, but for markup of our own: the drawings."""
    return value if isinstance(value, Markup) or not isinstance(value, str) else plain(value)


def _breakable(text: str) -> Markup:
    """Lets a narrow page break names such as `batch-after_activation` and `model.norm.name`."""
    return Markup(re.sub(r"([_.=])(?=[A-Za-z])", r"\1<wbr>", str(escape(plain(text)))))  # noqa: S704 - escaped


def _groups(blocks: Iterable[Block]) -> list[tuple[str, list[Block]]]:
    """Neighbors of one kind together: plots stand side by side."""
    return [(kind, list(same)) for kind, same in groupby(blocks, lambda b: type(b).__name__)]


def render_markdown(title: str, sections: Sequence[Section]) -> str:
    """The same in GitHub's Markdown; plots are links to the SVG files beside it."""
    parts = [f"# {markdown(title)}"]
    for section in sections:
        parts.append(f"## {markdown(section.title)}")
        parts += [_markdown(block) for block in section.blocks]
    return "\n\n".join(parts) + "\n"


def _markdown(block: Block) -> str:
    if isinstance(block, Text):
        text = markdown(block.text)
        return {"plain": text, "note": f"*{text}*", "warning": f"**{text}**"}[block.kind]
    if isinstance(block, Bullets):
        return "\n".join(f"- {markdown(item)}" for item in block.items)
    if isinstance(block, Plot):
        return f"![{markdown(block.caption)}]({block.name}.svg)"
    return _markdown_table(block)


def _markdown_table(table: Table) -> str:
    lines = [f"**{markdown(table.title)}**", ""] if table.title else []
    lines.append(_row(markdown(column.name) for column in table.columns))
    lines.append(_row("---:" if column.numeric else "---" for column in table.columns))
    lines += [_row(map(markdown, row)) for row in table.rows]
    if table.notes:
        lines += ["", *(f"- {markdown(note)}" for note in table.notes)]
    return "\n".join(lines)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
