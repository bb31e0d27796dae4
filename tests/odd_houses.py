"""Processes of lanes in which things go wrong, for tests; what goes wrong stands in a file."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from bnlab.study import cells
from bnlab.study.executors.lanes import House
from bnlab.training.accelerate import CaptureFailedError
from bnlab.training.experiment import Watcher, run_experiment
from bnlab.training.loop import Position
from bnlab.training.signals import StopRequest
from bnlab.training.workers import Answer, Request


class OddHouse(House):
    """Has runs fail as `odd.json` beside their directories says: by name, what the tries meet."""

    def __init__(self) -> None:
        super().__init__()
        setattr(cells, "run_experiment", _run)  # noqa: B010 - cells does not export it


def _run(config: Any, root: Path, options: Any, watcher: Watcher, **rest: Any) -> Any:
    planned = json.loads((root.parent / "odd.json").read_text())
    with (root.parent / f"{root.name}.tries").open("a") as tries:
        tries.write(f"{os.getpid()}\n")
        done = tries.tell() // len(f"{os.getpid()}\n")
    meets = planned.get(root.name, [])
    odd = meets[done - 1] if done <= len(meets) else None
    return run_experiment(config, root, options, _Odd(watcher, odd), **rest)


class _Odd(Watcher):
    def __init__(self, inner: Watcher, odd: str | None) -> None:
        self._inner, self._odd = inner, odd

    def step(self, position: Position, steps: int) -> None:
        self._inner.step(position, steps)
        if (position.epoch, position.step) != (1, 1):
            return
        match self._odd:
            case "capture":
                raise CaptureFailedError("AcceleratorError: operation not permitted")
            case "memory in a capture":
                raise CaptureFailedError("OutOfMemoryError: CUDA out of memory")
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "wait":
                time.sleep(3)

    def epoch(self, config: Any, record: Any) -> None:
        self._inner.epoch(config, record)


def no_house() -> None:
    """Fails to be one."""
    raise ImportError("libcuda.so.1: cannot open shared object file")


class LateHouse(OddHouse):
    """Its first process is killed before it has begun anything."""

    def __call__(self, request: Request, stop: StopRequest) -> Answer:
        mark = Path(request["cells"][0]["root"]).parent / "killed"
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(request, stop)
