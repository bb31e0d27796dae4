"""What a comparison says, as frozen values; all in storage units (accuracy is a fraction)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from bnlab.analysis.audit import Audited
from bnlab.analysis.choose import Choice
from bnlab.analysis.runs import Array, Run
from bnlab.analysis.stats import Equivalence, Interval, Speedup, TimeToTarget
from bnlab.records import Remark

ALPHA = 0.05
LEVEL = 1 - ALPHA

MOST_PAIRED = 15
"""Most arms of which all pairs are compared: 105 pairs."""


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

    @property
    def bounds(self) -> tuple[float, float]:
        """Least and greatest value that it can have, in storage units."""
        if self.name.endswith("accuracy"):
            return 0.0, 1.0
        return (0.0 if self.name.endswith(("loss", "seconds")) else -math.inf), math.inf

    @property
    def farthest(self) -> float:
        """The greatest difference that two values can have."""
        least, most = self.bounds
        return most - least


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
        setting: Value of the tuned key; None where nothing is tuned, or each seed has its own.
        scores: By seed; a diverged run scores chance.
        diverged: Seeds that diverged.
        mean: Mean of the scores.
        sd: Standard deviation over seeds; None for a single one.
        interval: Student's 95 % interval of the mean; None for a single seed.
        survivors_mean: Mean over the runs that did not diverge: conditional on not diverging.
        runs: By seed, the path of the run that scored.
    """

    arm: str
    setting: float | None
    scores: Mapping[int, float]
    diverged: tuple[int, ...]
    mean: float
    sd: float | None
    interval: Interval | None
    survivors_mean: float | None
    runs: Mapping[int, str] = field(default_factory=dict)

    @property
    def n(self) -> int:
        """Number of seeds."""
        return len(self.scores)


Answer = Literal["higher", "lower", "equivalent", "undecided", "no verdict"]


@dataclass(frozen=True)
class Effect:
    """One arm less the baseline.

    Attributes:
        arm: The treated arm.
        baseline: The control.
        setting: Value of the tuned key in the treated arm; None where nothing is tuned, or each
            seed has its own.
        baseline_setting: The same in the control.
        method: `paired` by seed, `welch` (independent samples), `single` (a difference of single
            runs, which has no interval).
        audit: Why it is paired or not, and which seeds were dropped.
        factors: Configuration keys in which the arms differ.
        seeds: Seeds behind it: pairs, or those of the treated arm.
        baseline_seeds: Those of the control.
        estimate: Mean difference, in storage units; a run that diverged scores chance.
        interval: 95 % interval of it, not adjusted for the other effects.
        trained: Where a run diverged: the same over the seeds on which both arms trained (of
            independent samples, over the runs that did), exploratory; None with fewer than two.
        failures_p: Fisher's exact test that both arms diverge equally often, two-sided.
        p: Exact sign-flip p (paired) or permutation p (welch), two-sided.
        p_holm: The same, adjusted over the table.
        equivalence: Two one-sided tests within the margin, where one was given.
        p_equivalence_holm: Their p, adjusted over the table.
        correlation: Of the arms over paired seeds.
        required_n: Seeds an arm at which an effect like this would be found with power 0.8.
        verdict: What may be said.
        verdict_n: Seeds an arm below which no verdict is possible in this table.
        barred: Why there is none however many seeds there are, or "".
        simultaneous: Of all pairs: limits that hold for every pair of the table at once, with a
            chance of 95 % (Bonferroni); wider than `interval`.
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
    trained: Interval | None = None
    failures_p: float | None = None
    p: float | None = None
    p_holm: float | None = None
    equivalence: Equivalence | None = None
    p_equivalence_holm: float | None = None
    correlation: float | None = None
    required_n: int | None = None
    verdict: Answer = "no verdict"
    verdict_n: int = 0
    barred: str = ""
    simultaneous: Interval | None = None

    @property
    def n(self) -> int:
        """Pairs, or seeds of the smaller arm."""
        return min(len(self.seeds), len(self.baseline_seeds))


@dataclass(frozen=True)
class View:
    """The arms compared under one rule for the tuned key.

    Attributes:
        key: `only` (nothing is tuned), `best` (each arm at its best), `each` (each seed at its own
            best) or `same`.
        title: The rule in words.
        notes: What to know about it.
        metric: What is compared; tuning runs are on validation images where the others are not.
        results: One an arm, baseline first.
        effects: One an arm but the baseline.
        pairs: Every arm less every arm before it, adjusted over all of them, exploratory; nothing
            with fewer than three arms, or more than `MOST_PAIRED`.
    """

    key: Literal["only", "best", "each", "same"]
    title: str
    notes: tuple[str, ...]
    metric: Metric
    results: tuple[Result, ...]
    effects: tuple[Effect, ...]
    pairs: tuple[Effect, ...] = ()


@dataclass(frozen=True)
class Response:
    """How one arm answers to the tuned key.

    Attributes:
        arm: Its name.
        metric: Tag by which values are judged.
        points: Results by value, rising.
        choice: The best of them.
    """

    arm: str
    metric: str
    points: tuple[Result, ...]
    choice: Choice

    @property
    def best(self) -> float:
        """The value with the best mean."""
        [(_, value)] = self.choice.point
        return float(value)

    @property
    def edge(self) -> Literal["low", "high", "single"] | None:
        """Whether that is the least or greatest value tried, or the only one; None inside."""
        if len(self.points) == 1:
            return "single"
        return next(iter(self.choice.edges.values()), None)


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
class ProbeSummary:
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
        responses: One an arm, where a key is tuned; of seeds that tune for themselves, the pilot's.
        target: Accuracy asked for, or None where no run records a curve.
        target_tag: Curve on which it is looked for.
        arrivals: One an arm of the primary view.
        costs: Likewise.
        curves: Of the primary view.
        probes: Likewise.
        varying: Configuration keys in which arms differ, with the arms' values in order.
        facts: Provenance.
        audit: What every check says of the runs and of what is built on them.
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
    probes: tuple[ProbeSummary, ...]
    varying: Mapping[str, tuple[Any, ...]]
    facts: tuple[Fact, ...]
    audit: tuple[Audited, ...]
    runs: tuple[Run, ...]
    remarks: tuple[Remark, ...] = field(default=())


class Finished(Protocol):
    """What a score is read from: a `Run`, or less of one."""

    @property
    def diverged(self) -> bool:
        """Whether training broke down or learned nothing."""

    @property
    def classes(self) -> int:
        """Number of classes."""

    @property
    def final(self) -> Mapping[str, float | None]:
        """Values by tag at its end."""


def score_of(run: Finished, metric: Metric) -> float | None:
    """A run's value of the metric; chance if it diverged; None if it has none."""
    chance = metric.chance(run.classes)
    if run.diverged and chance is not None and metric.name in run.final:
        return chance
    value = run.final.get(metric.name)
    return value if value is not None and math.isfinite(value) else None


def images_of(runs: Sequence[Run], metric: Metric) -> int:
    """Images that an accuracy was taken on, if all runs agree and say so; else 0."""
    split = metric.name.partition("/")[0]
    counts = {getattr(run.facts.dataset, f"{split}_images", 0) for run in runs}
    return counts.pop() if len(counts) == 1 and metric.name.endswith("accuracy") else 0
