"""The audit: named checks of whether runs belong together and what may be built on them.

Every check has a code, says what it looks at and why, and whether what it finds bars a verdict or
is told beside it. Comparisons and claims run the same list; claims are held to more, for they speak
of batch normalization on CIFAR-10 and not only of the runs at hand.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from bnlab.analysis.choose import Choice
from bnlab.analysis.runs import Run

Use: TypeAlias = Literal["comparison", "claim"]
Group: TypeAlias = Literal["bars a verdict", "told", "passed", "not applicable"]

GROUPS: tuple[Group, ...] = ("bars a verdict", "told", "passed", "not applicable")

STAGE_KEYS = ("dataset.val_size", "dataset.train_size", "train.test_every")
"""Keys in which tuning runs, with images held out, differ from the final runs of the same arm."""

DATA_KEYS = (*STAGE_KEYS, "dataset.test_size")
PRECISION_KEYS = ("train.precision",)
"""Keys by which a configuration asks for other data or another precision."""


@dataclass(frozen=True, eq=False)
class Subject:
    """What is audited.

    Attributes:
        use: What is to be built on it.
        runs: All runs behind it.
        choices: By arm, what tuning chose.
        at_best: Arms of which that matters; None for all.
        seeds: By effect, how many seeds it has and how many a verdict needs at least.
        factors: By effect, the configuration keys in which its arms differ.
    """

    use: Use
    runs: Sequence[Run]
    choices: Mapping[str, Choice] = field(default_factory=dict)
    at_best: Sequence[str] | None = None
    seeds: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    factors: Mapping[str, Sequence[str]] = field(default_factory=dict)


Said: TypeAlias = Sequence[str] | None
"""What a check found; nothing where all is well, None where there is nothing to look at."""


@dataclass(frozen=True)
class Check:
    """One thing that is looked at.

    Attributes:
        code: `A01`, ...; never given to another check.
        title: What would be wrong.
        why: What it would do to a result.
        bars: Uses in which it bars a verdict; in the others it is told.
        look: Finds it.
    """

    code: str
    title: str
    why: str
    bars: frozenset[Use]
    look: Callable[[Subject], Said]


@dataclass(frozen=True)
class Audited:
    """What one check says of a subject."""

    check: Check
    group: Group
    said: tuple[str, ...] = ()


def audit(subject: Subject) -> tuple[Audited, ...]:
    """All checks, in the order of their codes."""
    return tuple(_audited(check, subject) for check in CHECKS)


def _audited(check: Check, subject: Subject) -> Audited:
    said = check.look(subject) if subject.runs else None
    if said is None:
        return Audited(check, "not applicable")
    if not said:
        return Audited(check, "passed")
    return Audited(check, "bars a verdict" if subject.use in check.bars else "told", tuple(said))


def barring(audited: Iterable[Audited]) -> list[Audited]:
    """Those that bar a verdict."""
    return [one for one in audited if one.group == "bars a verdict"]


def audit_as_data(audited: Iterable[Audited]) -> list[dict[str, Any]]:
    """For programs."""
    return [
        {
            "code": one.check.code,
            "title": one.check.title,
            "why": one.check.why,
            "group": one.group,
            "said": list(one.said),
        }
        for one in audited
    ]


# ---------------------------------------------------------------- what must be the same in all runs


def conflicting_code(runs: Sequence[Run]) -> dict[str, Counter[str]]:
    """Source files of which two fingerprints are recorded, with how many runs have each.

    Runs go through different files (each its own normalizer); those that they share must agree. A
    run without fingerprints agrees with its like alone.
    """
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    for run in runs:
        for file, fingerprint in run.facts.code.items():
            seen[file][fingerprint] += 1
    unknown = sum(not run.facts.code for run in runs)
    if 0 < unknown < len(runs):
        return {"code": Counter({"recorded": len(runs) - unknown, "not recorded": unknown})}
    return {file: counts for file, counts in sorted(seen.items()) if len(counts) > 1}


def device_of(run: Run) -> str:
    """`cpu (AMD EPYC)`, `cuda (NVIDIA H100)`."""
    kind = run.facts.device.partition(":")[0]
    environment = run.facts.environment
    model = environment.gpu if kind == "cuda" else environment.cpu
    return f"{kind} ({model})" if model else kind


def mixed_values(
    runs: Sequence[Run], read: Callable[[Run], str], explained_by: Sequence[str] = ()
) -> Counter[str]:
    """Values of a fact, with their counts, if runs differ in it that must not; else nothing.

    Args:
        runs: Which.
        read: The fact.
        explained_by: Configuration keys; runs that differ in one of them may differ in the fact.
    """
    groups: dict[str, set[str]] = defaultdict(set)
    for run in runs:
        groups[repr([run.config.get(key) for key in explained_by])].add(read(run))
    counts = Counter(read(run) for run in runs)
    return counts if any(len(group) > 1 for group in groups.values()) else Counter()


def show_counts(counts: Mapping[str, int]) -> str:
    """`bf16 (4 runs), fp32 (12 runs)`."""
    return ", ".join(
        f"{value} ({count} run{'s' * (count > 1)})" for value, count in sorted(counts.items())
    )


def _code(subject: Subject) -> Said:
    conflicts = conflicting_code(subject.runs)
    if conflicts:
        return [f"{file}: {show_counts(counts)}" for file, counts in conflicts.items()]
    return []


def _unknown_code(subject: Subject) -> Said:
    unknown = [run for run in subject.runs if not run.facts.code]
    if not unknown:
        return []
    commits = Counter((run.facts.git.sha or "none")[:12] for run in unknown)
    share = f"{len(unknown)} of {len(subject.runs)} runs recorded no fingerprint of their code"
    return [f"{share}; commits: {show_counts(commits)}"]


def _mixed(
    name: str, read: Callable[[Run], str], explained_by: Sequence[str] = ()
) -> Callable[[Subject], Said]:
    def look(subject: Subject) -> Said:
        counts = mixed_values(subject.runs, read, explained_by)
        return [f"{name}: {show_counts(counts)}"] if counts else []

    return look


def _data(subject: Subject) -> Said:
    checksums = mixed_values(
        subject.runs, lambda run: _brief(run.facts.dataset.checksum), DATA_KEYS
    )
    names = mixed_values(subject.runs, lambda run: run.facts.dataset.name)
    return [
        f"{what}: {show_counts(counts)}"
        for what, counts in (("data", checksums), ("data set", names))
        if counts
    ]


def _brief(checksum: str | None) -> str:
    return checksum[:12] if checksum else "unknown"


# ------------------------------------------------------------------------------------ pairing

_SETTLE: Mapping[str, tuple[str, ...]] = {
    "init_hash": (
        "model.name",
        "model.widths",
        "model.depths",
        "model.hidden",
        "model.init.name",
        "model.init.gain",
    ),
    "data_order_hash": (
        "train.epochs",
        "train.shuffle",
        "dataset.train_size",
        "dataset.val_size",
    ),
}
"""Keys that, with the seed and the images, settle the initial weights and the order of images."""


def _pairing(subject: Subject) -> Said:
    said = []
    for fact, keys in _SETTLE.items():
        groups: dict[str, list[Run]] = defaultdict(list)
        for run in subject.runs:
            settled = [run.config.get(key) for key in keys]
            groups[repr([run.seed, run.facts.dataset.checksum, *settled])].append(run)
        several = [group for group in groups.values() if len(group) > 1]
        if any(getattr(run.facts, fact) is None for group in several for run in group):
            said.append(f"{fact} is not recorded in every run")
        hashes = [{getattr(run.facts, fact) for run in group} - {None} for group in several]
        broken = [group for group, found in zip(several, hashes, strict=True) if len(found) > 1]
        if broken:
            first = broken[0]
            said.append(
                f"{fact} differs among runs of one seed and start, in {len(broken)} groups; seed "
                f"{first[0].seed}: {', '.join(sorted(run.path for run in first)[:3])}"
            )
    return said


# -------------------------------------------------------------------------- choices and numbers


def _edge(subject: Subject) -> Said:
    if not subject.choices:
        return None
    arms = subject.choices if subject.at_best is None else subject.at_best
    held = {arm: choice for arm, choice in subject.choices.items() if arm in arms}
    keys = dict.fromkeys(key for choice in held.values() for key in choice.edges)
    said = []
    for key in keys:
        named = ", ".join(
            f"{arm} ({dict(choice.point)[key]:g})"
            for arm, choice in held.items()
            if key in choice.edges
        )
        short = key.rpartition(".")[2]
        said.append(
            f"the best {short} lies at the edge of the grid in {named}: a better one may lie beyond"
        )
    return said


def _seeds(subject: Subject) -> Said:
    if not subject.seeds:
        return None
    return [
        f"{f'{effect}: ' * bool(effect)}{n} seeds; a verdict needs {least}"
        for effect, (n, least) in subject.seeds.items()
        if n < least
    ]


def _factors(subject: Subject) -> Said:
    if not subject.factors:
        return None
    return [
        f"{effect}: differs in {len(keys)} keys: {', '.join(keys)}"
        for effect, keys in subject.factors.items()
        if len(keys) > 1
    ]


def _synthetic(subject: Subject) -> Said:
    names = {run.facts.dataset.name for run in subject.runs}
    return ["synthetic images, drawn by bnlab"] if "synthetic" in names else []


def _notes(subject: Subject) -> Said:
    real = (run.facts.dataset for run in subject.runs if run.facts.dataset.name != "synthetic")
    return sorted({images.note for images in real} - {""})


def _diverged(subject: Subject) -> Said:
    counts = Counter(run.label for run in subject.runs if run.diverged)
    share = f"{sum(counts.values())} of {len(subject.runs)}"
    return [f"{share}: {show_counts(counts)}"] if counts else []


def _shared_device(subject: Subject) -> Said:
    total = len(subject.runs)
    unknown = sum(run.facts.runs_at_once is None for run in subject.runs)
    shared = sum((run.facts.runs_at_once or 1) > 1 for run in subject.runs)
    said = {
        f"{shared} of {total} runs shared their device with others": shared,
        f"{unknown} of {total} runs did not record whether they shared their device": unknown,
    }
    return [line for line, count in said.items() if count]


def _twice(subject: Subject) -> Said:
    first: dict[tuple[str, int], Run] = {}
    said = []
    for run in subject.runs:
        other = first.setdefault((run.hash, run.seed), run)
        if not same_result(run, other):
            said.append(f"{other.path} and {run.path}")
    return said


def same_result(one: Run, other: Run) -> bool:
    """Whether two records of a run end at the same losses and accuracies."""
    tags = [tag for tag in one.final.keys() & other.final.keys() if _is_result(tag)]
    return all(_same(one.final[tag], other.final[tag]) for tag in tags)


def _same(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))


def _contradictory(subject: Subject) -> Said:
    said = []
    for run in subject.runs:
        differing = [
            f"{key} {_shown(recorded)} in metrics.jsonl, {_shown(summed)} in summary.json"
            for key, summed in run.summary.items()
            if (recorded := _recorded(run, key)) is not None and not _same(recorded, summed)
        ]
        if differing:
            said.append(f"{run.path}: {'; '.join(differing)}")
    return said


def _recorded(run: Run, key: str) -> float | None:
    """What the last line of metrics.jsonl says of a key of the summary; None of what is not its."""
    epochs = run.curves["epoch"]
    if key == "epochs":
        return float(epochs[-1]) if len(epochs) else 0.0
    if not _is_result(key):
        return None
    return float(run.curves[key][-1]) if key in run.curves else math.nan


def _shown(value: float) -> str:
    return "no number" if math.isnan(value) else str(value).removesuffix(".0")


def _is_result(tag: str) -> bool:
    return tag.partition("/")[0] in {"train", "val", "test"}


# --------------------------------------------------------------------------------- the list

_ALWAYS: frozenset[Use] = frozenset({"comparison", "claim"})
_CLAIMS: frozenset[Use] = frozenset({"claim"})
_NEVER: frozenset[Use] = frozenset()

CHECKS: tuple[Check, ...] = (
    Check(
        "A01",
        "code differs",
        "Runs that went through different code may differ for that reason.",
        _ALWAYS,
        _code,
    ),
    Check(
        "A02",
        "precision differs",
        "Precision moves accuracy by as much as small effects do.",
        _ALWAYS,
        _mixed("precision", lambda run: run.facts.precision, PRECISION_KEYS),
    ),
    Check(
        "A03",
        "data differ",
        "Runs on other images measure something else.",
        _ALWAYS,
        _data,
    ),
    Check(
        "A04",
        "device differs",
        "Devices round differently, which accuracies over seeds hardly show, and their seconds are "
        "not comparable at all. Claims tell it; comparisons, which print seconds, refuse it.",
        frozenset({"comparison"}),
        _mixed("device", device_of),
    ),
    Check(
        "A05",
        "pairing broken",
        "Runs of one seed are pairs only if they started from the same weights and saw the same "
        "images in the same order, as their hashes say. Comparisons then take them as unpaired.",
        _CLAIMS,
        _pairing,
    ),
    Check(
        "A06",
        "best value on the grid's edge",
        "A better value may lie beyond, so the arm is not known at its best.",
        _CLAIMS,
        _edge,
    ),
    Check(
        "A07",
        "too few seeds",
        "With so few seeds no exact test can reach the level, however large the effect.",
        _ALWAYS,
        _seeds,
    ),
    Check(
        "A08",
        "more than one factor",
        "Arms that differ in several keys say nothing of each.",
        _NEVER,
        _factors,
    ),
    Check(
        "A09",
        "not CIFAR-10",
        "The documents speak of CIFAR-10; textures that bnlab draws are another, easier task.",
        _CLAIMS,
        _synthetic,
    ),
    Check(
        "A10",
        "diverged runs",
        "They are scored as guessing does, which a mean does not show.",
        _NEVER,
        _diverged,
    ),
    Check(
        "A11",
        "seconds from a shared device",
        "Runs that share a device slow one another: their seconds are not those of a run alone.",
        _NEVER,
        _shared_device,
    ),
    Check(
        "A12",
        "one run, two results",
        "Two records of one configuration and seed disagree; at most one of them is right.",
        _ALWAYS,
        _twice,
    ),
    Check(
        "A13",
        "unknown code",
        "Records made before runs recorded a fingerprint cannot be held against one another.",
        _NEVER,
        _unknown_code,
    ),
    Check(
        "A14",
        "images of another source",
        "Images that bnlab has not verified as CIFAR-10 may differ from it (re-encoded, say).",
        _NEVER,
        _notes,
    ),
    Check(
        "A15",
        "files of a run contradict each other",
        "The summary repeats the last line of metrics.jsonl, the canonical record; where it says "
        "something else, one of them was changed or cut short, and the result is not known.",
        _ALWAYS,
        _contradictory,
    ),
)
