"""The verdicts that bnlab was released with, for whoever has no runs yet."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bnlab.analysis.stats import Interval
from bnlab.claims import ALPHA, LIMITS, SCALES, Unit, show_effect, show_limits
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
        Column("verdict", numeric=False),
        Column("effect"),
        Column("95 % limits"),
        Column("n"),
    )
    rows = tuple(
        (one["claim"], _verdict(one), _effect(one), _limits(one), str(one["n"])) for one in measured
    )
    others = [one["claim"] for one in verdicts if one not in measured]
    notes = (
        "no runs of yours are at hand: these are bnlab's own, recorded for the release",
        f"each is judged by its {LIMITS}",
        f"not measured yet, to be tested likewise: {', '.join(others)}" if others else "",
    )
    first = Section(
        "reference",
        "bnlab's reference verdicts",
        (Table("", columns, rows, tuple(filter(None, notes))),),
    )
    return [first, *(Section(one["claim"], one["claim"], (_told(one),)) for one in measured)]


def _told(one: Told) -> Bullets:
    quote = one.get("quote")
    return Bullets(
        (
            f"“{one['statement']}”",
            *((f"Document {quote['document']}: {quote['sentence']}",) if quote else ()),
            (
                f"{ANSWERS.get(one['verdict'], one['verdict'])}{_only(one)}: {_effect(one)}, "
                f"95 % limits {_limits(one)}"
            ),
            f"scope: {one['scope']}",
            f"to test it here: bnlab claims run {one['claim']} --preset quick",
        )
    )


ANSWERS = {"SUPPORTED": "Yes", "REFUTED": "No", "INCONCLUSIVE": "Not settled"}


def _only(one: Told) -> str:
    return f", {one['sublabel']}" if one["sublabel"] else ""


def _verdict(one: Told) -> str:
    return f"{one['verdict']} ({one['sublabel']})" if one["sublabel"] else str(one["verdict"])


def _effect(one: Told) -> str:
    interval = _interval(one)
    return MISSING if interval is None else show_effect(interval.estimate, _unit(one))


def _limits(one: Told) -> str:
    interval = _interval(one)
    return MISSING if interval is None else show_limits(interval, _unit(one))


def _unit(one: Told) -> Unit:
    unit: Unit = one["unit"]
    return unit


def _interval(one: Told) -> Interval | None:
    """The plain limits, in storage units again; None where there are none."""
    found = [limits for limits in one["limits"] if limits["level"] == 1 - ALPHA]
    if not found or any(found[0][key] is None for key in ("estimate", "low", "high")):
        return None
    scale = SCALES[_unit(one)]
    estimate, low, high = (found[0][key] / scale for key in ("estimate", "low", "high"))
    return Interval(estimate, low, high, 1 - ALPHA, one["n"])
