"""The audit as a page: what bars a verdict, what is told, what was found well."""

from collections.abc import Sequence

from bnlab.analysis.audit import GROUPS, Audited
from bnlab.report.blocks import Block, Bullets, Section, Text


def audit_section(audited: Sequence[Audited]) -> Section:
    """Every check in its group; what bars a verdict or is told with its reason."""
    blocks: list[Block] = []
    for group in GROUPS:
        there = [one for one in audited if one.group == group]
        if not there:
            continue
        blocks.append(Text(f"{group[0].upper()}{group[1:]}:"))
        if group in ("bars a verdict", "told"):
            blocks.append(Bullets(tuple(f"{_name(one)}: {_said(one)}" for one in there)))
        else:
            blocks.append(Bullets((", ".join(map(_name, there)),)))
    return Section("audit", "Audit", tuple(blocks))


SHOWN = 3
"""Findings of one check that a page spells out; JSON has all."""


def _said(one: Audited) -> str:
    more = len(one.said) - SHOWN
    told = [*one.said[:SHOWN], *([f"and {more} more (--json tells all)"] if more > 0 else [])]
    return f"{'; '.join(told)}. {one.check.why}"


def _name(one: Audited) -> str:
    return f"{one.check.code} {one.check.title}"
