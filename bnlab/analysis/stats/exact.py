"""Exact tests: paired arms by flipping signs, independent ones by permuting, medians by signs."""

import math
from dataclasses import dataclass
from itertools import chain, combinations
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bnlab.analysis.stats.checks import (
    Alternative,
    Array,
    as_sample,
    check_alternative,
    check_count,
    check_fraction,
)
from bnlab.analysis.stats.intervals import Interval

EXACT_SIGN_FLIP_N = 20
"""Up to this many differences (1,048,576 sign patterns) `sign_flip_p` enumerates them all."""

EXACT_ARRANGEMENTS = 200_000
"""Up to this many arrangements (10 against 10) `permutation_p` enumerates them all."""


def sign_flip_p(
    differences: ArrayLike,
    alternative: Alternative = "two-sided",
    *,
    generator: np.random.Generator | None = None,
    resamples: int = 20_000,
) -> float:
    """Exact p-value of paired differences by flipping their signs (Fisher 1935, section 21).

    Under the null hypothesis the arms of a pair are exchangeable, so that all 2^n patterns of
    signs are equally likely; p is the share of patterns whose sum is at least as extreme as the
    one seen. Sums that differ by rounding alone count as ties. Beyond `EXACT_SIGN_FLIP_N`
    differences `resamples` random patterns stand for all and `p = (k + 1) / (resamples + 1)`
    (Phipson and Smyth 2010), which is never too small.

    Args:
        differences: `treated - control`, one a pair; zeros count.
        alternative: `greater` looks for a positive mean.
        generator: Needed above `EXACT_SIGN_FLIP_N`, unused below.
        resamples: Random patterns above it.

    Raises:
        ValueError: If there are no differences, one is not finite, or a generator is missing.
    """
    check_alternative(alternative)
    sample = as_sample(differences, "differences", 1)
    observed, slack = math.fsum(sample), _slack(sample)
    if len(sample) <= EXACT_SIGN_FLIP_N:
        sums = np.zeros(1)
        for difference in sample:
            sums = np.concatenate([sums + difference, sums - difference])
        return float(_extreme(sums, observed, alternative, slack).mean())
    draw = _needed(generator, f"more than {EXACT_SIGN_FLIP_N} differences")
    signs = 1.0 - 2.0 * draw.integers(2, size=(_resamples(resamples), len(sample)), dtype=np.int8)
    return _monte_carlo_p(_extreme(signs @ sample, observed, alternative, slack))


def smallest_sign_flip_p(n: int, alternative: Alternative = "two-sided") -> float:
    """The smallest p-value that `n` pairs can give: 2/2^n two-sided, 1/2^n one-sided.

    Two-sided .25 at n = 3, .0625 at 5, .031 at 6: five pairs cannot be significant at .05.
    """
    check_alternative(alternative)
    check_count(n, "n", 1)
    return 2.0 ** (1 - n if alternative == "two-sided" else -n)


def permutation_p(
    a: ArrayLike,
    b: ArrayLike,
    alternative: Alternative = "two-sided",
    *,
    generator: np.random.Generator | None = None,
    resamples: int = 20_000,
) -> float:
    """P-value of `mean(a) - mean(b)`, independent samples, by exchanging their members.

    The null hypothesis is that both samples come from one distribution. Two-sided, arrangements
    with at least the observed absolute difference count. Exact up to `EXACT_ARRANGEMENTS`
    arrangements; beyond, random ones and `(k + 1) / (resamples + 1)`.

    Args:
        a: Values of one arm.
        b: Values of the other.
        alternative: `greater` looks for a larger mean of `a`.
        generator: Needed above `EXACT_ARRANGEMENTS`, unused below.
        resamples: Random arrangements above it.
    """
    check_alternative(alternative)
    first, second = as_sample(a, "a", 1), as_sample(b, "b", 1)
    pooled = np.concatenate([first, second])
    # Of a centered pool, the sum of one sample orders arrangements as the mean difference does.
    pooled = pooled - pooled.mean()
    size, total = len(first), len(pooled)
    observed, slack = math.fsum(pooled[:size]), _slack(pooled)
    if math.comb(total, size) <= EXACT_ARRANGEMENTS:
        picks = np.fromiter(chain.from_iterable(combinations(range(total), size)), dtype=np.intp)
        sums = pooled[picks.reshape(-1, size)].sum(axis=1)
        return float(_extreme(sums, observed, alternative, slack).mean())
    draw = _needed(generator, f"more than {EXACT_ARRANGEMENTS:,} arrangements")
    shuffled = draw.permuted(np.tile(pooled, (_resamples(resamples), 1)), axis=1)
    return _monte_carlo_p(_extreme(shuffled[:, :size].sum(axis=1), observed, alternative, slack))


def smallest_permutation_p(n_a: int, n_b: int, alternative: Alternative = "two-sided") -> float:
    """The smallest p-value that samples of `n_a` and `n_b` can give in `permutation_p`.

    One over the number of arrangements; twice that for two-sided tests of equal sizes, where
    every arrangement has a mirror image.
    """
    check_alternative(alternative)
    arrangements = math.comb(check_count(n_a, "n_a", 1) + check_count(n_b, "n_b", 1), n_a)
    return (2 if alternative == "two-sided" and n_a == n_b else 1) / arrangements


def _extreme(
    null: Array, observed: float, alternative: Alternative, slack: float
) -> NDArray[np.bool_]:
    """Which values of a null distribution are as extreme as the observed one, or tied with it."""
    if alternative == "greater":
        return null >= observed - slack
    if alternative == "less":
        return null <= observed + slack
    return np.abs(null) >= abs(observed) - slack


def _slack(sample: Array) -> float:
    # Differences of accuracies such as .7512 - .7501 carry a relative rounding error near 1e-13.
    return 1e-9 * float(np.abs(sample).sum())


def _monte_carlo_p(extreme: NDArray[np.bool_]) -> float:
    return (1 + int(extreme.sum())) / (1 + len(extreme))


def _resamples(resamples: int) -> int:
    return check_count(resamples, "resamples", 100)


def _needed(generator: np.random.Generator | None, reason: str) -> np.random.Generator:
    if generator is None:
        raise ValueError(f"{reason} need a generator for random resamples")
    return generator


@dataclass(frozen=True, eq=False)
class MedianEffect:
    """The median of an effect of which each seed gives bounds: no spread, no distribution assumed.

    Tests are sign tests, limits the order statistics that belong to them (Thompson 1936): exact
    for an effect in steps, where all seeds may agree, and for a censored one.

    Attributes:
        low: Least value that each seed allows; minus infinity where it sets none: (seeds,).
        high: Greatest; infinity likewise; equal to `low` where the value is known: (seeds,).
    """

    low: Array
    high: Array

    def __post_init__(self) -> None:
        if len(self.low) != len(self.high) or len(self.low) == 0:
            raise ValueError(f"{len(self.low)} low and {len(self.high)} high bounds: need as many")
        if np.isnan(self.low).any() or np.isnan(self.high).any() or (self.low > self.high).any():
            raise ValueError("every low bound must be at most its high bound")

    @property
    def estimate(self) -> float:
        """The least sample median that the bounds allow; may be minus infinity."""
        return _median(self.low)

    def p(self, null: float, alternative: Literal["greater", "less"]) -> float:
        """One-sided sign test; `greater` tests the hypothesis that the median is at most `null`.

        A seed counts for the alternative only if its bounds put it strictly beyond `null`.
        """
        check_alternative(alternative)
        beyond = self.low > null if alternative == "greater" else self.high < null
        return binomial_tail(len(self.low), int(beyond.sum()))

    def interval(self, level: float = 0.95) -> Interval:
        """The estimate with limits that exclude exactly what the sign test rejects."""
        n = len(self.low)
        rank = sign_rank(n, (1 - check_fraction(level, "level")) / 2)
        low = float(np.sort(self.low)[rank - 1]) if rank else -math.inf
        high = float(np.sort(self.high)[n - rank]) if rank else math.inf
        return Interval(self.estimate, low, high, level, n)


def _median(values: Array) -> float:
    """The sample median; the smaller of two middle ones if their mean is not defined."""
    ordered = np.sort(values)
    middle = ordered[(len(values) - 1) // 2], ordered[len(values) // 2]
    return float(middle[0]) if np.isinf(middle).any() else float(np.mean(middle))


def binomial_tail(n: int, successes: int) -> float:
    """P(at least so many heads in n tosses of a fair coin), exact but for its last division."""
    return sum(math.comb(n, k) for k in range(successes, n + 1)) / 2.0**n


def sign_rank(n: int, alpha: float) -> int:
    """The largest rank r whose order statistic misses the median with probability <= alpha; or 0.

    The r-th smallest of n values lies above their median with probability P(less than r heads).
    """
    ranks = [r for r in range(1, n // 2 + 2) if binomial_tail(n, n - r + 1) <= alpha * (1 + 1e-9)]
    return max(ranks, default=0)
