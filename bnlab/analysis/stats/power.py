"""How many seeds: the power of the paired t-test and of the sign test."""

import math
from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, bdtrc, nctdtr, ndtri, stdtrit

from bnlab.analysis.stats.checks import (
    Array,
    check_alpha,
    check_count,
    check_fraction,
    check_positive,
)
from bnlab.analysis.stats.exact import sign_rank


def paired_power(n: int, effect: float, sd_diff: float, alpha: float = 0.05) -> float:
    """Power of the two-sided paired t-test, by the noncentral t with `effect sqrt(n) / sd_diff`.

    Args:
        n: Pairs.
        effect: True mean difference, in the units of the values.
        sd_diff: Standard deviation of the differences; for uncorrelated arms `sd * sqrt(2)`.
        alpha: Two-sided level.
    """
    df = check_count(n, "n", 2) - 1
    shift = abs(effect) * math.sqrt(n) / check_positive(sd_diff, "sd_diff")
    critical = -float(stdtrit(df, check_fraction(alpha, "alpha") / 2))
    return 1 - _below(df, shift, critical) + _below(df, shift, -critical)


def _below(df: float, shift: float, value: float) -> float:
    """Chance that a noncentral t lies below a value.

    scipy gives NaN for some chances under 1e-7, which are none in a power.
    """
    chance = float(nctdtr(df, shift, value))
    return 0.0 if math.isnan(chance) else chance


def required_n(effect: float, sd_diff: float, alpha: float = 0.05, power: float = 0.8) -> int:
    """Fewest pairs at which the two-sided paired t-test finds `effect` with the given power.

    With the smallest effect of interest for `effect` this is also the n that settles an
    INCONCLUSIVE verdict if there is no effect at all: the upper limit then falls below the
    smallest effect with the same probability. A true effect near the smallest one takes more.
    """
    check_positive(abs(effect), "the size of the effect")
    return _smallest_n(lambda n: paired_power(n, effect, sd_diff, alpha), power)


def _smallest_n(power_at: Callable[[int], float], power: float) -> int:
    check_fraction(power, "power")
    enough = 2
    while power_at(enough) < power:
        enough *= 2
        if enough > 2**40:
            raise ValueError("the effect is too small beside the spread for any number of seeds")
    short = enough // 2
    while enough - short > 1:
        middle = (enough + short) // 2
        short, enough = (short, middle) if power_at(middle) >= power else (middle, enough)
    return enough


def sign_power(n: int, share: float, alpha: float = 0.05) -> float:
    """Power of the two-sided sign test to find that more than half lie beyond a value.

    Args:
        n: Seeds.
        share: True share of seeds beyond it.
        alpha: Level of the two-sided test.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must lie in [0, 1], not {share}")
    rank = sign_rank(check_count(n, "n", 1), check_alpha(alpha) / 2)
    return float(bdtrc(n - rank, n, share)) if rank else 0.0


def required_n_sign(share: float, alpha: float = 0.05, power: float = 0.8) -> int | None:
    """Seeds at which a two-sided sign test finds that more than half lie beyond a value.

    Args:
        share: True share of seeds beyond it.
        alpha: Level of the two-sided test.
        power: Chance of finding it.

    Returns:
        None where 10,000 seeds are not enough, as for a share of one half.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must lie in [0, 1], not {share}")
    check_fraction(power, "power")
    n, k = _sign_test_counts(check_alpha(alpha))
    enough = np.flatnonzero(bdtrc(k, n, share) >= power)
    return int(n[enough[0]]) if len(enough) else None


@cache
def _sign_test_counts(alpha: float) -> tuple[NDArray[np.int64], Array]:
    """For 1 to 10,000 seeds the largest count beyond a value that does not reject, two-sided."""
    accepted = 1 - alpha / 2
    n = np.arange(1, 10_001)  # whole numbers: others are deprecated in the binomial tails
    # The normal approximation is off by less than one; the exact tail settles which it is.
    k = np.clip(np.floor(n / 2 + float(ndtri(accepted)) * np.sqrt(n) / 2) - 2, 0, n)
    for _ in range(5):
        k = np.where((bdtr(k, n, 0.5) < accepted) & (k < n), k + 1, k)
    return n, k
