"""What the reference runs took, and what the first edition said beside what they say.

Used by `results.py`.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from bnlab.analysis import Run
from bnlab.claims import Finding, show_effect, show_limits
from bnlab.records import RunFiles, find_runs, read_summary

Row: TypeAlias = Sequence[str]

EDITIONS: Row = ("claim", "first edition", "today", "why they differ")
TIMES: Row = ("claim", "runs", "of them new", "minutes of them")


def verdict_in_full(finding: Finding) -> str:
    """A verdict with effect, limits and n in each of its places."""
    unit = finding.claim.unit
    parts = [
        f"{one.place} {show_effect(contrast.limits.estimate, unit)} "
        f"({show_limits(contrast.limits, unit)}), n = {contrast.n}".strip()
        for one, contrast in finding.places
    ]
    return ": ".join(filter(None, (finding.verdict.words, "; ".join(parts))))


def beside_the_first(findings: Sequence[Finding], file: Path) -> Iterator[Row]:
    """Rows under `EDITIONS`, a claim of the first edition each."""
    by_name = {finding.claim.name: finding for finding in findings}
    first: Mapping[str, Mapping[str, Any]] = yaml.safe_load(file.read_text(encoding="utf-8"))
    for name, said in first.items():
        heirs = said.get("now", [name])
        today = [f"`{heir}` " * (len(heirs) > 1) + verdict_in_full(by_name[heir]) for heir in heirs]
        yield (
            f"`{name}`",
            f"{said['verdict']}: {said['found']}",
            ". ".join(today),
            said["why"],
        )


def times(findings: Sequence[Finding], folder: Path) -> Iterator[Row]:
    """Rows under `TIMES`; a run of several claims is new to the first of them alone."""
    files = {run.root: run for run in find_runs([folder]).runs}
    seen: set[Path] = set()
    total = 0.0
    for finding in findings:
        runs = finding.gathered.runs
        if not runs:
            continue
        new = [run for run in runs if run.root not in seen]
        seen.update(run.root for run in new)
        minutes = sum(_minutes(run, files[run.root]) for run in new)
        total += minutes
        yield f"`{finding.claim.name}`", str(len(runs)), str(len(new)), f"{minutes:.0f}"
    yield "all", "", str(len(seen)), f"{total:.0f}"


def _minutes(run: Run, files: RunFiles) -> float:
    """What a run added to a series of as many at once as there were then."""
    seconds = read_summary(files).wall_seconds or 0.0
    return seconds / 60 / (run.facts.runs_at_once or 1)
