"""Every claim with its verdict, recomputed from the run directories alone."""

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bnlab.analysis import load_runs
from bnlab.analysis.audit import Audited, Subject, audit, audit_as_data, barring
from bnlab.analysis.stats import Interval
from bnlab.claims._base import (
    CLAIMS,
    MIN_N,
    RULE,
    SCALES,
    Claim,
    Contrast,
    Verdict,
    find_claim,
    judge_together,
)
from bnlab.claims._evidence import PRESETS, Gathered, RunIndex, gather, load_claim_plan, study_file
from bnlab.errors import ConfigError
from bnlab.records import Remark

DEFAULT_PRESET = "quick"
"""What a claim of which nothing is at hand is best tried with first."""


@dataclass(frozen=True, eq=False)
class Finding:
    """One claim and what the runs at hand say of it.

    Attributes:
        claim: What is judged.
        gathered: The runs behind it.
        contrast: What was measured, also where no verdict may be built on it; None while runs are
            missing.
        verdict: What may be said.
        command: What would test it, or test it better; "" where no more can be run.
        audit: What every check says of its runs; nothing while some are missing.
    """

    claim: Claim
    gathered: Gathered
    contrast: Contrast | None
    verdict: Verdict
    command: str
    audit: tuple[Audited, ...] = ()

    @property
    def n(self) -> int:
        """Seeds behind the effect."""
        return 0 if self.contrast is None else len(self.contrast.differences)


def find_findings(runs_dir: Path) -> tuple[list[Finding], list[Remark]]:
    """Judge all claims together by the runs below a folder.

    Each claim is judged by the strongest preset of which every planned run is finished: seeds are
    fixed beforehand, so that nobody stops when a result pleases.

    Args:
        runs_dir: Folder of all runs; may be missing.

    Returns:
        A finding for each claim, and remarks on runs that could not be read.
    """
    runs, remarks = load_runs([runs_dir]) if runs_dir.exists() else ([], [])
    index = RunIndex(runs)
    broken = {name: fault for name in CLAIMS if (fault := _fault(name))}
    remarks += [Remark(f"claim {name}", f"{fault}; left out") for name, fault in broken.items()]
    names = [name for name in CLAIMS if name not in broken]
    gathered = {name: _strongest(name, runs_dir, index) for name in names}
    contrasts: dict[str, Contrast] = {}
    audits: dict[str, tuple[Audited, ...]] = {}
    for name, one in gathered.items():
        if one.evidence is not None:
            measured = CLAIMS[name].measure(one.evidence)
            audits[name] = _audit(CLAIMS[name], one, measured)
            barred = "; ".join(line for bar in barring(audits[name]) for line in bar.said)
            contrasts[name] = replace(measured, guard=one.guard or barred or measured.guard)
    judged = judge_together([(CLAIMS[name], contrast) for name, contrast in contrasts.items()])
    verdicts = dict(zip(contrasts, judged, strict=True))
    findings = []
    for name, one in gathered.items():
        verdict = verdicts.get(name) or _unfinished(one)
        command = _command(name, one, verdict, runs_dir)
        found = contrasts.get(name), verdict, command, audits.get(name, ())
        findings.append(Finding(CLAIMS[name], one, *found))
    return findings, remarks


def _fault(name: str) -> str:
    """Why a claim cannot be judged: the package that it comes from does not load."""
    try:
        find_claim(name)
    except ConfigError as error:
        return str(error)
    return ""


def _audit(claim: Claim, gathered: Gathered, contrast: Contrast) -> tuple[Audited, ...]:
    subject = Subject(
        "claim",
        gathered.records,
        choices=gathered.choices,
        at_best=claim.at_best,
        seeds={"": (len(contrast.differences), MIN_N)},
    )
    return audit(subject)


def _strongest(name: str, runs_dir: Path, index: RunIndex) -> Gathered:
    """The best finished preset, else the one that is furthest."""
    tried = [gather(load_claim_plan(name, p, runs_dir), p, index) for p in PRESETS]
    whole = [one for one in tried if one.evidence is not None]
    if whole:
        return whole[0]
    furthest = max(tried, key=lambda one: one.finished / one.total)
    return furthest if furthest.finished else next(t for t in tried if t.preset == DEFAULT_PRESET)


def _unfinished(gathered: Gathered) -> Verdict:
    if not gathered.finished:
        return Verdict("NOT TESTED", why="no run of its study is at hand")
    return Verdict(
        "NOT TESTED",
        why=f"{gathered.finished} of at least {gathered.total} runs of the preset "
        f"{gathered.preset} are finished",
    )


def _command(name: str, gathered: Gathered, verdict: Verdict, runs_dir: Path) -> str:
    if verdict.label in ("SUPPORTED", "REFUTED"):
        return ""
    preset = gathered.preset
    if gathered.evidence is not None:
        if preset == "full":
            return ""  # all of it is there; what would help is said in words
        preset = DEFAULT_PRESET if preset == "smoke" else "full"
    words = ["bnlab", "claims", "run", name, "--preset", preset]
    if runs_dir != Path("runs"):
        words += ["--runs-dir", str(runs_dir)]
    return shlex.join(words)


# ---------------------------------------------------------------------------------------- as text


def as_data(findings: list[Finding]) -> dict[str, Any]:
    """All that the commands print, for programs; effects in the claim's unit."""
    return {"claims": [_finding_as_data(finding) for finding in findings]}


def _finding_as_data(finding: Finding) -> dict[str, Any]:
    claim, verdict, contrast, gathered = (
        finding.claim,
        finding.verdict,
        finding.contrast,
        finding.gathered,
    )
    interval = verdict.interval or (contrast.interval if contrast else None)
    return {
        "claim": claim.name,
        "statement": claim.statement,
        "sources": list(claim.sources),
        "verdict": verdict.label,
        "sublabel": verdict.sublabel or None,
        "why": verdict.why,
        "unit": claim.unit,
        "effect": None if interval is None else _finite(interval.estimate * claim.scale),
        "low": None if interval is None else _finite(interval.low * claim.scale),
        "high": None if interval is None else _finite(interval.high * claim.scale),
        "corrected": verdict.interval is not None,
        "smallest_effect": claim.smallest_effect * claim.scale,
        "p": None if contrast is None else contrast.p,
        "p_test": None if contrast is None else contrast.test,
        "n": finding.n,
        "required_n": verdict.required_n,
        "preset": gathered.preset,
        "scope": gathered.scope,
        "runs_finished": gathered.finished,
        "runs_planned": gathered.total,
        "details": [
            {"name": d.name, "unit": d.unit, **_limits(d.interval, SCALES[d.unit])}
            for d in (contrast.details if contrast else ())
        ],
        "remarks": list(contrast.remarks) if contrast else [],
        "audit": audit_as_data(finding.audit),
        "arms": _arms_as_data(finding),
        "command": finding.command or None,
    }


def _finite(value: float) -> float | None:
    """JSON has no infinity: a limit that the data did not set is null."""
    return value if math.isfinite(value) else None


def _limits(interval: Interval, scale: float) -> Mapping[str, float | None]:
    return {
        "estimate": _finite(interval.estimate * scale),
        "low": _finite(interval.low * scale),
        "high": _finite(interval.high * scale),
    }


def _arms_as_data(finding: Finding) -> list[dict[str, Any]]:
    evidence = finding.gathered.evidence
    if evidence is None:
        return []
    return [
        {
            "arm": arm,
            "lr": evidence.chosen.get(arm),
            "mean": float(scores.mean()),
            "sd": float(scores.std(ddof=1)) if len(scores) > 1 else None,
            "n": len(scores),
            "diverged": evidence.diverged.get(arm, 0),
        }
        for arm, scores in evidence.best.items()
    ]


def explain(claim: Claim) -> str:
    """Statement, definition, formula, protocol, rule and sources of a claim, as text."""
    study = claim.study or f"configs/claims/{study_file(claim.name).name}"
    parts = {
        "Statement": claim.statement,
        "Sources": "\n".join(claim.sources),
        "Definition": claim.definition,
        "Formula": claim.formula,
        "Protocol": f"{claim.protocol}\nStudy: {study}",
        "Arms": ", ".join(claim.arms),
        "Smallest effect of interest": f"{claim.show(claim.smallest_effect)}. {claim.reason}",
        "Rule": RULE,
        "Seeds": f"at least {MIN_N}",
    }
    return "\n\n".join(
        [claim.name, *(f"{title}\n{_indented(text)}" for title, text in parts.items())]
    )


def _indented(text: str, width: int = 96) -> str:
    import textwrap

    return "\n".join(
        textwrap.fill(line, width, initial_indent="  ", subsequent_indent="  ")
        for line in text.splitlines()
    )
