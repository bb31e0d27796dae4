"""The state that a run resumes from: torch's format inside a run directory's safe file."""

import io
import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from bnlab.errors import RefusedError, shown
from bnlab.records import RunDir
from bnlab.training.lane import alone, wait_for
from bnlab.training.loop import Position, Sums, Task

PARTS = frozenset({"config_hash", "model", "optimizer", "position", "precision", "wall_seconds"})
"""What a resume needs of a checkpoint."""

NOT_OF_THE_CONFIG = frozenset({"params", "lr", "foreach", "capturable", "differentiable", "fused"})
"""What a group of an optimizer's parameters holds beside its settings; the rate is set anew."""


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
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - the file may be anybody's
        raise RefusedError(
            f"{run_dir.checkpoint}: not a checkpoint of this bnlab: {first_line(error)}"
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
        "memory": task.memory,
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
    seed = task.config.seed
    own = _same(state["config_hash"], task.config.hash) and _same(state.get("seed", seed), seed)
    if not own:
        raise RefusedError(
            f"{run_dir.checkpoint}: the checkpoint of another run; delete "
            f"{run_dir.checkpoint.parent} to train this run from its start"
        )
    if not _same(state["precision"], task.precision):
        raise RefusedError(
            f"{run_dir.root}: was trained in {shown(str(state['precision']))}, this device would "
            f"go on in {task.precision}; set train.precision or choose the --device it ran on"
        )
    try:
        task.model.load_state_dict(state["model"])
        _load_optimizer(task.optimizer, state["optimizer"])
        for name, value in vars(_position(task, state["position"])).items():
            setattr(task.position, name, value)
        task.memory.update(_memory(state.get("memory", {})))
        run["wall_seconds"] = _seconds(state["wall_seconds"])
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - as above
        raise RefusedError(
            f"{run_dir.checkpoint}: does not fit this bnlab's network and optimizer "
            f"({type(error).__name__}: {first_line(error)}); delete "
            f"{run_dir.checkpoint.parent} to train this run from its start"
        ) from None


def _same(stored: Any, own: int | str) -> bool:
    """Whether they are equal: a tensor in a damaged file would compare value by value."""
    return type(stored) is type(own) and bool(stored == own)


def first_line(error: Exception) -> str:
    """What an error says, or its name where it says nothing."""
    return shown(str(error).partition("\n")[0], limit=300) or type(error).__name__


def _load_optimizer(optimizer: torch.optim.Optimizer, stored: dict[str, Any]) -> None:
    """Load its state, and refuse what would fail, or compute something else, in the next step."""
    settings = [dict(group) for group in optimizer.param_groups]
    optimizer.load_state_dict(stored)
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        if other := [key for key in own.keys() - NOT_OF_THE_CONFIG if group[key] != own[key]]:
            raise ValueError(f"other {', '.join(sorted(other))}")
    if len({frozenset(entry) for entry in optimizer.state.values() if entry}) > 1:
        raise ValueError("state is missing")
    for parameter, entry in optimizer.state.items():
        for name, value in entry.items():
            if value is not None and value.numel() != 1 and value.shape != parameter.shape:
                raise ValueError(f"{name} of another shape")


def _position(task: Task, stored: Mapping[str, Any]) -> Position:
    there = Position(**stored)
    counts = (there.epoch, there.step)
    if not all(type(count) is int and count >= 0 for count in counts):
        raise ValueError("no such place")
    last = task.config.train.epochs - (there.outcome is None)  # a run that goes on has epochs left
    if there.epoch > last or there.step > task.train.steps:
        raise ValueError("no such place")
    if there.outcome not in (None, "done", "diverged"):
        raise ValueError("no such outcome")
    Sums(task.model, task.device).start(there.sums)
    return replace(there, seconds=_seconds(there.seconds))


def _memory(stored: Any) -> dict[str, Tensor]:
    if not isinstance(stored, dict) or not all(isinstance(x, Tensor) for x in stored.values()):
        raise ValueError("no such memory")
    return stored


def _seconds(value: Any) -> float:
    if not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ValueError("no such time")
    return float(value)
