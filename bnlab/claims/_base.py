"""What a claim is, and the rule by which all claims are judged.

Each claim states beforehand what it measures and the smallest effect that would matter. What is
measured is one contrast, oriented so that positive favors the claim; contrasts judged together are
corrected together, and the verdict follows from the corrected limits alone.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bnlab import registry
from bnlab.analysis.stats import (
    Interval,
    MedianEffect,
    decide,
    effect_p,
    holm,
    mean_interval,
    required_n,
    required_n_sign,
    sign_flip_p,
    smallest_sign_flip_p,
    verdict_intervals,
)

Array: TypeAlias = NDArray[np.float64]

ALPHA = 0.05
LEVEL = 1 - ALPHA

FAMILY = 10
"""Claims that may come to be judged together; seeds are planned for that many."""

MIN_N = next(n for n in range(2, 99) if smallest_sign_flip_p(n) <= ALPHA / FAMILY)
"""Fewest seeds of a verdict, 9: with fewer, no exact test survives Holm's correction for `FAMILY`
claims, however large the effect."""

NAMING = 3
"""Seeds that only choose what all others measure, where a claim is about a best or a worst."""

MAX_N = 10_000
"""Beyond so many seeds a claim is as good as undecidable."""


Unit: TypeAlias = Literal["pp", "octaves", "nats"]

SCALES: Mapping[Unit, float] = {"pp": 100.0, "octaves": 1.0, "nats": 1.0}
"""From storage (fractions of images; factors of two) to tables."""


def show_effect(value: float, unit: Unit) -> str:
    """An effect with its unit: `+0.31 pp`; `unknown` where too few seeds set one."""
    return f"{value * SCALES[unit]:+.2f} {unit}" if math.isfinite(value) else "unknown"


def show_limits(interval: Interval, unit: Unit) -> str:
    """Limits without their unit: `+0.12 to +0.50`; `+0.12 or more` where the data set no upper one.

    Args:
        interval: In storage units.
        unit: To show them in.
    """
    low, high = (f"{value * SCALES[unit]:+.2f}" for value in (interval.low, interval.high))
    if math.isinf(interval.low):
        return "none" if math.isinf(interval.high) else f"{high} or less"
    return f"{low} or more" if math.isinf(interval.high) else f"{low} to {high}"


@dataclass(frozen=True, eq=False)
class Evidence:
    """Scores of the runs that a claim asks for, all of them finished.

    A score is a fraction of images; that of a diverged run is chance.

    Attributes:
        best: By arm, test scores at its own best learning rate (at its only one in a study that
            tunes nothing): (seeds,), in the order of the study's seeds.
        same: By arm, test scores at one learning rate for all, that of the study's `same_as` or
            `same`.
        sweep: By arm, validation scores: (tuning seeds, learning rates).
        lrs: The learning rates tried, rising: (learning rates,).
        chosen: By arm, its best learning rate.
        diverged: By arm, how many of its final runs diverged.
        epochs: By arm, how long it is trained.
        seconds: By arm, training seconds an epoch, the median over runs of each run's median.
        sweep_diverged: By arm, whether a tuning run diverged: (tuning seeds, learning rates).
        readings: By arm and tag, what the final runs recorded at their end; NaN where a run lacks
            it: (seeds,).
        curves: By arm and tag, what they recorded after every epoch: (seeds, epochs).
        preset: Under which it was gathered.
    """

    best: Mapping[str, Array]
    same: Mapping[str, Array] = field(default_factory=dict)
    sweep: Mapping[str, Array] = field(default_factory=dict)
    lrs: Array = field(default_factory=lambda: np.zeros(0))
    chosen: Mapping[str, float] = field(default_factory=dict)
    diverged: Mapping[str, int] = field(default_factory=dict)
    epochs: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    sweep_diverged: Mapping[str, Array] = field(default_factory=dict)
    readings: Mapping[str, Mapping[str, Array]] = field(default_factory=dict)
    curves: Mapping[str, Mapping[str, Array]] = field(default_factory=dict)
    preset: str = ""

    @property
    def edges(self) -> tuple[str, ...]:
        """Arms whose best learning rate is the smallest or largest tried."""
        ends = {float(self.lrs[0]), float(self.lrs[-1])} if len(self.lrs) > 1 else set()
        return tuple(arm for arm, lr in self.chosen.items() if lr in ends)


@dataclass(frozen=True)
class Detail:
    """A number beside the headline: exploratory, not corrected for being one of many.

    Attributes:
        name: What it is.
        interval: Its estimate and 95 % limits, in storage units.
        unit: Of the table.
    """

    name: str
    interval: Interval
    unit: Unit = "pp"


@dataclass(frozen=True, eq=False)
class Line:
    """One curve of a chart: values of each seed, drawn as their mean with its 95 % limits.

    Attributes:
        name: What it is of.
        x: (points,).
        values: In storage units: (seeds, points).
    """

    name: str
    x: Array
    values: Array


@dataclass(frozen=True)
class Chart:
    """The plot that shows best what a claim found.

    Attributes:
        caption: What it shows.
        x_label: With its unit.
        y_label: With its unit; fractions are drawn in percent.
        lines: Its curves.
        y_scale: From storage to the plot.
    """

    caption: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    y_scale: float = 100.0


@dataclass(frozen=True, eq=False)
class Contrast:
    """What a claim measured.

    Attributes:
        differences: One effect a seed, in steps the least one possible; positive favors the claim.
        effect: What is judged: Student's 95 % interval of their mean, or their median.
        interval: 95 % limits of it, not corrected.
        p: Exact two-sided p-value, not corrected: of the sign-flip test, or of the sign test.
        details: Further numbers.
        remarks: What to know about the effect.
        guard: Why no verdict may be built on it; "" if nothing stands against one.
        chart: The decisive plot, where the effect by seed and the learning rates are not enough.
    """

    differences: Array
    effect: Interval | MedianEffect
    interval: Interval
    p: float
    details: tuple[Detail, ...] = ()
    remarks: tuple[str, ...] = ()
    guard: str = ""
    chart: Chart | None = None

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
        differences: Oriented so that positive favors the claim: (seeds,).
        details: Further numbers.
        remarks: What to know about the effect.
        guard: Why no verdict may be built on it.
        chart: The decisive plot.
    """
    generator = np.random.default_rng(0)  # above 20 seeds the test draws its sign patterns
    interval = mean_interval(differences, LEVEL)
    return Contrast(
        differences,
        interval,
        interval,
        sign_flip_p(differences, generator=generator),
        tuple(details),
        tuple(remarks),
        guard,
        chart,
    )


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
    """A further number with Student's interval, from one value a seed."""
    return Detail(name, mean_interval(values, LEVEL), unit)


Label: TypeAlias = Literal["SUPPORTED", "REFUTED", "INCONCLUSIVE", "NOT TESTED"]


@dataclass(frozen=True)
class Verdict:
    """What may be said of a claim.

    Attributes:
        label: The verdict.
        sublabel: Refines REFUTED: `reversed`, `real but negligible` or `no practical difference`.
        interval: Effect and limits, corrected for the claims judged together; None if NOT TESTED.
        required_n: Seeds that would settle an INCONCLUSIVE verdict with power 0.8.
        why: In words; of a claim that is NOT TESTED, what is missing.
    """

    label: Label
    sublabel: str = ""
    interval: Interval | None = None
    required_n: int | None = None
    why: str = ""


@dataclass(frozen=True)
class Claim:
    """A testable sentence.

    Attributes:
        name: Stem of its file and of its study's.
        statement: The documents' sentence, in English.
        sources: Documents that state it, and papers on it.
        definition: What is measured, in words.
        formula: The effect; positive favors the claim.
        protocol: What is trained, and how.
        smallest_effect: Smallest effect of interest, in storage units; fixed beforehand.
        reason: Why that one.
        unit: Of the effect in tables: `pp` (storage: fractions) or `octaves`.
        arms: Arms of its study that the effect is made of.
        measure: From evidence to the contrast.
        judge: From the contrast and its corrected limits to the verdict.
        at_best: Arms that the effect compares at their best learning rate; none of these may lie
            on the grid's edge.
        study: Its study file; by default that of its name among bnlab's own.
    """

    name: str
    statement: str
    sources: tuple[str, ...]
    definition: str
    formula: str
    protocol: str
    smallest_effect: float
    reason: str
    unit: Unit
    arms: tuple[str, ...]
    measure: Callable[[Evidence], Contrast]
    judge: "Judge"
    at_best: tuple[str, ...] = ()
    study: Path | None = None

    @property
    def scale(self) -> float:
        """Factor from storage to tables."""
        return SCALES[self.unit]

    def show(self, value: float) -> str:
        """An effect with its unit: `+0.31 pp`."""
        return show_effect(value, self.unit)


CLAIMS: registry.Registry[Claim] = registry.CLAIMS


def find_claim(name: str) -> Claim:
    """The claim of that name.

    Raises:
        ConfigError: If there is none; the message lists the known names.
    """
    return CLAIMS[name]


Judge: TypeAlias = Callable[[Claim, Contrast, Interval, bool], Verdict]
"""Claim, contrast, corrected limits, and whether "reversed" holds for the family."""

RULE = (
    "SUPPORTED if the corrected lower limit is above 0 and the effect at least the smallest effect "
    "of interest; REFUTED if the corrected upper limit is below the smallest effect of interest "
    "(reversed: below 0; real but negligible: lower limit above 0); INCONCLUSIVE otherwise. A "
    "diverged run scores chance and is never dropped. Limits are corrected by Holm's procedure "
    f"over all claims judged together, at {ALPHA:.0%} for any false verdict among them. NOT TESTED "
    f"with fewer than {MIN_N} seeds (no exact test survives the correction for {FAMILY} claims "
    "below that), while a planned run is missing, under the preset smoke and on synthetic images."
)


def judge_together(
    contrasts: Sequence[tuple[Claim, Contrast]], level: float = LEVEL
) -> list[Verdict]:
    """Judge claims as one family: the chance of any false verdict stays at or below 1 - level.

    A false verdict is SUPPORTED where the effect is 0 or less, REFUTED where it is at least the
    smallest effect of interest, and "reversed" where it is 0 or more.

    Args:
        contrasts: What each claim measured.
        level: 1 - alpha, for the whole family.

    Returns:
        A verdict for each, in order; NOT TESTED where a guard or too few seeds forbid another, and
        such claims are no part of the family.
    """
    verdicts = {
        place: forbidden for place, (_, c) in enumerate(contrasts) if (forbidden := _bar(c))
    }
    judged = [place for place in range(len(contrasts)) if place not in verdicts]
    effects = [contrasts[place][1].effect for place in judged]
    smallest = [contrasts[place][0].smallest_effect for place in judged]
    corrected = verdict_intervals(effects, smallest, level)
    # "effect >= 0" is a family of hypotheses of its own, which the upper limits do not test.
    below = holm([min(1.0, 2 * effect_p(effect, 0.0, "less")) for effect in effects])
    for place, interval, p in zip(judged, corrected, below, strict=True):
        claim, contrast = contrasts[place]
        verdicts[place] = claim.judge(claim, contrast, interval, p <= 1 - level)
    return [verdicts[place] for place in range(len(contrasts))]


def _bar(contrast: Contrast) -> Verdict | None:
    n = len(contrast.differences)
    if contrast.guard:
        return Verdict("NOT TESTED", why=contrast.guard)
    if n < MIN_N:
        return Verdict(
            "NOT TESTED", why=f"{n} seeds; a verdict needs {MIN_N}, to survive Holm's correction"
        )
    if not isinstance(contrast.effect, MedianEffect) and contrast.effect.standard_error == 0:
        return Verdict("NOT TESTED", why="every seed gives the same effect: no spread to judge by")
    return None


def judge_effect(claim: Claim, contrast: Contrast, interval: Interval, reversal: bool) -> Verdict:
    """The rule of `RULE`.

    Args:
        claim: Its smallest effect of interest counts.
        contrast: What was measured.
        interval: Its limits, corrected for the claims judged together.
        reversal: Whether "reversed" survives the same correction.
    """
    smallest = claim.smallest_effect
    decision = decide(interval.low, interval.high, interval.estimate, smallest)
    sublabel = decision.refinement or ""
    if sublabel == "reversed" and not reversal:
        sublabel = ""
    shown, least = claim.show(interval.estimate), claim.show(smallest)
    limits = show_limits(interval, claim.unit)
    if decision.ruling == "SUPPORTED":
        return Verdict(
            "SUPPORTED", interval=interval, why=f"{shown} ({limits}): above 0, and at least {least}"
        )
    if decision.ruling == "REFUTED":
        meaning = {
            "reversed": "the opposite holds",
            "real but negligible": f"there is an effect, but less than {least}",
            "": f"less than {least}",
        }[sublabel]
        return Verdict("REFUTED", sublabel, interval, why=f"{shown} ({limits}): {meaning}")
    n = settling_n(contrast.effect, smallest)
    seeds = f"{n} seeds" if n is not None else f"more than {MAX_N:,} seeds"
    return Verdict(
        "INCONCLUSIVE",
        interval=interval,
        required_n=n,
        why=f"{shown} ({limits}): neither above 0 and at least {least}, nor below {least}; "
        f"{seeds} would settle it, if the effect is as it looks",
    )


def settling_n(effect: Interval | MedianEffect, smallest_effect: float) -> int | None:
    """Seeds at which an effect like this one is told from 0, or from the smallest of interest.

    With power 0.8, at the level that Holm's procedure gives the first of `FAMILY` claims. None
    above `MAX_N`.

    Args:
        effect: Student's interval, of any level, or a median.
        smallest_effect: Smallest effect of interest.
    """
    if isinstance(effect, MedianEffect):
        n = len(effect.low)
        above, below = (effect.low > 0).mean(), (effect.high < smallest_effect).mean()
        share = above if effect.estimate >= smallest_effect else below
        needed = required_n_sign(float(share), ALPHA / FAMILY)
        return None if needed is None else max(needed, n + 1, MIN_N)
    interval = effect
    assert interval.standard_error is not None
    estimate, spread = interval.estimate, interval.standard_error * math.sqrt(interval.n)
    distance = estimate if estimate >= smallest_effect else smallest_effect - estimate
    # An effect a hundredth of its spread away takes far beyond MAX_N.
    if distance < spread / 100:
        return None
    n = max(required_n(distance, spread, ALPHA / FAMILY), interval.n + 1, MIN_N)
    return n if n <= MAX_N else None


def best_lrs(evidence: Evidence) -> str:
    """Which learning rate was best in which arm that was tuned, in words."""
    tuned = {arm: lr for arm, lr in evidence.chosen.items() if arm in evidence.sweep}
    return "best lr: " + ", ".join(f"{arm} {lr:g}" for arm, lr in tuned.items())


def divergences(evidence: Evidence) -> tuple[str, ...]:
    """How many final runs diverged, if any did."""
    named = [f"{arm} {count}" for arm, count in evidence.diverged.items() if count]
    return (f"diverged runs, scored as chance: {', '.join(named)}",) if named else ()


def named_range(scores: Array) -> Array:
    """How far settings spread an arm's scores, one value a seed that noise does not widen.

    The medians of the first `NAMING` seeds name the best and the worst setting (a single diverged
    run does not move a median), and the others measure the difference between these two. The
    maximum less the minimum of a seed's own scores would be large for a noisy arm whose settings do
    not matter at all; and were every seed to name for all others, the values would hang together
    and their interval be too narrow.

    Args:
        scores: (seeds, settings), more than `NAMING` seeds.

    Returns:
        Differences: (seeds - NAMING,).
    """
    named, measured = np.median(scores[:NAMING], axis=0), scores[NAMING:]
    return np.asarray(measured[:, named.argmax()] - measured[:, named.argmin()])
