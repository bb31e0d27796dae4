"""What a claim measured: evidence from runs, one effect a seed, numbers and plots beside it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bnlab.analysis.stats import (
    Interval,
    MedianEffect,
    fisher_p,
    mean_interval,
    sign_flip_p,
    wilson_interval,
)

Array: TypeAlias = NDArray[np.float64]

ALPHA = 0.05
LEVEL = 1 - ALPHA

ROOM = 25
"""Claims that there is room for: each is judged at `ALPHA / ROOM`, whichever others are."""

CLAIM_ALPHA = ALPHA / ROOM
CLAIM_LEVEL = 1 - CLAIM_ALPHA

SHORT = {"quick": 0.01, "smoke": 0.01}
"""Smallest effect in accuracy of the short presets, 1 pp where `full` has 0.3: to find so little
between their noisy runs takes 38 to 1,060 seeds."""

NAMING = 3
"""Seeds that only choose what all others measure, where a claim is about a best or a worst."""


Unit: TypeAlias = Literal["pp", "%", "octaves", "nats", "log/layer", "|r|"]

SCALES: Mapping[Unit, float] = {
    "pp": 100.0,
    "%": 100.0,
    "octaves": 1.0,
    "nats": 1.0,
    "log/layer": 1.0,
    "|r|": 1.0,
}
"""From storage (fractions of images or of a time; factors of two; natural logarithms of a factor a
layer; correlations without their sign) to tables."""

_FARTHEST: Mapping[Unit, tuple[float, float]] = {
    "pp": (-1.0, 1.0),
    "%": (-1.0, math.inf),
    "|r|": (-1.0, 1.0),
}
"""In storage units, effects that can be: Student's t of a few seeds goes beyond them."""


def show_effect(value: float, unit: Unit) -> str:
    """An effect with its unit: `+0.31 pp`; `unknown` where too few seeds set one."""
    return f"{value * SCALES[unit]:+.2f} {unit}" if math.isfinite(value) else "unknown"


def show_limits(interval: Interval, unit: Unit) -> str:
    """Limits without their unit: `+0.12 to +0.50`; `+0.12 or more` where the data set no upper one.

    Args:
        interval: In storage units.
        unit: To show them in.
    """
    least, most = _FARTHEST.get(unit, (-math.inf, math.inf))
    kept = max(interval.low, least), min(interval.high, most)
    low, high = (f"{value * SCALES[unit]:+.2f}" for value in kept)
    if math.isinf(interval.low):
        return "none" if math.isinf(interval.high) else f"{high} or less"
    return f"{low} or more" if math.isinf(interval.high) else f"{low} to {high}"


@dataclass(frozen=True, eq=False)
class Evidence:
    """Scores of the runs that a claim asks for, all of them finished.

    A score is a fraction of images; that of a diverged run is chance.

    Attributes:
        best: By arm, test scores at its own best point (at its only one in a study that tunes
            nothing): (seeds,), in the order of the study's seeds. Where each seed tunes for itself,
            each at its own best.
        same: By arm, test scores at one learning rate for all, that of the study's `same_as` or
            `same`.
        levels: By arm that is a combination of factors, its level of each.
        sweep: By arm, validation scores at its best alternatives; NaN at a learning rate that it
            was not tried at: (tuning seeds, learning rates).
        lrs: The learning rates tried, rising: (learning rates,).
        chosen: By arm, its best learning rate by the tuning seeds.
        told: By arm that was tuned, in words what it is trained at.
        pilot: By arm that was tuned, the mean validation score of its tuning seeds at the best.
        diverged: By arm, whether its final run diverged, 0 or 1: (seeds,).
        same_diverged: The same of the runs behind `same`.
        epochs: By arm, how often its final runs go through as many images as the arm with the most
            has: an epoch over half of them is half a one.
        seconds: By arm, training seconds an epoch, the median over runs of each run's median.
        sweep_diverged: By arm, whether a tuning run diverged: (tuning seeds, learning rates).
        readings: By arm and tag, what the final runs recorded at their end; NaN where a run lacks
            it: (seeds,).
        curves: By arm and tag, what they recorded after every epoch: (seeds, epochs).
        preset: Under which it was gathered.
    """

    best: Mapping[str, Array]
    same: Mapping[str, Array] = field(default_factory=dict)
    levels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    sweep: Mapping[str, Array] = field(default_factory=dict)
    lrs: Array = field(default_factory=lambda: np.zeros(0))
    chosen: Mapping[str, float] = field(default_factory=dict)
    told: Mapping[str, str] = field(default_factory=dict)
    pilot: Mapping[str, float] = field(default_factory=dict)
    diverged: Mapping[str, Array] = field(default_factory=dict)
    same_diverged: Mapping[str, Array] = field(default_factory=dict)
    epochs: Mapping[str, float] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    sweep_diverged: Mapping[str, Array] = field(default_factory=dict)
    readings: Mapping[str, Mapping[str, Array]] = field(default_factory=dict)
    curves: Mapping[str, Mapping[str, Array]] = field(default_factory=dict)
    preset: str = ""

    def arms(self, factor: str, **levels: str) -> dict[str, str]:
        """By level of a factor, in the study's order, the arm of it and these other levels.

        A factor of the study that is not named stays at its first level.
        """
        firsts = {**next(iter(self.levels.values()), {}), **levels}
        return {
            chosen[factor]: arm
            for arm, chosen in self.levels.items()
            if all(chosen[other] == firsts[other] for other in chosen if other != factor)
        }

    def reading(self, arm: str, tag: str) -> Array:
        """What an arm's final runs recorded, NaN where they did not: (seeds,)."""
        return self.readings.get(arm, {}).get(tag, np.full(len(self.best[arm]), math.nan))


@dataclass(frozen=True)
class Detail:
    """A number beside the headline: exploratory, not corrected for being one of many.

    A diverged run counts in it as guessing.

    Attributes:
        name: What it is.
        interval: Its estimate and 95 % limits, in storage units.
        unit: Of the table.
    """

    name: str
    interval: Interval
    unit: Unit = "pp"

    @property
    def shown(self) -> tuple[str, str, str]:
        """Name, estimate and limits, as tables have them."""
        interval = self.interval
        return (
            self.name,
            show_effect(interval.estimate, self.unit),
            show_limits(interval, self.unit),
        )


@dataclass(frozen=True, eq=False)
class Line:
    """One curve of a chart: values of each seed, drawn as their mean with its 95 % limits.

    Attributes:
        name: What it is of.
        x: (points,).
        values: In storage units: (seeds, points).
        arm: Whose look it has; by default that of its name, and of no arm one of its own.
    """

    name: str
    x: Array
    values: Array
    arm: str = ""


@dataclass(frozen=True)
class Chart:
    """The plot that shows best what a claim found.

    Attributes:
        caption: What it shows.
        x_label: With its unit.
        y_label: With its unit; fractions are drawn in percent.
        lines: Its curves.
        y_scale: From storage to the plot.
        x_scale: Of the axis along.
    """

    caption: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    y_scale: float = 100.0
    x_scale: Literal["log", "linear"] = "log"


@dataclass(frozen=True, eq=False)
class Failures:
    """Seeds on which a headline's runs diverged, on either side of it.

    Attributes:
        treated: Whether any treated arm's run diverged, 0 or 1: (seeds,).
        control: The same of the control arms.
        names: What the two sides are called.
        set_apart: Whether the effect is that of the seeds on which both sides trained.
    """

    treated: Array
    control: Array
    names: tuple[str, str]
    set_apart: bool = True

    @property
    def any(self) -> Array:
        """Whether either side has a run that diverged: (seeds,)."""
        return np.maximum(self.treated, self.control)

    @property
    def p(self) -> float:
        """Two-sided p-value of Fisher's exact test that both sides fail equally often."""
        n = len(self.treated)
        return fisher_p(int(self.treated.sum()), n, int(self.control.sum()), n)

    def more_often(self, alpha: float) -> Literal["treated", "control"] | None:
        """The side that fails significantly more often."""
        if self.p > alpha:
            return None
        return "treated" if self.treated.sum() > self.control.sum() else "control"

    def __str__(self) -> str:
        shown = (
            f"{name} {show_count(int(failed.sum()), len(failed))}"
            for name, failed in zip(self.names, (self.treated, self.control), strict=True)
        )
        return f"seeds on which runs diverged: {', '.join(shown)}; Fisher's exact p = {self.p:.2g}"


def show_count(count: int, n: int) -> str:
    """Failures with Wilson's 95 % limits: `0 of 12 (at most 24 %)`, `3 of 12 (9 to 53 %)`."""
    limits = wilson_interval(count, n, LEVEL)
    low, high = f"{100 * limits.low:.0f}", f"{100 * limits.high:.0f}"
    if count == 0:
        return f"{count} of {n} (at most {high} %)"
    return f"{count} of {n} " + (f"(at least {low} %)" if count == n else f"({low} to {high} %)")


@dataclass(frozen=True, eq=False)
class Contrast:
    """What a claim measured.

    Attributes:
        differences: One effect a seed, in steps the least one possible; positive favors the claim.
        effect: What is judged: Student's 95 % interval of their mean, or their median.
        interval: Plain 95 % limits of it.
        p: Exact two-sided p-value: of the sign-flip test, or of the sign test.
        details: Further numbers.
        remarks: What to know about the effect.
        guard: Why no verdict may be built on it; "" if nothing stands against one.
        chart: The decisive plot, where the effect by seed and the learning rates are not enough.
        failures: Where runs of the headline diverged; None where none did.
        again: The same measured once more, elsewhere, where the verdict needs both.
    """

    differences: Array
    effect: Interval | MedianEffect
    interval: Interval
    p: float
    details: tuple[Detail, ...] = ()
    remarks: tuple[str, ...] = ()
    guard: str = ""
    chart: Chart | None = None
    failures: Failures | None = None
    again: "Contrast | None" = None

    @property
    def n(self) -> int:
        """Seeds behind the effect, those aside on which a run diverged."""
        return len(self.differences)

    @property
    def seeds(self) -> int:
        """Seeds that measured, those on which a run diverged included."""
        return len(self.differences) if self.failures is None else len(self.failures.treated)

    @property
    def limits(self) -> Interval:
        """Effect and limits at the level at which a claim is judged."""
        if isinstance(self.effect, MedianEffect):
            return self.effect.interval(CLAIM_LEVEL)
        return _mean(self.differences[np.isfinite(self.differences)], CLAIM_LEVEL)

    @property
    def test(self) -> str:
        """The exact test that `p` belongs to."""
        return "sign test" if isinstance(self.effect, MedianEffect) else "sign-flip test"

    @property
    def bounds(self) -> tuple[Array, Array]:
        """Least and greatest effect of each seed, equal where it is known: two of (seeds,)."""
        if isinstance(self.effect, MedianEffect):
            return self.effect.low, self.effect.high
        return self.differences, self.differences


def make_contrast(
    differences: Array,
    details: Sequence[Detail] = (),
    remarks: Sequence[str] = (),
    guard: str = "",
    chart: Chart | None = None,
) -> Contrast:
    """The contrast of one effect a seed.

    Args:
        differences: Oriented so that positive favors the claim; NaN on a seed on which a run broke
            down before there was one: (seeds,).
        details: Further numbers.
        remarks: What to know about the effect.
        guard: Why no verdict may be built on it.
        chart: The decisive plot.
    """
    generator = np.random.default_rng(0)  # above 20 seeds the test draws its sign patterns
    known = differences[np.isfinite(differences)]
    interval = _mean(known, LEVEL)
    return Contrast(
        differences,
        interval,
        interval,
        sign_flip_p(known, generator=generator) if len(known) else 1.0,
        tuple(details),
        tuple(remarks),
        guard,
        chart,
    )


def _mean(values: Array, level: float) -> Interval:
    """Student's interval; limits that say nothing where divergence left fewer than two seeds."""
    if len(values) > 1:
        return mean_interval(values, level)
    only = float(values[0]) if len(values) else math.nan
    return Interval(only, -math.inf, math.inf, level, len(values))


def make_median_contrast(
    low: Array,
    high: Array,
    details: Sequence[Detail] = (),
    remarks: Sequence[str] = (),
    guard: str = "",
    chart: Chart | None = None,
) -> Contrast:
    """The contrast of effects in steps, of which a seed may give no more than bounds.

    Args:
        low: Least effect that each seed allows; minus infinity where it sets none: (seeds,).
        high: Greatest; infinity likewise: (seeds,).
        details: Further numbers.
        remarks: What to know about the effect.
        guard: Why no verdict may be built on it.
        chart: The decisive plot.
    """
    effect = MedianEffect(low, high)
    p = min(1.0, 2 * min(effect.p(0.0, "greater"), effect.p(0.0, "less")))
    found = tuple(details), tuple(remarks), guard, chart
    return Contrast(low, effect, effect.interval(LEVEL), p, *found)


def detail(name: str, values: Array, unit: Unit = "pp") -> Detail:
    """A further number with Student's interval, from one value a seed, or what of them is known."""
    return Detail(name, _mean(values[np.isfinite(values)], LEVEL), unit)


def named_range(scores: Array, names: Array) -> Array:
    """How far settings spread an arm's scores, one value a seed that noise does not widen.

    Other seeds name the best and the worst setting, and these measure the difference between the
    two. The maximum less the minimum of a seed's own scores would be large for a noisy arm whose
    settings do not matter at all; and were every seed to name for all others, the values would hang
    together and their interval be too narrow.

    Args:
        scores: (seeds, settings).
        names: By what the best and the worst are named: (settings,).

    Returns:
        Differences: (seeds,).
    """
    return np.asarray(scores[:, names.argmax()] - scores[:, names.argmin()])
