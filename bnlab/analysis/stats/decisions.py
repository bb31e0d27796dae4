"""What may be said of an effect: the rule of a verdict, and Holm's correction over a table."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from bnlab.analysis.stats.checks import Array, check_positive


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given (Holm 1979).

    Rejecting where the adjusted p is at most alpha keeps the chance of any false rejection at or
    below alpha, however the tests depend on one another.
    """
    raw = _p_values(p_values)
    order = np.argsort(raw, kind="stable")
    steps = (len(raw) - np.arange(len(raw))) * raw[order]
    adjusted = np.empty_like(raw)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return [float(p) for p in adjusted]


def _p_values(p_values: Iterable[float]) -> Array:
    raw = np.asarray(list(p_values), dtype=np.float64)
    if not ((raw >= 0) & (raw <= 1)).all():
        raise ValueError(f"p-values must lie in [0, 1], not {[float(p) for p in raw]}")
    return raw


@dataclass(frozen=True)
class Decision:
    """What the data say of a claim.

    Attributes:
        ruling: SUPPORTED, REFUTED or INCONCLUSIVE.
        refinement: Of REFUTED, where there is one.
    """

    ruling: Literal["SUPPORTED", "REFUTED", "INCONCLUSIVE"]
    refinement: Literal["reversed", "real but negligible"] | None = None


def decide(
    interval_low: float, interval_high: float, estimate: float, smallest_effect: float
) -> Decision:
    """Judge an effect, oriented so that positive favors the claim.

    SUPPORTED if `low > 0` and `estimate >= smallest_effect`; REFUTED if `high < smallest_effect`,
    "reversed" if even `high < 0`, "real but negligible" if `low > 0`; INCONCLUSIVE otherwise. The
    rule always answers, and never twice: `high < smallest_effect <= estimate` cannot be, as the
    estimate lies between the limits.

    Args:
        interval_low: Lower limit, at the level of the verdict; may be -infinity.
        interval_high: Upper limit, likewise; may be infinity.
        estimate: Point estimate, between the limits; the least one possible if censored.
        smallest_effect: Smallest effect of interest, positive, fixed before the runs.

    Raises:
        ValueError: If the limits do not enclose the estimate or `smallest_effect` is not positive.
    """
    check_positive(smallest_effect, "smallest_effect")
    if not interval_low <= estimate <= interval_high:
        raise ValueError(
            f"expected low <= estimate <= high, not {interval_low}, {estimate}, {interval_high}"
        )
    if interval_low > 0 and estimate >= smallest_effect:
        return Decision("SUPPORTED")
    if interval_high >= smallest_effect:
        return Decision("INCONCLUSIVE")
    if interval_high < 0:
        return Decision("REFUTED", "reversed")
    return Decision("REFUTED", "real but negligible" if interval_low > 0 else None)
