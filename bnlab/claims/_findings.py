"""Every claim with its verdict, recomputed from the run directories alone."""

import math
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bnlab.analysis import Run, load_runs
from bnlab.analysis.audit import Audited, Subject, audit, audit_as_data, barring
from bnlab.analysis.stats import Interval, wilson_interval
from bnlab.claims._base import (
    CLAIMS,
    Claim,
    Verdict,
    find_claim,
)
from bnlab.claims._cells import RunIndex
from bnlab.claims._contrast import (
    CLAIM_ALPHA,
    CLAIM_LEVEL,
    LEVEL,
    SCALES,
    Array,
    Contrast,
    Failures,
)
from bnlab.claims._gather import Gathered, gather
from bnlab.claims._network import DOCUMENTS, OWN, Network
from bnlab.claims._rule import MIN_N, judge, rule_of
from bnlab.claims._studies import PRESETS, SHARED, load_claim_plan, not_asked, study_file
from bnlab.errors import ConfigError
from bnlab.records import REFERENCE, Remark, StoredStudies

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
        """Seeds behind the effect, those aside on which a run diverged."""
        return 0 if self.contrast is None else self.contrast.n

    @property
    def places(self) -> list[tuple[Claim, Contrast]]:
        """The claim and what was measured, in each place where it was; nothing while runs lack."""
        found: list[tuple[Claim, Contrast]] = []
        claim: Claim | None = self.claim
        contrast = self.contrast
        while claim is not None and contrast is not None:
            found.append((claim, contrast))
            claim, contrast = claim.again, contrast.again
        return found

    def limits(self, contrast: Contrast) -> Interval | None:
        """At the claims' level, of one of its places; None where there is no verdict."""
        return None if self.verdict.interval is None else contrast.limits

    @property
    def smallest_effect(self) -> float:
        """Smallest effect of interest under the preset, in storage units."""
        return self.claim.smallest(self.gathered.preset)


def find_findings(runs_dir: Path, network: Network = OWN) -> tuple[list[Finding], list[Remark]]:
    """Judge each claim by the runs below a folder.

    A verdict depends on no other claim's runs. It is that of the strongest preset of which every
    planned run is finished: seeds are fixed beforehand, so that nobody stops when a result pleases.

    Args:
        runs_dir: Folder of all runs; may be missing.
        network: Runs of this one count, and of no other.

    Returns:
        A finding for each claim, and remarks on runs that could not be read.
    """
    runs, remarks = load_runs([runs_dir]) if runs_dir.exists() else ([], [])
    index = RunIndex(runs)
    broken = {name: fault for name in CLAIMS if (fault := _fault(name))}
    remarks += [Remark(f"claim {name}", f"{fault}; left out") for name, fault in broken.items()]
    names = [name for name in CLAIMS if name not in broken]
    studies = StoredStudies(runs_dir)
    found = [
        _find(CLAIMS[name], _strongest(name, studies, index, network), runs_dir) for name in names
    ]
    return found, [*remarks, *_other_networks(runs, network)]


def _other_networks(runs: Sequence[Run], network: Network) -> list[Remark]:
    """That claims' runs on further networks are at hand, which count for none of these verdicts."""
    asked = "file" if ":" in network.model else network.model
    counts = Counter(
        str(run.config.get("model.name", DOCUMENTS)) for run in runs if run.study == SHARED
    )
    return [
        Remark(
            f"{count} runs of {name}",
            "count for verdicts of their own: "
            + ("name the file with --model" if name == "file" else f"bnlab claims --model {name}"),
        )
        for name, count in sorted(counts.items())
        if name != asked
    ]


def _find(claim: Claim, gathered: Gathered, runs_dir: Path) -> Finding:
    """What the runs at hand say of one claim."""
    if gathered.evidence is None:
        verdict = _unfinished(gathered)
        return Finding(claim, gathered, None, verdict, _command(claim, gathered, verdict, runs_dir))
    if claim.again is not None and not set(claim.again.arms) <= gathered.evidence.best.keys():
        claim = replace(claim, again=None)  # the two places are one on this network
    contrast = claim.contrast(gathered.evidence)
    audited = _audit(claim, gathered, contrast)
    barred = "; ".join(line for bar in barring(audited) for line in bar.said)
    contrast = replace(contrast, guard=gathered.guard or barred or contrast.guard)
    verdict = judge(claim, contrast, gathered.preset)
    command = _command(claim, gathered, verdict, runs_dir)
    return Finding(claim, gathered, contrast, verdict, command, audited)


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
        seeds={"": (contrast.seeds, MIN_N)},
    )
    return audit(subject)


def _strongest(name: str, studies: StoredStudies, index: RunIndex, network: Network) -> Gathered:
    """The best finished preset, else the one that is furthest."""
    presets = PRESETS if index else (DEFAULT_PRESET,)  # a plan takes a tenth of a second
    plans = {preset: load_claim_plan(name, preset, studies, network) for preset in presets}
    tried = [
        gather(plan, preset, index, network, not_asked(CLAIMS[name], plan, network))
        for preset, plan in plans.items()
    ]
    whole = [one for one in tried if one.evidence is not None]
    if whole:
        return whole[0]
    furthest = max(tried, key=lambda one: one.finished / one.total)
    return furthest if furthest.finished else next(t for t in tried if t.preset == DEFAULT_PRESET)


def _unfinished(gathered: Gathered) -> Verdict:
    if gathered.void:
        return Verdict("NOT TESTED", why=gathered.void)
    if not gathered.finished:
        return Verdict("NOT TESTED", why="no run of its study is at hand")
    if gathered.stuck:
        failed = [arm for arm in gathered.stuck if arm in gathered.failed]
        edge = [arm for arm in gathered.stuck if arm not in failed]
        why = [f"every tuning run of {', '.join(failed)} diverged"] * bool(failed)
        if edge:
            said = "lies at the edge of the grid, which goes no further"
            why.append(f"the best learning rate of {', '.join(edge)} {said}")
        return Verdict("NOT TESTED", why=f"{'; '.join(why)}, so no final seeds are trained")
    return Verdict(
        "NOT TESTED",
        why=f"{gathered.finished} of at least {gathered.total} runs of the preset "
        f"{gathered.preset} are finished",
    )


def _command(claim: Claim, gathered: Gathered, verdict: Verdict, runs_dir: Path) -> str:
    if verdict.label in ("SUPPORTED", "REFUTED") or gathered.void:
        return ""
    if gathered.evidence is not None and gathered.preset == "full":
        return ""  # all of it is there; what would help is said in words
    preset = "full" if gathered.evidence is not None else gathered.preset
    if gathered.preset == "smoke":
        preset = DEFAULT_PRESET  # for smoke gives no verdict, whole or not
    words = ["bnlab", "claims", "run", claim.name, "--preset", preset]
    if not gathered.network.own:
        words += ["--model", gathered.network.model]
    # Nothing is trained into the records that came with bnlab.
    if runs_dir != Path("runs") and runs_dir.name != REFERENCE:
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
    plain, limits = contrast.interval if contrast else None, verdict.interval
    failures = contrast.failures if contrast else None
    return {
        "claim": claim.name,
        "statement": claim.statement,
        "quote": None
        if claim.quote is None
        else {"document": claim.quote[0], "sentence": claim.quote[1]},
        "sources": list(claim.sources),
        "verdict": verdict.label,
        "sublabel": verdict.sublabel or None,
        "why": verdict.why,
        "unit": claim.unit,
        "effect": None if plain is None else _finite(plain.estimate * claim.scale),
        "limits": [
            {"level": level, **_limits(interval, claim.scale)}
            for level, interval in ((CLAIM_LEVEL, limits), (LEVEL, plain))
            if interval is not None
        ],
        "places": [
            {
                "place": one.place,
                "effect": _finite(measured.interval.estimate * one.scale),
                "limits": [
                    {"level": interval.level, **_limits(interval, one.scale)}
                    for interval in (measured.limits, measured.interval)
                ],
                "p": measured.p,
                "n": measured.n,
                "details": _details_as_data(measured),
                "remarks": list(measured.remarks),
            }
            for one, measured in (finding.places if claim.again else ())
        ],
        "smallest_effect": finding.smallest_effect * claim.scale,
        "power": verdict.power,
        "power_at": claim.power_at(gathered.preset) * claim.scale,
        "p": None if contrast is None else contrast.p,
        "p_test": None if contrast is None else contrast.test,
        "n": finding.n,
        "seeds": 0 if contrast is None else contrast.seeds,
        "failures": None if failures is None else _failures_as_data(failures),
        "required_n": verdict.required_n,
        "preset": gathered.preset,
        "network": gathered.network.label,
        "scope": gathered.scope,
        "runs_finished": gathered.finished,
        "runs_planned": gathered.total,
        "details": _details_as_data(contrast) if contrast else [],
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


def _details_as_data(contrast: Contrast) -> list[dict[str, Any]]:
    return [
        {"name": d.name, "unit": d.unit, **_limits(d.interval, SCALES[d.unit])}
        for d in contrast.details
    ]


def _failures_as_data(failures: Failures) -> dict[str, Any]:
    """Seeds on which runs diverged, with Wilson's 95 % limits of their share."""

    def side(name: str, failed: Array) -> dict[str, Any]:
        count, n = int(failed.sum()), len(failed)
        share = wilson_interval(count, n, LEVEL)
        return {"arms": name, "count": count, "n": n, "low": share.low, "high": share.high}

    treated, control = failures.names
    return {
        "treated": side(treated, failures.treated),
        "control": side(control, failures.control),
        "p": failures.p,
        "more_often": failures.more_often(CLAIM_ALPHA),
        "set_apart": failures.set_apart,
    }


def _arms_as_data(finding: Finding) -> list[dict[str, Any]]:
    evidence = finding.gathered.evidence
    if evidence is None:
        return []
    return [
        {
            "arm": arm,
            "lr": evidence.chosen.get(arm),
            **({"lrs": own} if (own := finding.gathered.own_lrs(arm)) else {}),
            "mean": float(scores.mean()),
            "sd": float(scores.std(ddof=1)) if len(scores) > 1 else None,
            "n": len(scores),
            "diverged": int(evidence.diverged[arm].sum()) if arm in evidence.diverged else 0,
        }
        for arm, scores in evidence.best.items()
    ]


READABLE = 96
"""Characters of a line of prose."""


def explain(claim: Claim, width: int = READABLE) -> str:
    """All that is fixed beforehand of a claim, as text, and what was changed in it.

    Args:
        claim: The claim.
        width: Characters of a line.
    """
    study = study_file(claim.name)
    shown = claim.study if isinstance(claim.study, Path) else f"configs/claims/{study.name}"
    sides = [claim] if claim.again is None else [claim, claim.again]
    parts = {
        "What the documents say": "\n".join([claim.statement, *quoted(claim)]),
        "Sources": "\n".join(claim.sources),
        "What is measured": claim.definition,
        "Effect": claim.formula,
        "What would count against it": claim.against,
        "Protocol": f"{claim.protocol}\nStudy: {shown}",
        "Arms": "\n".join(
            f"{one.place}{': ' * bool(one.place)}{', '.join(one.treated)}\n"
            f"against {', '.join(one.control)}"
            for one in sides
        ),
        "Smallest effect of interest": f"{show_smallest(claim)}. {claim.reason}",
        "Rule": rule_of(claim),
        "Seeds": f"at least {MIN_N}",
        "Changes of the protocol": "\n".join(find_changes(study, claim.name)) or "none",
    }
    return "\n\n".join(
        [claim.name, *(f"{title}\n{_indented(text, width)}" for title, text in parts.items())]
    )


def quoted(claim: Claim) -> tuple[str, ...]:
    """The sentence of a document that a claim renders, if one says it."""
    return () if claim.quote is None else (f"Document {claim.quote[0]}: {claim.quote[1]}",)


def show_smallest(claim: Claim) -> str:
    """The smallest effect of interest by preset: `+0.30 pp (quick: +1.00 pp)`."""
    other = [
        f"{preset}: {claim.show(value)}"
        for preset, value in claim.smallest_under.items()
        if preset in PRESETS and value != claim.smallest_effect
    ]
    return claim.show(claim.smallest_effect) + (f" ({', '.join(other)})" if other else "")


CHANGES = "CHANGES.md"
"""Beside the studies: one dated line a change of a protocol."""

EVERY = "all"


def find_changes(study: Path, name: str) -> list[str]:
    """The lines of `CHANGES.md` that concern a claim, as `DATE: what, why, what had been seen`.

    A line reads `- DATE, NAMES: TEXT`, where the names are claims or `all`.

    Args:
        study: The claim's study; the file lies beside it, if there is one.
        name: The claim's.
    """
    file = study.with_name(CHANGES)
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    found = []
    for line in lines:
        head, _, text = line.removeprefix("- ").partition(": ")
        date, *names = head.split(", ")
        if line.startswith("- ") and {EVERY, name} & set(names):
            found.append(f"{date}: {text}")
    return found


def _indented(text: str, width: int) -> str:
    import textwrap

    return "\n".join(
        textwrap.fill(
            line,
            width,
            initial_indent="  ",
            subsequent_indent="  ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        for line in text.splitlines()
    )
