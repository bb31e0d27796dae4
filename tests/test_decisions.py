import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import at_most, laws

from bnlab.analysis.stats import Decision, decide, holm, sign_flip_p


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


def test_p_values_outside_zero_to_one_are_refused() -> None:
    with pytest.raises(ValueError, match="p-values must lie in"):
        holm([0.5, 1.5])
    with pytest.raises(ValueError, match="p-values must lie in"):
        holm([math.nan])


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


def same_arm_studies(studies: int, arms: int, seeds: int, seed: int) -> float:
    """Share of A/A studies with a Holm-adjusted sign-flip finding."""
    rng = np.random.default_rng(seed)
    findings = 0
    for _ in range(studies):
        baseline = rng.normal(0, 0.3, seeds)
        others = rng.normal(0, 0.3, (arms, seeds))
        findings += min(holm([sign_flip_p(other - baseline) for other in others])) <= 0.05
    return findings / studies


def test_studies_of_one_arm_under_many_labels_find_nothing_in_95_of_100() -> None:
    studies = 2_000
    findings = same_arm_studies(studies, arms=4, seeds=8, seed=12)
    assert findings <= at_most(0.05, studies)
    # The procedure is not vacuous: a shared baseline costs some power, not all.
    assert findings > 0.01


@pytest.mark.slow
@pytest.mark.parametrize(("arms", "seeds"), [(2, 6), (9, 10), (15, 10)])
def test_same_arm_studies_at_length(arms: int, seeds: int) -> None:
    studies = 10_000
    assert same_arm_studies(studies, arms, seeds, seed=arms) <= at_most(0.05, studies)
