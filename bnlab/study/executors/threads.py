"""Runs in threads of this process.

On a GPU the runs share one context and one copy of the data, and there are only as many at a time
as its memory holds. Each has a CUDA stream of its own and is otherwise what it would be alone.
Python's lock hardly slows them, for replaying a captured step and waiting for the device both
release it. A run that raises costs no other; a crash of the process ends all, and `study run`
resumes them.

What torch keeps for the whole process (matrix precision, determinism) must be common to the runs
of one moment: runs that differ in it take turns.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from bnlab.study.executors import (
    EXECUTORS,
    Cell,
    ExecutorOptions,
    Outcome,
    StudyWatcher,
    outcome_of,
    request_of,
)
from bnlab.training.crew import Crew
from bnlab.training.signals import StopRequest
from bnlab.training.workers import ThreadWorker

if TYPE_CHECKING:
    import torch

    from bnlab.training.device import Precision

SPARED_SHARE = 0.1
"""Share of free memory that is left for fragmentation and for runs larger than the first."""


@EXECUTORS.register("threads")
def run_in_threads(
    cells: Sequence[Cell], options: ExecutorOptions, stop: StopRequest, watcher: StudyWatcher
) -> Iterator[Outcome]:
    """A thread trains one cell after another."""
    from bnlab.study.cells import CellTrainer
    from bnlab.training.device import cpu_threads, numerics, resolve_device, resolve_precision
    from bnlab.training.lane import MOST_LANES

    device = resolve_device(options.device)

    def precision_of(cell: Cell) -> "Precision":
        return resolve_precision(cell.config.train.precision, device)

    at_once = min(options.jobs, len(cells), MOST_LANES)
    room = Room(device, at_once)
    trainer = CellTrainer(data_sets=None, settled=room.settle)

    def hire() -> ThreadWorker:
        return ThreadWorker(trainer, str(device), options.threads)

    for precision, group in groupby(sorted(cells, key=precision_of), key=precision_of):
        room.empty()
        work = [(cell, request_of(cell, options, at_once=at_once)) for cell in group]
        with (
            cpu_threads(options.threads),
            numerics(precision, deterministic=options.deterministic),
            Crew(hire, stop) as crew,  # last: its workers end before the numerics change
        ):
            for cell, reply in crew.share(work, room, watcher.started, watcher.running):
                yield outcome_of(cell, reply, options)


class Room:
    """How many runs may go on at once: on a GPU as many as fit, going by the first one's use.

    Args:
        device: Where.
        most: However much memory there is.
    """

    def __init__(self, device: "torch.device", most: int) -> None:
        self._device, self._most = device, most
        self.empty()

    def empty(self) -> None:
        """Begin anew, with nothing under way."""
        self._free = free_memory(self._device)
        self._now = self._most if self._free is None else 1

    def settle(self) -> None:
        """A run holds all that it will hold."""
        if self._free is not None and self._now == 1:
            left = free_memory(self._device) or 0
            self._now = min(self._most, 1 + fitting(left, self._free - left))

    def __call__(self) -> int:
        """So many now."""
        return self._now


def fitting(free: int, one_run: int) -> int:
    """How many more runs of `one_run` bytes fit in `free` bytes, a share spared."""
    return int(free * (1 - SPARED_SHARE)) // max(1, one_run)


def free_memory(device: "torch.device") -> int | None:
    """Free bytes of a GPU; None for a CPU, where the cores are what is short."""
    if device.type != "cuda":
        return None
    import torch

    free: int = torch.cuda.mem_get_info(device)[0]
    return free
