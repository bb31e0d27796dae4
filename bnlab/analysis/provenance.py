"""Where runs come from, and whether they may be compared."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bnlab.analysis.arms import STAGE_KEYS
from bnlab.analysis.results import Fact
from bnlab.analysis.runs import Run
from bnlab.errors import RefusedError


def _device(run: Run) -> str:
    kind = str(run.facts.get("device", "unknown")).partition(":")[0]
    environment = run.facts.get("environment") or {}
    model = environment.get("gpu") if kind == "cuda" else environment.get("cpu")
    return f"{kind} ({model})" if model else kind


def _nested(*keys: str) -> Callable[[Run], str]:
    def get(run: Run) -> str:
        value: Any = run.facts
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        return "unknown" if value is None else str(value)

    return get


_FACTS: tuple[tuple[str, Callable[[Run], str], tuple[str, ...] | None], ...] = (
    ("git sha", _nested("git", "sha"), ()),
    ("device", _device, ()),
    ("precision", _nested("precision"), ("train.precision",)),
    ("data", _nested("dataset", "checksum"), (*STAGE_KEYS, "dataset.test_size")),
    ("data set", _nested("dataset", "name"), ()),
    ("uncommitted changes", _nested("git", "dirty"), None),
    ("torch", _nested("environment", "torch"), None),
    ("python", _nested("environment", "python"), None),
)
"""Name, how to read it, and the configuration keys that explain a difference; None for properties
that are told and not held against the runs."""


def gather_facts(runs: Sequence[Run]) -> tuple[Fact, ...]:
    """What the runs say of their provenance, and where they disagree and must not."""
    facts = []
    for name, read, explained_by in _FACTS:
        values = Counter(read(run) for run in runs)
        mixed = False
        if explained_by is not None and len(values) > 1:
            groups: dict[str, set[str]] = defaultdict(set)
            for run in runs:
                groups[repr([run.config.get(key) for key in explained_by])].add(read(run))
            mixed = any(len(group) > 1 for group in groups.values())
        facts.append(Fact(name, dict(sorted(values.items())), mixed))
    return tuple(facts)


def refuse_mixed(runs: Sequence[Run], facts: Sequence[Fact]) -> None:
    """Stop at runs that do not belong together.

    Raises:
        RefusedError: If a fact is mixed; the message names each with its values.
    """
    mixed = [fact for fact in facts if fact.mixed]
    if mixed:
        lines = "".join(f"\n  {mixed_line(fact)}" for fact in mixed)
        raise RefusedError(
            f"the {len(runs)} runs do not belong together:{lines}\n"
            "compare fewer of them (bnlab compare runs/STUDY), or use --allow-mixed to compare "
            "them all the same"
        )


def mixed_line(fact: Fact) -> str:
    """`precision: bf16 (4 runs), fp32 (12 runs)`."""
    counts = ", ".join(
        f"{_abbreviated(value)} ({n} run{'s' * (n > 1)})" for value, n in fact.values.items()
    )
    return f"{fact.name}: {counts}"


def _abbreviated(value: str) -> str:
    return value[:12] if re.fullmatch(r"[0-9a-f]{40,64}", value) else value


def caveats(runs: Sequence[Run], facts: Sequence[Fact]) -> tuple[str, ...]:
    """What a report must say before anything else."""
    caveats = []
    names = {str(run.facts.get("dataset", {}).get("name")) for run in runs}
    if "synthetic" in names:
        caveats.append("Synthetic images, drawn by bnlab: this is not CIFAR-10.")
    notes = {str(run.facts.get("dataset", {}).get("note") or "") for run in runs} - {""}
    caveats += [f"Data: {note}" for note in sorted(notes) if "synthetic" not in names]
    caveats += [f"Mixed runs were allowed: {mixed_line(fact)}." for fact in facts if fact.mixed]
    return tuple(caveats)
