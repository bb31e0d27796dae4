"""An effect of each seed with the limits that a verdict rests on, as text books have them."""

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from plain_runs import Array
from scipy import stats


@dataclass(frozen=True, eq=False)
class Mean:
    """One effect a seed, NaN where none was recorded, with Student's limits of their mean."""

    values: Array

    def __len__(self) -> int:
        return len(self.values)

    def limits(self, level: float) -> tuple[float, float, float]:
        known = self.values[np.isfinite(self.values)]
        n = len(known)
        mean = float(known.mean()) if n else math.nan
        if n < 2:
            return mean, -math.inf, math.inf
        half = float(stats.t.ppf((1 + level) / 2, n - 1) * known.std(ddof=1) / math.sqrt(n))
        return mean, mean - half, mean + half


@dataclass(frozen=True, eq=False)
class Median:
    """Bounds of the effect of each seed; the median of the lower ones, with the sign test's limits.

    A limit is the r-th of the sorted bounds, with the largest r for which fewer than r of n tosses
    of a coin come up heads with at most half of what the level leaves.
    """

    low: Array
    high: Array

    def __len__(self) -> int:
        return len(self.low)

    def limits(self, level: float) -> tuple[float, float, float]:
        n, low, high = len(self.low), np.sort(self.low), np.sort(self.high)
        middle = (n - 1) // 2, n // 2
        if not n:
            return math.nan, -math.inf, math.inf
        bounded = np.isfinite(low[list(middle)]).all()
        median = float(np.median(low)) if bounded else float(low[middle[0]])
        ranks = [r for r in range(1, n + 1) if stats.binom.cdf(r - 1, n, 0.5) <= (1 - level) / 2]
        if not ranks:
            return median, -math.inf, math.inf
        return median, float(low[ranks[-1] - 1]), float(high[n - ranks[-1]])


Effect: TypeAlias = Mean | Median
