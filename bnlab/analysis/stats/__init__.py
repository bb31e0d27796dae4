"""The statistics of comparing arms over a few seeds: intervals, exact tests, power, decisions.

Studies have 3 to 30 seeds an arm, so that intervals of means are Student's or Welch's throughout
and p-values come from exact randomization tests.

Conventions. Effects are `treated - control`, in the units of the values. A wrong call (values that
are not finite, lengths that differ, too few values) raises ValueError; a quantity that the data
leave undefined (the correlation with a constant arm) is None. No function draws a random number
but from the generator it is given.
"""

from bnlab.analysis.stats.counts import fisher_p, wilson_interval
from bnlab.analysis.stats.decisions import Decision, decide, holm
from bnlab.analysis.stats.equivalence import Equivalence, paired_tost, welch_tost
from bnlab.analysis.stats.exact import (
    MedianEffect,
    permutation_p,
    sign_flip_p,
    smallest_permutation_p,
    smallest_sign_flip_p,
)
from bnlab.analysis.stats.intervals import (
    Interval,
    at_level,
    mean_interval,
    paired_correlation,
    paired_interval,
    welch_interval,
    within,
)
from bnlab.analysis.stats.power import paired_power, required_n, required_n_sign, sign_power
from bnlab.analysis.stats.times import (
    Speedup,
    TimeToTarget,
    censored_median,
    median_speedup,
    time_to_target,
)

__all__ = [
    "Decision",
    "Equivalence",
    "Interval",
    "MedianEffect",
    "Speedup",
    "TimeToTarget",
    "at_level",
    "censored_median",
    "decide",
    "fisher_p",
    "holm",
    "mean_interval",
    "median_speedup",
    "paired_correlation",
    "paired_interval",
    "paired_power",
    "paired_tost",
    "permutation_p",
    "required_n",
    "required_n_sign",
    "sign_flip_p",
    "sign_power",
    "smallest_permutation_p",
    "smallest_sign_flip_p",
    "time_to_target",
    "welch_interval",
    "welch_tost",
    "wilson_interval",
    "within",
]
