"""From run directories to effects: arms, the audit of their pairing, and what may be said of them.

`load_runs` reads; `compare` is pure and computes a `Comparison` once, of which every table, plot
and file of a report is a view. An *arm* is a configuration up to seed, name and paths. Where arms
were tried at several values of a tuned key (the learning rate), that key is no part of the arm:
arms are compared at the same value and each at its best.
"""

import glob
import json
import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from bnlab.config import ABSENT, UNHASHED, flatten, resolved_hash
from bnlab.errors import BnlabError, ConfigError, RefusedError, did_you_mean
from bnlab.rundir import RunDir, RunRecord, find_runs, load_record
from bnlab.stats import (
    Equivalence,
    Interval,
    Speedup,
    TimeToTarget,
    censored_median,
    holm,
    mean_interval,
    median_speedup,
    paired_correlation,
    paired_interval,
    paired_tost,
    permutation_p,
    required_n,
    sign_flip_p,
    smallest_permutation_p,
    smallest_sign_flip_p,
    time_to_target,
    welch_interval,
    welch_tost,
)

Array: TypeAlias = NDArray[np.float64]

ALPHA = 0.05
LEVEL = 1 - ALPHA

NOT_IN_ARMS = (*UNHASHED, "probes")
"""Keys that do not change what is trained: probes leave no trace on a run."""

STAGE_KEYS = ("dataset.val_size", "dataset.train_size", "train.test_every")
"""Keys in which tuning runs, with images held out, differ from the final runs of the same arm."""

NORM = "model.norm.name"


# ------------------------------------------------------------------------------------ what is read


@dataclass(frozen=True)
class Remark:
    """Something found wrong, and what was done about it."""

    where: str
    what: str


@dataclass(frozen=True, eq=False)
class Run:
    """One finished run, as arrays.

    Attributes:
        root: The run directory.
        path: `<study>/<arm>-<hash8>/s<seed>`, without what lies above it.
        study: The first part of it.
        label: The arm's name in run.json.
        seed: The run's seed.
        config: Flat resolved configuration, without `NOT_IN_ARMS`.
        status: `done` or `diverged`.
        curves: Values by tag, one per record (NaN where not measured), among them `epoch`.
        final: Values by tag at the end of the run.
        facts: run.json.
    """

    root: Path
    path: str
    study: str
    label: str
    seed: int
    config: Mapping[str, Any]
    status: str
    curves: Mapping[str, Array]
    final: Mapping[str, float]
    facts: Mapping[str, Any]

    @property
    def diverged(self) -> bool:
        """Whether training broke down or learned nothing."""
        return self.status == "diverged"

    @property
    def budget(self) -> int:
        """Epochs that the run was given."""
        return int(self.config.get("train.epochs") or len(self.curves["epoch"]))

    @property
    def classes(self) -> int:
        """Number of classes; 10 where run.json does not say."""
        return len(self.facts.get("dataset", {}).get("classes", ())) or 10


def load_runs(paths: Sequence[Path]) -> tuple[list[Run], list[Remark]]:
    """Read every finished run at or below some paths; a path may be a glob pattern.

    Returns:
        The runs, ordered by path, and a remark on everything else that was met.

    Raises:
        ConfigError: If a path does not exist.
    """
    runs: list[Run] = []
    remarks: list[Remark] = []
    for root in run_folders(paths):
        where = _short_path(root)
        try:
            run, found = _to_run(load_record(root), where)
        except BnlabError as error:
            remarks.append(Remark(where, f"{_without(root, str(error))}; left out"))
            continue
        remarks += [Remark(where, _without(root, text)) for text in found]
        if run is not None:
            runs.append(run)
    remarks += [Remark(_short_path(folder), what) for folder, what in _not_runs(paths)]
    return runs, remarks


def run_folders(paths: Sequence[Path]) -> list[Path]:
    """Run directories at or below some paths, each once, ordered; a path may be a glob pattern.

    Raises:
        ConfigError: If a path does not exist.
    """
    found = {run.resolve(): run for path in _expand(paths) for run in find_runs(path)}
    return [found[key] for key in sorted(found)]


def _expand(paths: Sequence[Path]) -> list[Path]:
    expanded: list[Path] = []
    for path in paths:
        matches = [Path(match) for match in sorted(glob.glob(str(path)))]  # noqa: PTH207 - absolute patterns too
        if path.exists():
            expanded.append(path)
        elif matches:
            expanded += matches
        else:
            raise ConfigError(f"{path}: no such folder of runs; train some first (bnlab train)")
    return expanded


def _not_runs(paths: Sequence[Path]) -> list[tuple[Path, str]]:
    """Folders that look as if a run should be there."""
    found: dict[Path, str] = {}
    for path in _expand(paths):
        for name, below, files in os.walk(path):
            folder = Path(name)
            run_dir = RunDir(folder)
            if {run_dir.run.name, run_dir.config.name} & set(files):
                below.clear()
            elif {run_dir.metrics.name, run_dir.summary.name} & set(files):
                found[folder] = "neither run.json nor config.yaml: not a whole run; left out"
                below.clear()
            elif not below and not files:
                found[folder] = "empty folder; left out"
            elif not below and re.fullmatch(r"s\d+", folder.name):
                found[folder] = "named like a run but holds none; left out"
    return sorted(found.items())


def _short_path(root: Path) -> str:
    return "/".join(root.resolve().parts[-3:]).lstrip("/")


def _without(root: Path, text: str) -> str:
    """A message less the place of the run, which the remark names in its own way."""
    return text.replace(f"{root}{os.sep}", "")


def _to_run(record: RunRecord, where: str) -> tuple[Run | None, list[str]]:
    remarks = [f"{remark}" for remark in record.remarks]
    flat = flatten(record.config)
    if record.summary is None:
        error = f" ({record.run['error']})" if record.run.get("error") else ""
        state = "not finished (no summary.json)" if record.status == "done" else record.status
        return None, [*remarks, f"{state}{error}; left out"]
    if record.run.get("config_hash") != resolved_hash(record.config):
        return None, [*remarks, "config.yaml is not the one that the run was made with; left out"]
    if record.status not in ("done", "diverged"):
        return None, [*remarks, f"unknown status {record.status!r}; left out"]
    fault = _fault(record)
    if fault:
        return None, [*remarks, f"{fault}; left out"]
    curves, gaps = _curves(record.metrics)
    remarks += gaps
    final = {tag: values[-1] for tag, values in curves.items() if len(values)}
    final |= {
        tag: math.nan if value is None else float(value)
        for tag, value in record.summary.items()
        if "/" in tag and (value is None or isinstance(value, (int, float)))
    }
    parts = ["", "", *where.split("/")]
    run = Run(
        root=record.root,
        path=where,
        study=parts[-3],
        label=str(record.run.get("arm") or parts[-2]),
        seed=record.seed,
        config={key: value for key, value in flat.items() if key not in NOT_IN_ARMS},
        status=record.status,
        curves=curves,
        final=final,
        facts=record.run,
    )
    return run, remarks


def _fault(record: RunRecord) -> str:
    """A value of the wrong kind where code relies on it, or nothing."""
    for name in ("dataset", "git", "environment"):
        if not isinstance(record.run.get(name, {}), Mapping):
            return f"run.json: {name} is not a mapping"
    if not isinstance(record.run.get("dataset", {}).get("classes", []), list):
        return "run.json: dataset.classes is not a list"
    for key, value in (("seed", record.config.get("seed", 0)), *_whole_numbers(record)):
        if not isinstance(value, int):
            return f"config.yaml: {key} is not a whole number"
    return ""


def _whole_numbers(record: RunRecord) -> Iterable[tuple[str, Any]]:
    flat = flatten(record.config)
    return ((key, flat.get(key) or 0) for key in ("train.epochs", "dataset.val_size"))


def _curves(metrics: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Array], list[str]]:
    by_epoch = {record["epoch"]: record for record in metrics}
    remarks = []
    records = [by_epoch[epoch] for epoch in sorted(by_epoch)]
    if len(records) < len(metrics):
        remarks.append("metrics.jsonl: epochs written twice; the last record of each counts")
    tags = dict.fromkeys(tag for record in records for tag in record)
    curves: dict[str, Array] = {"epoch": np.array([], dtype=np.float64)}
    gaps = []
    for tag in tags:
        try:
            values = np.array([record.get(tag, math.nan) for record in records], dtype=np.float64)
        except (TypeError, ValueError):
            remarks.append(f"metrics.jsonl: {tag} is not a number everywhere; left out")
            continue
        measured = sum(tag in record for record in records)
        if np.isfinite(values).sum() < measured:
            gaps.append(tag)
        values[~np.isfinite(values)] = math.nan
        curves[tag] = values
    if gaps:
        listed = ", ".join(gaps[:3]) + (f" and {len(gaps) - 3} more" if len(gaps) > 3 else "")
        remarks.append(f"metrics.jsonl: values that are not finite ({listed}), shown as gaps")
    return curves, remarks


# --------------------------------------------------------------------------------- what is computed


@dataclass(frozen=True)
class Metric:
    """The quantity compared.

    Attributes:
        name: Its tag, `test/accuracy`.
        scale: Factor from storage to tables: 100 for a fraction.
        unit: Of differences in tables: `pp`, or nothing.
        higher_is_better: False for a loss.
    """

    name: str
    scale: float
    unit: str
    higher_is_better: bool

    def chance(self, classes: int) -> float | None:
        """What guessing scores, which is what a diverged run counts as; None if that is unclear."""
        if self.name.endswith("accuracy"):
            return 1 / classes
        return math.log(classes) if self.name.endswith("loss") else None


def make_metric(name: str) -> Metric:
    """A metric by its tag."""
    accuracy = name.endswith("accuracy")
    return Metric(name, 100.0 if accuracy else 1.0, "pp" if accuracy else "", "loss" not in name)


@dataclass(frozen=True)
class Options:
    """How to compare.

    Attributes:
        metric: Tag of the quantity compared.
        baseline: Name of the arm that others are compared with; by default the one without norm.
        margin: Largest difference that counts as none, in storage units; None for no such test.
        target: Accuracy to be reached, a fraction; by default 1 pp below the worst arm.
        tuned: Key that is tuned for each arm and is no part of it.
        allow_mixed: Compare runs of different code, device, precision or data all the same.
    """

    metric: str = "test/accuracy"
    baseline: str | None = None
    margin: float | None = None
    target: float | None = None
    tuned: str = "optim.lr"
    allow_mixed: bool = False


@dataclass(frozen=True, eq=False)
class Arm:
    """One condition.

    Attributes:
        name: Its label, or the keys in which it differs.
        config: Flat configuration, without the tuned key.
        runs: Its final runs.
        tuning: Its runs with images held out, where other runs hold none out; else empty.
    """

    name: str
    config: Mapping[str, Any]
    runs: tuple[Run, ...]
    tuning: tuple[Run, ...] = ()


@dataclass(frozen=True)
class Result:
    """One arm's scores.

    Attributes:
        arm: Its name.
        setting: Value of the tuned key; None where nothing is tuned.
        scores: By seed; a diverged run scores chance.
        diverged: Seeds that diverged.
        mean: Mean of the scores.
        sd: Standard deviation over seeds; None for a single one.
        interval: Student's 95 % interval of the mean; None for a single seed.
        survivors_mean: Mean over the runs that did not diverge: conditional on not diverging.
    """

    arm: str
    setting: float | None
    scores: Mapping[int, float]
    diverged: tuple[int, ...]
    mean: float
    sd: float | None
    interval: Interval | None
    survivors_mean: float | None

    @property
    def n(self) -> int:
        """Number of seeds."""
        return len(self.scores)


Verdict = Literal["higher", "lower", "equivalent", "undecided", "no verdict"]


@dataclass(frozen=True)
class Effect:
    """One arm less the baseline.

    Attributes:
        arm: The treated arm.
        baseline: The control.
        setting: Value of the tuned key in the treated arm; None where nothing is tuned.
        baseline_setting: The same in the control.
        method: `paired` by seed, `welch` (independent samples), `single` (a difference of single
            runs, which has no interval).
        audit: Why it is paired or not, and which seeds were dropped.
        factors: Configuration keys in which the arms differ.
        seeds: Seeds behind it: pairs, or those of the treated arm.
        baseline_seeds: Those of the control.
        estimate: Mean difference, in storage units.
        interval: 95 % interval of it, not adjusted for the other effects.
        p: Exact sign-flip p (paired) or permutation p (welch), two-sided.
        p_holm: The same, adjusted over the table.
        equivalence: Two one-sided tests within the margin, where one was given.
        p_equivalence_holm: Their p, adjusted over the table.
        correlation: Of the arms over paired seeds.
        required_n: Seeds an arm at which an effect like this would be found with power 0.8.
        verdict: What may be said.
        verdict_n: Seeds an arm below which no verdict is possible in this table.
    """

    arm: str
    baseline: str
    setting: float | None
    baseline_setting: float | None
    method: Literal["paired", "welch", "single"]
    audit: tuple[str, ...]
    factors: tuple[str, ...]
    seeds: tuple[int, ...]
    baseline_seeds: tuple[int, ...]
    estimate: float
    interval: Interval | None = None
    p: float | None = None
    p_holm: float | None = None
    equivalence: Equivalence | None = None
    p_equivalence_holm: float | None = None
    correlation: float | None = None
    required_n: int | None = None
    verdict: Verdict = "no verdict"
    verdict_n: int = 0

    @property
    def n(self) -> int:
        """Pairs, or seeds of the smaller arm."""
        return min(len(self.seeds), len(self.baseline_seeds))


@dataclass(frozen=True)
class View:
    """The arms compared under one rule for the tuned key.

    Attributes:
        key: `only` (nothing is tuned), `best` (each arm at its best) or `same`.
        title: The rule in words.
        notes: What to know about it.
        results: One an arm, baseline first.
        effects: One an arm but the baseline.
    """

    key: Literal["only", "best", "same"]
    title: str
    notes: tuple[str, ...]
    results: tuple[Result, ...]
    effects: tuple[Effect, ...]


@dataclass(frozen=True)
class Response:
    """How one arm answers to the tuned key.

    Attributes:
        arm: Its name.
        metric: Tag by which values are judged.
        points: Results by value, rising.
        best: The value with the best mean.
        edge: `low` or `high` if that is the least or greatest value tried: the optimum may lie
            beyond; None inside the grid; `single` if only one value was tried.
    """

    arm: str
    metric: str
    points: tuple[Result, ...]
    best: float
    edge: Literal["low", "high", "single"] | None


@dataclass(frozen=True)
class Arrival:
    """When one arm's runs reach the target.

    Attributes:
        arm: Its name.
        n: Runs.
        reached: How many of them got there.
        epochs: Median, censored.
        seconds: Median of training seconds, censored.
        speedup: Median over pairs of log2(baseline's epochs / this arm's).
    """

    arm: str
    n: int
    reached: int
    epochs: TimeToTarget
    seconds: TimeToTarget | None
    speedup: Speedup | None


@dataclass(frozen=True)
class Cost:
    """What one arm takes.

    Attributes:
        arm: Its name.
        parameters: Learned values.
        seconds_per_epoch: Mean over runs of each run's median; its interval if there are several.
        interval: Of that mean.
        images_per_second: Mean over runs of each run's median.
        ratio: Seconds per epoch relative to the baseline's.
    """

    arm: str
    parameters: int | None
    seconds_per_epoch: float | None
    interval: Interval | None
    images_per_second: float | None
    ratio: float | None


@dataclass(frozen=True, eq=False)
class Curve:
    """One arm's mean over seeds along training; all arrays are (epochs,).

    Attributes:
        arm: Its name.
        tag: Quantity.
        epochs: Where it was measured.
        seconds: Mean cumulative training seconds there.
        n: Runs with a finite value there.
        mean: Over these.
        low: Lower limit of Student's pointwise 95 % interval; NaN for a single run.
        high: Upper limit.
    """

    arm: str
    tag: str
    epochs: Array
    seconds: Array
    n: NDArray[np.int64]
    mean: Array
    low: Array
    high: Array


@dataclass(frozen=True)
class Probe:
    """A probed quantity in one layer of one arm, over seeds.

    Attributes:
        arm: Its name.
        quantity: `grad_norm`, `dead`, ...
        layer: Name of the layer.
        first: Mean after the first epoch that was probed.
        last: Mean after the last.
        interval: Of the latter; None for a single run.
        n: Runs with a finite value.
    """

    arm: str
    quantity: str
    layer: str
    first: float
    last: float
    interval: Interval | None
    n: int


@dataclass(frozen=True)
class Fact:
    """One property of the runs' provenance.

    Attributes:
        name: `git sha`, `device`, ...
        values: Number of runs by value.
        mixed: Whether it differs where it must not.
    """

    name: str
    values: Mapping[str, int]
    mixed: bool


@dataclass(frozen=True, eq=False)
class Comparison:
    """Everything that a report says.

    Attributes:
        metric: What is compared.
        margin: Largest difference that counts as none, in storage units, or None.
        studies: Names of the studies that the runs come from.
        caveats: What must be said first (synthetic images, mixed runs).
        arms: Baseline first.
        baseline: Name of the first arm.
        baseline_reason: Why it is that one.
        tuned: Key tuned for each arm, or None.
        views: The primary one first.
        responses: One an arm, where a key is tuned.
        target: Accuracy asked for, or None where no run records a curve.
        target_tag: Curve on which it is looked for.
        arrivals: One an arm of the primary view.
        costs: Likewise.
        curves: Of the primary view.
        probes: Likewise.
        varying: Configuration keys in which arms differ, with the arms' values in order.
        facts: Provenance.
        runs: Every run compared.
        remarks: What was left out or mended.
    """

    metric: Metric
    margin: float | None
    studies: tuple[str, ...]
    caveats: tuple[str, ...]
    arms: tuple[Arm, ...]
    baseline: str
    baseline_reason: str
    tuned: str | None
    views: tuple[View, ...]
    responses: tuple[Response, ...]
    target: float | None
    target_tag: str
    arrivals: tuple[Arrival, ...]
    costs: tuple[Cost, ...]
    curves: tuple[Curve, ...]
    probes: tuple[Probe, ...]
    varying: Mapping[str, tuple[Any, ...]]
    facts: tuple[Fact, ...]
    runs: tuple[Run, ...]
    remarks: tuple[Remark, ...] = field(default=())


# ------------------------------------------------------------------------------------------ compare


def compare(runs: Sequence[Run], options: Options, remarks: Sequence[Remark] = ()) -> Comparison:
    """Everything that a report says about some runs.

    Raises:
        ConfigError: If there are no runs, or none has the metric, or the baseline is unknown.
        RefusedError: If runs of different code, device, precision or data are mixed.
    """
    metric = make_metric(options.metric)
    notes = list(remarks)
    kept = _with_metric(runs, metric, notes)
    arms, tuned = _make_arms(kept, options.tuned, notes)
    facts = _facts(kept)
    if not options.allow_mixed:
        _refuse_mixed(kept, facts)
    baseline, reason = _choose_baseline(arms, options.baseline)
    arms = [baseline, *(arm for arm in arms if arm is not baseline)]
    responses = tuple(_response(arm, tuned, metric) for arm in arms) if tuned else ()
    views, cells = _views(arms, tuned, metric, responses, options.margin)
    target, tag = _target(cells, options)
    return Comparison(
        metric=metric,
        margin=options.margin,
        studies=tuple(sorted({run.study for run in kept})),
        caveats=_caveats(kept, facts),
        arms=tuple(arms),
        baseline=baseline.name,
        baseline_reason=reason,
        tuned=tuned,
        views=views,
        responses=responses,
        target=target,
        target_tag=tag,
        arrivals=_arrivals(cells, views[0], target, tag),
        costs=_costs(cells),
        curves=_mean_curves(cells),
        probes=_probes(cells),
        varying=_varying(arms, tuned),
        facts=facts,
        runs=tuple(kept),
        remarks=tuple(notes),
    )


def _with_metric(runs: Sequence[Run], metric: Metric, remarks: list[Remark]) -> list[Run]:
    if not runs:
        reasons = "".join(f"\n  {remark.where}: {remark.what}" for remark in remarks[:20])
        raise ConfigError(
            "no finished runs to compare; train some (bnlab train --config FILE), or name the "
            f"folder that holds them{reasons}"
        )
    kept = [run for run in runs if _score(run, metric) is not None]
    if not kept:
        known = {tag for run in runs for tag in run.final if "/" in tag or tag == "seconds"}
        raise ConfigError(f"no run recorded {metric.name!r}{did_you_mean(metric.name, known)}")
    remarks += [
        Remark(run.path, f"no finite {metric.name} at its end; left out")
        for run in runs
        if _score(run, metric) is None
    ]
    return kept


def _score(run: Run, metric: Metric) -> float | None:
    """A run's value of the metric; chance if it diverged; None if it has none."""
    chance = metric.chance(run.classes)
    recorded = metric.name in run.final or not metric.name.startswith("val/")
    if run.diverged and chance is not None and recorded:
        return chance
    value = run.final.get(metric.name)
    return value if value is not None and math.isfinite(value) else None


# --------------------------------------------------------------------------------------------- arms


def _make_arms(
    runs: Sequence[Run], tuned: str, remarks: list[Remark]
) -> tuple[list[Arm], str | None]:
    """Group runs into arms; decide whether a key is tuned and whether tuning runs are apart."""
    held_out = {int(run.config.get("dataset.val_size", 0) or 0) > 0 for run in runs}
    ways: list[tuple[bool, tuple[str, ...]]] = [(False, (tuned,)), (False, ())]
    if len(held_out) == 2:
        ways.insert(0, (True, (tuned, *STAGE_KEYS)))
    for staged, ignored in ways:
        groups = _group(runs, ignored)
        several = any(_values(group, tuned, staged) > 1 for group in groups)
        # One arm at several learning rates compares learning rates.
        if not ignored or (several and (staged or len(groups) > 1)):
            break
    names = _names(groups, ignored)
    arms = []
    for name, group in zip(names, groups, strict=True):
        tuning = [run for run in group if staged and _holds_out(run)]
        final = [run for run in group if not (staged and _holds_out(run))]
        arms.append(
            Arm(
                name,
                {k: v for k, v in group[0].config.items() if k not in ignored},
                _unique(final, ignored[:1], remarks),
                _unique(tuning, ignored[:1], remarks),
            )
        )
    return arms, tuned if ignored else None


def _holds_out(run: Run) -> bool:
    return int(run.config.get("dataset.val_size", 0) or 0) > 0


def _values(group: Sequence[Run], key: str, staged: bool) -> int:
    chosen = [run for run in group if _holds_out(run)] if staged else group
    return len({repr(run.config.get(key)) for run in chosen})


def _group(runs: Sequence[Run], ignored: Sequence[str]) -> list[list[Run]]:
    """Runs of equal configuration; where one study calls them by several names, by these too."""
    texts: dict[int, str] = {}
    labels: dict[tuple[str, str], set[str]] = defaultdict(set)
    for run in runs:
        kept = {key: value for key, value in run.config.items() if key not in ignored}
        texts[id(run)] = json.dumps(kept, sort_keys=True, default=str)
        labels[texts[id(run)], run.study].add(run.label)
    split = {text for (text, _), names in labels.items() if len(names) > 1}
    groups: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs:
        text = texts[id(run)]
        groups[text, run.label if text in split else ""].append(run)
    return [groups[key] for key in sorted(groups, key=lambda key: _order(groups[key][0]))]


def _order(run: Run) -> tuple[Any, ...]:
    """Arms without norm first, then by label and values; numbers by size."""
    values = tuple(
        (0, value, "")
        if isinstance(value, (int, float)) and not isinstance(value, bool)
        else (1, 0.0, str(value))
        for _, value in sorted(run.config.items())
    )
    return (run.config.get(NORM) != "none", run.label, len(values), values)


def _names(groups: Sequence[Sequence[Run]], ignored: Sequence[str]) -> list[str]:
    """Their labels if these tell them apart, else the keys in which they differ."""
    labels = [sorted({run.label for run in group}) for group in groups]
    flat = [label for names in labels for label in names]
    if len(set(flat)) == len(groups) == len(flat):
        return flat
    configs = [{k: v for k, v in group[0].config.items() if k not in ignored} for group in groups]
    keys = _keys(configs)
    telling = [key for key in keys if len({repr(c[key]) for c in configs if key in c}) > 1]
    for chosen in (telling, [key for key in keys if len({repr(c.get(key)) for c in configs}) > 1]):
        short = _short_keys(chosen)
        names = [
            ", ".join(f"{short[key]}={config[key]}" for key in chosen if key in config)
            for config in configs
        ]
        if len(set(names)) == len(names):
            return names
    return [
        f"{name} [{'/'.join(label)}]".strip() for name, label in zip(names, labels, strict=True)
    ]


def _keys(configs: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for config in configs for key in config))


def _short_keys(keys: Sequence[str]) -> dict[str, str]:
    """`model.norm.name` as `norm`, `optim.lr` as `lr`, where that is unambiguous."""
    short = {}
    for key in keys:
        *_, section, last = ["", *key.split(".")]
        short[key] = section if last == "name" else last
    counts = Counter(short.values())
    return {key: name if counts[name] == 1 else key for key, name in short.items()}


def _unique(runs: Sequence[Run], tuned: Sequence[str], remarks: list[Remark]) -> tuple[Run, ...]:
    """Each seed once per value of the tuned key."""
    seen: dict[tuple[Any, ...], Run] = {}
    for run in runs:
        key = (run.seed, *(repr(run.config.get(name)) for name in tuned))
        if key in seen:
            remarks.append(
                Remark(run.path, f"same arm and seed as {seen[key].path}; left out of the tables")
            )
        else:
            seen[key] = run
    return tuple(sorted(seen.values(), key=lambda run: run.seed))


def _choose_baseline(arms: Sequence[Arm], wanted: str | None) -> tuple[Arm, str]:
    if wanted is not None:
        chosen = [arm for arm in arms if arm.name == wanted] or [
            arm
            for arm in arms
            if wanted in {arm.config.get(NORM)} | {run.label for run in (*arm.runs, *arm.tuning)}
        ]
        if len(chosen) == 1:
            return chosen[0], "asked for"
        if chosen:
            raise ConfigError(
                f"--baseline {wanted}: {len(chosen)} arms are called that; choose one of "
                + ", ".join(repr(arm.name) for arm in arms)
            )
        raise ConfigError(
            f"--baseline: unknown arm {wanted!r}{did_you_mean(wanted, [arm.name for arm in arms])}"
        )
    without = [arm for arm in arms if arm.config.get(NORM) == "none"]
    if len(without) == 1:
        return without[0], "the arm without norm"
    if without:
        return without[0], f"the first of {len(without)} arms without norm; --baseline changes it"
    return arms[0], "the first arm, as none is without norm; --baseline changes it"


def differing_factors(left: Mapping[str, Any], right: Mapping[str, Any]) -> tuple[str, ...]:
    """Keys in which two flat configurations differ, as factors.

    A key that only one side has means nothing for the other (the placement of no norm): it is no
    factor of its own if its section differs in a key that both have.
    """
    keys = [key for key in _keys((left, right)) if left.get(key, ABSENT) != right.get(key, ABSENT)]
    both = [key for key in keys if key in left and key in right]
    sections = {key.rpartition(".")[0] for key in both}
    return tuple(key for key in keys if key in both or key.rpartition(".")[0] not in sections)


def _varying(arms: Sequence[Arm], tuned: str | None) -> dict[str, tuple[Any, ...]]:
    rows: dict[str, tuple[Any, ...]] = {}
    for key in _keys(arm.config for arm in arms):
        values = tuple(arm.config.get(key, ABSENT) for arm in arms)
        if len({repr(value) for value in values}) > 1:
            rows[key] = values
    if tuned:
        rows[tuned] = tuple(
            ", ".join(f"{value:g}" for value in _settings((*arm.runs, *arm.tuning), tuned))
            for arm in arms
        )
    return rows


# -------------------------------------------------------------------------------- views and results


def _setting(run: Run, tuned: str | None) -> float | None:
    value = run.config.get(tuned) if tuned else None
    return float(value) if isinstance(value, (int, float)) else None


def _settings(runs: Iterable[Run], tuned: str | None) -> list[float]:
    return sorted({value for run in runs if (value := _setting(run, tuned)) is not None})


def _at(runs: Iterable[Run], tuned: str | None, setting: float | None) -> tuple[Run, ...]:
    return tuple(run for run in runs if _setting(run, tuned) == setting)


def make_result(arm: str, setting: float | None, runs: Sequence[Run], metric: Metric) -> Result:
    """One arm's scores at one value of the tuned key; runs without the metric do not count."""
    scored = {run.seed: score for run in runs if (score := _score(run, metric)) is not None}
    diverged = tuple(run.seed for run in runs if run.diverged and run.seed in scored)
    values = list(scored.values())
    survivors = [scored[seed] for seed in scored if seed not in diverged]
    several = len(values) > 1
    return Result(
        arm=arm,
        setting=setting,
        scores=scored,
        diverged=diverged,
        mean=float(np.mean(values)) if values else math.nan,
        sd=float(np.std(values, ddof=1)) if several else None,
        interval=mean_interval(values, LEVEL) if several else None,
        survivors_mean=float(np.mean(survivors)) if survivors else None,
    )


def _response(arm: Arm, tuned: str, metric: Metric) -> Response:
    """Judged on validation images where every run of the arm has them, else on the metric."""
    runs = arm.tuning or arm.runs
    on_val = make_metric("val/accuracy")
    judge = on_val if all(_score(run, on_val) is not None for run in runs) else metric
    settings = _settings(runs, tuned)
    points = tuple(
        make_result(arm.name, value, _at(runs, tuned, value), judge) for value in settings
    )
    sign = 1 if judge.higher_is_better else -1
    best = max(
        points, key=lambda point: (sign * point.mean, -settings.index(_known(point.setting)))
    )
    edge: Literal["low", "high", "single"] | None = None
    if len(points) == 1:
        edge = "single"
    elif best is points[0]:
        edge = "low"
    elif best is points[-1]:
        edge = "high"
    return Response(arm.name, judge.name, points, _known(best.setting), edge)


def _known(setting: float | None) -> float:
    assert setting is not None
    return setting


Cells: TypeAlias = list[tuple[Arm, float | None, tuple[Run, ...]]]


def _views(
    arms: Sequence[Arm],
    tuned: str | None,
    metric: Metric,
    responses: Sequence[Response],
    margin: float | None,
) -> tuple[tuple[View, ...], Cells]:
    """The ways of comparing, the primary one first, and the runs of the primary one."""
    if tuned is None:
        cells: Cells = [(arm, None, arm.runs) for arm in arms if arm.runs]
        return (_view("only", "All arms as configured", (), cells, metric, margin),), cells
    short = tuned.rpartition(".")[2]
    best: Cells = []
    notes = []
    for arm, response in zip(arms, responses, strict=True):
        present = _settings(arm.runs, tuned)
        if not present:
            notes.append(f"{arm.name} has tuning runs only and is left out")
            continue
        chosen = response.best
        if chosen not in present:
            among = [point for point in response.points if point.setting in present]
            chosen = (
                _known(max(among, key=lambda point: point.mean).setting) if among else present[0]
            )
            notes.append(
                f"{arm.name}: its best {short} {response.best:g} has no final runs; "
                f"{chosen:g} is shown"
            )
        best.append((arm, chosen, _at(arm.runs, tuned, chosen)))
    views = []
    if best:
        notes = [*_choice_notes(arms, responses, short), *notes]
        title = f"Each arm at its best {short}"
        views.append(_view("best", title, tuple(notes), best, metric, margin))
    if not best or len({setting for _, setting, _ in best}) > 1:
        shared = _same_cells(arms, tuned, responses[0].best)
        if shared:
            cells, notes = shared
            title = f"All arms at the same {short}, {responses[0].best:g}"
            reason = f"{responses[0].best:g} is the best of {arms[0].name}, the baseline"
            views.append(_view("same", title, (reason, *notes), cells, metric, margin))
            best = best or cells
    elif len(best) > 1:
        views[0] = replace(
            views[0], notes=(*views[0].notes, f"the best {short} is the same in every arm")
        )
    return tuple(views), best


def _choice_notes(arms: Sequence[Arm], responses: Sequence[Response], short: str) -> list[str]:
    metrics = sorted({response.metric for response in responses})
    notes = []
    for name in metrics:
        whose = (
            ""
            if len(metrics) == 1
            else f" in {_listed(r.arm for r in responses if r.metric == name)}"
        )
        if name.startswith("test/"):
            notes.append(
                f"the best {short} was chosen on {name}{whose}, on the very runs shown: these "
                "results are optimistic; hold out dataset.val_size images to choose on"
            )
        elif all(arm.tuning for arm in arms):
            notes.append(f"the best {short} was chosen on {name} in runs of their own{whose}")
        else:
            notes.append(f"the best {short} was chosen on {name}{whose}")
    edges = [r for r in responses if r.edge in ("low", "high")]
    if edges:
        notes.append(
            f"the best {short} lies on the edge of the values tried in "
            f"{_listed(f'{r.arm} ({r.best:g})' for r in edges)}: a better one may lie beyond"
        )
    tried = {tuple(p.setting for p in r.points) for r in responses}
    if len(tried) > 1:
        notes.append(f"the arms were not tried at the same values of {short}")
    return notes


def _same_cells(arms: Sequence[Arm], tuned: str, setting: float) -> tuple[Cells, list[str]] | None:
    """All arms at one value, among final runs or else tuning runs, where more arms have it."""
    final: Cells = [(arm, setting, _at(arm.runs, tuned, setting)) for arm in arms]
    tuning: Cells = [(arm, setting, _at(arm.tuning, tuned, setting)) for arm in arms]
    counts = [sum(bool(runs) for _, _, runs in cells) for cells in (final, tuning)]
    chosen = final if counts[0] >= counts[1] else tuning
    cells = [cell for cell in chosen if cell[2]]
    if len(cells) < 2 or cells[0][0] is not arms[0]:
        return None
    notes = ["from tuning runs, with images held out"] if chosen is tuning else []
    missing = [arm.name for arm, _, runs in chosen if not runs]
    if missing:
        notes.append(f"{_listed(missing)}: no runs at {setting:g}")
    return cells, notes


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)


def _view(
    key: Literal["only", "best", "same"],
    title: str,
    notes: tuple[str, ...],
    cells: Cells,
    metric: Metric,
    margin: float | None,
) -> View:
    results = tuple(make_result(arm.name, setting, runs, metric) for arm, setting, runs in cells)
    base = cells[0]
    effects = [
        _effect(arm, runs, base[0], base[2], metric, margin, (setting, base[1]))
        for arm, setting, runs in cells[1:]
    ]
    return View(key, title, notes, results, tuple(_judge(effects)))


# ------------------------------------------------------------------------------------------ effects


def _effect(
    arm: Arm,
    runs: Sequence[Run],
    base: Arm,
    base_runs: Sequence[Run],
    metric: Metric,
    margin: float | None,
    settings: tuple[float | None, float | None],
) -> Effect:
    """The effect of one arm, before the table as a whole is judged."""
    treated = {run.seed: run for run in runs if _score(run, metric) is not None}
    control = {run.seed: run for run in base_runs if _score(run, metric) is not None}
    common = sorted(treated.keys() & control.keys())
    mismatch = _pairing_faults(treated, control, common)
    audit: list[str] = []
    if mismatch:
        audit.append(f"not paired: {mismatch}")
    elif len(common) < 2 <= min(len(treated), len(control)):
        audit.append(f"not paired: {len(common)} common seeds")
    paired = not mismatch and (len(common) >= 2 or (common and min(len(treated), len(control)) < 2))
    if paired:
        audit.insert(0, "paired: data order and initial weights agree seed by seed")
        dropped = sorted(treated.keys() ^ control.keys())
        if dropped:
            verb = "have no partner and are" if len(dropped) > 1 else "has no partner and is"
            audit.append(f"{_seeds(dropped)} {verb} dropped")
        seeds = base_seeds = tuple(common)
    else:
        seeds, base_seeds = tuple(sorted(treated)), tuple(sorted(control))
    a = [_value(treated[seed], metric) for seed in seeds]
    b = [_value(control[seed], metric) for seed in base_seeds]
    effect = Effect(
        arm=arm.name,
        baseline=base.name,
        setting=settings[0],
        baseline_setting=settings[1],
        method="single",
        audit=tuple(audit),
        factors=differing_factors(base.config, arm.config),
        seeds=seeds,
        baseline_seeds=base_seeds,
        estimate=float(np.mean(a) - np.mean(b)),
    )
    if min(len(a), len(b)) < 2:
        return effect
    if paired:
        return _paired_effect(effect, a, b, margin)
    return _welch_effect(effect, a, b, margin)


def _value(run: Run, metric: Metric) -> float:
    score = _score(run, metric)
    assert score is not None
    return score


def _pairing_faults(
    treated: Mapping[int, Run], control: Mapping[int, Run], common: Sequence[int]
) -> str:
    """Why runs of equal seed are no pairs, or nothing."""
    for key, what in (
        ("data_order_hash", "data order differs"),
        ("init_hash", "initial weights differ"),
    ):
        pairs = {
            seed: (treated[seed].facts.get(key), control[seed].facts.get(key)) for seed in common
        }
        unknown = [seed for seed, pair in pairs.items() if None in pair]
        if unknown:
            return f"{key} is not recorded at {_seeds(unknown)}"
        differing = [seed for seed, pair in pairs.items() if pair[0] != pair[1]]
        if differing:
            return f"the {what} at {_seeds(differing)}"
    return ""


def _seeds(seeds: Sequence[int]) -> str:
    """`seed 7`, `seeds 0-3, 7`."""
    parts: list[list[int]] = []
    for seed in sorted(seeds):
        if parts and seed == parts[-1][-1] + 1:
            parts[-1].append(seed)
        else:
            parts.append([seed])
    listed = ", ".join(f"{p[0]}-{p[-1]}" if len(p) > 1 else str(p[0]) for p in parts)
    return f"seed{'s' * (len(seeds) > 1)} {listed}"


def _paired_effect(
    effect: Effect, a: Sequence[float], b: Sequence[float], margin: float | None
) -> Effect:
    differences = np.subtract(a, b)
    correlation = paired_correlation(a, b) if len(a) >= 4 else None
    return replace(
        effect,
        method="paired",
        interval=paired_interval(a, b, LEVEL),
        p=sign_flip_p(differences, generator=np.random.default_rng(0)),
        equivalence=paired_tost(a, b, margin, ALPHA) if margin else None,
        correlation=correlation.estimate if correlation else None,
        required_n=_seeds_for(effect.estimate, float(np.std(differences, ddof=1))),
    )


def _welch_effect(
    effect: Effect, a: Sequence[float], b: Sequence[float], margin: float | None
) -> Effect:
    spread = math.sqrt(float(np.var(a, ddof=1)) + float(np.var(b, ddof=1)))
    return replace(
        effect,
        method="welch",
        interval=welch_interval(a, b, LEVEL),
        p=permutation_p(a, b, generator=np.random.default_rng(0)),
        equivalence=welch_tost(a, b, margin, ALPHA) if margin else None,
        required_n=_seeds_for(effect.estimate, spread),
    )


def _seeds_for(effect: float, sd: float) -> int | None:
    try:
        return required_n(effect, sd, ALPHA, 0.8)
    except ValueError:  # no effect, or none beside the spread: no number of seeds would do
        return None


def _judge(effects: Sequence[Effect]) -> list[Effect]:
    """Adjust over the table, and say what may be said.

    A verdict needs an exact test that can reach significance at all: with m effects in the table,
    the smallest p of n seeds times m must not exceed .05. `higher` and `lower` ask for an adjusted
    p of at most .05 and an interval that excludes zero; `equivalent` for both one-sided tests.
    """
    tested = [effect for effect in effects if effect.p is not None]
    adjusted = dict(
        zip((e.arm for e in tested), holm([e.p for e in tested if e.p is not None]), strict=True)
    )
    margins = [e for e in tested if e.equivalence]
    equivalent = dict(
        zip(
            (e.arm for e in margins),
            holm([e.equivalence.p for e in margins if e.equivalence]),
            strict=True,
        )
    )
    judged = []
    for effect in effects:
        least = _verdict_n(effect.method, max(1, len(effects)))
        judged.append(
            replace(
                effect,
                p_holm=adjusted.get(effect.arm),
                p_equivalence_holm=equivalent.get(effect.arm),
                verdict_n=least,
                required_n=max(least, effect.required_n) if effect.required_n else None,
            )
        )
    return [replace(effect, verdict=_verdict(effect, len(effects))) for effect in judged]


def _verdict_n(method: str, effects: int) -> int:
    def smallest(n: int) -> float:
        return smallest_permutation_p(n, n) if method == "welch" else smallest_sign_flip_p(n)

    return next(n for n in range(2, 64) if effects * smallest(n) <= ALPHA)


def _verdict(effect: Effect, effects: int) -> Verdict:
    interval, p = effect.interval, effect.p_holm
    if interval is None or p is None:
        return "no verdict"
    if effect.method == "paired":
        least = smallest_sign_flip_p(len(effect.seeds))
    else:
        least = smallest_permutation_p(len(effect.seeds), len(effect.baseline_seeds))
    if effects * least > ALPHA:
        return "no verdict"
    if p <= ALPHA and interval.low > 0:
        return "higher"
    if p <= ALPHA and interval.high < 0:
        return "lower"
    if effect.p_equivalence_holm is not None and effect.p_equivalence_holm <= ALPHA:
        return "equivalent"
    return "undecided"


# ----------------------------------------------------------------------------------- along training


def _target(cells: Cells, options: Options) -> tuple[float | None, str]:
    """The accuracy that runs race to, and the curve on which it is looked for."""
    runs = [run for _, _, group in cells for run in group]
    tag = next(
        (
            tag
            for tag in ("test/accuracy", "val/accuracy", "train/accuracy")
            if all(
                np.isfinite(run.curves.get(tag, np.array([]))).sum() > 1
                for run in runs
                if not run.diverged
            )
            and any(tag in run.curves for run in runs)
        ),
        "",
    )
    if not tag:
        return None, ""
    if options.target is not None:
        return options.target, tag
    finals = []
    for _, _, group in cells:
        ends = [
            run.curves[tag][np.isfinite(run.curves[tag])][-1] for run in group if not run.diverged
        ]
        if ends:
            finals.append(float(np.median(ends)))
    # Whole percents, so that the number can be said; a hair above guards floor() from 0.57 * 100.
    return (math.floor(100 * min(finals) - 1 + 1e-9) / 100, tag) if finals else (None, "")


def _arrivals(cells: Cells, view: View, target: float | None, tag: str) -> tuple[Arrival, ...]:
    if target is None:
        return ()
    times = [
        {run.seed: _arrival(run, target, tag) for run in runs if len(run.curves["epoch"])}
        for _, _, runs in cells
    ]
    effects = {effect.arm: effect for effect in view.effects}
    arrivals = []
    for (arm, _, _), own in zip(cells, times, strict=True):
        if not own:
            continue
        seconds = [time for _, time in own.values() if time is not None]
        arrivals.append(
            Arrival(
                arm=arm.name,
                n=len(own),
                reached=sum(epochs.reached for epochs, _ in own.values()),
                epochs=censored_median([epochs for epochs, _ in own.values()]),
                seconds=censored_median(seconds) if len(seconds) == len(own) else None,
                speedup=_speedup(effects.get(arm.name), own, times[0]),
            )
        )
    return tuple(arrivals)


Times: TypeAlias = Mapping[int, tuple[TimeToTarget, TimeToTarget | None]]


def _arrival(run: Run, target: float, tag: str) -> tuple[TimeToTarget, TimeToTarget | None]:
    """Epochs and seconds to the target; a run that ended early would have taken all its budget."""
    epochs, values = (
        run.curves["epoch"],
        run.curves.get(tag, np.full(len(run.curves["epoch"]), math.nan)),
    )
    seen = np.isfinite(values)
    clock = np.cumsum(run.curves["seconds"]) if "seconds" in run.curves else None
    if seen.any():
        reached = time_to_target(epochs[seen], values[seen], target)
    else:
        reached = TimeToTarget(float(run.budget), reached=False)
    if not reached.reached:
        reached = TimeToTarget(float(max(run.budget, epochs[-1])), reached=False)
    if clock is None or not np.isfinite(clock).all():
        return reached, None
    if reached.reached:
        return reached, TimeToTarget(float(clock[epochs == reached.value][0]), reached=True)
    return reached, TimeToTarget(float(clock[-1] * reached.value / epochs[-1]), reached=False)


def _speedup(effect: Effect | None, own: Times, base: Times) -> Speedup | None:
    if effect is None or effect.method != "paired":
        return None
    seeds = [seed for seed in effect.seeds if seed in own and seed in base]
    try:
        return median_speedup([own[seed][0] for seed in seeds], [base[seed][0] for seed in seeds])
    except ValueError:  # too few pairs for an interval of a median
        return None


def _costs(cells: Cells) -> tuple[Cost, ...]:
    costs: list[Cost] = []
    for arm, _, runs in cells:
        seconds = _medians(runs, "seconds")
        speeds = _medians(runs, "images_per_second")
        mean = float(np.mean(seconds)) if seconds else None
        base = costs[0].seconds_per_epoch if costs else mean
        counts = [run.facts.get("parameters") for run in runs]
        parameters = {count for count in counts if isinstance(count, int)}
        costs.append(
            Cost(
                arm=arm.name,
                parameters=parameters.pop() if len(parameters) == 1 else None,
                seconds_per_epoch=mean,
                interval=mean_interval(seconds, LEVEL) if len(seconds) > 1 else None,
                images_per_second=float(np.mean(speeds)) if speeds else None,
                ratio=mean / base if mean and base else None,
            )
        )
    return tuple(costs)


def _medians(runs: Sequence[Run], tag: str) -> list[float]:
    """Each run's median over epochs: the first ones pay for start-up."""
    curves = [run.curves[tag] for run in runs if tag in run.curves]
    return [float(np.nanmedian(curve)) for curve in curves if np.isfinite(curve).any()]


CURVE_TAGS = tuple(
    f"{split}/{what}" for what in ("accuracy", "loss") for split in ("train", "val", "test")
)


def _mean_curves(cells: Cells) -> tuple[Curve, ...]:
    curves = (
        _mean_curve(arm.name, tag, runs)
        for tag in CURVE_TAGS
        for arm, _, runs in cells
        if any(tag in run.curves for run in runs)
    )
    return tuple(curve for curve in curves if len(curve.epochs))


def _mean_curve(arm: str, tag: str, runs: Sequence[Run]) -> Curve:
    grid = np.unique(np.concatenate([run.curves["epoch"] for run in runs]))
    values = np.full((len(runs), len(grid)), math.nan)
    clock = np.full((len(runs), len(grid)), math.nan)
    for row, run in enumerate(runs):
        places = np.searchsorted(grid, run.curves["epoch"])
        values[row, places] = run.curves.get(tag, math.nan)
        if run.diverged and tag.endswith("accuracy") and tag in run.curves:
            # As in the tables: a run that ended early would guess until its budget is spent.
            values[row, (grid > run.curves["epoch"][-1]) & (grid <= run.budget)] = 1 / run.classes
        if "seconds" in run.curves:
            clock[row, places] = np.cumsum(run.curves["seconds"])
    seen = np.isfinite(values).any(axis=0)
    values, clock, grid = values[:, seen], clock[:, seen], grid[seen]
    n = np.isfinite(values).sum(axis=0)
    mean, half = _mean_and_half(values, n)
    return Curve(
        arm, tag, grid, _column_means(clock), n.astype(np.int64), mean, mean - half, mean + half
    )


def _mean_and_half(values: Array, n: NDArray[np.int_]) -> tuple[Array, Array]:
    """Column means and half widths of Student's interval over the finite values of each column."""
    mean = _column_means(values)
    squares = np.nansum((values - mean) ** 2, axis=0)
    several = n > 1
    sd = np.sqrt(squares / np.where(several, n - 1, 1))
    t = stdtrit(np.where(several, n - 1, 1), (1 + LEVEL) / 2)
    return mean, np.where(several, t * sd / np.sqrt(np.maximum(n, 1)), math.nan)


def _column_means(values: Array) -> Array:
    counts = np.isfinite(values).sum(axis=0)
    return np.where(counts > 0, np.nansum(values, axis=0) / np.maximum(counts, 1), math.nan)


def _probes(cells: Cells) -> tuple[Probe, ...]:
    tags = dict.fromkeys(
        tag
        for _, _, runs in cells
        for run in runs
        for tag in run.curves
        if tag.startswith("probe/")
    )
    probes = []
    for tag in tags:
        _, quantity, layer = [*tag.split("/", 2), ""][:3]
        for arm, _, runs in cells:
            ends = []
            for run in runs:
                values = run.curves.get(tag, np.array([]))
                finite = values[np.isfinite(values)]
                if len(finite):
                    ends.append((finite[0], finite[-1]))
            if ends:
                first, last = np.mean(ends, axis=0)
                interval = mean_interval([e[1] for e in ends], LEVEL) if len(ends) > 1 else None
                probes.append(
                    Probe(arm.name, quantity, layer, float(first), float(last), interval, len(ends))
                )
    return tuple(probes)


# --------------------------------------------------------------------------------------- provenance


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


def _facts(runs: Sequence[Run]) -> tuple[Fact, ...]:
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


def _refuse_mixed(runs: Sequence[Run], facts: Sequence[Fact]) -> None:
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


def _caveats(runs: Sequence[Run], facts: Sequence[Fact]) -> tuple[str, ...]:
    caveats = []
    names = {str(run.facts.get("dataset", {}).get("name")) for run in runs}
    if "synthetic" in names:
        caveats.append("Synthetic images, drawn by bnlab: this is not CIFAR-10.")
    notes = {str(run.facts.get("dataset", {}).get("note") or "") for run in runs} - {""}
    caveats += [f"Data: {note}" for note in sorted(notes) if "synthetic" not in names]
    caveats += [f"Mixed runs were allowed: {mixed_line(fact)}." for fact in facts if fact.mixed]
    return tuple(caveats)
