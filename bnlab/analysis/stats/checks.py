"""What every statistic asks of its arguments; a wrong call raises ValueError."""

import math
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array: TypeAlias = NDArray[np.float64]
Alternative: TypeAlias = Literal["two-sided", "greater", "less"]


def as_sample(values: ArrayLike, name: str, minimum: int) -> Array:
    """Finite numbers, at least `minimum` of them: (n,)."""
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1:
        raise ValueError(f"{name} must be a list of numbers, not an array of shape {sample.shape}")
    if len(sample) < minimum:
        raise ValueError(f"{name}: at least {minimum} needed, not {len(sample)}")
    if not np.isfinite(sample).all():
        bad = int(np.flatnonzero(~np.isfinite(sample))[0])
        raise ValueError(f"{name}[{bad}] is {sample[bad]}; every value must be finite")
    return sample


def as_pairs(a: ArrayLike, b: ArrayLike, minimum: int) -> tuple[Array, Array]:
    """Two equally long samples: two of (pairs,)."""
    first, second = as_sample(a, "the first arm", minimum), as_sample(b, "the second arm", minimum)
    if len(first) != len(second):
        raise ValueError(f"paired arms must be equally long, not {len(first)} and {len(second)}")
    return first, second


def check_alternative(alternative: str) -> None:
    """Refuse what is none of `Alternative`."""
    if alternative not in get_args(Alternative):
        raise ValueError(f"alternative must be one of {get_args(Alternative)}, not {alternative!r}")


def check_fraction(value: float, name: str) -> float:
    """A level or a power, in (0, 1)."""
    if not 0 < value < 1:
        raise ValueError(f"{name} must lie between 0 and 1, not {value}")
    return value


def check_alpha(alpha: float) -> float:
    """The level of a test of which two share one interval, in (0, .5)."""
    if not 0 < alpha < 0.5:
        raise ValueError(f"alpha must lie between 0 and .5, not {alpha}")
    return alpha


def check_positive(value: float, name: str) -> float:
    """A size or a margin."""
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be positive and finite, not {value}")
    return value


def check_count(n: int, name: str, minimum: int) -> int:
    """A number of seeds, or of resamples."""
    if n < minimum:
        raise ValueError(f"{name} must be at least {minimum}, not {n}")
    return n
