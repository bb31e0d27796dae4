import math
import subprocess
import sys
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bnlab.analysis.stats import (
    Alternative,
    Decision,
    Interval,
    MedianEffect,
    TimeToTarget,
    bootstrap_interval,
    censored_median,
    censored_sign_flip_p,
    decide,
    detectable_effect,
    detectable_margin,
    equivalence_power,
    fisher_exact_p,
    holm,
    holm_levels,
    interquartile_mean,
    label_swap_p,
    mean_interval,
    median_speedup,
    paired_correlation,
    paired_interval,
    paired_power,
    paired_tost,
    permutation_p,
    probability_of_improvement,
    required_n,
    required_n_equivalence,
    required_n_improvement,
    required_n_sign,
    sign_flip_p,
    smallest_permutation_p,
    smallest_sign_flip_p,
    t_p,
    time_to_target,
    verdict_intervals,
    welch_interval,
    welch_tost,
    wilson_interval,
)

laws = settings(deadline=None, max_examples=25, derandomize=True)
numbers = st.floats(-100, 100).map(lambda x: round(x, 3))
samples = st.lists(numbers, min_size=2, max_size=8)
pairs = st.lists(st.tuples(numbers, numbers), min_size=2, max_size=8)

ALTERNATIVES: tuple[Alternative, ...] = ("two-sided", "greater", "less")

# Hours of sleep gained by ten patients under two drugs (Student 1908, after Cushny and Peebles).
SLEEP_1 = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
SLEEP_2 = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]

# Darwin's maize: height of the crossed less the self-fertilized plant, eighths of an inch
# (Fisher 1935, chapter III).
DARWIN = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]


def at_most(rate: float, studies: int) -> float:
    return rate + 3 * math.sqrt(rate * (1 - rate) / studies)


# ----------------------------------------------------------------------------------------- imports


def test_the_module_imports_neither_torch_nor_scipy_stats() -> None:
    code = "import sys, bnlab.analysis.stats; print({'torch', 'scipy.stats'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# --------------------------------------------------------------------------------------- intervals


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
    improvement = probability_of_improvement(a, b).estimate
    assert improvement == pytest.approx(1 - probability_of_improvement(b, a).estimate)


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
        lambda x: label_swap_p(x, [1.0, 2.0, 3.0], np.mean),
        lambda x: probability_of_improvement(x, [1.0, 2.0, 3.0]),
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
        t_p(wilson_interval(3, 4))


@pytest.mark.parametrize("n", [3, 5, 10])
def test_t_interval_covers_the_mean_as_often_as_it_says(n: int) -> None:
    rng = np.random.default_rng(n)
    studies = 4_000
    intervals = [mean_interval(values) for values in rng.normal(0.3, 2, (studies, n))]
    coverage = np.mean([interval.low <= 0.3 <= interval.high for interval in intervals])
    assert coverage == pytest.approx(0.95, abs=3 * math.sqrt(0.95 * 0.05 / studies))


# ----------------------------------------------------------------------------- randomization tests


def test_darwins_maize_gives_fishers_count() -> None:
    assert sum(DARWIN) == 314
    assert sign_flip_p(DARWIN, "greater") == 863 / 2**15
    assert sign_flip_p(DARWIN) == 2 * 863 / 2**15


@pytest.mark.parametrize("alternative", ALTERNATIVES)
def test_sign_flip_agrees_with_scipys_exact_permutation_test(alternative: Alternative) -> None:
    from scipy import stats

    differences = np.random.default_rng(4).normal(0.5, 1, 7)
    theirs = stats.permutation_test(
        (differences,),
        lambda x, axis: np.mean(x, axis=axis),
        permutation_type="samples",
        n_resamples=np.inf,
        alternative=alternative,
        vectorized=True,
    )
    ours = sign_flip_p(differences, alternative)
    assert ours == pytest.approx(theirs.pvalue)


def test_sums_that_differ_by_rounding_alone_are_ties() -> None:
    # .3 - .1 and .1 + .1 differ in the last bit; as whole numbers the answer is certain.
    whole = [1, 2, 3, -1, 2]
    assert sign_flip_p([0.1 * x for x in whole]) == sign_flip_p(whole)
    accuracies = [0.7513, 0.7523, 0.7533, 0.7493, 0.7523]
    assert sign_flip_p(np.subtract(accuracies, 0.7503)) == sign_flip_p(whole)


@laws
@given(st.lists(numbers, min_size=1, max_size=10))
def test_exact_sign_flip_p_is_a_count_of_patterns_no_smaller_than_attainable(
    differences: list[float],
) -> None:
    n = len(differences)
    p = sign_flip_p(differences)
    assert smallest_sign_flip_p(n) <= p <= 1
    assert (p * 2**n).is_integer()
    brute = [abs(np.dot(s, differences)) for s in product([1, -1], repeat=n)]
    slack = 1e-9 * sum(map(abs, differences))
    assert p == np.mean(np.array(brute) >= abs(sum(differences)) - slack)


@pytest.mark.parametrize(("n", "p"), [(3, 0.25), (5, 0.0625), (6, 0.03125), (8, 0.0078125)])
def test_differences_of_one_sign_give_the_smallest_p(n: int, p: float) -> None:
    assert sign_flip_p(np.arange(1, n + 1)) == smallest_sign_flip_p(n) == p
    assert sign_flip_p(np.arange(1, n + 1), "greater") == smallest_sign_flip_p(n, "greater")


def test_no_difference_at_all_gives_p_one() -> None:
    assert sign_flip_p([0.0, 0.0, 0.0]) == 1
    assert permutation_p([0.5, 0.5], [0.5, 0.5]) == 1


def test_monte_carlo_sign_flip_nears_the_t_test_and_never_reaches_zero() -> None:
    rng = np.random.default_rng(5)
    differences = rng.normal(0.35, 1, 40)
    p = sign_flip_p(differences, generator=rng)
    assert p == pytest.approx(t_p(mean_interval(differences)), abs=0.01)
    assert sign_flip_p(np.ones(40), generator=rng, resamples=999) == 1 / 1000


def test_monte_carlo_repeats_with_the_generator() -> None:
    differences = np.random.default_rng(6).normal(size=30)
    first, second = (sign_flip_p(differences, generator=np.random.default_rng(7)) for _ in "ab")
    assert first == second


@pytest.mark.parametrize(
    "call",
    [
        lambda: sign_flip_p(np.ones(21)),
        lambda: permutation_p(np.ones(20), np.zeros(20)),
        lambda: label_swap_p(np.ones(13), np.zeros(13), np.mean),
    ],
)
def test_random_resamples_need_a_generator(call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match="need a generator"):
        call()


@pytest.mark.parametrize("alternative", ALTERNATIVES)
@pytest.mark.parametrize("sizes", [(4, 4), (3, 6)])
def test_permutation_agrees_with_scipys_exact_test(
    sizes: tuple[int, int], alternative: Alternative
) -> None:
    from scipy import stats

    rng = np.random.default_rng(8)
    a, b = rng.normal(1, 1, sizes[0]), rng.normal(0, 1, sizes[1])

    def difference(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
        value = float(np.mean(x) - np.mean(y))
        return abs(value) if alternative == "two-sided" else value

    theirs = stats.permutation_test(
        (a, b),
        difference,
        n_resamples=np.inf,
        alternative="greater" if alternative == "two-sided" else alternative,
    )
    ours = permutation_p(a, b, alternative)
    assert ours == pytest.approx(theirs.pvalue)


def test_separated_samples_give_the_smallest_permutation_p() -> None:
    assert permutation_p([1, 2, 3], [11, 12, 13]) == smallest_permutation_p(3, 3) == 2 / 20
    assert permutation_p([1, 2], [11, 12, 13], "less") == smallest_permutation_p(2, 3) == 1 / 10


def test_monte_carlo_permutation_nears_welch() -> None:
    rng = np.random.default_rng(9)
    a, b = rng.normal(0.5, 1, 20), rng.normal(0, 1, 20)
    assert permutation_p(a, b, generator=rng) == pytest.approx(t_p(welch_interval(a, b)), abs=0.01)


def test_swapping_labels_under_the_mean_is_the_sign_flip_test() -> None:
    rng = np.random.default_rng(10)
    a, b = rng.normal(size=6), rng.normal(size=6)
    assert label_swap_p(a, b, np.mean) == sign_flip_p(a - b)
    assert label_swap_p(a, b, np.mean, "greater") == sign_flip_p(a - b, "greater")


def test_swapping_labels_finds_a_smaller_range_over_settings() -> None:
    rng = np.random.default_rng(11)
    noise = rng.normal(0, 0.1, (2, 8, 3))
    treated, control = noise[0], noise[1] + np.array([0.0, 1.0, 5.0])

    def spread(values: NDArray[np.float64]) -> float:
        return float(np.ptp(values.mean(axis=0)))

    assert label_swap_p(treated, control, spread, "less") == 1 / 2**8
    assert label_swap_p(treated, control, spread, "greater") == 1
    many = np.tile(noise, (1, 2, 1))
    p = label_swap_p(many[0], many[1] + 1, spread, generator=rng, resamples=200)
    assert p > 0.05
    with pytest.raises(ValueError, match="shapes"):
        label_swap_p(treated, control[:, :2], spread)


def test_an_unknown_alternative_is_refused() -> None:
    with pytest.raises(ValueError, match="'larger'"):
        sign_flip_p([1.0], "larger")  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------- many contrasts


def test_holm_gives_the_textbook_values() -> None:
    assert holm([0.01, 0.04, 0.03, 0.20]) == pytest.approx([0.04, 0.09, 0.09, 0.20])
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


p_lists = st.lists(st.floats(0, 1), min_size=1, max_size=9)


@laws
@given(p_lists)
def test_holm_keeps_the_order_and_lies_between_raw_p_and_bonferroni(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    for p, q in zip(p_values, adjusted, strict=True):
        assert p <= q <= min(1, len(p_values) * p) or q == pytest.approx(p)
    by_raw = [adjusted[i] for i in np.argsort(p_values, kind="stable")]
    assert by_raw == sorted(by_raw)


@laws
@given(p_lists)
def test_holm_levels_reject_exactly_what_holm_rejects(p_values: list[float]) -> None:
    levels = holm_levels(p_values, 0.95)
    for p, q, level in zip(p_values, holm(p_values), levels, strict=True):
        assert level >= 0.95 - 1e-12
        assert level <= 1 - 0.05 / len(p_values) + 1e-12
        if abs(q - 0.05) > 1e-9:
            assert (p <= 1 - level) == (q <= 0.05)


def test_holm_levels_of_the_textbook_values() -> None:
    expected = [1 - 0.05 / 3, 1 - 0.05 / 2, 1 - 0.05 / 2, 1 - 0.05 / 4]
    assert holm_levels([0.01, 0.04, 0.03, 0.005]) == pytest.approx(expected)


def test_p_values_outside_zero_to_one_are_refused() -> None:
    with pytest.raises(ValueError, match="p-values must lie in"):
        holm([0.5, 1.5])
    with pytest.raises(ValueError, match="p-values must lie in"):
        holm([math.nan])


def test_a_single_contrast_keeps_its_ordinary_interval() -> None:
    plain = paired_interval(SLEEP_2, SLEEP_1)
    (corrected,) = verdict_intervals([paired_interval(SLEEP_2, SLEEP_1, 0.5)], [1.0])
    assert (corrected.low, corrected.high) == pytest.approx((plain.low, plain.high))


def test_many_contrasts_widen_the_intervals_up_to_bonferroni() -> None:
    weak = mean_interval([1.0, 2.0, -3.0, 1.0])
    five = verdict_intervals([weak] * 5, [1.0] * 5)
    bonferroni = mean_interval([1.0, 2.0, -3.0, 1.0], 0.99)
    for interval in five:
        assert (interval.low, interval.high) == pytest.approx((bonferroni.low, bonferroni.high))
    with pytest.raises(ValueError, match="2 contrasts"):
        verdict_intervals([weak, weak], [1.0])


# ------------------------------------------------------------------------------------- the verdict


@pytest.mark.parametrize(
    ("low", "estimate", "high", "decision"),
    [
        (0.1, 0.5, 0.9, Decision("SUPPORTED")),
        (0.1, 0.3, 0.5, Decision("SUPPORTED")),
        (-0.1, 0.5, 1.1, Decision("INCONCLUSIVE")),
        (0.0, 0.5, 1.0, Decision("INCONCLUSIVE")),
        (0.1, 0.25, 0.4, Decision("INCONCLUSIVE")),
        (-0.1, 0.1, 0.3, Decision("INCONCLUSIVE")),
        (-0.1, 0.05, 0.2, Decision("REFUTED")),
        (0.1, 0.15, 0.2, Decision("REFUTED", "real but negligible")),
        (-0.9, -0.5, -0.1, Decision("REFUTED", "reversed")),
        (-math.inf, -math.inf, 0.1, Decision("REFUTED")),
        (0.5, 0.6, math.inf, Decision("SUPPORTED")),
    ],
)
def test_the_verdict_rule_on_known_cases(
    low: float, estimate: float, high: float, decision: Decision
) -> None:
    assert decide(low, high, estimate, 0.3) == decision


limits = st.one_of(st.floats(-3, 3), st.sampled_from([0.0, 1.0, -math.inf, math.inf]))


@settings(laws, max_examples=200)
@given(st.tuples(limits, limits, limits), st.sampled_from([0.5, 1.0]))
def test_exactly_one_verdict_holds(values: tuple[float, float, float], delta: float) -> None:
    low, estimate, high = sorted(values)
    supported = low > 0 and estimate >= delta
    refuted = high < delta
    assert not (supported and refuted)
    expected = "SUPPORTED" if supported else "REFUTED" if refuted else "INCONCLUSIVE"
    decision = decide(low, high, estimate, delta)
    assert decision.label == expected
    assert (decision.sublabel == "reversed") == (refuted and high < 0)
    assert (decision.sublabel == "real but negligible") == (refuted and low > 0)


@pytest.mark.parametrize(
    "arguments", [(1.0, 2.0, 3.0, 0.1), (2.0, 1.0, 1.5, 0.1), (math.nan, 1.0, 0.5, 0.1)]
)
def test_limits_that_do_not_enclose_the_estimate_are_refused(
    arguments: tuple[float, float, float, float],
) -> None:
    with pytest.raises(ValueError, match="expected low <= estimate <= high"):
        decide(*arguments)


def test_the_smallest_effect_must_be_positive() -> None:
    with pytest.raises(ValueError, match="smallest_effect must be positive"):
        decide(0.0, 1.0, 0.5, 0.0)


def same_arm_studies(studies: int, arms: int, seeds: int, seed: int) -> tuple[float, float]:
    """Shares of A/A studies with a Holm-adjusted sign-flip finding, and with a false verdict."""
    rng = np.random.default_rng(seed)
    findings = verdicts = 0
    for _ in range(studies):
        baseline = rng.normal(0, 0.3, seeds)
        others = rng.normal(0, 0.3, (arms, seeds))
        findings += min(holm([sign_flip_p(other - baseline) for other in others])) <= 0.05
        contrasts = [paired_interval(other, baseline) for other in others]
        corrected = verdict_intervals(contrasts, [0.3] * arms)
        decisions = [decide(x.low, x.high, x.estimate, 0.3) for x in corrected]
        # Without an effect both are false: that there is one, and that it is reversed.
        verdicts += any(d.label == "SUPPORTED" or d.sublabel is not None for d in decisions)
    return findings / studies, verdicts / studies


def test_studies_of_one_arm_under_many_labels_find_nothing_in_95_of_100() -> None:
    studies = 2_000
    findings, verdicts = same_arm_studies(studies, arms=4, seeds=8, seed=12)
    assert findings <= at_most(0.05, studies)
    assert verdicts <= at_most(0.05, studies)
    # The procedure is not vacuous: a shared baseline costs some power, not all.
    assert findings > 0.01
    assert verdicts > 0.01


def test_effects_of_exactly_the_smallest_size_are_refuted_in_at_most_5_of_100_studies() -> None:
    studies, arms, effect = 1_000, 9, 2.0
    rng = np.random.default_rng(13)
    false = naive = 0
    for _ in range(studies):
        contrasts = [mean_interval(values) for values in rng.normal(effect, 1, (arms, 10))]
        corrected = verdict_intervals(contrasts, [effect] * arms)
        false += any(interval.high < effect for interval in corrected)
        # Levels taken from tests against zero protect zero only.
        levels = holm_levels([t_p(interval) for interval in contrasts])
        naive += any(
            verdict_intervals([interval], [effect], level)[0].high < effect
            for interval, level in zip(contrasts, levels, strict=True)
        )
    assert false / studies <= at_most(0.05, studies)
    assert naive / studies > 0.1


# ------------------------------------------------------------------------------------- equivalence


def test_tost_is_two_one_sided_t_tests() -> None:
    from scipy import stats

    margin = 2.5
    differences = np.subtract(SLEEP_2, SLEEP_1)
    p_low = stats.ttest_1samp(differences, -margin, alternative="greater").pvalue
    p_high = stats.ttest_1samp(differences, margin, alternative="less").pvalue
    result = paired_tost(SLEEP_2, SLEEP_1, margin)
    assert result.p == pytest.approx(max(p_low, p_high))
    assert result.equivalent
    assert result.interval.level == pytest.approx(0.9)
    welch = welch_tost(SLEEP_2, SLEEP_1, margin)
    above = np.add(SLEEP_1, margin)
    theirs = stats.ttest_ind(SLEEP_2, above, equal_var=False, alternative="less")
    assert welch.p == pytest.approx(theirs.pvalue)
    assert not welch.equivalent
    with pytest.raises(ValueError, match=r"alpha must lie between 0 and \.5"):
        paired_tost(SLEEP_2, SLEEP_1, margin, alpha=0.5)


@laws
@given(pairs, st.floats(0.1, 200))
def test_equivalence_holds_exactly_if_the_90_percent_interval_is_inside(
    values: list[tuple[float, float]], margin: float
) -> None:
    a, b = (list(arm) for arm in zip(*values, strict=True))
    for test in (paired_tost, welch_tost):
        result = test(a, b, margin)
        inside = -margin < result.interval.low and result.interval.high < margin
        if abs(result.p - 0.05) > 1e-9:
            assert result.equivalent == inside


# ------------------------------------------------------------------------------------------- power


@pytest.mark.parametrize(
    ("n", "effect"), [(3, 3.26), (5, 1.68), (8, 1.16), (10, 1.00), (16, 0.75), (20, 0.66)]
)
def test_detectable_effect_in_spreads_of_the_difference(n: int, effect: float) -> None:
    assert detectable_effect(n, 1.0) == pytest.approx(effect, abs=0.01)
    assert detectable_effect(n, 0.2) == pytest.approx(0.2 * effect, abs=0.002)
    assert required_n(detectable_effect(n, 1.0), 1.0) == n


@pytest.mark.parametrize(("n", "effect"), [(5, 3.06), (8, 1.77), (10, 1.46), (16, 1.04), (20, 0.9)])
def test_detectable_effect_under_nine_claims(n: int, effect: float) -> None:
    assert detectable_effect(n, 1.0, alpha=0.05 / 9) == pytest.approx(effect, abs=0.011)


@pytest.mark.parametrize(
    ("n", "margin"), [(5, 1.60), (10, 1.01), (16, 0.77), (20, 0.68), (30, 0.55), (40, 0.47)]
)
def test_detectable_margin_in_spreads_of_the_difference(n: int, margin: float) -> None:
    assert detectable_margin(n, 1.0) == pytest.approx(margin, abs=0.01)
    assert required_n_equivalence(detectable_margin(n, 1.0), 1.0) == n


def test_required_n_for_the_plans_of_this_project() -> None:
    assert required_n_equivalence(0.3, 0.2 * math.sqrt(2)) == 10
    assert required_n_equivalence(0.3, 0.3 * math.sqrt(2)) == 19
    assert required_n(100.0, 1.0) == 2
    # Large samples: (z(.975) + z(.8))^2 = 7.8489.
    assert required_n(0.001, 1.0) == pytest.approx(7_848_880, rel=1e-4)


@pytest.mark.parametrize(("n", "effect"), [(2, 1.0), (5, 1.5), (30, 0.4), (200, 0.1)])
def test_paired_power_agrees_with_scipys_noncentral_t(n: int, effect: float) -> None:
    from scipy import stats

    critical, shift = stats.t.ppf(0.975, n - 1), effect * math.sqrt(n)
    theirs = stats.nct.sf(critical, n - 1, shift) + stats.nct.cdf(-critical, n - 1, shift)
    assert paired_power(n, effect, 1.0) == pytest.approx(theirs, abs=1e-9)
    assert paired_power(n, -effect, 1.0) == paired_power(n, effect, 1.0)


def test_power_without_an_effect_is_alpha() -> None:
    assert paired_power(7, 0.0, 1.0) == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("n", "margin", "truth"), [(2, 8.0, 0.0), (5, 1.6, 0.3), (10, 1.0, -0.2), (40, 0.6, 0.1)]
)
def test_equivalence_power_agrees_with_simulation(n: int, margin: float, truth: float) -> None:
    from scipy import stats

    reps = 100_000
    rng = np.random.default_rng(n)
    means = rng.normal(truth, 1 / math.sqrt(n), reps)
    spreads = np.sqrt(rng.chisquare(n - 1, reps) / (n - 1))
    half = stats.t.ppf(0.95, n - 1) * spreads / math.sqrt(n)
    share = float(np.mean((means - half > -margin) & (means + half < margin)))
    assert equivalence_power(n, margin, 1.0, truth) == pytest.approx(share, abs=0.006)


def test_equivalence_power_stays_in_its_range_at_the_extremes() -> None:
    assert equivalence_power(2, 1e-6, 1.0) == pytest.approx(0, abs=1e-6)
    assert equivalence_power(1000, 0.01, 1.0) == 0
    assert equivalence_power(2, 1000.0, 1.0) == pytest.approx(1, abs=1e-3)
    assert equivalence_power(10**6, 0.1, 1.0) == pytest.approx(1, abs=1e-9)


def test_an_injected_effect_is_found_as_often_as_promised() -> None:
    studies, effect, sd = 2_000, 0.3, 0.3
    n = required_n(effect, sd * math.sqrt(2))
    rng = np.random.default_rng(14)
    control, treated = rng.normal(0, sd, (2, studies, n))
    contrasts = [paired_interval(t + effect, c) for t, c in zip(treated, control, strict=True)]
    found = np.mean([interval.low > 0 for interval in contrasts])
    promised = paired_power(n, effect, sd * math.sqrt(2))
    assert promised >= 0.8
    assert found == pytest.approx(promised, abs=3 * math.sqrt(0.16 / studies))
    # With no effect the same n refutes "at least this effect" as often.
    nulls = [paired_interval(t, c) for t, c in zip(treated, control, strict=True)]
    refuted = np.mean([decide(x.low, x.high, x.estimate, effect).label == "REFUTED" for x in nulls])
    assert refuted == pytest.approx(promised, abs=3 * math.sqrt(0.16 / studies))


def test_plans_without_an_answer_are_refused() -> None:
    with pytest.raises(ValueError, match="not inside the margin"):
        required_n_equivalence(0.3, 1.0, true_difference=0.3)
    with pytest.raises(ValueError, match="sd_diff must be positive"):
        required_n(0.3, 0.0)
    with pytest.raises(ValueError, match="size of the effect must be positive"):
        required_n(0.0, 1.0)
    with pytest.raises(ValueError, match="too small beside the spread"):
        required_n(1e-9, 1.0)
    with pytest.raises(ValueError, match="n must be at least 2"):
        detectable_effect(1, 1.0)


# -------------------------------------------------------------------------------- counts and ranks


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_newcombes_intervals(successes: int, n: int, low: float, high: float) -> None:
    interval = wilson_interval(successes, n)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=5e-5)
    assert interval.estimate == successes / n


@laws
@given(st.integers(1, 40).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_stays_in_range_and_mirrors(counts: tuple[int, int]) -> None:
    successes, n = counts
    interval, mirror = wilson_interval(successes, n), wilson_interval(n - successes, n)
    assert -1e-12 <= interval.low <= interval.estimate <= interval.high <= 1 + 1e-12
    assert interval.low == pytest.approx(1 - mirror.high, abs=1e-12)


def test_fishers_tea() -> None:
    assert fisher_exact_p(3, 4, 1, 4, "greater") == 17 / 70
    assert fisher_exact_p(3, 4, 1, 4) == 34 / 70
    assert fisher_exact_p(4, 4, 0, 4) == 2 / 70


@pytest.mark.parametrize(("n", "p"), [(3, 0.10), (4, 0.029), (5, 0.0079), (6, 0.0022)])
def test_all_against_none_gives_the_known_fisher_p(n: int, p: float) -> None:
    assert fisher_exact_p(n, n, 0, n) == pytest.approx(p, rel=0.02)


@laws
@given(st.integers(1, 12), st.integers(1, 12), st.data())
def test_fisher_agrees_with_scipy(n_a: int, n_b: int, data: st.DataObject) -> None:
    from scipy import stats

    a, b = data.draw(st.integers(0, n_a)), data.draw(st.integers(0, n_b))
    for alternative in ALTERNATIVES:
        theirs = stats.fisher_exact([[a, n_a - a], [b, n_b - b]], alternative=alternative).pvalue
        ours = fisher_exact_p(a, n_a, b, n_b, alternative)
        assert ours == pytest.approx(theirs)


def test_impossible_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="successes must lie between 0 and 3, not 4"):
        wilson_interval(4, 3)
    with pytest.raises(ValueError, match="b_success must lie between 0 and 3, not -1"):
        fisher_exact_p(1, 3, -1, 3)


def test_probability_of_improvement_counts_ties_half() -> None:
    improvement = probability_of_improvement([1, 2, 3, 4], [0, 2, 4, 0])
    assert improvement.estimate == 2.5 / 4
    assert improvement.low < 0.5 < improvement.high
    assert improvement.n == 4


def test_noethers_formula_asks_for_29_pairs() -> None:
    assert required_n_improvement() == 29
    with pytest.raises(ValueError, match="probability must lie in"):
        required_n_improvement(0.5)


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


# ------------------------------------------------------------------------------- times to a target


def reached(*values: float) -> list[TimeToTarget]:
    return [TimeToTarget(value, reached=True) for value in values]


def censored(*values: float) -> list[TimeToTarget]:
    return [TimeToTarget(value, reached=False) for value in values]


def test_time_to_target_is_the_first_measured_point_that_reaches_it() -> None:
    epochs, accuracy = [1, 2, 3, 4], [0.3, 0.5, 0.4, 0.7]
    assert time_to_target(epochs, accuracy, 0.45) == TimeToTarget(2, reached=True)
    assert time_to_target(epochs, accuracy, 0.5) == TimeToTarget(2, reached=True)
    assert time_to_target(epochs, accuracy, 0.2) == TimeToTarget(1, reached=True)
    assert time_to_target(epochs, accuracy, 0.71) == TimeToTarget(4, reached=False)


def test_interpolation_places_the_crossing_on_the_line_between_points() -> None:
    answer = time_to_target([1, 2, 4], [0.0, 0.5, 0.7], 0.6, interpolate=True)
    assert answer.reached
    assert answer.value == pytest.approx(3)
    at_start = time_to_target([1, 2], [0.5, 0.6], 0.1, interpolate=True)
    assert at_start == TimeToTarget(1, reached=True)


def test_a_curve_must_be_a_function_of_time() -> None:
    with pytest.raises(ValueError, match="must increase"):
        time_to_target([1, 1], [0.1, 0.2], 0.1)
    with pytest.raises(ValueError, match="2 times has 1 values"):
        time_to_target([1, 2], [0.1], 0.1)
    with pytest.raises(ValueError, match="target must be finite"):
        time_to_target([1, 2], [0.1, 0.2], math.nan)


def test_the_median_is_a_bound_where_censoring_touches_it() -> None:
    assert censored_median(reached(1, 2) + censored(9)) == TimeToTarget(2, reached=True)
    assert censored_median(reached(1) + censored(9, 9)) == TimeToTarget(9, reached=False)
    assert censored_median(reached(1, 2) + censored(9, 9)) == TimeToTarget(5.5, reached=False)
    assert censored_median(censored(9, 9)) == TimeToTarget(9, reached=False)
    with pytest.raises(ValueError, match="no times"):
        censored_median([])


def test_speedup_of_observed_times_is_the_median_log_ratio() -> None:
    speedup = median_speedup(reached(1, 1, 1, 1, 1, 1), reached(2, 2, 4, 4, 8, 8))
    assert speedup.at_least == speedup.at_most == 2
    assert (speedup.low, speedup.high) == (1, 3)
    assert speedup.level == 1 - 2 / 2**6


def test_a_control_that_never_arrives_makes_the_speedup_at_least() -> None:
    control = reached(2, 2) + censored(8, 8, 8, 8)
    speedup = median_speedup(reached(1, 1, 1, 1, 1, 1), control)
    assert (speedup.at_least, speedup.at_most) == (3, math.inf)
    assert (speedup.low, speedup.high) == (1, math.inf)
    both = median_speedup(censored(8, 8, 8, 8, 8, 8), control)
    assert (both.low, both.high) == (-math.inf, math.inf)
    assert (both.at_least, both.at_most) == (-math.inf, math.inf)


def test_ten_pairs_give_the_second_order_statistics() -> None:
    control = reached(*(2.0**k for k in range(10)))
    speedup = median_speedup(reached(*[1.0] * 10), control)
    assert (speedup.low, speedup.high) == (1, 8)
    assert speedup.level == pytest.approx(1 - 22 / 1024)


def test_five_pairs_are_too_few_for_a_median_at_95_percent() -> None:
    with pytest.raises(ValueError, match="5 pairs are too few"):
        median_speedup(reached(1, 1, 1, 1, 1), reached(2, 2, 2, 2, 2))
    with pytest.raises(ValueError, match="must be positive"):
        median_speedup(reached(0), reached(1))


def test_censored_sign_flip_without_censoring_is_wilcoxons_signed_rank_test() -> None:
    from scipy import stats

    rng = np.random.default_rng(15)
    treated, control = np.exp(rng.normal(0, 1, 9)), np.exp(rng.normal(0.8, 1, 9))
    for alternative in ALTERNATIVES:
        theirs = stats.wilcoxon(np.log2(control / treated), alternative=alternative)
        ours = censored_sign_flip_p(
            reached(*treated),
            reached(*control),
            alternative,
        )
        assert ours == pytest.approx(theirs.pvalue)


def test_controls_that_never_arrive_give_the_smallest_p() -> None:
    p = censored_sign_flip_p(reached(5, 6, 7, 8, 9, 20), censored(20, 20, 20, 20, 20, 20))
    assert p == smallest_sign_flip_p(6)


def test_pairs_whose_order_is_unknown_count_for_nothing() -> None:
    treated, control = reached(1, 2, 3, 4), reached(2, 5, 9, 16)
    known = censored_sign_flip_p(treated, control, "greater")
    unknown = (
        [(False, 20.0), (False, 20.0)],  # both censored
        [(True, 9.0), (False, 5.0)],  # the control was watched for too short
        [(False, 5.0), (True, 9.0)],  # the treated arm was
    )
    for (first, t), (second, c) in unknown:
        more_treated = [*treated, TimeToTarget(t, first)]
        more_control = [*control, TimeToTarget(c, second)]
        assert censored_sign_flip_p(more_treated, more_control, "greater") == known == 1 / 16
    assert censored_sign_flip_p(censored(9, 9), censored(9, 9)) == 1


def censored_studies(studies: int, seed: int) -> tuple[float, float]:
    """Shares of A/A studies with p <= .05, and with a median's interval that excludes zero."""
    rng = np.random.default_rng(seed)
    findings = misses = 0
    for _ in range(studies):
        times = np.exp(rng.normal(2, 0.5, (2, 10)))
        watched = 10.0
        treated, control = (
            [TimeToTarget(min(t, watched), bool(t <= watched)) for t in arm] for arm in times
        )
        findings += censored_sign_flip_p(treated, control) <= 0.05
        speedup = median_speedup(treated, control)
        misses += not speedup.low <= 0 <= speedup.high
    return findings / studies, misses / studies


def test_censored_comparisons_of_one_arm_with_itself_find_nothing_in_95_of_100() -> None:
    studies = 1_000
    for rate in censored_studies(studies, seed=16):
        assert rate <= at_most(0.05, studies)


# --------------------------------------------------------------------------------------- bootstrap


def test_interquartile_mean_drops_a_quarter_at_each_end() -> None:
    assert interquartile_mean([100, 1, 2, 3, 4, 5, 6, -100]) == pytest.approx(3.5)
    np.testing.assert_allclose(interquartile_mean([[1, 2, 3, 40], [4, 4, 6, 90]]), [2.5, 5])


def test_interquartile_mean_agrees_with_scipys_trimmed_mean() -> None:
    from scipy import stats

    values = np.random.default_rng(17).normal(size=23)
    assert interquartile_mean(values) == pytest.approx(stats.trim_mean(values, 0.25))


def test_bootstrap_of_the_mean_nears_students_interval() -> None:
    values = np.random.default_rng(18).normal(3, 1, 100)
    student = mean_interval(values)
    interval = bootstrap_interval(
        values, lambda x: x.mean(axis=-1), np.random.default_rng(19), resamples=4_000
    )
    assert interval.estimate == pytest.approx(student.estimate)
    assert (interval.low, interval.high) == pytest.approx((student.low, student.high), abs=0.02)
    assert interval.df is None


def test_bootstrap_refuses_few_values_and_statistics_of_the_wrong_axis() -> None:
    rng = np.random.default_rng(20)
    with pytest.raises(ValueError, match="at least 20 needed, not 19"):
        bootstrap_interval(np.ones(19), interquartile_mean, rng)
    with pytest.raises(ValueError, match="reduce the last axis"):
        bootstrap_interval(np.arange(20.0), lambda x: x.mean(axis=0), rng, resamples=100)
    with pytest.raises(ValueError, match="resamples must be at least 100"):
        bootstrap_interval(np.arange(20.0), interquartile_mean, rng, resamples=10)


# -------------------------------------------------------------------------------- long simulations


@pytest.mark.slow
@pytest.mark.parametrize("n", [3, 5, 10])
def test_t_interval_coverage_to_a_third_of_a_percent(n: int) -> None:
    rng = np.random.default_rng(100 + n)
    studies = 40_000
    intervals = [mean_interval(values) for values in rng.normal(0.3, 2, (studies, n))]
    coverage = np.mean([interval.low <= 0.3 <= interval.high for interval in intervals])
    assert coverage == pytest.approx(0.95, abs=3 * math.sqrt(0.95 * 0.05 / studies))


@pytest.mark.slow
@pytest.mark.parametrize(("arms", "seeds"), [(2, 6), (9, 10), (15, 10)])
def test_same_arm_studies_at_length(arms: int, seeds: int) -> None:
    studies = 10_000
    for rate in same_arm_studies(studies, arms, seeds, seed=arms):
        assert rate <= at_most(0.05, studies)


@pytest.mark.slow
def test_censored_comparisons_at_length() -> None:
    studies = 20_000
    for rate in censored_studies(studies, seed=21):
        assert rate <= at_most(0.05, studies)


@pytest.mark.parametrize("effect", [5.0, 7.5, 8.2, 9.0, 20.0])
def test_a_huge_effect_is_found_for_certain(effect: float) -> None:
    assert paired_power(10, effect, 1.0, 0.005) == pytest.approx(1.0)


# --------------------------------------------------------------------------------- effects by ranks


def test_the_sign_test_is_scipys_binomial_test() -> None:
    from scipy import stats

    values = np.array([2.0, 1.0, 0.0, 3.0, -1.0, 1.0, 2.0, 1.0, 4.0])
    effect = MedianEffect(values, values)
    for null in (-2.0, 0.0, 0.5, 1.0, 3.5):
        above, below = int((values > null).sum()), int((values < null).sum())
        greater = stats.binomtest(above, 9, alternative="greater").pvalue
        less = stats.binomtest(below, 9, alternative="greater").pvalue
        assert effect.p(null, "greater") == pytest.approx(greater)
        assert effect.p(null, "less") == pytest.approx(less)


def test_limits_of_a_median_are_the_tabled_order_statistics() -> None:
    values = np.arange(1.0, 11.0)
    # n = 10, 95 %: the second smallest and second largest (coverage 97.9 %).
    found = MedianEffect(values, values).interval(0.95)
    assert (found.estimate, found.low, found.high) == (5.5, 2.0, 9.0)
    few = MedianEffect(values[:5], values[:5]).interval(0.95)
    assert (few.low, few.high) == (-math.inf, math.inf)


@laws
@given(
    values=st.lists(st.integers(-3, 3), min_size=2, max_size=25),
    null=st.integers(-4, 4),
    alpha=st.sampled_from([0.2, 0.1, 0.05, 0.01]),
)
def test_limits_of_a_median_exclude_exactly_what_the_sign_test_rejects(
    values: list[int], null: int, alpha: float
) -> None:
    known = np.array(values, dtype=np.float64)
    effect = MedianEffect(known, known)
    limits = effect.interval(1 - alpha)
    assert (limits.low > null) == (effect.p(null, "greater") <= alpha / 2 * (1 + 1e-9))
    assert (limits.high < null) == (effect.p(null, "less") <= alpha / 2 * (1 + 1e-9))


def test_censored_seeds_move_only_the_limit_that_they_say_nothing_of() -> None:
    low = np.ones(10)
    open_end = MedianEffect(low, np.full(10, math.inf)).interval()
    assert (open_end.estimate, open_end.low, open_end.high) == (1.0, 1.0, math.inf)
    one_unknown = np.concatenate([[-math.inf], low[1:]])
    assert MedianEffect(one_unknown, low).interval().low == 1.0


def test_a_median_of_steps_is_covered_as_promised() -> None:
    generator = np.random.default_rng(5)
    studies = generator.integers(-1, 2, (2000, 12)).astype(np.float64)
    limits = [MedianEffect(one, one).interval(0.9) for one in studies]
    assert np.mean([i.low <= 0 <= i.high for i in limits]) >= 0.9


@pytest.mark.parametrize("share", [0.7, 0.85, 1.0])
def test_the_sign_tests_seeds_are_the_fewest_with_that_power(share: float) -> None:
    from scipy import stats

    alpha, power = 0.005, 0.8

    def reached(n: int) -> float:
        counts = np.arange(n + 1)
        rejects = counts[stats.binom.sf(counts - 1, n, 0.5) <= alpha / 2]
        return float(stats.binom.sf(rejects[0] - 1, n, share)) if len(rejects) else 0.0

    n = required_n_sign(share, alpha, power)
    assert n is not None
    assert reached(n) >= power
    assert all(reached(fewer) < power for fewer in range(1, n))


def test_no_number_of_seeds_finds_an_even_split() -> None:
    assert required_n_sign(0.5) is None
    assert required_n_sign(0.2) is None


def test_means_and_medians_are_corrected_in_one_family() -> None:
    steps = MedianEffect(np.full(10, 2.0), np.full(10, 2.0))
    mean = mean_interval(np.linspace(0.5, 1.5, 10))
    found = verdict_intervals([steps, mean], [1.0, 0.1])
    assert (found[0].low, found[0].high) == (2.0, 2.0)
    assert found[1].low > 0
    # Ten seeds that agree have a p-value of 2 / 2^10 each way: enough among ten claims.
    among = verdict_intervals([steps, *[mean] * 9], [1.0, *[0.1] * 9])
    assert among[0].low == 2.0
