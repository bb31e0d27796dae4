"""The state that a run resumes from: torch's format inside a run directory's safe file."""

import io
import pickle
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch

from bnlab.errors import RefusedError
from bnlab.records import RunDir
from bnlab.training.lane import alone, wait_for
from bnlab.training.loop import Task

PARTS = frozenset({"model", "optimizer", "position", "precision", "wall_seconds"})
"""What a resume needs of a checkpoint."""


def packed(state: Mapping[str, Any]) -> bytes:
    """A state in torch's format."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    return buffer.getvalue()


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


def save_checkpoint(run_dir: RunDir, task: Task, run: Mapping[str, Any]) -> None:
    """Write where training stands.

    Raises:
        StorageError: If the disk takes no more; the earlier checkpoint is untouched.
    """
    wait_for(task.device)
    with alone(task.device):
        data = packed(_state_of(task, run))
    run_dir.write_checkpoint(data)


def _state_of(task: Task, run: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "config_hash": task.config.hash,
        "seed": task.config.seed,
        "precision": task.precision,
        "model": task.model.state_dict(),
        "optimizer": task.optimizer.state_dict(),
        "position": asdict(task.position),
        "wall_seconds": run.get("wall_seconds", 0.0),
        # For whoever uses the network: training fits them anew.
        "input_scale": task.train.normalize.scale,
        "input_shift": task.train.normalize.shift,
    }


def load_checkpoint(run_dir: RunDir, task: Task, run: dict[str, Any]) -> None:
    """Put the task where the run's checkpoint stands; without one, it stays at the start."""
    if not run_dir.checkpoint.exists():
        return
    state = read_checkpoint(run_dir)
    own = task.config.hash, task.config.seed
    if (state["config_hash"], state.get("seed", own[1])) != own:
        raise RefusedError(
            f"{run_dir.checkpoint}: the checkpoint of another run; delete "
            f"{run_dir.checkpoint.parent} to train this run from its start"
        )
    if state["precision"] != task.precision:
        raise RefusedError(
            f"{run_dir.root}: was trained in {state['precision']}, this device would go on in "
            f"{task.precision}; set train.precision or choose the --device it ran on"
        )
    try:
        task.model.load_state_dict(state["model"])
        task.optimizer.load_state_dict(state["optimizer"])
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise RefusedError(
            f"{run_dir.checkpoint}: does not fit this bnlab's network and optimizer "
            f"({type(error).__name__}: {str(error).splitlines()[0]}); delete "
            f"{run_dir.checkpoint.parent} to train this run from its start"
        ) from None
    for name, value in state["position"].items():
        setattr(task.position, name, value)
    run["wall_seconds"] = state["wall_seconds"]
