"""Where runs come from, in a table; what it means is the audit's to say."""

import re
from collections import Counter
from collections.abc import Callable, Sequence

from bnlab.analysis.audit import (
    DATA_KEYS,
    PRECISION_KEYS,
    Audited,
    barring,
    conflicting_code,
    device_of,
    mixed_values,
    show_counts,
)
from bnlab.analysis.results import Fact
from bnlab.analysis.runs import Run
from bnlab.errors import RefusedError

_FACTS: tuple[tuple[str, Callable[[Run], str], tuple[str, ...] | None], ...] = (
    ("code", lambda run: "recorded" if run.facts.code else "not recorded", ()),
    ("git sha", lambda run: run.facts.git.sha or "unknown", None),
    ("device", device_of, ()),
    ("precision", lambda run: run.facts.precision, PRECISION_KEYS),
    ("data", lambda run: run.facts.dataset.checksum or "unknown", DATA_KEYS),
    ("data set", lambda run: run.facts.dataset.name, ()),
    ("uncommitted changes", lambda run: str(run.facts.git.dirty), None),
    ("torch", lambda run: run.facts.environment.torch or "unknown", None),
    ("python", lambda run: run.facts.environment.python or "unknown", None),
)
"""Name, how to read it, and the configuration keys that explain a difference; None for what may
differ."""


def gather_facts(runs: Sequence[Run]) -> tuple[Fact, ...]:
    """What the runs say of their provenance, and where they disagree and must not."""
    facts = []
    for name, read, keys in _FACTS:
        values = dict(sorted(Counter(map(read, runs)).items()))
        mixed = keys is not None and bool(mixed_values(runs, read, keys))
        if name == "code":
            mixed = bool(conflicting_code(runs))
        facts.append(Fact(name, values, mixed))
    return tuple(facts)


def show_fact(fact: Fact) -> str:
    """`bf16 (4 runs), fp32 (12 runs)`, long hashes cut short."""
    return show_counts({_abbreviated(value): n for value, n in fact.values.items()})


def _abbreviated(value: str) -> str:
    return value[:12] if re.fullmatch(r"[0-9a-f]{40,64}", value) else value


MIXES = ("A01", "A02", "A03", "A04", "A12")
"""Checks that find runs which do not belong together."""

CONTRADICTS = "A15"
"""The check that finds runs whose own files do not belong together."""


def refuse_mixed(runs: Sequence[Run], audited: Sequence[Audited]) -> None:
    """Stop at runs that do not belong together, or whose own files do not.

    Raises:
        RefusedError: If a check bars them; the message names what each found.
    """
    found = [one for one in barring(audited) if one.check.code in (*MIXES, CONTRADICTS)]
    if found:
        mixed = any(one.check.code in MIXES for one in found)
        fault = "do not belong together" if mixed else "hold files that contradict each other"
        lines = "".join(f"\n  {one.check.code} {line}" for one in found for line in one.said)
        raise RefusedError(
            f"the {len(runs)} runs {fault}:{lines}\n"
            "compare fewer of them (bnlab compare runs/STUDY), or use --allow-mixed to compare "
            "them all the same"
        )


def caveats(runs: Sequence[Run], audited: Sequence[Audited]) -> tuple[str, ...]:
    """What a report must say before anything else."""
    by_code = {one.check.code: one for one in audited}
    caveats = []
    if by_code["A09"].said:
        caveats.append("Synthetic images, drawn by bnlab: this is not CIFAR-10.")
    else:
        caveats += [f"Data: {note}" for note in by_code["A14"].said]
    mixes = [one for one in barring(audited) if one.check.code in MIXES]
    caveats += [f"Mixed runs were allowed: {line}." for one in mixes for line in one.said]
    caveats += [f"Files contradict each other: {line}." for line in by_code[CONTRADICTS].said]
    if by_code["A13"].said:
        known = {run.facts.git.sha for run in runs}
        if len(known) > 1:
            caveats.append(f"Unknown code: {by_code['A13'].said[0]}.")
    return tuple(caveats)
