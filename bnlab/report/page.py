"""Sections as an HTML page and as Markdown."""

import base64
import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from bnlab import __version__
from bnlab.analysis import Run
from bnlab.records import archive_of
from bnlab.report.blocks import Block, Bullets, Plot, Section, Table, Text
from bnlab.report.safe import identifier, markdown, plain
from bnlab.report.terms import TERMS, Explainer

HERE = Path(__file__).parent

BADGES = {
    "SUPPORTED": "yes",
    "higher": "yes",
    "REFUTED": "no",
    "lower": "no",
    "equivalent": "even",
    "INCONCLUSIVE": "open",
    "undecided": "open",
    "NOT TESTED": "none",
    "no verdict": "none",
}
"""What color a verdict has on a page, by the words that it begins with."""

BESIDE = "report.md, report.json (every number), runs.csv, curves.csv and the figures as SVG"
"""What else is in the folder of a comparison's page."""


def render_html(
    title: str,
    sections: Sequence[Section],
    drawings: Mapping[str, str],
    beside: str = BESIDE,
    links: Mapping[str, str] | None = None,
) -> str:
    """One self-contained page.

    Its policy (Content-Security-Policy) lets it load nothing and run no script but its own.

    Args:
        title: Its heading.
        sections: Its parts.
        drawings: SVG elements by the name of their plot.
        beside: What else is in the page's folder, in words.
        links: By the path of a run, where its folder is as seen from the page.
    """
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
    )
    explainer = Explainer()
    script = (HERE / "page.js").read_text(encoding="utf-8").strip()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment.filters |= {
        "breakable": _breakable,
        "explained": explainer.explain,
        "badge": _badge,
    }
    template = environment.get_template("report.html.j2")
    return (
        template.render(
            title=title,
            sections=sections,
            drawings=drawings,
            beside=beside,
            groups=_groups,
            drawn=_ends_with_a_picture,
            version=__version__,
            explainer=explainer,
            link=lambda there: _link(there, links or {}),
            script=Markup(script),  # noqa: S704 - bnlab's own file
            digest=digest,
            style=Markup((HERE / "page.css").read_text(encoding="utf-8").strip()),  # noqa: S704 - likewise
        )
        + "\n"
    )


def _link(there: str, links: Mapping[str, str]) -> str:
    """Where a row leads, or ""."""
    return f"#{identifier(there[1:])}" if there.startswith("#") else links.get(there, "")


def _badge(verdict: str) -> Markup:
    """A verdict's own words in their color, and what stands behind them."""
    words = next((words for words in BADGES if verdict.startswith(words)), verdict)
    label, rest = _breakable(words), _breakable(verdict[len(words) :])
    kind = BADGES.get(words, "none")
    return Markup(f'<span class="badge {kind}">{label}</span>{rest}')  # noqa: S704 - escaped


def linked(runs: Iterable[Run], folder: Path) -> dict[str, str]:
    """By the path of a run, where its folder is as seen from a page in `folder`.

    A run in an archive has no folder to go to.
    """
    links = {}
    for run in runs:
        if archive_of(run.root) is not None:
            continue
        with suppress(ValueError):  # another drive of Windows
            there = Path(os.path.relpath(run.root.resolve(), folder.resolve())).as_posix()
            links[run.path] = quote(f"{there}/")  # a colon, too: no name makes a scheme
    return links


def _finalize(value: object) -> object:
    """All text that the page shows, but for markup of our own: the drawings."""
    return value if isinstance(value, Markup) or not isinstance(value, str) else plain(value)


def _breakable(text: str) -> Markup:
    """Lets a narrow page break names such as `batch-after_activation` and `model.norm.name`."""
    return Markup(re.sub(r"([_.=])(?=[A-Za-z])", r"\1<wbr>", str(escape(plain(text)))))  # noqa: S704 - escaped


def _groups(blocks: Iterable[Block]) -> list[tuple[str, list[Block]]]:
    """Neighbors of one kind together: plots stand side by side."""
    return [(kind, list(same)) for kind, same in groupby(blocks, lambda b: type(b).__name__)]


def _ends_with_a_picture(section: Section) -> bool:
    """Whether words can stand beside the picture that they are about."""
    kinds = [kind for kind, _ in _groups(section.blocks)]
    return len(kinds) > 1 and kinds.count("Plot") == 1 and kinds[-1] == "Plot"


def render_markdown(title: str, sections: Sequence[Section]) -> str:
    """The same in GitHub's Markdown; plots are links to the SVG files beside it."""
    parts = [f"# {markdown(title)}"]
    for section in sections:
        parts.append(f"## {markdown(section.title)}")
        parts += [_markdown(block) for block in section.blocks]
    text = "\n\n".join(parts)
    terms = [
        f"- {markdown(term.name)}: {markdown(term.means)}" for term in TERMS if term.stands_in(text)
    ]
    return "\n\n".join([text, "## Terms", "\n".join(terms)] if terms else [text]) + "\n"


def _markdown(block: Block) -> str:
    if isinstance(block, Text):
        text = markdown(block.text)
        styled = {"plain": text, "lead": text, "note": f"*{text}*", "warning": f"**{text}**"}
        return styled[block.kind]
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
