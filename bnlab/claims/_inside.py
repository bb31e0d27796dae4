"""Readings from inside the networks of a study, as the claims about mechanisms compare them."""

import math
from collections.abc import Sequence

import numpy as np

from bnlab.claims._contrast import Array, Evidence

TRAINING_LOSS = "train/loss"


def over_layers(evidence: Evidence, arm: str, quantity: str, among: Sequence[str] = ()) -> Array:
    """The geometric mean of a probe's quantity over layers, as its log2, after every epoch.

    A layer that recorded nothing after an epoch, or 0, is left out there.

    Args:
        evidence: With what the probe recorded.
        arm: Whose runs.
        quantity: As in `probe/<quantity>/<layer>`.
        among: Arms, all of which must have a layer for it to count.

    Returns:
        (seeds, epochs); NaN where nothing was recorded.
    """
    layers = [layers_of(evidence, one, quantity) for one in (arm, *among)]
    shared = [layer for layer in layers[0] if all(layer in others for others in layers)]
    if not shared:
        return np.full((len(evidence.best[arm]), 1), np.nan)
    curves = evidence.curves[arm]
    values = np.stack([curves[f"probe/{quantity}/{layer}"] for layer in shared])
    return _mean_of_known(np.log2(np.where(values > 0, values, np.nan)))


def mean_over_layers(evidence: Evidence, arm: str, quantity: str, layers: Sequence[str]) -> Array:
    """The plain mean of a probe's quantity over layers, after every epoch: (seeds, epochs)."""
    curves = evidence.curves.get(arm, {})
    there = [curves[tag] for layer in layers if (tag := f"probe/{quantity}/{layer}") in curves]
    if not there:
        return np.full((len(evidence.best[arm]), 1), np.nan)
    return _mean_of_known(np.stack(there))


def layers_of(evidence: Evidence, arm: str, quantity: str) -> list[str]:
    """The layers of which an arm's runs recorded a quantity, in the order of the network."""
    start = f"probe/{quantity}/"
    return [
        tag.removeprefix(start) for tag in evidence.curves.get(arm, {}) if tag.startswith(start)
    ]


def _mean_of_known(values: Array) -> Array:
    """Mean over the first axis of what is a number; NaN where nothing is."""
    known = np.isfinite(values)
    count = known.sum(axis=0)
    total = np.where(known, values, 0.0).sum(axis=0)
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.nan))


AT_ONE_LOSS = (
    "the least that all of them reach, each read where its loss first comes down to it, on "
    "straight lines between epochs; where the loss begins below it the first reading counts"
)
"""What `at_matched_loss` does, for the protocols."""


def at_matched_loss(evidence: Evidence, readings: dict[str, Array]) -> dict[str, Array]:
    """Each arm's reading where its training loss first comes down to one that all of them reach.

    At one epoch an arm that trains faster is further on, and differs for that alone. The loss is
    that of the epoch, with which a reading at its end goes; between two epochs both are straight
    lines, and before the first one the first reading counts.

    Args:
        evidence: With the runs' training losses.
        readings: By arm: (seeds, epochs).

    Returns:
        By arm: (seeds,); NaN on a seed on which an arm's losses are not all numbers, or nothing was
        read.
    """
    losses = {
        arm: evidence.curves.get(arm, {}).get(TRAINING_LOSS, np.full(found.shape, np.nan))
        for arm, found in readings.items()
    }
    seeds = len(next(iter(readings.values())))
    matched = {arm: np.full(seeds, np.nan) for arm in readings}
    for seed in range(seeds):
        rows = {arm: loss[seed] for arm, loss in losses.items()}
        whole = all(np.isfinite(row).all() for row in rows.values())
        if not whole or any(len(row) != readings[arm].shape[1] for arm, row in rows.items()):
            continue
        level = max(row.min() for row in rows.values())
        for arm, row in rows.items():
            matched[arm][seed] = where_first(row, readings[arm][seed], level)
    return matched


def where_first(loss: Array, reading: Array, level: float) -> float:
    """A reading where one run's loss first comes down to a level; between two points on a line.

    The first reading where the loss begins below it, NaN where it never comes down so far.
    """
    below = np.flatnonzero(loss <= level)
    if len(below) == 0:
        return math.nan
    there = int(below[0])
    if there == 0:
        return float(reading[0])
    share = (loss[there - 1] - level) / (loss[there - 1] - loss[there])
    return float(reading[there - 1] + share * (reading[there] - reading[there - 1]))


def mean_over_epochs(readings: Array) -> Array:
    """Mean over the epochs after which there was a reading: (seeds,)."""
    return _mean_of_known(readings.T)


def as_bounds(differences: Array) -> tuple[Array, Array]:
    """Differences as the bounds of a median: a seed that broke down sets none."""
    known = np.isfinite(differences)
    return np.where(known, differences, -np.inf), np.where(known, differences, np.inf)


def unrecorded(evidence: Evidence, differences: Array, quantity: str) -> str:
    """Why no verdict may be built on runs that trained and recorded nothing of a quantity."""
    arms = list(evidence.diverged)
    trained = np.all([evidence.diverged[arm] == 0 for arm in arms], axis=0)
    lost = int((trained & ~np.isfinite(differences)).sum())
    if lost and not layers_of(evidence, "batch", quantity):
        return f"no {quantity} was recorded; the study's probes were not run"
    return f"on {lost} seeds no {quantity} was recorded" if lost else ""
