"""Mean, low and high curves per arm as TensorBoard runs of their own, written without torch."""

from pathlib import Path

from tensorboard.compat.proto.summary_pb2 import Summary

from bnlab.analysis import Comparison
from bnlab.records.events import EventFile
from bnlab.report.safe import folder_name, plain

FOLDER = "tensorboard"
"""Below the report: no run directory, so that `compare` never takes aggregates for runs."""


def write_events(comparison: Comparison, folder: Path) -> Path:
    """Write the aggregates below a report's folder, in place of those written before.

    Raises:
        StorageError: If the disk takes no more.

    Returns:
        The folder to give to `tensorboard --logdir`.
    """
    root = folder / FOLDER
    for old in root.glob("*/events.out.tfevents.*"):
        old.unlink()
    for arm in dict.fromkeys(curve.arm for curve in comparison.curves):
        for kind in ("mean", "low", "high"):
            events = EventFile(root / f"{folder_name(arm)} {kind}")
            for curve in comparison.curves:
                if curve.arm != arm:
                    continue
                values = {"mean": curve.mean, "low": curve.low, "high": curve.high}[kind]
                for epoch, value in zip(curve.epochs, values, strict=True):
                    if value == value:  # noqa: PLR0124 - not where there is no interval
                        scalar = Summary.Value(tag=plain(curve.tag), simple_value=float(value))
                        # The clock is the epoch too, so that the curves are the same each time.
                        events.add(Summary(value=[scalar]), int(epoch), float(epoch))
            events.flush()
    return root
