import math
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnlab.analysis.choose import Point, choose

IMAGES = 4000
counts = st.integers(0, IMAGES)


def at(lr: float) -> Point:
    return (("optim.lr", lr),)


def test_the_best_mean_is_chosen_and_a_loss_is_best_when_small() -> None:
    scores = {at(0.1): [0.5, 0.6], at(0.2): [0.7, 0.6], at(0.3): [0.6, 0.6]}
    assert choose(scores).point == at(0.2)
    assert choose(scores, higher_is_better=False).point == at(0.1)
    assert choose(scores).means == pytest.approx({at(0.1): 0.55, at(0.2): 0.65, at(0.3): 0.6})


@given(st.lists(st.lists(counts, min_size=3, max_size=3), min_size=2, max_size=5))
def test_equal_counts_tie_however_they_are_added_up_and_ties_go_to_the_smaller_value(
    grid: list[list[int]],
) -> None:
    scores = {at(0.1 * (i + 1)): [c / IMAGES for c in row] for i, row in enumerate(grid)}
    totals = [sum(row) for row in grid]
    expected = at(0.1 * (totals.index(max(totals)) + 1))
    assert choose(scores, images=IMAGES).point == expected
    reversed_grid = dict(reversed(scores.items()))
    assert choose(reversed_grid, images=IMAGES).point == expected


def test_a_tie_that_floating_point_would_break_is_a_tie() -> None:
    parts = (0.1, 0.2, 0.7)
    sums = {sum(order) for order in permutations(parts)}
    assert len(sums) > 1  # the trap is real
    for order in permutations(parts):
        scores = {at(0.3): list(order), at(0.1): list(parts)}
        assert choose(scores, images=10).point == at(0.1)


def test_what_one_standard_error_cannot_tell_from_the_best_is_near_it() -> None:
    # Ten thousand images at 50 %: a standard error of half a point.
    scores = {at(1): [0.5], at(2): [0.4951], at(3): [0.4949], at(4): [0.2]}
    assert choose(scores, images=10_000).near == (at(1), at(2))
    assert choose(scores).near == (at(1),)


def test_the_spread_over_seeds_counts_where_it_is_larger() -> None:
    scores = {at(1): [0.4, 0.6], at(2): [0.41, 0.41]}
    assert choose(scores, images=1_000_000).near == (at(1), at(2))  # sd .141 / sqrt 2 = .1


def test_edges_are_those_of_the_values_tried() -> None:
    scores = {at(lr): [score] for lr, score in ((0.1, 0.5), (0.2, 0.6), (0.3, 0.5))}
    assert choose(scores).edges == {}
    assert choose({**scores, at(0.3): [0.7]}).edges == {"optim.lr": "high"}
    assert choose({**scores, at(0.1): [0.7]}).edges == {"optim.lr": "low"}
    assert choose({at(0.1): [0.5]}).edges == {}


def test_words_have_an_order_of_listing_and_no_edges() -> None:
    grid: dict[Point, list[float]] = {(("model.init.name", n),): [0.5] for n in ("he", "a")}
    assert choose(grid).point == (("model.init.name", "he"),)
    assert choose(grid).edges == {}


def test_a_diverged_run_at_chance_ties_with_its_like() -> None:
    scores = {at(0.2): [0.1, 0.1], at(0.1): [0.1, 0.1]}
    assert choose(scores, images=3999).point == at(0.1)


def test_losses_are_compared_as_they_are() -> None:
    scores = {at(0.1): [2.302585, 1.5], at(0.2): [1.5, 2.302585]}
    assert choose(scores, higher_is_better=False).point == at(0.1)
    assert not math.isnan(choose(scores, higher_is_better=False).score)


@pytest.mark.parametrize("scores", [{}, {at(0.1): []}])
def test_there_is_no_best_of_nothing(scores: dict[Point, list[float]]) -> None:
    with pytest.raises(ValueError, match="a score for each"):
        choose(scores)
