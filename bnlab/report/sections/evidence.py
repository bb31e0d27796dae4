"""What the numbers rest on: configurations, provenance and pairing, remarks on files."""

from collections import Counter

from bnlab.analysis import Comparison, show_fact
from bnlab.report.audit import audit_section
from bnlab.report.blocks import Block, Bullets, Column, Section, Table, Text


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
