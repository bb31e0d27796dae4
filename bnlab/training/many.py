"""Several runs at once on one device, each in a thread of its own.

A small run leaves most of a large GPU idle. Here each run has its own thread and CUDA stream and
is otherwise `run_experiment`, unchanged: its record is what it would be alone, whatever the others
are. Python's lock hardly slows them, for replaying a captured step and waiting for the device both
release it, and a run that waits for the sums of its epoch holds up nobody. On a CPU the cores are
shared out.

What torch keeps for the whole process (matrix precision, determinism) must be common to the runs
of one moment: runs that differ in it take turns.
"""

import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeAlias

import torch

from bnlab.config import Config, DatasetConfig
from bnlab.training.datasets import Splits, load_splits
from bnlab.training.device import (
    Precision,
    numerics,
    resolve_device,
    resolve_precision,
)
from bnlab.training.experiment import RunOptions, Watcher, run_experiment
from bnlab.training.loop import Position
from bnlab.training.signals import StopRequest, stop_on_signal

AT_ONCE_ON_A_GPU = 8
"""Runs at once on a GPU whose memory holds them."""

SPARED_SHARE = 0.1
"""Share of free memory that is left for fragmentation and for runs larger than the first."""


@dataclass(frozen=True)
class Job:
    """One run to do; the arguments of `run_experiment`."""

    config: Config
    root: Path
    options: RunOptions = field(default_factory=RunOptions)


@dataclass(frozen=True)
class Ended:
    """How a run ended: with a summary, whose status may be `diverged`, or with an error."""

    job: Job
    summary: dict[str, Any] | None = None
    error: BaseException | None = None


WatcherFor: TypeAlias = Callable[[Job], Watcher]


def run_many(
    jobs: Sequence[Job],
    *,
    at_once: int | None = None,
    watcher_for: WatcherFor = lambda _job: Watcher(),
    stop: StopRequest | None = None,
) -> Iterator[Ended]:
    """Do all runs, several at a time, and give each as it ends.

    A run that fails touches no other. One that finds no GPU memory left beside others is done once
    more, alone. When a signal comes, the runs under way write their checkpoints and end with a
    `StopRequestedError`; those not yet started are not given.

    Args:
        jobs: The runs, in the order to start them.
        at_once: The most to do at a time: by default `AT_ONCE_ON_A_GPU`, or one a core on a CPU.
            On a GPU never more than fit in the memory that is free, going by the first run's use.
        watcher_for: Told how a run goes, from that run's thread.
        stop: Asked after every step; by default SIGTERM and Ctrl-C.

    Raises:
        ConfigError: If a run's device or precision is not to be had here.
    """
    load, crowded_out = _LoadOnce(), list[Job]()
    with ExitStack() as stack:
        wish = stop or stack.enter_context(stop_on_signal())
        for shared, group in groupby(sorted(jobs, key=_shared), key=_shared):
            start = _Starter(shared, watcher_for, wish, load)
            most = at_once or default_at_once(start.device)
            for ended in start.all(list(group), most):
                if most > 1 and isinstance(ended.error, torch.OutOfMemoryError):
                    crowded_out.append(_resumed(ended.job))
                else:
                    yield ended
            yield from start.all(crowded_out, 1)
            crowded_out.clear()


def default_at_once(device: torch.device) -> int:
    """How many runs to do at a time on a device, if its memory holds them."""
    return AT_ONCE_ON_A_GPU if device.type == "cuda" else torch.get_num_threads()


def fitting(free: int, one_run: int) -> int:
    """How many more runs of `one_run` bytes fit in `free` bytes, a share spared."""
    return int(free * (1 - SPARED_SHARE)) // max(1, one_run)


@contextmanager
def own_stream(device: torch.device) -> Iterator[None]:
    """Let this thread's work on a GPU go to a stream of its own."""
    if device.type != "cuda":
        yield
        return
    with torch.cuda.device(device), torch.cuda.stream(torch.cuda.Stream(device)):
        yield


_Shared: TypeAlias = tuple[str, Precision, bool]
"""What the runs of one moment have in common: device, precision, determinism."""


def _shared(job: Job) -> _Shared:
    device = resolve_device(job.options.device)
    precision = resolve_precision(job.config.train.precision, device)
    return str(device), precision, job.options.deterministic


def _resumed(job: Job) -> Job:
    return replace(job, options=replace(job.options, resume="auto"))


class _LoadOnce:
    """Data sets in memory, each read once for all runs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loaded: dict[DatasetConfig, Splits] = {}

    def __call__(self, config: DatasetConfig, watcher: Watcher) -> Splits:
        with self._lock:
            if config not in self._loaded:
                self._loaded[config] = load_splits(config, watcher.loading)
            return self._loaded[config]


class _Telling(Watcher):
    """Passes on what it is told, and calls `settled` after the first epoch."""

    def __init__(self, inner: Watcher, settled: Callable[[], None]) -> None:
        self._inner, self._settled, self._told = inner, settled, False

    def loading(self, what: str, done: int, total: int) -> None:
        self._inner.loading(what, done, total)

    def step(self, position: Position, steps: int) -> None:
        self._inner.step(position, steps)

    def epoch(self, config: Config, record: Mapping[str, Any]) -> None:
        if not self._told:
            self._told = True
            self._settled()
        self._inner.epoch(config, record)


class _Starter:
    """Runs the jobs that may go on at the same time."""

    def __init__(
        self, shared: _Shared, watcher_for: WatcherFor, stop: StopRequest, load: _LoadOnce
    ) -> None:
        name, self.precision, self.deterministic = shared
        self.device = torch.device(name)
        self.watcher_for, self.stop, self.load = watcher_for, stop, load

    def all(self, jobs: Sequence[Job], at_once: int) -> Iterator[Ended]:
        """Do the jobs, at most `at_once` at a time."""
        waiting, running = deque(jobs), 0
        # What happens in the threads: a run ended, or (None) its first epoch did, and with it
        # everything that it will hold is allocated.
        events: SimpleQueue[Ended | None] = SimpleQueue()
        free = self._free_memory()
        limit = at_once if free is None else 1
        threads = torch.get_num_threads()
        share = max(1, threads // min(at_once, max(1, len(jobs))))
        with numerics(self.precision, deterministic=self.deterministic):
            try:
                while running or waiting:
                    while waiting and running < limit and not self.stop():
                        arguments = (waiting.popleft(), share, events)
                        threading.Thread(target=self._run, args=arguments).start()
                        running += 1
                    if not running:
                        return  # stopped
                    event = events.get()
                    if event is not None:
                        running -= 1
                        yield event
                    elif limit == 1 < at_once and free is not None:
                        left = self._free_memory() or 0
                        limit = min(at_once, 1 + fitting(left, free - left))
            finally:
                if running and not self.stop():  # the caller wants no more
                    self.stop.name, self.stop.exit_code = "the caller", 75
                while running:
                    running -= events.get() is not None
                torch.set_num_threads(threads)  # a thread's own count reaches MKL's global one

    def _run(self, job: Job, threads: int, events: "SimpleQueue[Ended | None]") -> None:
        try:
            torch.set_num_threads(threads)
            watcher = _Telling(self.watcher_for(job), lambda: events.put(None))
            with own_stream(self.device):
                data = self.load(job.config.dataset, watcher)
                summary = run_experiment(
                    job.config, job.root, job.options, watcher, data=data, stop=self.stop
                )
            events.put(Ended(job, summary=summary))
        except BaseException as error:  # noqa: BLE001 - the caller decides; the others go on
            traceback.clear_frames(error.__traceback__)  # they hold the run's tensors
            events.put(Ended(job, error=error))

    def _free_memory(self) -> int | None:
        """Free bytes of a GPU; None for a CPU, where the cores are what is short."""
        if self.device.type != "cuda":
            return None
        free: int = torch.cuda.mem_get_info(self.device)[0]
        return free
