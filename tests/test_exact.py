import math
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from samples import ALTERNATIVES, DARWIN, laws, numbers

from bnlab.analysis.stats import (
    MedianEffect,
    mean_interval,
    permutation_p,
    sign_flip_p,
    smallest_permutation_p,
    smallest_sign_flip_p,
    welch_interval,
)
from bnlab.analysis.stats.checks import Alternative
from bnlab.analysis.stats.intervals import t_p


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


def test_an_unknown_alternative_is_refused() -> None:
    with pytest.raises(ValueError, match="'larger'"):
        sign_flip_p([1.0], "larger")  # type: ignore[arg-type]


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
