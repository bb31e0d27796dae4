"""Published samples, strategies and a bound that the tests of the statistics share."""

import math

from hypothesis import settings
from hypothesis import strategies as st

from bnlab.analysis.stats.checks import Alternative

laws = settings(deadline=None, max_examples=25, derandomize=True)
numbers = st.floats(-100, 100).map(lambda x: round(x, 3))
samples = st.lists(numbers, min_size=2, max_size=8)
pairs = st.lists(st.tuples(numbers, numbers), min_size=2, max_size=8)

ALTERNATIVES: tuple[Alternative, ...] = ("two-sided", "greater", "less")

# Hours of sleep gained by ten patients under two drugs (Student 1908, after Cushny and Peebles).
SLEEP_1 = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
SLEEP_2 = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]

# Darwin's maize: height of the crossed less the self-fertilized plant, eighths of an inch
# (Fisher 1935, chapter III).
DARWIN = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]


def at_most(rate: float, studies: int) -> float:
    """The rate plus three standard errors of its estimate from so many studies."""
    return rate + 3 * math.sqrt(rate * (1 - rate) / studies)
