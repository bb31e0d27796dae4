"""The grid of a study, how a pilot walks it, and what each seed chooses in the neighborhood."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import laws

from bnlab.analysis.choose import Choice, Point, choose, neighborhood
from bnlab.study.pilot import Grid, follow_pilot, go_on, own_choices

LR = "optim.lr"
counts = st.integers(0, 100)


def at(lr: float) -> Point:
    return ((LR, lr),)


@pytest.mark.parametrize(
    ("values", "below", "above"),
    [
        ((0.03, 0.1, 0.3), (0.009, 0.0027), (0.9, 2.7)),
        ((0.3, 0.03, 0.1), (0.009, 0.0027), (0.9, 2.7)),
        ((16, 32, 64), (8, 4), (128, 256)),
        ((1, 2), (), (4, 8)),
        ((0.0, 0.5, 0.9), (), (1.62, 2.916)),
        ((-1, 0), (), ()),
        ((0.1,), (), ()),
        (("he", "xavier"), (), ()),
        ((False, True), (), ()),
        ((1e308, 1.5e308), (6.66667e307, 4.44444e307), ()),
    ],
)
def test_a_grid_goes_on_in_the_ratio_of_its_last_two_values(
    values: tuple[float, ...], below: tuple[float, ...], above: tuple[float, ...]
) -> None:
    assert go_on(values, 2) == (below, above)


def test_a_grid_that_may_not_be_extended_goes_nowhere() -> None:
    assert go_on((0.03, 0.1, 0.3), 0) == ((), ())


def test_the_neighborhood_is_the_values_beside_the_best_and_all_that_have_no_order() -> None:
    grid = Grid({LR: (0.01, 0.1, 1.0, 10.0), "model.init.name": ("he", "xavier")})
    best = ((LR, 0.1), ("model.init.name", "xavier"))
    assert neighborhood(best, grid.points) == tuple(
        ((LR, lr), ("model.init.name", init))
        for lr in (0.01, 0.1, 1.0)
        for init in ("he", "xavier")
    )
    assert grid.neighbors == 6


def test_nothing_is_extended_before_every_value_of_the_grid_is_tried() -> None:
    below, above = go_on((0.03, 0.1, 0.3), 2)
    pilot = follow_pilot(Grid({LR: (0.03, 0.1, 0.3)}, {LR: below}, {LR: above}), lambda _: None)
    assert pilot.points == (at(0.03), at(0.1), at(0.3))
    assert (pilot.choice, pilot.stuck, pilot.neighborhood) == (None, False, ())


def score_like(value: float) -> int:
    """What a score of a value looks like."""
    raise NotImplementedError


@laws
@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=4, unique=True),
    st.integers(0, 3),
    st.functions(like=score_like, returns=counts, pure=True),
)
def test_a_pilot_ends_with_the_best_inside_or_at_the_last_value_that_it_may_try(
    numbers: list[int], extend: int, score: Callable[[float], int]
) -> None:
    values = tuple(sorted(number / 100 for number in numbers))
    below, above = go_on(values, extend)

    def best_of(points: tuple[Point, ...]) -> Choice:
        return choose({point: [score(point[0][1]) / 100] for point in points}, images=100)

    pilot = follow_pilot(Grid({LR: values}, {LR: below}, {LR: above}), best_of)
    assert pilot.choice is not None
    tried = sorted(value for ((_, value),) in pilot.points)
    ((_, best),) = pilot.choice.point
    assert len(values) <= len(tried) <= len(values) + 2 * extend
    if pilot.stuck:
        assert best in ((below or values[:1])[-1], (above or values[-1:])[-1])
        assert pilot.neighborhood == ()
    elif len(tried) > 1:
        assert pilot.neighborhood == tuple(map(at, tried[tried.index(best) - 1 :][:3]))
        assert len(pilot.neighborhood) == 3


@laws
@given(
    st.lists(st.lists(counts, min_size=4, max_size=4), min_size=3, max_size=3),
    st.lists(st.lists(counts, min_size=4, max_size=4), min_size=3, max_size=3),
    st.integers(0, 3),
)
def test_what_a_seed_chooses_depends_on_its_own_scores_alone(
    table: list[list[int]], other: list[list[int]], seed: int
) -> None:
    def scores(rows: list[list[int]]) -> dict[Point, dict[int, float]]:
        return {
            at(lr): {s: count / 100 for s, count in enumerate(row)}
            for lr, row in zip((0.1, 0.2, 0.3), rows, strict=True)
        }

    changed = scores(other)
    for point, by_seed in scores(table).items():
        changed[point][seed] = by_seed[seed]
    chosen = own_choices(scores(table), range(4), images=100)
    assert chosen[seed] == own_choices(changed, range(4), images=100)[seed]
    mine = [row[seed] for row in table]
    assert chosen[seed].point == at((0.1, 0.2, 0.3)[mine.index(max(mine))])


def test_a_seed_that_lacks_a_value_of_the_neighborhood_has_not_chosen() -> None:
    scores = {at(0.1): {0: 0.5, 1: 0.5}, at(0.2): {0: 0.6}}
    assert list(own_choices(scores, (0, 1), images=100)) == [0]
    assert own_choices({}, (0, 1), images=100) == {}
