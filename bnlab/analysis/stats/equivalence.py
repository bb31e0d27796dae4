"""Whether two arms differ by less than a margin: two one-sided t-tests."""

from dataclasses import dataclass

from numpy.typing import ArrayLike

from bnlab.analysis.stats.checks import check_alpha, check_positive
from bnlab.analysis.stats.intervals import Interval, paired_interval, t_p, welch_interval


@dataclass(frozen=True)
class Equivalence:
    """Outcome of two one-sided tests.

    Attributes:
        p: Larger of the two one-sided p-values.
        interval: Interval at level 1 - 2 alpha; inside the margins exactly if equivalent.
        margin: Largest difference that counts as none, in the units of the values.
        equivalent: Whether p is below alpha.
    """

    p: float
    interval: Interval
    margin: float
    equivalent: bool


def paired_tost(
    treated: ArrayLike, control: ArrayLike, margin: float, alpha: float = 0.05
) -> Equivalence:
    """Whether paired arms differ by less than `margin` (Schuirmann 1987).

    Rejects both "difference <= -margin" and "difference >= margin" by one-sided paired t-tests at
    alpha. Not to reject says nothing about a difference.
    """
    return _tost(paired_interval(treated, control, 1 - 2 * check_alpha(alpha)), margin, alpha)


def welch_tost(a: ArrayLike, b: ArrayLike, margin: float, alpha: float = 0.05) -> Equivalence:
    """Whether independent arms differ by less than `margin`, by Welch's t; see `paired_tost`."""
    return _tost(welch_interval(a, b, 1 - 2 * check_alpha(alpha)), margin, alpha)


def _tost(interval: Interval, margin: float, alpha: float) -> Equivalence:
    check_positive(margin, "margin")
    p = max(t_p(interval, -margin, "greater"), t_p(interval, margin, "less"))
    return Equivalence(p, interval, margin, p < alpha)
