"""Arms in TensorBoard: one run an arm, with its mean curves and a band; written without torch."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from tensorboard.compat.proto.summary_pb2 import Summary

from bnlab.analysis.course import arm_curves
from bnlab.analysis.results import Curve
from bnlab.analysis.runs import Run
from bnlab.records import summaries
from bnlab.records.events import PREFIX, EventFile


def write_mean(folder: Path, runs: Sequence[Run]) -> None:
    """The mean of some runs of one arm, as `write_curves` writes it."""
    write_curves(folder, arm_curves(folder.name, runs))


def write_curves(folder: Path, curves: Iterable[Curve]) -> None:
    """Write one arm's curves in place of those written before, for a TensorBoard that may look on.

    A mean has the tag of what it is the mean of, so that it lies among the runs' own curves, and
    one more beside the tags of its limits, of which the charts in Custom Scalars are made.

    Args:
        folder: The arm's, by whose name it is shown.
        curves: Its.

    Raises:
        StorageError: If the disk takes no more.
    """
    drawn = sorted(curves, key=_weight)
    before = list(folder.glob(f"{PREFIX}*"))
    events = EventFile(folder, purge_step=1 if before else None)
    events.add(summaries.band_charts(curve.tag for curve in drawn))
    for curve in drawn:
        _add(events, curve)
    events.flush()
    for old in before:
        old.unlink(missing_ok=True)  # another process may have been quicker


def _weight(curve: Curve) -> tuple[bool, int]:
    """What was reached on test images before what was reached on others, accuracy before loss."""
    split, _, score = curve.tag.partition("/")
    return score != "accuracy", summaries.SPLITS.index(split)


def _add(events: EventFile, curve: Curve) -> None:
    names = (curve.tag, *summaries.band_of(curve.tag))
    lines = (curve.mean, curve.mean, curve.low, curve.high)
    # A single run has no interval: its band has no width, or no line would be drawn at all.
    drawn = np.array([np.where(np.isnan(line), curve.mean, line) for line in lines])
    for epoch, values in zip(curve.epochs.tolist(), drawn.T.tolist(), strict=True):
        told = [Summary.Value(tag=n, simple_value=v) for n, v in zip(names, values, strict=True)]
        # The clock is the epoch too, so that the curves are the same each time.
        events.add(Summary(value=told), int(epoch), epoch)
