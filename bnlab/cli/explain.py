"""The documentation, at the terminal: `explain`."""

import os
from typing import Annotated

import typer

from bnlab.cli.output import print_line, print_sections, stdout_width
from bnlab.docs import Language
from bnlab.errors import ConfigError, did_you_mean, shown

app = typer.Typer()


def _complete(incomplete: str) -> list[str]:
    """Topics and claims whose names begin so, for the shell."""
    from bnlab.docs import find_pages
    from bnlab.registry import CLAIMS

    return [name for name in (*find_pages("en"), *CLAIMS) if name.startswith(incomplete)]


@app.command("explain")
def explain_topic(
    topic: Annotated[
        str | None,
        typer.Argument(
            help="A topic, or a claim; without one, all topics are listed.",
            autocompletion=_complete,
        ),
    ] = None,
    lang: Annotated[
        Language | None, typer.Option(help="Language of the pages.", show_default="by LANG")
    ] = None,
) -> None:
    """Explain a topic: how bnlab is used, what the documents 000 to 004 say, or a claim."""
    from bnlab.docs import find_language, find_pages, find_title

    pages = find_pages(lang or find_language(os.environ))
    if topic is None:
        from bnlab.report.blocks import Column, Section, Table

        rows = tuple(
            (name, find_title(path.read_text(encoding="utf-8"))) for name, path in pages.items()
        )
        columns = (Column("topic", numeric=False), Column("what it is about", numeric=False))
        notes = ("bnlab explain TOPIC prints one; bnlab explain CLAIM explains a claim",)
        print_sections([Section("topics", "Topics", (Table("", columns, rows, notes),))])
    elif topic in pages:
        from bnlab.report.terminal import print_markdown

        print_markdown(pages[topic].read_text(encoding="utf-8"))
    else:
        from bnlab.claims import CLAIMS, READABLE, explain

        if topic not in CLAIMS:
            near = did_you_mean(topic, [*pages, *CLAIMS])
            raise ConfigError(f"unknown topic or claim {shown(repr(topic))}{near}")
        print_line(explain(CLAIMS[topic], min(READABLE, stdout_width())))
