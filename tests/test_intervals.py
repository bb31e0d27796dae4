import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import ALTERNATIVES, SLEEP_1, SLEEP_2, laws, numbers, pairs, samples

from bnlab.analysis.stats import (
    Interval,
    MedianEffect,
    mean_interval,
    paired_correlation,
    paired_interval,
    permutation_p,
    sign_flip_p,
    time_to_target,
    welch_interval,
    within,
)
from bnlab.analysis.stats.checks import Alternative
from bnlab.analysis.stats.intervals import t_p


def test_student_sleep_data_give_the_published_paired_interval() -> None:
    interval = paired_interval(SLEEP_2, SLEEP_1)
    assert interval.estimate == pytest.approx(1.58)
    assert (interval.low, interval.high) == pytest.approx((0.7001142, 2.4598858), abs=1e-7)
    assert (interval.n, interval.df, interval.level) == (10, 9, 0.95)
    assert t_p(interval) == pytest.approx(0.002833, abs=1e-6)


def test_student_sleep_data_give_the_published_welch_interval() -> None:
    interval = welch_interval(SLEEP_1, SLEEP_2)
    assert (interval.low, interval.high) == pytest.approx((-3.3654832, 0.2054832), abs=1e-7)
    assert interval.df == pytest.approx(17.776, abs=5e-4)
    assert interval.n == 20
    assert t_p(interval) == pytest.approx(0.07939, abs=1e-5)


@pytest.mark.parametrize("alternative", ALTERNATIVES)
@pytest.mark.parametrize("sizes", [(2, 2), (3, 7), (10, 5)])
def test_welch_agrees_with_scipy(sizes: tuple[int, int], alternative: Alternative) -> None:
    from scipy import stats

    rng = np.random.default_rng(1)
    a, b = rng.normal(1, 1, sizes[0]), rng.normal(0, 5, sizes[1])
    theirs = stats.ttest_ind(a, b, equal_var=False, alternative=alternative)
    interval = welch_interval(a, b, 0.9)
    assert t_p(interval, 0.0, alternative) == pytest.approx(theirs.pvalue)
    if alternative == "two-sided":
        limits = theirs.confidence_interval(0.9)
        assert (interval.low, interval.high) == pytest.approx((limits.low, limits.high))
        assert interval.df == pytest.approx(theirs.df)


@pytest.mark.parametrize("n", [2, 3, 10])
def test_paired_agrees_with_scipy(n: int) -> None:
    from scipy import stats

    rng = np.random.default_rng(n)
    a, b = rng.normal(size=n), rng.normal(size=n)
    limits = stats.ttest_rel(a, b).confidence_interval(0.99)
    interval = paired_interval(a, b, 0.99)
    assert (interval.low, interval.high) == pytest.approx((limits.low, limits.high))


def test_limits_end_where_the_quantity_does_and_the_estimate_stays() -> None:
    near_nothing = mean_interval([0.01, 0.09])
    assert near_nothing.low < 0
    kept = within(near_nothing, 0.0, 1.0)
    assert (kept.low, kept.high) == (0.0, near_nothing.high)
    assert kept.estimate == near_nothing.estimate
    assert within(kept, 0.0, 1.0) == kept


@laws
@given(samples, numbers, st.floats(0.1, 10))
def test_mean_interval_moves_and_scales_with_the_data(
    values: list[float], shift: float, scale: float
) -> None:
    before = mean_interval(values)
    after = mean_interval([scale * value + shift for value in values])
    for name in ("estimate", "low", "high"):
        expected = scale * getattr(before, name) + shift
        assert getattr(after, name) == pytest.approx(expected, rel=1e-7, abs=1e-7)


@laws
@given(pairs)
def test_swapping_the_arms_flips_the_signs(values: list[tuple[float, float]]) -> None:
    a, b = (list(arm) for arm in zip(*values, strict=True))
    for build in (paired_interval, welch_interval):
        one, other = build(a, b), build(b, a)
        flipped = (-other.high, -other.estimate, -other.low)
        assert (one.low, one.estimate, one.high) == pytest.approx(flipped, abs=1e-9)
    differences = np.subtract(a, b)
    assert sign_flip_p(differences, "greater") == sign_flip_p(-differences, "less")
    assert permutation_p(a, b, "greater") == pytest.approx(permutation_p(b, a, "less"))


@laws
@given(samples, st.floats(0.5, 0.98))
def test_a_higher_level_never_narrows_an_interval(values: list[float], level: float) -> None:
    narrow, wide = mean_interval(values, level), mean_interval(values, level + 0.01)
    assert wide.low <= narrow.low <= narrow.estimate <= narrow.high <= wide.high


def test_equal_values_give_an_interval_of_no_width() -> None:
    assert mean_interval([0.1, 0.1, 0.1]) == Interval(0.1, 0.1, 0.1, 0.95, 3, 2, 0.0)
    welch = welch_interval([0.3, 0.3], [0.1, 0.1, 0.1])
    assert welch.low == welch.high == pytest.approx(0.2)
    assert t_p(welch) == 0
    assert t_p(welch, null=welch.estimate) == 1
    assert t_p(welch, null=1.0, alternative="greater") == 1


def test_a_single_value_has_no_interval() -> None:
    with pytest.raises(ValueError, match="values: at least 2 needed, not 1"):
        mean_interval([1.0])
    with pytest.raises(ValueError, match="b: at least 2 needed, not 1"):
        welch_interval([1.0, 2.0], [1.0])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize(
    "call",
    [
        mean_interval,
        lambda x: paired_interval(x, [1.0, 2.0, 3.0]),
        lambda x: welch_interval([1.0, 2.0], x),
        sign_flip_p,
        lambda x: permutation_p(x, [1.0]),
        lambda x: time_to_target([1.0, 2.0, 3.0], x, 0.5),
    ],
)
def test_values_that_are_not_finite_are_refused(
    call: Callable[[list[float]], object], bad: float
) -> None:
    with pytest.raises(ValueError, match="finite"):
        call([1.0, bad, 2.0])


def test_arms_of_different_length_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match="equally long, not 2 and 3"):
        paired_interval([1.0, 2.0], [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="list of numbers"):
        mean_interval([[1.0, 2.0], [3.0, 4.0]])


def test_a_level_in_percent_is_refused() -> None:
    with pytest.raises(ValueError, match="level must lie between 0 and 1, not 95"):
        mean_interval([1.0, 2.0], 95)


def test_only_a_t_interval_has_a_t_test() -> None:
    with pytest.raises(ValueError, match="Student"):
        t_p(MedianEffect(np.ones(9), np.ones(9)).interval())


@pytest.mark.parametrize("n", [3, 5, 10])
def test_t_interval_covers_the_mean_as_often_as_it_says(n: int) -> None:
    rng = np.random.default_rng(n)
    studies = 4_000
    intervals = [mean_interval(values) for values in rng.normal(0.3, 2, (studies, n))]
    coverage = np.mean([interval.low <= 0.3 <= interval.high for interval in intervals])
    assert coverage == pytest.approx(0.95, abs=3 * math.sqrt(0.95 * 0.05 / studies))


@pytest.mark.slow
@pytest.mark.parametrize("n", [3, 5, 10])
def test_t_interval_coverage_to_a_third_of_a_percent(n: int) -> None:
    rng = np.random.default_rng(100 + n)
    studies = 40_000
    intervals = [mean_interval(values) for values in rng.normal(0.3, 2, (studies, n))]
    coverage = np.mean([interval.low <= 0.3 <= interval.high for interval in intervals])
    assert coverage == pytest.approx(0.95, abs=3 * math.sqrt(0.95 * 0.05 / studies))


def test_paired_correlation_agrees_with_scipy() -> None:
    from scipy import stats

    theirs = stats.pearsonr(SLEEP_1, SLEEP_2)
    limits = theirs.confidence_interval()
    rho = paired_correlation(SLEEP_1, SLEEP_2)
    assert rho is not None
    assert rho.estimate == pytest.approx(theirs.statistic)
    assert (rho.low, rho.high) == pytest.approx((limits.low, limits.high))


def test_correlation_is_one_with_itself_and_undefined_with_a_constant_arm() -> None:
    same = paired_correlation(SLEEP_1, SLEEP_1)
    assert same is not None
    assert same.high == pytest.approx(1)
    assert paired_correlation(SLEEP_1, [0.1] * 10) is None
    assert paired_correlation([1, 2, 3, 4], [0, 0, 0, 1e-300]) is None
    with pytest.raises(ValueError, match="at least 4"):
        paired_correlation([1, 2, 3], [3, 2, 1])
