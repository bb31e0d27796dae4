import math

import numpy as np
import pytest
from samples import at_most

from bnlab.analysis.stats import TimeToTarget, censored_median, median_speedup, time_to_target


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


def censored_studies(studies: int, seed: int) -> float:
    """Share of A/A studies in which the median's interval excludes no speedup at all."""
    rng = np.random.default_rng(seed)
    misses = 0
    for _ in range(studies):
        times = np.exp(rng.normal(2, 0.5, (2, 10)))
        watched = 10.0
        treated, control = (
            [TimeToTarget(min(t, watched), bool(t <= watched)) for t in arm] for arm in times
        )
        speedup = median_speedup(treated, control)
        misses += not speedup.low <= 0 <= speedup.high
    return misses / studies


def test_censored_comparisons_of_one_arm_with_itself_find_nothing_in_95_of_100() -> None:
    studies = 1_000
    assert censored_studies(studies, seed=16) <= at_most(0.05, studies)


@pytest.mark.slow
def test_censored_comparisons_at_length() -> None:
    studies = 20_000
    assert censored_studies(studies, seed=21) <= at_most(0.05, studies)
