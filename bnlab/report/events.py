"""A comparison's arms in TensorBoard."""

from pathlib import Path

from bnlab.analysis import Comparison
from bnlab.analysis.arm_events import write_curves
from bnlab.records.events import PREFIX
from bnlab.report.safe import folder_name

FOLDER = "tensorboard"
"""Below the report: no run directory, so that `compare` never takes aggregates for runs."""


def write_events(comparison: Comparison, folder: Path) -> Path:
    """Write one TensorBoard run an arm below a report's folder, in place of those there before.

    Raises:
        StorageError: If the disk takes no more.

    Returns:
        The folder to give to `tensorboard --logdir`.
    """
    root = folder / FOLDER
    for old in root.glob(f"*/{PREFIX}*"):
        old.unlink()
    for arm in dict.fromkeys(curve.arm for curve in comparison.curves):
        curves = [curve for curve in comparison.curves if curve.arm == arm]
        write_curves(root / folder_name(arm), curves)
    return root
