"""What may be said of contrasts judged together: Holm's correction, corrected limits, the rule."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from bnlab.analysis.stats.checks import Array, check_fraction, check_positive
from bnlab.analysis.stats.exact import MedianEffect
from bnlab.analysis.stats.intervals import Interval, t_interval, t_p


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given (Holm 1979).

    Rejecting where the adjusted p is at most alpha keeps the chance of any false rejection at or
    below alpha, however the tests depend on one another.
    """
    raw = _p_values(p_values)
    order = np.argsort(raw, kind="stable")
    steps = (len(raw) - np.arange(len(raw))) * raw[order]
    adjusted = np.empty_like(raw)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return [float(p) for p in adjusted]


def holm_levels(p_values: Sequence[float], level: float = 0.95) -> list[float]:
    """The confidence level at which Holm's procedure judges each of its hypotheses.

    With alpha = 1 - level and m hypotheses, the one rejected k-th has level 1 - alpha/(m-k+1); all
    that are not rejected have that of the step at which the procedure stops. An interval at this
    level excludes the hypothesis' value exactly if Holm rejects it, provided that p is the test
    the interval inverts.

    The guarantee concerns the hypotheses that the p-values test and no others: limits at levels
    taken from tests against zero must not be held against another value (the least significant of
    nine real effects gets an unadjusted interval, and it is the one chosen for its low estimate).
    `verdict_intervals` therefore takes each limit's level from its own family.
    """
    raw = _p_values(p_values)
    alpha = 1 - check_fraction(level, "level")
    steps = alpha / (len(raw) - np.arange(len(raw)))
    order = np.argsort(raw, kind="stable")
    failures = np.flatnonzero(raw[order] > steps)
    if len(failures):
        steps[failures[0] :] = steps[failures[0]]
    levels = np.empty_like(raw)
    levels[order] = 1 - steps
    return [float(x) for x in levels]


def _p_values(p_values: Iterable[float]) -> Array:
    raw = np.asarray(list(p_values), dtype=np.float64)
    if not ((raw >= 0) & (raw <= 1)).all():
        raise ValueError(f"p-values must lie in [0, 1], not {[float(p) for p in raw]}")
    return raw


def effect_p(
    effect: Interval | MedianEffect, null: float, alternative: Literal["greater", "less"]
) -> float:
    """One-sided p-value of an effect against `null`: Student's t, or the sign test of a median."""
    if isinstance(effect, MedianEffect):
        return effect.p(null, alternative)
    return t_p(effect, null, alternative)


def verdict_intervals(
    contrasts: Sequence[Interval | MedianEffect],
    smallest_effects: Sequence[float],
    level: float = 0.95,
) -> list[Interval]:
    """Limits for `decide`, corrected for judging several contrasts at once.

    The lower limits belong to the hypotheses "effect <= 0", the upper ones to "effect >= smallest
    effect". Each family goes through Holm at half of alpha = 1 - level, and each limit is the
    one-sided limit at its hypothesis' Holm level. Among all contrasts the chance of any false
    SUPPORTED (true effect <= 0) or false REFUTED (true effect >= smallest effect) is then at most
    alpha, whatever the dependence between contrasts that share a baseline. The refinement
    "reversed" has no such joint guarantee. A single contrast keeps its ordinary interval.

    Args:
        contrasts: Student or Welch intervals of any level, or medians, one a contrast; effects
            oriented so that positive favors the claim.
        smallest_effects: Smallest effect of interest of each, positive, fixed beforehand.
        level: 1 - alpha, for the whole family.
    """
    if len(contrasts) != len(smallest_effects):
        raise ValueError(
            f"{len(contrasts)} contrasts need as many smallest effects, not {len(smallest_effects)}"
        )
    positive = [check_positive(effect, "a smallest effect") for effect in smallest_effects]
    # Twice a one-sided p at level 1 - alpha is the one-sided test at alpha / 2.
    above = [min(1.0, 2 * effect_p(effect, 0.0, "greater")) for effect in contrasts]
    below = [
        min(1.0, 2 * effect_p(effect, least, "less"))
        for effect, least in zip(contrasts, positive, strict=True)
    ]
    return [
        _corrected(effect, low, high, level)
        for effect, low, high in zip(
            contrasts, holm_levels(above, level), holm_levels(below, level), strict=True
        )
    ]


def _corrected(
    effect: Interval | MedianEffect, level_low: float, level_high: float, level: float
) -> Interval:
    """An effect's interval of a nominal level whose two limits have levels of their own."""
    if isinstance(effect, MedianEffect):
        return replace(effect.interval(level_low, level_high), level=level)
    assert effect.df is not None
    assert effect.standard_error is not None
    estimate, error, df, n = effect.estimate, effect.standard_error, effect.df, effect.n
    low = t_interval(estimate, error, df, n, level_low).low
    high = t_interval(estimate, error, df, n, level_high).high
    return replace(effect, low=low, high=high, level=level)


@dataclass(frozen=True)
class Decision:
    """What the data say of a claim.

    Attributes:
        ruling: SUPPORTED, REFUTED or INCONCLUSIVE.
        refinement: Of REFUTED, where there is one.
    """

    ruling: Literal["SUPPORTED", "REFUTED", "INCONCLUSIVE"]
    refinement: Literal["reversed", "real but negligible"] | None = None


def decide(
    interval_low: float, interval_high: float, estimate: float, smallest_effect: float
) -> Decision:
    """Judge an effect, oriented so that positive favors the claim.

    SUPPORTED if `low > 0` and `estimate >= smallest_effect`; REFUTED if `high < smallest_effect`,
    "reversed" if even `high < 0`, "real but negligible" if `low > 0`; INCONCLUSIVE otherwise. The
    rule always answers, and never twice: `high < smallest_effect <= estimate` cannot be, as the
    estimate lies between the limits.

    Args:
        interval_low: Lower limit, corrected for the claims judged together; may be -infinity.
        interval_high: Upper limit, likewise; may be infinity.
        estimate: Point estimate, between the limits; the least one possible if censored.
        smallest_effect: Smallest effect of interest, positive, fixed before the runs.

    Raises:
        ValueError: If the limits do not enclose the estimate or `smallest_effect` is not positive.
    """
    check_positive(smallest_effect, "smallest_effect")
    if not interval_low <= estimate <= interval_high:
        raise ValueError(
            f"expected low <= estimate <= high, not {interval_low}, {estimate}, {interval_high}"
        )
    if interval_low > 0 and estimate >= smallest_effect:
        return Decision("SUPPORTED")
    if interval_high >= smallest_effect:
        return Decision("INCONCLUSIVE")
    if interval_high < 0:
        return Decision("REFUTED", "reversed")
    return Decision("REFUTED", "real but negligible" if interval_low > 0 else None)
