"""Times to a target, right-censored where a run never gets there."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from bnlab.analysis.stats.checks import Array, as_pairs, as_sample, check_fraction
from bnlab.analysis.stats.exact import binomial_tail, sign_rank


@dataclass(frozen=True)
class TimeToTarget:
    """When a curve first reached a target, in the units of its horizontal axis.

    Attributes:
        value: That time; if never reached, the last time observed, which the true one exceeds.
        reached: Whether it was reached; otherwise the time is right-censored.
    """

    value: float
    reached: bool


def time_to_target(curve_x: ArrayLike, curve_y: ArrayLike, target: float) -> TimeToTarget:
    """First time at which a curve is at or above `target`.

    The answer is the first measured point, so that a curve measured once an epoch answers in whole
    epochs. For a falling quantity pass its negative, and the target's.

    Args:
        curve_x: Times, strictly increasing: (points,).
        curve_y: Values at these times: (points,).
        target: Value to reach.
    """
    times, heights = as_sample(curve_x, "curve_x", 1), as_sample(curve_y, "curve_y", 1)
    if len(times) != len(heights):
        raise ValueError(f"a curve of {len(times)} times has {len(heights)} values")
    if np.any(np.diff(times) <= 0):
        raise ValueError("the times of a curve must increase")
    if not math.isfinite(target):
        raise ValueError(f"the target must be finite, not {target}")
    hits = np.flatnonzero(heights >= target)
    if len(hits) == 0:
        return TimeToTarget(float(times[-1]), reached=False)
    return TimeToTarget(float(times[hits[0]]), reached=True)


def censored_median(times: Sequence[TimeToTarget]) -> TimeToTarget:
    """Median of times of which some are only known to be larger than their value.

    Takes each censored time as early, then as late as it can be; where the two medians differ,
    the early one is returned as not reached: the median is at least that.
    """
    if not times:
        raise ValueError("the median of no times")
    low = as_sample([time.value for time in times], "times", 1)
    high = np.array([time.value if time.reached else math.inf for time in times])
    earliest, latest = float(np.median(low)), float(np.median(high))
    return TimeToTarget(earliest, reached=earliest == latest)


@dataclass(frozen=True)
class Speedup:
    """Median over pairs of `log2(control / treated)`: 1 says that treated takes half the time.

    Attributes:
        at_least: Least value of the sample median that the censored times allow; may be -infinity.
        at_most: Greatest; equal to `at_least` where censoring does not touch the median.
        low: Lower confidence limit of the true median; may be -infinity.
        high: Upper one; may be infinity.
        level: Coverage reached, at least the level asked for.
        n: Pairs.
    """

    at_least: float
    at_most: float
    low: float
    high: float
    level: float
    n: int


def median_speedup(
    treated: Sequence[TimeToTarget], control: Sequence[TimeToTarget], level: float = 0.95
) -> Speedup:
    """How many octaves sooner the treated arm reaches a target, from paired, censored times.

    A control that never reached its target makes the pair's log ratio "at least", a treated one
    "at most". The limits are order statistics, those of the sign test (Thompson 1936), of the
    smallest and the greatest log ratios possible: no assumption on the distribution, and
    coverage holds with censoring.

    Raises:
        ValueError: If the lengths differ, a time is not positive, or there are too few pairs for
            any interval of this level (6 are needed for 95 %).
    """
    low, high = _log_ratios(treated, control)
    n, rank = len(low), sign_rank(len(low), (1 - check_fraction(level, "level")) / 2)
    if not rank:
        raise ValueError(f"{n} pairs are too few for a {level:.1%} interval of their median")
    return Speedup(
        at_least=float(np.median(low)),
        at_most=float(np.median(high)),
        low=float(np.sort(low)[rank - 1]),
        high=float(np.sort(high)[n - rank]),
        level=1 - 2 * binomial_tail(n, n - rank + 1),
        n=n,
    )


def _log_ratios(
    treated: Sequence[TimeToTarget], control: Sequence[TimeToTarget]
) -> tuple[Array, Array]:
    """Least and greatest `log2(control / treated)` of each pair: two arrays of shape (pairs,)."""
    first, second = as_pairs([time.value for time in treated], [time.value for time in control], 1)
    if min(first.min(), second.min()) <= 0:
        raise ValueError("times to a target must be positive to form their ratio")
    ratio = np.log2(second / first)
    treated_late = np.array([not time.reached for time in treated])
    control_late = np.array([not time.reached for time in control])
    return np.where(treated_late, -np.inf, ratio), np.where(control_late, np.inf, ratio)
