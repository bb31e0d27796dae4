import math

import numpy as np
import pytest

from bnlab.analysis.stats import decide, paired_interval, required_n, required_n_sign
from bnlab.analysis.stats.power import paired_power


@pytest.mark.parametrize(
    ("n", "effect"), [(3, 3.26), (5, 1.68), (8, 1.16), (10, 1.00), (16, 0.75), (20, 0.66)]
)
def test_tabled_effects_are_found_in_four_of_five_studies(n: int, effect: float) -> None:
    assert paired_power(n, effect, 1.0) == pytest.approx(0.8, abs=0.01)
    assert paired_power(n, 0.2 * effect, 0.2) == pytest.approx(paired_power(n, effect, 1.0))
    assert required_n(effect + 0.01, 1.0) == n


@pytest.mark.parametrize(("n", "effect"), [(5, 3.06), (8, 1.77), (10, 1.46), (16, 1.04), (20, 0.9)])
def test_tabled_effects_under_nine_claims(n: int, effect: float) -> None:
    assert paired_power(n, effect, 1.0, alpha=0.05 / 9) == pytest.approx(0.8, abs=0.01)


def test_required_n_is_two_for_a_huge_effect_and_normal_theorys_for_a_small_one() -> None:
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


@pytest.mark.parametrize("effect", [5.0, 7.5, 8.2, 9.0, 20.0])
def test_a_huge_effect_is_found_for_certain(effect: float) -> None:
    assert paired_power(10, effect, 1.0, 0.005) == pytest.approx(1.0)


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
    refuted = np.mean(
        [decide(x.low, x.high, x.estimate, effect).ruling == "REFUTED" for x in nulls]
    )
    assert refuted == pytest.approx(promised, abs=3 * math.sqrt(0.16 / studies))


def test_plans_without_an_answer_are_refused() -> None:
    with pytest.raises(ValueError, match="sd_diff must be positive"):
        required_n(0.3, 0.0)
    with pytest.raises(ValueError, match="size of the effect must be positive"):
        required_n(0.0, 1.0)
    with pytest.raises(ValueError, match="too small beside the spread"):
        required_n(1e-9, 1.0)
    with pytest.raises(ValueError, match="n must be at least 2"):
        paired_power(1, 1.0, 1.0)


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
