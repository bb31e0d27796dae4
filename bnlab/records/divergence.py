"""Whether a run diverged: one rule for the runner and for whoever judges what was recorded."""

import math
from collections.abc import Mapping

LEARNED = 1.2
"""A run whose final training accuracy is at or below so many times chance has learned nothing. By
accuracy and not by the loss: a loss near that of guessing may belong to 30 % accuracy."""

LOSSES = ("train/loss", "val/loss", "test/loss")


def has_diverged(final: Mapping[str, float | None], classes: int) -> bool:
    """Whether training broke down or learned nothing; every other run scores what it reached.

    A weight that is not finite shows in every loss that is measured after it.

    Args:
        final: Values by tag at the end of the run; None or NaN where one was not finite. A tag
            that was not recorded says nothing.
        classes: Classes of the images, all equally frequent.
    """
    if any(tag in final and not _finite(final[tag]) for tag in LOSSES):
        return True
    accuracy = final.get("train/accuracy", 1.0)
    return accuracy is None or not accuracy > LEARNED / classes  # NaN has learned nothing


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
