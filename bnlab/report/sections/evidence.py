"""What the numbers rest on: configurations, provenance and pairing, remarks on files."""

from collections import Counter

from bnlab.analysis import Comparison, show_fact
from bnlab.report.audit import audit_section
from bnlab.report.blocks import Block, Bullets, Column, Section, Table, Text
from bnlab.report.numbers import column, number, score, short_key


def configuration(comparison: Comparison) -> Section:
    """In which keys the arms differ."""
    c = comparison
    if len(c.arms) == 1 and not c.varying:
        return Section("configuration", "", ())
    columns = (
        Column("key", numeric=False),
        *(Column(arm.name, numeric=False) for arm in c.arms),
    )
    rows = tuple((key, *(_plain(value) for value in values)) for key, values in c.varying.items())
    note = "all other keys are equal; '(not set)' means nothing for that arm"
    return Section(
        "configuration", "How the arms' configurations differ", (Table("", columns, rows, (note,)),)
    )


def _plain(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def provenance(comparison: Comparison) -> Section:
    """Where the numbers come from, and whether the runs may be compared."""
    audit = [
        f"{view.title}: {effect.arm} against {effect.baseline}: {'; '.join(effect.audit)}"
        for view in comparison.views
        for effect in view.effects
        if effect.audit
    ]
    columns = (Column("what", numeric=False), Column("runs", numeric=False))
    rows = tuple(
        (f"{fact.name}{' (mixed)' if fact.mixed else ''}", show_fact(fact))
        for fact in comparison.facts
    )
    blocks: list[Block] = [Table("", columns, rows)]
    if audit:
        blocks += [Text("Pairing:"), Bullets(tuple(audit))]
    return Section("provenance", "Provenance and pairing", tuple(blocks))


def audit(comparison: Comparison) -> Section:
    """What every check says of the runs."""
    return audit_section(comparison.audit)


def remarks(comparison: Comparison) -> Section:
    """What was left out or mended."""
    grouped = Counter(remark.what for remark in comparison.remarks)
    where = {
        what: [remark.where for remark in comparison.remarks if remark.what == what]
        for what in grouped
    }
    items = tuple(f"{_places_listed(places)}: {what}" for what, places in sorted(where.items()))
    return Section("remarks", "Remarks on files", (Bullets(items),) if items else ())


def _places_listed(places: list[str]) -> str:
    return ", ".join(places[:5]) + (f" and {len(places) - 5} more" if len(places) > 5 else "")


MOST_OPEN = 40
"""Runs up to which a page lists them without being asked."""


def runs(comparison: Comparison) -> Section:
    """Every run by itself, with its folder."""
    c = comparison
    tuned = c.tuned
    arms = {
        run.path: (arm.name, stage)
        for arm in c.arms
        for stage, some in (("final", arm.runs), ("tuning", arm.tuning))
        for run in some
    }
    columns = (
        Column("run", numeric=False),
        Column("arm", numeric=False),
        Column("stage", numeric=False),
        *((Column(short_key(tuned)),) if tuned else ()),
        Column("seed"),
        Column("status", numeric=False),
        Column(column(c.metric)),
    )
    rows = tuple(
        (
            run.path,
            *arms.get(run.path, ("", "left out")),
            *((number(run.config.get(tuned)),) if tuned else ()),
            str(run.seed),
            "diverged" if run.diverged else run.status,
            score(run.final.get(c.metric.name), c.metric),
        )
        for run in c.runs
    )
    notes = ("a run leads to its folder, where that is beside this page and in no archive",)
    table = Table(
        f"{len(rows):,} runs", columns, rows, notes, tuple(run.path for run in c.runs),
        folded=len(rows) > MOST_OPEN,
    )  # fmt: skip
    return Section("runs", "Every run", (table,))
