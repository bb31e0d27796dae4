"""The rule of one claim: its promised error rates, and what failures change in it."""

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.typing import NDArray
from samples import at_most

from bnlab.analysis.stats import paired_power
from bnlab.claims import (
    CLAIM_LEVEL,
    CLAIMS,
    MIN_N,
    Claim,
    Contrast,
    Evidence,
    Failures,
    Verdict,
    explain,
    find_power,
    judge,
    make_contrast,
    make_median_contrast,
)
from bnlab.claims._base import SCORED_AS_GUESSES
from bnlab.claims._contrast import CLAIM_ALPHA
from bnlab.claims._rule import rule_of

Array = NDArray[np.float64]

ACCURACY = CLAIMS["accuracy"]
ABOUT_TRAINING = replace(ACCURACY, about_training=True)


def evidence(
    none: Array, batch: Array, none_failed: Array | None = None, batch_failed: Array | None = None
) -> Evidence:
    """Two arms, of whose runs some diverged and score as guesses."""
    scores = {"none": none, "batch": batch}
    failed = {
        "none": np.zeros(len(none)) if none_failed is None else none_failed,
        "batch": np.zeros(len(batch)) if batch_failed is None else batch_failed,
    }
    best = {arm: np.where(failed[arm] > 0, 0.1, scores[arm]) for arm in scores}
    return Evidence(best=best, same=best, diverged=failed)


def first(count: int, n: int = 12) -> Array:
    """The first so many of n seeds fail."""
    return (np.arange(n) < count).astype(float)


def judged(
    gain: float, none_failed: int = 0, batch_failed: int = 0, claim: Claim = ACCURACY
) -> Verdict:
    spread = np.linspace(-0.002, 0.002, 12)
    none = np.full(12, 0.5)
    contrast = claim.contrast(
        evidence(none, none + gain + spread, first(none_failed), first(batch_failed))
    )
    return judge(claim, contrast, "full")


# --------------------------------------------------------------------------------------- failures


def test_the_effect_is_that_of_the_seeds_on_which_both_sides_trained() -> None:
    none, spread = np.full(12, 0.5), np.linspace(-0.002, 0.002, 12)
    contrast = ACCURACY.contrast(evidence(none, none + 0.02 + spread, first(1), first(2)))
    assert len(contrast.differences) == 10
    assert contrast.seeds == 12
    assert contrast.interval.estimate == pytest.approx(0.02 + spread[2:].mean())
    guesses = contrast.details[0]
    assert guesses.name == SCORED_AS_GUESSES
    assert guesses.interval.estimate < 0.02
    assert contrast.failures is not None
    assert (contrast.failures.treated.sum(), contrast.failures.control.sum()) == (2, 1)


def test_failures_that_may_be_chance_leave_the_verdict_to_the_effect() -> None:
    verdict = judged(0.02, none_failed=1, batch_failed=2)
    assert verdict.label == "SUPPORTED"
    assert "batch 2 of 12 (5 to 45 %), none 1 of 12 (1 to 35 %)" in verdict.why
    assert "Fisher's exact p = 1" in verdict.why
    assert "0 of 12 (at most 24 %)" in judged(0.02, none_failed=1).why


def test_more_failures_in_the_treated_arm_never_support() -> None:
    failing = judged(0.02, batch_failed=8)
    assert failing.label == "INCONCLUSIVE"
    # 12 of 30 against none: enough seeds are left, and the excess alone stands against it.
    n, none = 30, np.full(30, 0.5)
    treated = evidence(none, none + 0.02 + np.linspace(-1, 1, n) / 500, None, first(12, n))
    verdict = judge(ACCURACY, ACCURACY.contrast(treated), "full")
    assert verdict.label == "INCONCLUSIVE"
    assert "but the treated side fails more often" in verdict.why


def test_more_failures_in_the_control_support_only_what_is_about_training() -> None:
    assert judged(0.02, none_failed=12).label == "INCONCLUSIVE"
    verdict = judged(0.02, none_failed=12, claim=ABOUT_TRAINING)
    assert verdict.label == "SUPPORTED"
    assert "12 of 12 (at least 76 %)" in verdict.why
    assert judged(0.02, none_failed=6, claim=ABOUT_TRAINING).label == "INCONCLUSIVE"
    about = {name for name in CLAIMS if CLAIMS[name].about_training}
    assert about == {"depth", "initialization", "input_normalization", "higher_lr"}


def test_failures_that_speak_for_a_claim_and_an_effect_against_it_are_inconclusive() -> None:
    n, none = 30, np.full(30, 0.5)
    found = evidence(none, none - 0.02 + np.linspace(-1, 1, n) / 500, first(12, n))
    verdict = judge(ABOUT_TRAINING, ABOUT_TRAINING.contrast(found), "full")
    assert verdict.label == "INCONCLUSIVE"
    assert "the effect goes the other way" in verdict.why


def test_too_few_seeds_on_which_both_train_are_inconclusive() -> None:
    verdict = judged(0.02, none_failed=3)
    assert verdict.label == "INCONCLUSIVE"
    assert f"both sides trained on 9 of 12 seeds; {MIN_N} are needed" in verdict.why


def test_an_effect_that_scores_failures_leaves_no_seed_out() -> None:
    claim = replace(ABOUT_TRAINING, scores_failures=True)
    none = np.full(12, 0.5)
    contrast = claim.contrast(evidence(none, none + 0.02, first(2)))
    assert len(contrast.differences) == 12
    assert contrast.failures is not None
    assert {n for n in CLAIMS if CLAIMS[n].scores_failures} == {"higher_lr"}


def test_naming_seeds_are_no_part_of_the_counts() -> None:
    def measure_late(found: Evidence) -> Contrast:
        return make_contrast((found.best["batch"] - found.best["none"])[3:])

    claim = replace(ACCURACY, measure=measure_late)
    none = np.linspace(0.5, 0.51, 15)
    assert claim.contrast(evidence(none, none + 0.02, first(3, 15))).failures is None


def test_a_budget_too_short_to_learn_is_no_failure_of_convergence() -> None:
    claim = CLAIMS["convergence"]
    found = Evidence({}, diverged={arm: np.ones(12) for arm in claim.arms})
    assert set(claim.failures(found)) == {"none", "batch"}


# ------------------------------------------------------------------------------------ calibration


@dataclass
class Rates:
    """Of simulated studies.

    Attributes:
        false: Share that supports the claim or its opposite.
        covered: Share whose plain limits, and whose limits at the claim's level, hold the effect.
    """

    false: float
    covered: tuple[float, float]


def simulate(
    studies: int, seed: int, fails: tuple[float, float] = (0.0, 0.0), claim: Claim = ACCURACY
) -> Rates:
    """Studies of two arms alike, of whose runs so many diverge without BN and with it."""
    generator = np.random.default_rng(seed)
    false, plain, wide = 0, 0, 0
    for _ in range(studies):
        none, batch = generator.normal(0.5, 0.01, (2, 12))
        failed = (generator.random((2, 12)) < np.array(fails)[:, None]).astype(float)
        contrast = claim.contrast(evidence(none, batch, failed[0], failed[1]))
        verdict = judge(claim, contrast, "full")
        false += verdict.label == "SUPPORTED" or verdict.sublabel == "reversed"
        plain += contrast.interval.low <= 0 <= contrast.interval.high
        wide += contrast.limits.low <= 0 <= contrast.limits.high
    return Rates(false / studies, (plain / studies, wide / studies))


@pytest.mark.parametrize("fails", [(0.0, 0.0), (0.1, 0.0), (0.0, 0.1), (0.1, 0.1)])
@pytest.mark.parametrize("claim", [ACCURACY, ABOUT_TRAINING], ids=["accuracy", "about training"])
def test_false_verdicts_are_rare_and_both_limits_cover_as_they_say(
    claim: Claim, fails: tuple[float, float]
) -> None:
    studies = 400
    rates = simulate(studies, 20261125, fails, claim)
    assert rates.false <= at_most(CLAIM_ALPHA, studies)
    for covered, level in zip(rates.covered, (0.95, CLAIM_LEVEL), strict=True):
        assert 1 - covered <= at_most(1 - level, studies)


@pytest.mark.slow
@pytest.mark.parametrize("fails", [(0.0, 0.0), (0.1, 0.0), (0.0, 0.1), (0.05, 0.05), (0.4, 0.4)])
@pytest.mark.parametrize("claim", [ACCURACY, ABOUT_TRAINING], ids=["accuracy", "about training"])
def test_the_rule_keeps_its_level_at_length(claim: Claim, fails: tuple[float, float]) -> None:
    studies = 4_000
    rates = simulate(studies, 3, fails, claim)
    assert rates.false <= at_most(CLAIM_ALPHA, studies)
    for covered, level in zip(rates.covered, (0.95, CLAIM_LEVEL), strict=True):
        assert 1 - covered <= at_most(1 - level, studies)


def test_guesses_in_the_headline_would_not_have_covered() -> None:
    """What rule 4 is there for: one arm fails in a tenth of its runs."""
    generator = np.random.default_rng(5)
    studies, covered = 400, 0
    for _ in range(studies):
        failed = (generator.random(12) < 0.1).astype(float)
        none, batch = generator.normal(0.5, 0.01, (2, 12))
        best = evidence(none, batch, batch_failed=failed).best
        plain = make_contrast(best["none"] - best["batch"])
        covered += plain.interval.low <= 0.1 * 0.4 <= plain.interval.high
    assert covered / studies < 0.9


@pytest.mark.parametrize("size", [1.0, 1.5, 2.5])
def test_planted_effects_are_found_with_the_stated_power(size: float) -> None:
    generator = np.random.default_rng(9)
    studies, sd, effect = 400, 0.005, 0.006
    found, stated = 0, list[float]()
    for _ in range(studies):
        contrast = make_contrast(generator.normal(effect, sd / size, 12))
        verdict = judge(ACCURACY, contrast, "full")
        found += verdict.label == "SUPPORTED"
        assert verdict.power is not None
        stated.append(verdict.power)
    true = paired_power(12, effect, sd / size, CLAIM_ALPHA)
    error = 3 * math.sqrt(true * (1 - true) / studies)
    assert abs(found / studies - true) <= error
    # From twelve seeds the spread, and so the power, is itself uncertain.
    assert abs(np.median(stated) - true) <= 0.1


def test_power_is_unknown_where_no_spread_is() -> None:
    nothing = np.full(12, -math.inf)
    assert find_power(make_median_contrast(nothing, -nothing).effect, 1.0) is None
    assert find_power(make_contrast(np.ones(1)).effect, 1.0) is None
    assert find_power(make_median_contrast(np.ones(12), np.ones(12)).effect, 1.0) == 1.0
    # At this level all twelve seeds must agree, and a third of them says nothing.
    part = make_median_contrast(np.array([1.0, 1.0, -math.inf] * 4), np.full(12, math.inf))
    assert find_power(part.effect, 1.0) == pytest.approx((2 / 3) ** 12)


def test_a_failure_count_says_which_side_fails_more() -> None:
    names = ("batch", "none")
    assert Failures(first(0), first(12), names).more_often(CLAIM_ALPHA) == "control"
    assert Failures(first(12), first(0), names).more_often(CLAIM_ALPHA) == "treated"
    assert Failures(first(5), first(0), names).more_often(CLAIM_ALPHA) is None


# ---------------------------------------------------------------------------------- what is told


@pytest.mark.parametrize("name", CLAIMS)
def test_the_rule_that_is_told_is_the_one_by_which_a_claim_is_judged(name: str) -> None:
    claim = CLAIMS[name]
    told = rule_of(claim)
    bound = claim.bounded and not claim.either_way
    assert ("SUPPORTED if the upper limit is below the smallest effect" in told) == bound
    assert ("SUPPORTED if the lower limit is above 0" in told) == (not claim.bounded)
    assert ("on either side of 0" in told) == claim.either_way
    assert ("two places" in told) == (claim.again is not None)
    assert (claim.judge is None) == (not claim.ruled)
    assert told in " ".join(explain(claim).split())


def test_two_places_on_the_same_runs_have_the_power_that_boole_allows() -> None:
    spread, none = np.linspace(-0.006, 0.006, 12), np.full(12, 0.5)
    here = replace(ACCURACY, place="here")
    same = replace(here, place="there")
    disjoint = replace(same, treated=("batch_2",), control=("none_2",))
    measured = here.contrast(evidence(none, none + 0.02 + spread))
    measured = replace(measured, again=measured)
    alone = judge(here, measured, "full").power
    assert alone is not None
    assert 0.5 < alone < 1
    for again, expected in ((same, 2 * alone - 1), (disjoint, alone**2)):
        found = judge(replace(here, again=again), measured, "full").power
        assert found == pytest.approx(expected)
