"""The state that a run resumes from: torch's format inside a run directory's safe file."""

import io
import pickle
from collections.abc import Mapping
from typing import Any

import torch

from bnlab.errors import RefusedError
from bnlab.records import RunDir

PARTS = frozenset({"model", "optimizer", "position", "precision", "wall_seconds"})
"""What a resume needs of a checkpoint."""


def write_checkpoint(run_dir: RunDir, state: Mapping[str, Any]) -> None:
    """Replace the run's checkpoint in one step.

    Raises:
        StorageError: If the disk takes no more; the earlier checkpoint is untouched.
    """
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    run_dir.write_checkpoint(buffer.getvalue())


def read_checkpoint(run_dir: RunDir) -> dict[str, Any]:
    """The state in a run's checkpoint, on the CPU.

    Raises:
        RefusedError: If the file is damaged or not a checkpoint of bnlab.
    """
    data = run_dir.read_checkpoint()
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise RefusedError(
            f"{run_dir.checkpoint}: not a checkpoint of this bnlab: {str(error).splitlines()[0]}"
        ) from None
    if not isinstance(state, dict) or not state.keys() >= PARTS:
        raise RefusedError(f"{run_dir.checkpoint}: not a checkpoint of bnlab")
    return state
