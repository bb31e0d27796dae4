"""The best of a grid: the one place that picks a best value, for studies, comparisons and claims.

Scores are compared exactly. An accuracy is a count of correct images, so means over seeds are
ratios of whole numbers and a tie is a tie, however the numbers were added up; ties go to the
smaller value.
"""

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from statistics import stdev
from typing import Any, Literal, TypeAlias

Point: TypeAlias = tuple[tuple[str, Any], ...]
"""A value for each tuned key: `(("optim.lr", 0.1),)`; empty where nothing is tuned."""

Edge: TypeAlias = Literal["low", "high"]


@dataclass(frozen=True)
class Choice:
    """The best point of a grid.

    Attributes:
        point: The best.
        score: Its mean over seeds.
        means: Of all points.
        near: Points that one standard error cannot tell from the best, itself among them.
        edges: Keys whose best value is the least or the greatest that was tried: a better one may
            lie beyond.
    """

    point: Point
    score: float
    means: Mapping[Point, float]
    near: tuple[Point, ...]
    edges: Mapping[str, Edge]


def choose(
    scores: Mapping[Point, Sequence[float]],
    *,
    images: int = 0,
    higher_is_better: bool = True,
    unordered: Collection[str] = (),
) -> Choice:
    """The point with the best mean score; of several alike, the one of the smaller values.

    The standard error is that of the best point's mean: over seeds where there are several, and at
    least that of an accuracy on so many images, all seeds being measured on the same ones.

    Args:
        scores: By point, in the order of the grid, one score a seed.
        images: Images that each score is an accuracy on; 0 for a loss, or where it is not known.
        higher_is_better: False for a loss.
        unordered: Keys whose values have no order, numbers or not: none of them is an edge, and
            among equals the one listed first is taken.

    Raises:
        ValueError: If there is no point, or one without scores.
    """
    if not scores or not all(len(values) for values in scores.values()):
        raise ValueError("expected at least one point, and a score for each")
    points = list(scores)
    exact = {point: _mean(scores[point], images) for point in points}
    sign = 1 if higher_is_better else -1
    best = min(points, key=lambda point: (-sign * exact[point], _size(point, points, unordered)))
    error = _standard_error(scores[best], images)
    near = (point for point in points if sign * float(exact[best] - exact[point]) <= error)
    return Choice(
        point=best,
        score=float(exact[best]),
        means={point: float(mean) for point, mean in exact.items()},
        near=tuple(near),
        edges={key: edge for key, edge in _edges(best, points).items() if key not in unordered},
    )


def neighborhood(
    best: Point, points: Sequence[Point], unordered: Collection[str] = ()
) -> tuple[Point, ...]:
    """The best point and those beside it, in the order of the grid.

    Beside a number lie the next smaller and the next greater value that was tried; other values,
    and those of `unordered` keys, have no order, so all of them count. With several keys, all
    combinations.
    """
    sides = [
        _beside(value, [point[place][1] for point in points], ordered=key not in unordered)
        for place, (key, value) in enumerate(best)
    ]
    wanted = [
        tuple((key, value) for (key, _), value in zip(best, values, strict=True))
        for values in itertools.product(*sides)
    ]
    return tuple(point for point in points if point in wanted)


def _beside(value: Any, tried: Sequence[Any], *, ordered: bool) -> list[Any]:
    if not (ordered and is_number(value)):
        return list(dict.fromkeys(tried))
    numbers = sorted({other for other in tried if is_number(other)})
    place = numbers.index(value)
    return numbers[max(place - 1, 0) : place + 2]


def _mean(scores: Sequence[float], images: int) -> Fraction:
    return sum((_exact(score, images) for score in scores), Fraction()) / len(scores)


def _exact(score: float, images: int) -> Fraction:
    """A share of images as the count it was; what is no share of so many stays what it is."""
    count = score * images
    whole = images and abs(count - round(count)) < 1e-6 * images
    return Fraction(round(count), images) if whole else Fraction(score)


def _standard_error(scores: Sequence[float], images: int) -> float:
    among_seeds = stdev(scores) / math.sqrt(len(scores)) if len(scores) > 1 else 0.0
    if not images:
        return among_seeds
    mean = min(max(sum(scores) / len(scores), 0.0), 1.0)
    return max(among_seeds, math.sqrt(mean * (1 - mean) / images))


def _size(point: Point, points: Sequence[Point], unordered: Collection[str]) -> tuple[float, ...]:
    """Smaller for smaller values; for values without an order, for those listed first."""
    listed = float(points.index(point))
    return tuple(
        float(value) if is_number(value) and key not in unordered else listed
        for key, value in point
    )


def _edges(point: Point, points: Sequence[Point]) -> dict[str, Edge]:
    found: dict[str, Edge] = {}
    for place, (key, value) in enumerate(point):
        tried = {other[place][1] for other in points if is_number(other[place][1])}
        if is_number(value) and len(tried) > 1 and value in (min(tried), max(tried)):
            found[key] = "low" if value == min(tried) else "high"
    return found


def is_number(value: Any) -> bool:
    """Whether a value has a size; booleans have none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
