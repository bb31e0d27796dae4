import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import SLEEP_1, SLEEP_2, at_most, laws

from bnlab.analysis.stats import (
    MedianEffect,
    decide,
    holm,
    mean_interval,
    paired_interval,
    sign_flip_p,
    verdict_intervals,
)
from bnlab.analysis.stats.decisions import Decision, holm_levels
from bnlab.analysis.stats.intervals import t_p


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


def test_means_and_medians_are_corrected_in_one_family() -> None:
    steps = MedianEffect(np.full(10, 2.0), np.full(10, 2.0))
    mean = mean_interval(np.linspace(0.5, 1.5, 10))
    found = verdict_intervals([steps, mean], [1.0, 0.1])
    assert (found[0].low, found[0].high) == (2.0, 2.0)
    assert found[1].low > 0
    # Ten seeds that agree have a p-value of 2 / 2^10 each way: enough among ten claims.
    among = verdict_intervals([steps, *[mean] * 9], [1.0, *[0.1] * 9])
    assert among[0].low == 2.0


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
    assert decision.ruling == expected
    assert (decision.refinement == "reversed") == (refuted and high < 0)
    assert (decision.refinement == "real but negligible") == (refuted and low > 0)


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
        verdicts += any(d.ruling == "SUPPORTED" or d.refinement is not None for d in decisions)
    return findings / studies, verdicts / studies


def test_studies_of_one_arm_under_many_labels_find_nothing_in_95_of_100() -> None:
    studies = 2_000
    findings, verdicts = same_arm_studies(studies, arms=4, seeds=8, seed=12)
    assert findings <= at_most(0.05, studies)
    assert verdicts <= at_most(0.05, studies)
    # The procedure is not vacuous: a shared baseline costs some power, not all.
    assert findings > 0.01
    assert verdicts > 0.01


@pytest.mark.slow
@pytest.mark.parametrize(("arms", "seeds"), [(2, 6), (9, 10), (15, 10)])
def test_same_arm_studies_at_length(arms: int, seeds: int) -> None:
    studies = 10_000
    for rate in same_arm_studies(studies, arms, seeds, seed=arms):
        assert rate <= at_most(0.05, studies)


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
