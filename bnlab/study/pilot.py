"""The grid of a study and how its pilot walks it: as given, then on until the best lies inside.

What is next follows from the scores alone, so that a study, and a claim over the same runs, work it
out again each time from what is finished.
"""

import itertools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bnlab.analysis.choose import Choice, Edge, Point, choose, is_number, neighborhood


@dataclass(frozen=True)
class Grid:
    """The values that every arm is tried at.

    Attributes:
        values: By key; nothing where nothing is tuned.
        below: By key, smaller values by which it may be extended, the nearest first.
        above: By key, greater ones, likewise.
        unordered: Keys whose values are mere alternatives, numbers or not.
    """

    values: Mapping[str, tuple[Any, ...]]
    below: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    above: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    unordered: tuple[str, ...] = ()

    @property
    def points(self) -> tuple[Point, ...]:
        """All combinations of the values; one empty point where nothing is tuned."""
        return tuple(
            tuple(zip(self.values, values, strict=True))
            for values in itertools.product(*self.values.values())
        )

    @property
    def whole(self) -> "Grid":
        """Extended as far as it may be."""
        grid = self
        while True:
            wider = grid.widened(dict.fromkeys(grid.values, "low"))
            wider = wider.widened(dict.fromkeys(grid.values, "high"))
            if wider == grid:
                return grid
            grid = wider

    def widened(self, edges: Mapping[str, Edge]) -> "Grid":
        """One value further at each of these edges; as it is where it goes no further."""
        values, below, above = dict(self.values), dict(self.below), dict(self.above)
        for key, edge in edges.items():
            side = below if edge == "low" else above
            if side.get(key):
                nearest, *rest = side[key]
                side[key] = tuple(rest)
                inside = values[key]
                values[key] = (nearest, *inside) if edge == "low" else (*inside, nearest)
        return Grid(values, below, above, self.unordered)

    @property
    def neighbors(self) -> int:
        """Points of a neighborhood inside the grid: three values of a key, all where unordered."""
        return math.prod(
            min(3, len(values))
            if key not in self.unordered and all(map(is_number, values))
            else len(values)
            for key, values in self.whole.values.items()
        )


def go_on(values: Sequence[Any], count: int) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Values that go on below and above a grid in its own ratio, the nearest first.

    Each end goes on by the ratio of its last two values: 0.03, 0.1, 0.3 by 0.9 and 0.009. Where
    there is no ratio (fewer than two values, no numbers, none above 0) it does not go on; whole
    numbers go on as long as they stay whole.

    Args:
        values: The grid of one key.
        count: At most so many at either end.
    """
    if len(values) < 2 or not all(map(is_number, values)):
        return (), ()
    rising = sorted(values)
    whole = all(isinstance(value, int) for value in values)
    return _steps(rising[1], rising[0], count, whole), _steps(rising[-2], rising[-1], count, whole)


def _steps(inner: float, end: float, count: int, whole: bool) -> tuple[Any, ...]:
    found: list[Any] = []
    if min(inner, end) <= 0:
        return ()
    for step in range(1, count + 1):
        # Six digits, so that 0.3 x 3 is 0.9 however it was rounded; a configuration is its digits.
        value = float(f"{end * (end / inner) ** step:.6g}")
        last = found[-1] if found else end
        outward = value > last if end > inner else 0 < value < last
        if not outward or not math.isfinite(value) or (whole and not value.is_integer()):
            break
        found.append(int(value) if whole else value)
    return tuple(found)


@dataclass(frozen=True)
class Pilot:
    """How far the tuning of one arm is.

    Attributes:
        points: The grid as far as it is extended.
        choice: The best of it; None until every run is finished and the grid goes no further.
        unordered: Keys of the grid whose values have no order.
    """

    points: tuple[Point, ...]
    choice: Choice | None
    unordered: tuple[str, ...] = ()

    @property
    def stuck(self) -> bool:
        """Whether the best lies at an edge at which the grid goes no further."""
        return self.choice is not None and bool(self.choice.edges)

    @property
    def neighborhood(self) -> tuple[Point, ...]:
        """Where each final seed tunes itself; nothing before the best is known to lie inside."""
        if self.choice is None or self.stuck:
            return ()
        return neighborhood(self.choice.point, self.points, self.unordered)


def follow_pilot(grid: Grid, best_of: Callable[[tuple[Point, ...]], Choice | None]) -> Pilot:
    """Walk the grid, extending it by a value as long as the best lies at an edge.

    Args:
        grid: As given.
        best_of: The best of some points; None while one of them is not finished.
    """
    while True:
        choice = best_of(grid.points)
        wider = grid if choice is None else grid.widened(choice.edges)
        if wider == grid:
            return Pilot(grid.points, choice, grid.unordered)
        grid = wider


def pilot_scores(
    scores: Sequence[float], diverged: Sequence[bool], *, each_seed: bool
) -> list[float]:
    """What the tuning seeds of one point count.

    Where each final seed tunes for itself a pilot only finds where to look: one that diverges of
    two that were tried must not put the best value out of reach of all final seeds, which will
    avoid it if it fails them, too. So there only runs that trained count, as long as one did. Where
    the choice stands for all final seeds, runs that diverged count as guesses.
    """
    trained = [one for one, failed in zip(scores, diverged, strict=True) if not failed]
    return trained if each_seed and trained else list(scores)


def own_choices(
    scores: Mapping[Point, Mapping[int, float]],
    seeds: Sequence[int],
    *,
    images: int,
    higher_is_better: bool = True,
    unordered: Collection[str] = (),
) -> dict[int, Choice]:
    """What each seed chooses by its own scores; without the seeds that lack one.

    Args:
        scores: By point of the neighborhood and seed.
        seeds: Those asked for.
        images: As for `choose`.
        higher_is_better: As for `choose`.
        unordered: As for `choose`.
    """
    return {
        seed: choose(
            {point: [by_seed[seed]] for point, by_seed in scores.items()},
            images=images,
            higher_is_better=higher_is_better,
            unordered=unordered,
        )
        for seed in seeds
        if scores and all(seed in by_seed for by_seed in scores.values())
    }
