"""The statistics of comparing arms over a few seeds: intervals, exact tests, power, verdicts.

Studies have 3 to 30 seeds an arm. At that size a percentile bootstrap of nominal 95 % covers the
mean in 75 % (n = 3) to 90 % (n = 10) of cases and Student's t in 95 %, so that intervals of means
are Student's or Welch's throughout and p-values come from exact randomization tests; the bootstrap
is kept for statistics that have no t, and from 20 values up.

Conventions. Effects are `treated - control`, in the units of the values. A wrong call (values that
are not finite, lengths that differ, too few values) raises ValueError; a quantity that the data
leave undefined (the correlation with a constant arm) is None. No function draws a random number
but from the generator it is given.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain, combinations
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr, bdtrc, gammaln, nctdtr, ndtr, ndtri, stdtr, stdtrit

Array: TypeAlias = NDArray[np.float64]
Alternative: TypeAlias = Literal["two-sided", "greater", "less"]

EXACT_SIGN_FLIP_N = 20
"""Up to this many differences (1,048,576 sign patterns) `sign_flip_p` enumerates them all."""

EXACT_ARRANGEMENTS = 200_000
"""Up to this many arrangements `permutation_p` (10 against 10) and `label_swap_p` enumerate."""

BOOTSTRAP_MIN_N = 20
"""With fewer values a bootstrap interval covers far less than it says."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence limits.

    Attributes:
        estimate: Point estimate, in the units of the values.
        low: Lower limit; minus infinity where the data set none.
        high: Upper limit; infinity where the data set none.
        level: Nominal coverage, in (0, 1).
        n: Values behind it: seeds, pairs, or both samples together (Welch).
        df: Degrees of freedom of Student's t; None where t plays no part.
        standard_error: Standard error of the estimate; None where t plays no part.
    """

    estimate: float
    low: float
    high: float
    level: float
    n: int
    df: float | None = None
    standard_error: float | None = None


# ------------------------------------------------------------------------------ intervals of means


def mean_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """Mean of a sample, `m +- t(n-1) s / sqrt(n)` (Student 1908).

    Assumes independent values, roughly normal. Values that are all equal give an interval of no
    width: the sample holds no information on its spread.

    Raises:
        ValueError: With fewer than 2 values, or values that are not finite.
    """
    sample = _sample(values, "values", 2)
    mean, variance = _moments(sample)
    return _t_interval(mean, math.sqrt(variance / len(sample)), len(sample) - 1, len(sample), level)


def paired_interval(treated: ArrayLike, control: ArrayLike, level: float = 0.95) -> Interval:
    """Mean of `treated - control` over pairs (the seeds), Student's t on the differences.

    Args:
        treated: One value a seed.
        control: The other arm's value of the same seed, in the same order.
        level: Nominal coverage.

    Raises:
        ValueError: If the lengths differ; with fewer than 2 pairs, or values that are not finite.
    """
    return mean_interval(_differences(treated, control, 2), level)


def welch_interval(a: ArrayLike, b: ArrayLike, level: float = 0.95) -> Interval:
    """Mean of `a` minus mean of `b`, independent samples whose variances may differ.

    With v = s^2/n of each sample: `(m_a - m_b) +- t(df) sqrt(v_a + v_b)` and
    `df = (v_a + v_b)^2 / (v_a^2/(n_a-1) + v_b^2/(n_b-1))` (Welch 1947; Satterthwaite 1946).
    """
    first, second = _sample(a, "a", 2), _sample(b, "b", 2)
    (mean_a, var_a), (mean_b, var_b) = _moments(first), _moments(second)
    size_a, size_b = len(first), len(second)
    error_a, error_b = var_a / size_a, var_b / size_b
    total = error_a + error_b
    share = error_a / total if total > 0 else 0.5
    df = 1 / (share**2 / (size_a - 1) + (1 - share) ** 2 / (size_b - 1))
    return _t_interval(mean_a - mean_b, math.sqrt(total), df, size_a + size_b, level)


def t_p(interval: Interval, null: float = 0.0, alternative: Alternative = "two-sided") -> float:
    """P-value of Student's or Welch's t for an interval's estimate against `null`.

    `greater` tests the hypothesis that the true value is at most `null`. With a standard error of
    zero the p-value is 0 or 1, by the side on which the estimate lies.

    Raises:
        ValueError: If the interval is none of `mean_interval`'s, `paired_interval`'s or
            `welch_interval`'s.
    """
    _check_alternative(alternative)
    if interval.df is None or interval.standard_error is None:
        raise ValueError("only an interval made with Student's t has a t-test")
    distance = interval.estimate - null
    if interval.standard_error > 0:
        ratio = distance / interval.standard_error
    else:
        ratio = math.copysign(math.inf, distance) if distance else 0.0
    if alternative == "two-sided":
        return min(1.0, 2 * float(stdtr(interval.df, -abs(ratio))))
    return float(stdtr(interval.df, -ratio if alternative == "greater" else ratio))


def _t_interval(
    estimate: float, standard_error: float, df: float, n: int, level: float
) -> Interval:
    half = float(stdtrit(df, (1 + _fraction(level, "level")) / 2)) * standard_error
    return Interval(estimate, estimate - half, estimate + half, level, n, df, standard_error)


# ----------------------------------------------------------------------------- randomization tests


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
    _check_alternative(alternative)
    sample = _sample(differences, "differences", 1)
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
    _check_alternative(alternative)
    _count(n, "n", 1)
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
    _check_alternative(alternative)
    first, second = _sample(a, "a", 1), _sample(b, "b", 1)
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
    _check_alternative(alternative)
    arrangements = math.comb(_count(n_a, "n_a", 1) + _count(n_b, "n_b", 1), n_a)
    return (2 if alternative == "two-sided" and n_a == n_b else 1) / arrangements


def label_swap_p(
    treated: ArrayLike,
    control: ArrayLike,
    statistic: Callable[[Array], float],
    alternative: Alternative = "two-sided",
    *,
    generator: np.random.Generator | None = None,
    resamples: int = 5_000,
) -> float:
    """P-value of `statistic(treated) - statistic(control)` by swapping the arms within pairs.

    For statistics of a whole arm that have neither a t nor a usable bootstrap, such as the range,
    over settings, of the mean accuracy over seeds. Exact while 2^n is at most 4,096; beyond,
    random swaps and `(k + 1) / (resamples + 1)`.

    Args:
        treated: One row a pair (a seed), of any further shape: (n, settings).
        control: Same shape, rows in the same order.
        statistic: From an array like `treated` to a number; called twice a pattern.
        alternative: `greater` looks for a larger statistic of `treated`.
        generator: Needed above 12 pairs, unused below.
        resamples: Random swaps above that.

    Raises:
        ValueError: If the shapes differ, a value is not finite, or a generator is missing.
    """
    _check_alternative(alternative)
    first, second = np.asarray(treated, dtype=np.float64), np.asarray(control, dtype=np.float64)
    if first.shape != second.shape or first.ndim == 0 or len(first) == 0:
        raise ValueError(f"the arms must be alike, not of shapes {first.shape} and {second.shape}")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("the arms hold values that are not finite")
    n = len(first)
    exact = n <= 12
    if exact:
        swaps = (np.arange(2**n)[:, None] >> np.arange(n)) % 2 == 1
    else:
        draw = _needed(generator, "more than 12 pairs")
        swaps = draw.integers(2, size=(_resamples(resamples), n)) == 1
    columns = (slice(None),) + (None,) * (first.ndim - 1)

    def effect(swap: NDArray[np.bool_]) -> float:
        mask = swap[columns]
        one, other = np.where(mask, second, first), np.where(mask, first, second)
        return float(statistic(one)) - float(statistic(other))

    effects = np.array([effect(swap) for swap in swaps])
    observed = effect(np.zeros(n, dtype=np.bool_))
    extreme = _extreme(effects, observed, alternative, 1e-9 * abs(observed))
    return float(extreme.mean()) if exact else _monte_carlo_p(extreme)


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


# ------------------------------------------------------------------------------- effects by ranks


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
        _check_alternative(alternative)
        beyond = self.low > null if alternative == "greater" else self.high < null
        return _binomial_tail(len(self.low), int(beyond.sum()))

    def interval(self, level: float = 0.95, level_high: float | None = None) -> Interval:
        """The estimate with limits that exclude exactly what the sign test rejects.

        Args:
            level: Of the two-sided interval that the lower limit belongs to.
            level_high: The same for the upper limit, if it is another.
        """
        n = len(self.low)
        low_rank = _sign_rank(n, (1 - _fraction(level, "level")) / 2)
        high_rank = _sign_rank(n, (1 - _fraction(level_high or level, "level_high")) / 2)
        low = float(np.sort(self.low)[low_rank - 1]) if low_rank else -math.inf
        high = float(np.sort(self.high)[n - high_rank]) if high_rank else math.inf
        return Interval(self.estimate, low, high, level, n)


def _median(values: Array) -> float:
    """The sample median; the smaller of two middle ones if their mean is not defined."""
    ordered = np.sort(values)
    middle = ordered[(len(values) - 1) // 2], ordered[len(values) // 2]
    return float(middle[0]) if np.isinf(middle).any() else float(np.mean(middle))


def _binomial_tail(n: int, successes: int) -> float:
    """P(at least so many heads in n tosses of a fair coin)."""
    return sum(math.comb(n, k) for k in range(successes, n + 1)) / 2.0**n


def _sign_rank(n: int, alpha: float) -> int:
    """The largest rank r whose order statistic misses the median with probability <= alpha; or 0.

    The r-th smallest of n values lies above their median with probability P(less than r heads).
    """
    ranks = [r for r in range(1, n // 2 + 2) if _binomial_tail(n, n - r + 1) <= alpha * (1 + 1e-9)]
    return max(ranks, default=0)


def required_n_sign(share: float, alpha: float = 0.05, power: float = 0.8) -> int | None:
    """Seeds at which a two-sided sign test finds that more than half lie beyond a value.

    Args:
        share: True share of seeds beyond it.
        alpha: Level of the two-sided test.
        power: Chance of finding it.

    Returns:
        None where 10,000 seeds are not enough, as for a share of one half.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must lie in [0, 1], not {share}")
    _fraction(power, "power")
    n, k = _sign_test_counts(_half(alpha))
    enough = np.flatnonzero(bdtrc(k, n, share) >= power)
    return int(n[enough[0]]) if len(enough) else None


@cache
def _sign_test_counts(alpha: float) -> tuple[NDArray[np.int64], Array]:
    """For 1 to 10,000 seeds the largest count beyond a value that does not reject, two-sided."""
    accepted = 1 - alpha / 2
    n = np.arange(1, 10_001)  # whole numbers: others are deprecated in the binomial tails
    # The normal approximation is off by less than one; the exact tail settles which it is.
    k = np.clip(np.floor(n / 2 + float(ndtri(accepted)) * np.sqrt(n) / 2) - 2, 0, n)
    for _ in range(5):
        k = np.where((bdtr(k, n, 0.5) < accepted) & (k < n), k + 1, k)
    return n, k


# ---------------------------------------------------------------------------------- many contrasts


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
    alpha = 1 - _fraction(level, "level")
    steps = alpha / (len(raw) - np.arange(len(raw)))
    order = np.argsort(raw, kind="stable")
    failures = np.flatnonzero(raw[order] > steps)
    if len(failures):
        steps[failures[0] :] = steps[failures[0]]
    levels = np.empty_like(raw)
    levels[order] = 1 - steps
    return [float(x) for x in levels]


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
    alpha, whatever the dependence between contrasts that share a baseline. The sub-label "reversed"
    has no such joint guarantee. A single contrast keeps its ordinary interval.

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
    positive = [_positive(effect, "a smallest effect") for effect in smallest_effects]
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
    low = _t_interval(estimate, error, df, n, level_low).low
    high = _t_interval(estimate, error, df, n, level_high).high
    return replace(effect, low=low, high=high, level=level)


# ----------------------------------------------------------------------------------------- verdict


Label: TypeAlias = Literal["SUPPORTED", "REFUTED", "INCONCLUSIVE"]
Sublabel: TypeAlias = Literal["reversed", "real but negligible"]


@dataclass(frozen=True)
class Decision:
    """What the data say of a claim; the sub-label refines REFUTED."""

    label: Label
    sublabel: Sublabel | None = None


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
    _positive(smallest_effect, "smallest_effect")
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


# ------------------------------------------------------------------------------------- equivalence


@dataclass(frozen=True)
class Equivalence:
    """Outcome of two one-sided tests.

    Attributes:
        p: Larger of the two one-sided p-values.
        interval: Interval at level 1 - 2 alpha; inside the margins exactly if equivalent.
        margin: Largest difference that counts as none, in the units of the values.
        equivalent: Whether p is below alpha.
    """

    p: float
    interval: Interval
    margin: float
    equivalent: bool


def paired_tost(
    treated: ArrayLike, control: ArrayLike, margin: float, alpha: float = 0.05
) -> Equivalence:
    """Whether paired arms differ by less than `margin` (Schuirmann 1987).

    Rejects both "difference <= -margin" and "difference >= margin" by one-sided paired t-tests at
    alpha. Not to reject says nothing about a difference.
    """
    return _tost(paired_interval(treated, control, 1 - 2 * _half(alpha)), margin, alpha)


def welch_tost(a: ArrayLike, b: ArrayLike, margin: float, alpha: float = 0.05) -> Equivalence:
    """Whether independent arms differ by less than `margin`, by Welch's t; see `paired_tost`."""
    return _tost(welch_interval(a, b, 1 - 2 * _half(alpha)), margin, alpha)


def _tost(interval: Interval, margin: float, alpha: float) -> Equivalence:
    _positive(margin, "margin")
    p = max(t_p(interval, -margin, "greater"), t_p(interval, margin, "less"))
    return Equivalence(p, interval, margin, p < alpha)


# ------------------------------------------------------------------------------------------- power


def paired_power(n: int, effect: float, sd_diff: float, alpha: float = 0.05) -> float:
    """Power of the two-sided paired t-test, by the noncentral t with `effect sqrt(n) / sd_diff`.

    Args:
        n: Pairs.
        effect: True mean difference, in the units of the values.
        sd_diff: Standard deviation of the differences; for uncorrelated arms `sd * sqrt(2)`.
        alpha: Two-sided level; alpha/m for the first of m claims under Holm.
    """
    df = _count(n, "n", 2) - 1
    shift = abs(effect) * math.sqrt(n) / _positive(sd_diff, "sd_diff")
    critical = -float(stdtrit(df, _fraction(alpha, "alpha") / 2))
    return 1 - _below(df, shift, critical) + _below(df, shift, -critical)


def _below(df: float, shift: float, value: float) -> float:
    """Chance that a noncentral t lies below a value.

    scipy gives NaN for some chances under 1e-7, which are none in a power.
    """
    chance = float(nctdtr(df, shift, value))
    return 0.0 if math.isnan(chance) else chance


def required_n(effect: float, sd_diff: float, alpha: float = 0.05, power: float = 0.8) -> int:
    """Fewest pairs at which the two-sided paired t-test finds `effect` with the given power.

    With the smallest effect of interest for `effect` this is also the n that settles an
    INCONCLUSIVE verdict if there is no effect at all: the upper limit then falls below the
    smallest effect with the same probability. A true effect near the smallest one takes more.
    """
    _positive(abs(effect), "the size of the effect")
    return _smallest_n(lambda n: paired_power(n, effect, sd_diff, alpha), power)


def detectable_effect(n: int, sd_diff: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """Smallest true difference that `n` pairs find with the given power; see `paired_power`."""
    return _smallest_value(
        lambda effect: paired_power(n, effect, sd_diff, alpha), power, _positive(sd_diff, "sd_diff")
    )


def equivalence_power(
    n: int, margin: float, sd_diff: float, true_difference: float = 0.0, alpha: float = 0.05
) -> float:
    """Probability that `paired_tost` finds equivalence within `margin`.

    Exact for normal differences: given their standard deviation s, equivalence asks that the mean
    lie within `margin - t(n-1) s/sqrt(n)` of zero, a normal probability, here averaged over the
    chi distribution of s (Phillips 1990).
    """
    df = _count(n, "n", 2) - 1
    scale = math.sqrt(n) / _positive(sd_diff, "sd_diff")
    reach, shift = _positive(margin, "margin") * scale, true_difference * scale
    critical = -float(stdtrit(df, _half(alpha)))
    # s / sd beyond `reach / critical` leaves no room for the mean; beyond 9 spreads of 1 it does
    # not occur.
    spread = 9 / math.sqrt(2 * df)
    first, last = max(0.0, 1 - spread), min(reach / critical, 1 + spread)
    if last <= first:
        return 0.0
    nodes, weights = _legendre()
    u = first + (last - first) * (nodes + 1) / 2
    log_density = (
        math.log(2) + df / 2 * math.log(df / 2) - gammaln(df / 2)
        + (df - 1) * np.log(u) - df * u**2 / 2
    )  # fmt: skip
    inside = ndtr(reach - critical * u - shift) - ndtr(critical * u - reach - shift)
    return float((last - first) / 2 * np.sum(weights * np.exp(log_density) * inside))


def required_n_equivalence(
    margin: float,
    sd_diff: float,
    true_difference: float = 0.0,
    alpha: float = 0.05,
    power: float = 0.8,
) -> int:
    """Fewest pairs at which `paired_tost` shows equivalence with the given power.

    Raises:
        ValueError: If the true difference is not inside the margin: no n would do.
    """
    if not abs(true_difference) < _positive(margin, "margin"):
        raise ValueError(f"true_difference {true_difference} is not inside the margin {margin}")
    return _smallest_n(
        lambda n: equivalence_power(n, margin, sd_diff, true_difference, alpha), power
    )


def detectable_margin(n: int, sd_diff: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """Smallest margin within which `n` pairs show equivalence when there is no difference."""
    return _smallest_value(
        lambda margin: equivalence_power(n, margin, sd_diff, 0.0, alpha),
        power,
        _positive(sd_diff, "sd_diff"),
    )


@cache
def _legendre() -> tuple[Array, Array]:
    nodes, weights = np.polynomial.legendre.leggauss(200)
    return nodes, weights


def _smallest_n(power_at: Callable[[int], float], power: float) -> int:
    _fraction(power, "power")
    enough = 2
    while power_at(enough) < power:
        enough *= 2
        if enough > 2**40:
            raise ValueError("the effect is too small beside the spread for any number of seeds")
    short = enough // 2
    while enough - short > 1:
        middle = (enough + short) // 2
        short, enough = (short, middle) if power_at(middle) >= power else (middle, enough)
    return enough


def _smallest_value(power_at: Callable[[float], float], power: float, unit: float) -> float:
    _fraction(power, "power")
    enough = unit
    while power_at(enough) < power:
        enough *= 2
    short = 0.0
    while enough - short > 1e-9 * enough:
        middle = (enough + short) / 2
        short, enough = (short, middle) if power_at(middle) >= power else (middle, enough)
    return enough


# -------------------------------------------------------------------------------- counts and ranks


def wilson_interval(successes: float, n: int, level: float = 0.95) -> Interval:
    """A proportion with Wilson's score interval (Wilson 1927; Newcombe 1998, method 3).

    Args:
        successes: Between 0 and n; a half for each tie where ties can occur.
        n: Independent trials.
        level: Nominal coverage.
    """
    _count(n, "n", 1)
    if not 0 <= successes <= n:
        raise ValueError(f"successes must lie between 0 and {n}, not {successes}")
    z = float(ndtri((1 + _fraction(level, "level")) / 2))
    share = successes / n
    center = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    # At 0 and n successes the limit is the estimate itself, which rounding would pass.
    return Interval(share, min(share, center - half), max(share, center + half), level, n)


def fisher_exact_p(
    a_success: int, a_n: int, b_success: int, b_n: int, alternative: Alternative = "two-sided"
) -> float:
    """Fisher's exact test of two proportions, given both margins (Fisher 1935).

    Two-sided, tables at most as probable as the one seen count. Whole-number arithmetic, so that
    ties are exact. All of n against none of n gives .10 at n = 3, .029 at 4, .0079 at 5.

    Args:
        a_success: Successes of the first arm, of `a_n`.
        a_n: Runs of the first arm.
        b_success: Successes of the second arm, of `b_n`.
        b_n: Runs of the second arm.
        alternative: `greater` looks for a larger proportion in the first arm.
    """
    _check_alternative(alternative)
    for name, successes, n in (("a", a_success, a_n), ("b", b_success, b_n)):
        if not 0 <= successes <= _count(n, f"{name}_n", 1):
            raise ValueError(f"{name}_success must lie between 0 and {n}, not {successes}")
    total = a_success + b_success
    possible = range(max(0, total - b_n), min(a_n, total) + 1)
    ways = {k: math.comb(a_n, k) * math.comb(b_n, total - k) for k in possible}
    if alternative == "greater":
        extreme = sum(way for k, way in ways.items() if k >= a_success)
    elif alternative == "less":
        extreme = sum(way for k, way in ways.items() if k <= a_success)
    else:
        extreme = sum(way for way in ways.values() if way <= ways[a_success])
    return extreme / math.comb(a_n + b_n, total)


def probability_of_improvement(a: ArrayLike, b: ArrayLike, level: float = 0.95) -> Interval:
    """P(A > B) over pairs, a tie counting half (Bouthillier et al. 2021).

    The paper asks for a lower limit above .5 (significant) and an upper one above .75
    (meaningful). The number of wins being binomial, the interval is Wilson's in place of the
    paper's percentile bootstrap, which covers too little at 10 pairs; ties make it conservative.
    """
    differences = _differences(a, b, 1)
    wins = float(np.sum(differences > 0) + 0.5 * np.sum(differences == 0))
    return wilson_interval(wins, len(differences), level)


def required_n_improvement(
    probability: float = 0.75, alpha: float = 0.05, power: float = 0.95
) -> int:
    """Pairs to tell P(A > B) = `probability` from one half, one-sided (Noether 1987).

    `n >= ((z(1-alpha) + z(power)) / (sqrt(6) (probability - 1/2)))^2`; 29 for .75, as Bouthillier
    et al. 2021 recommend.
    """
    if not 0.5 < probability <= 1:
        raise ValueError(f"probability must lie in (.5, 1], not {probability}")
    z = float(ndtri(1 - _fraction(alpha, "alpha")) + ndtri(_fraction(power, "power")))
    return math.ceil((z / (math.sqrt(6) * (probability - 0.5))) ** 2)


def paired_correlation(a: ArrayLike, b: ArrayLike, level: float = 0.95) -> Interval | None:
    """Pearson's correlation of paired arms, with Fisher's interval `tanh(atanh r +- z/sqrt(n-3))`.

    Tells what pairing by seed gains: the variance of a difference is `2 sd^2 (1 - r)`. Assumes
    bivariate normal values. None if an arm is constant.

    Raises:
        ValueError: With fewer than 4 pairs, lengths that differ or values that are not finite.
    """
    first, second = _pairs(a, b, 4)
    first, second = first - first[0], second - second[0]
    if not (first.any() and second.any()):
        return None
    first, second = first - first.mean(), second - second.mean()
    size = float(np.linalg.norm(first)) * float(np.linalg.norm(second))
    if size == 0:
        return None
    r = min(1.0, max(-1.0, float(first @ second) / size))
    reach = float(ndtri((1 + _fraction(level, "level")) / 2)) / math.sqrt(len(first) - 3)
    if abs(r) == 1:
        return Interval(r, r, r, level, len(first))
    low, high = math.tanh(math.atanh(r) - reach), math.tanh(math.atanh(r) + reach)
    return Interval(r, min(r, low), max(r, high), level, len(first))


# ------------------------------------------------------------------------------- times to a target


@dataclass(frozen=True)
class TimeToTarget:
    """When a curve first reached a target, in the units of its horizontal axis.

    Attributes:
        value: That time; if never reached, the last time observed, which the true one exceeds.
        reached: Whether it was reached; otherwise the time is right-censored.
    """

    value: float
    reached: bool


def time_to_target(
    curve_x: ArrayLike, curve_y: ArrayLike, target: float, *, interpolate: bool = False
) -> TimeToTarget:
    """First time at which a curve is at or above `target`.

    The answer is the first measured point, so that a curve measured once an epoch answers in whole
    epochs; `interpolate` draws a line from the point before it. For a falling quantity pass its
    negative, and the target's.

    Args:
        curve_x: Times, strictly increasing: (points,).
        curve_y: Values at these times: (points,).
        target: Value to reach.
        interpolate: Whether to place the crossing between two measured points.
    """
    times, heights = _sample(curve_x, "curve_x", 1), _sample(curve_y, "curve_y", 1)
    if len(times) != len(heights):
        raise ValueError(f"a curve of {len(times)} times has {len(heights)} values")
    if np.any(np.diff(times) <= 0):
        raise ValueError("the times of a curve must increase")
    if not math.isfinite(target):
        raise ValueError(f"the target must be finite, not {target}")
    hits = np.flatnonzero(heights >= target)
    if len(hits) == 0:
        return TimeToTarget(float(times[-1]), reached=False)
    hit = int(hits[0])
    if not interpolate or hit == 0:
        return TimeToTarget(float(times[hit]), reached=True)
    share = (target - heights[hit - 1]) / (heights[hit] - heights[hit - 1])
    between = times[hit - 1] + share * (times[hit] - times[hit - 1])
    return TimeToTarget(float(between), reached=True)


def censored_median(times: Sequence[TimeToTarget]) -> TimeToTarget:
    """Median of times of which some are only known to be larger than their value.

    Takes each censored time as early, then as late as it can be; where the two medians differ,
    the early one is returned as not reached: the median is at least that.
    """
    if not times:
        raise ValueError("the median of no times")
    low = _sample([time.value for time in times], "times", 1)
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
    n, alpha = len(low), 1 - _fraction(level, "level")

    def missed(rank: int) -> float:
        return sum(math.comb(n, k) for k in range(rank)) / 2.0 ** (n - 1)

    if missed(1) > alpha * (1 + 1e-9):
        raise ValueError(f"{n} pairs are too few for a {level:.1%} interval of their median")
    rank = max(r for r in range(1, (n + 1) // 2 + 1) if missed(r) <= alpha * (1 + 1e-9))
    return Speedup(
        at_least=float(np.median(low)),
        at_most=float(np.median(high)),
        low=float(np.sort(low)[rank - 1]),
        high=float(np.sort(high)[n - rank]),
        level=1 - missed(rank),
        n=n,
    )


def censored_sign_flip_p(
    treated: Sequence[TimeToTarget],
    control: Sequence[TimeToTarget],
    alternative: Alternative = "two-sided",
    *,
    generator: np.random.Generator | None = None,
) -> float:
    """Signed-rank sign-flip test of paired, right-censored times.

    After Wilcoxon 1945 and, for censored pairs, Woolson and Lachenbruch 1980: pairs are ranked by
    the size of `log2(control / treated)`, one with a censored time by the least size it can have;
    pairs whose order is not known (both censored, or censored before the other arm arrived) and
    ties score zero. The scores depend on a pair and not on which arm is which, so that
    flipping their signs is exact when both arms of a pair are watched equally long.

    Args:
        treated: One time a seed.
        control: The other arm's, in the same order.
        alternative: `greater` looks for a treated arm that is faster.
        generator: Needed above `EXACT_SIGN_FLIP_N` pairs.
    """
    low, high = _log_ratios(treated, control)
    # A censored arm exceeds its bound, so that a bound of zero still tells who was first.
    wins = (low > 0) | ((low == 0) & np.isinf(high))
    losses = (high < 0) | ((high == 0) & np.isinf(low))
    size = np.where(wins, low, np.where(losses, -high, 0.0))
    known = wins | losses
    slack = 1e-9
    smaller = (size[None, :] < size[:, None] - slack) & known[None, :]
    tied = (np.abs(size[None, :] - size[:, None]) <= slack) & known[None, :]
    ranks = smaller.sum(axis=1) + (tied.sum(axis=1) + 1) / 2
    scores = np.where(wins, ranks, np.where(losses, -ranks, 0.0))
    return sign_flip_p(scores, alternative, generator=generator)


def _log_ratios(
    treated: Sequence[TimeToTarget], control: Sequence[TimeToTarget]
) -> tuple[Array, Array]:
    """Least and greatest `log2(control / treated)` of each pair: two arrays of shape (pairs,)."""
    first, second = _pairs([time.value for time in treated], [time.value for time in control], 1)
    if min(first.min(), second.min()) <= 0:
        raise ValueError("times to a target must be positive to form their ratio")
    ratio = np.log2(second / first)
    treated_late = np.array([not time.reached for time in treated])
    control_late = np.array([not time.reached for time in control])
    return np.where(treated_late, -np.inf, ratio), np.where(control_late, np.inf, ratio)


# --------------------------------------------------------------------------------------- bootstrap


def bootstrap_interval(
    values: ArrayLike,
    statistic: Callable[[Array], Array],
    generator: np.random.Generator,
    level: float = 0.95,
    resamples: int = 10_000,
) -> Interval:
    """Percentile bootstrap interval (Efron 1979), for statistics that have no t.

    For quantiles and interquartile means. Not for means (`mean_interval`) and not for ranges,
    where no resample exceeds the sample; `label_swap_p` tests those.

    Args:
        values: A sample of at least `BOOTSTRAP_MIN_N`.
        statistic: From (..., n) to (...): reduces the last axis.
        generator: Draws the resamples.
        level: Nominal coverage.
        resamples: How many.
    """
    sample = _sample(values, "values", BOOTSTRAP_MIN_N)
    tail = (1 - _fraction(level, "level")) / 2
    picks = generator.integers(len(sample), size=(_resamples(resamples), len(sample)))
    draws = statistic(sample[picks])
    if np.shape(draws) != (resamples,):
        raise ValueError(f"the statistic must reduce the last axis, not give {np.shape(draws)}")
    low, high = np.quantile(draws, [tail, 1 - tail])
    estimate = float(statistic(sample))
    return Interval(
        estimate, min(estimate, float(low)), max(estimate, float(high)), level, len(sample)
    )


def interquartile_mean(values: ArrayLike) -> Array:
    """Mean of the middle half along the last axis, floor(n/4) dropped at each end.

    The aggregate of Agarwal et al. 2021. Diverged runs vanish in it: print their number beside it.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64), axis=-1)
    cut = ordered.shape[-1] // 4
    return np.asarray(ordered[..., cut : ordered.shape[-1] - cut].mean(axis=-1))


# ------------------------------------------------------------------------------------------ checks


def _sample(values: ArrayLike, name: str, minimum: int) -> Array:
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1:
        raise ValueError(f"{name} must be a list of numbers, not an array of shape {sample.shape}")
    if len(sample) < minimum:
        raise ValueError(f"{name}: at least {minimum} needed, not {len(sample)}")
    if not np.isfinite(sample).all():
        bad = int(np.flatnonzero(~np.isfinite(sample))[0])
        raise ValueError(f"{name}[{bad}] is {sample[bad]}; every value must be finite")
    return sample


def _pairs(a: ArrayLike, b: ArrayLike, minimum: int) -> tuple[Array, Array]:
    first, second = _sample(a, "the first arm", minimum), _sample(b, "the second arm", minimum)
    if len(first) != len(second):
        raise ValueError(f"paired arms must be equally long, not {len(first)} and {len(second)}")
    return first, second


def _differences(treated: ArrayLike, control: ArrayLike, minimum: int) -> Array:
    first, second = _pairs(treated, control, minimum)
    return first - second


def _moments(sample: Array) -> tuple[float, float]:
    """Mean and unbiased variance; the variance of equal values is zero, with no rounding error."""
    offsets = sample - sample[0]
    return float(sample[0] + offsets.mean()), float(offsets.var(ddof=1))


def _p_values(p_values: Iterable[float]) -> Array:
    raw = np.asarray(list(p_values), dtype=np.float64)
    if not ((raw >= 0) & (raw <= 1)).all():
        raise ValueError(f"p-values must lie in [0, 1], not {[float(p) for p in raw]}")
    return raw


def _check_alternative(alternative: str) -> None:
    if alternative not in get_args(Alternative):
        raise ValueError(f"alternative must be one of {get_args(Alternative)}, not {alternative!r}")


def _fraction(value: float, name: str) -> float:
    if not 0 < value < 1:
        raise ValueError(f"{name} must lie between 0 and 1, not {value}")
    return value


def _half(alpha: float) -> float:
    if not 0 < alpha < 0.5:
        raise ValueError(f"alpha must lie between 0 and .5, not {alpha}")
    return alpha


def _positive(value: float, name: str) -> float:
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be positive and finite, not {value}")
    return value


def _count(n: int, name: str, minimum: int) -> int:
    if n < minimum:
        raise ValueError(f"{name} must be at least {minimum}, not {n}")
    return n


def _resamples(resamples: int) -> int:
    return _count(resamples, "resamples", 100)


def _needed(generator: np.random.Generator | None, reason: str) -> np.random.Generator:
    if generator is None:
        raise ValueError(f"{reason} need a generator for random resamples")
    return generator
