"""The verdicts that bnlab was released with, for whoever has no runs yet."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bnlab.analysis.stats import Interval
from bnlab.claims import CLAIM_LEVEL, LIMITS, SCALES, Unit, Verdict, show_effect, show_limits
from bnlab.errors import shown_json
from bnlab.report import write_files
from bnlab.report.blocks import Bullets, Column, Section, Table
from bnlab.report.numbers import MISSING

Told = Mapping[str, Any]
"""One claim, as `bnlab claims --json` gives it."""


def shipped_verdicts() -> list[Told]:
    """What the checkout's archives say, or the release's did; nothing where neither is there."""
    package = Path(__file__).parents[1]
    for path in (
        package.parent / "runs" / "reference" / "claims" / "claims.json",
        package / "reference.json",
    ):
        if path.exists():
            return [*json.loads(path.read_text(encoding="utf-8"))["claims"]]
    return []


def reference_sections(verdicts: list[Told]) -> list[Section]:
    """A table of the claims that were measured, each with a plain answer, and what to do next."""
    measured = [one for one in verdicts if one["verdict"] != "NOT TESTED"]
    if not measured:
        return []
    columns = (
        Column("claim", numeric=False),
        Column("verdict", numeric=False, badge=True),
        Column("effect"),
        Column(LIMITS),
        Column("n"),
    )
    rows = tuple(
        (
            one["claim"] if number == 0 else "the same",
            Verdict(one["verdict"], one["sublabel"] or "").words if number == 0 else place["place"],
            *_shown(one, place),
            str(one["n"]),
        )
        for one in measured
        for number, place in enumerate(_places(one))
    )
    others = [one["claim"] for one in verdicts if one not in measured]
    notes = (
        "of these, no verdict on runs of yours is at hand: they are bnlab's own, of the release",
        f"not measured yet, to be tested likewise: {', '.join(others)}" if others else "",
    )
    first = Section(
        "reference",
        "bnlab's reference verdicts",
        (Table("", columns, rows, tuple(filter(None, notes))),),
    )
    return [first, *(Section(one["claim"], one["claim"], (_told(one),)) for one in measured)]


def write_reference(verdicts: list[Told], folder: Path) -> Path:
    """Write them as claims.html, claims.md and claims.json; give the page's path.

    Raises:
        StorageError: If the folder cannot be written.
    """
    from bnlab.report.page import render_html, render_markdown

    sections, title = reference_sections(verdicts), "Claims about batch normalization"
    files = {
        "claims.html": render_html(title, sections, {}, "claims.md, claims.json (every number)"),
        "claims.md": render_markdown(title, sections),
        "claims.json": shown_json(json.dumps({"claims": verdicts}, indent=2)) + "\n",
    }
    write_files(folder, files)
    return folder / "claims.html"


def _told(one: Told) -> Bullets:
    quote = one.get("quote")
    return Bullets(
        (
            f"“{one['statement']}”",
            *((f"Document {quote['document']}: {quote['sentence']}",) if quote else ()),
            f"{ANSWERS.get(one['verdict'], one['verdict'])}{_only(one)}: {one['why']}",
            f"scope: {one['scope']}",
            f"to test it here: bnlab claims run {one['claim']} --preset {one['preset']}",
        )
    )


ANSWERS = {"SUPPORTED": "Yes", "REFUTED": "No", "INCONCLUSIVE": "Not settled"}


def _only(one: Told) -> str:
    return f", {one['sublabel']}" if one["sublabel"] else ""


def _places(one: Told) -> list[Told]:
    """What was measured, in each place where it was."""
    return [*(one.get("places") or [{"place": "", **one}])]


def _shown(one: Told, place: Told) -> tuple[str, str]:
    """Effect and limits at the claims' level, from what JSON keeps of them in the claim's unit."""
    unit: Unit = one["unit"]
    found = [limits for limits in place["limits"] if limits["level"] == CLAIM_LEVEL]
    if not found or found[0]["estimate"] is None:
        return MISSING, MISSING
    # JSON has no infinity: a limit that the data did not set is null there.
    values = (found[0]["estimate"], found[0]["low"], found[0]["high"])
    beyond = (math.nan, -math.inf, math.inf)
    estimate, low, high = (
        open_end if value is None else value / SCALES[unit]
        for value, open_end in zip(values, beyond, strict=True)
    )
    interval = Interval(estimate, low, high, CLAIM_LEVEL, one["n"])
    return show_effect(estimate, unit), show_limits(interval, unit)
