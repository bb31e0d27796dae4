"""Failures counted: limits of a share, and whether one of two arms fails more often."""

from bnlab.analysis.stats.checks import check_count, check_fraction
from bnlab.analysis.stats.intervals import Interval


def wilson_interval(count: int, n: int, level: float = 0.95) -> Interval:
    """The share of failures with Wilson's score limits (Wilson 1927): `0 of 12: at most 24 %`.

    Raises:
        ValueError: If there are no runs, or more failures than runs.
    """
    from scipy.stats import binomtest  # a second to import, and few studies have failures

    test = binomtest(_checked(count, n), n)
    limits = test.proportion_ci(check_fraction(level, "level"), method="wilson")
    return Interval(count / n, float(limits.low), float(limits.high), level, n)


def fisher_p(count_a: int, n_a: int, count_b: int, n_b: int) -> float:
    """Two-sided p-value of Fisher's exact test that two arms fail equally often (Fisher 1935).

    Args:
        count_a: Failures of one arm.
        n_a: Its runs.
        count_b: Failures of the other.
        n_b: Its runs.

    Raises:
        ValueError: If an arm has no runs, or more failures than runs.
    """
    from scipy.stats import fisher_exact

    a, b = _checked(count_a, n_a), _checked(count_b, n_b)
    return min(1.0, float(fisher_exact([[a, n_a - a], [b, n_b - b]]).pvalue))


def _checked(count: int, n: int) -> int:
    if not 0 <= count <= check_count(n, "n", 1):
        raise ValueError(f"failures must be from 0 to the {n} runs, not {count}")
    return int(count)
