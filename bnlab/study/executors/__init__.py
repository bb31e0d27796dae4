"""Where the runs of a study execute: what is asked of an executor. Each has a file here.

An executor is a function that takes cells and gives an outcome for each as it finishes. What a run
leaves is its directory; an outcome says only how the attempt ended. Whoever trains a cell holds its
directory's lock, so any number of executors, on any number of machines that share the folder, can
be given the same cells: each is trained once.

To add one: a file in this folder with a function registered in `EXECUTORS` under the file's stem.
Importing it must not load torch, for studies are planned and surveyed where torch is not wanted.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from bnlab import registry
from bnlab.config import Config
from bnlab.training import workers
from bnlab.training.signals import StopRequest

if TYPE_CHECKING:
    from bnlab.study.fleet import Fleet

AT_ONCE_ON_A_GPU = 4
"""Runs at once on a GPU by default, if there are as many cores to launch them from: a small network
alone leaves most of it idle. `BNLAB_LANES` says otherwise."""

Ending = Literal["done", "diverged", "failed", "taken", "stopped"]


@dataclass(frozen=True)
class Cell:
    """One run that a study wants."""

    root: Path
    """Its run directory."""
    arm: str
    label: str
    """For people: arm, tuned values and seed."""
    config: Config


@dataclass(frozen=True)
class Outcome:
    """How the attempt to train a cell ended."""

    cell: Cell
    ending: Ending
    """`taken`: another process has finished it, or is training it; `stopped`: by request."""
    reason: str = ""
    """Why it failed, in one line."""


@dataclass(frozen=True)
class ExecutorOptions:
    """What all cells of a study share; nothing here changes what is measured."""

    jobs: int
    """Runs at once."""
    threads: int
    """CPU threads of each run. The order in which threads add up numbers shows in the last bits,
    so the runs of one study should have equally many; run.json records how many it were."""
    device: str
    deterministic: bool
    logs: Path
    """Folder for what failed runs wrote to stderr."""
    fleet: "Fleet | None" = None
    """For an executor that only starts workers elsewhere."""


class StudyWatcher:
    """Told how a study goes; this one says nothing. Subclass to show progress."""

    def planned(self, finished: int, total: int) -> None:
        """So many runs are finished, of so many known to be needed."""

    def started(self, cell: Cell) -> None:
        """An attempt to train a cell begins."""

    def running(self, cells: Sequence[Cell]) -> None:
        """These cells are being trained here right now. Called often: be quick."""

    def ended(self, outcome: Outcome) -> None:
        """An attempt is over."""

    def waiting(self, count: int) -> None:
        """Nothing is left to begin, but other processes still train so many cells."""

    def say(self, line: str) -> None:
        """Something deserves a line."""


Executor: TypeAlias = Callable[
    [Sequence[Cell], ExecutorOptions, StopRequest, StudyWatcher], Iterator[Outcome]
]
"""Ends early, every run checkpointed, when the stop request asks for it."""

EXECUTORS: registry.Registry[Executor] = registry.EXECUTORS
"""The fact `one_by_one`: has no runs at once, whatever `jobs` says. `hires`: trains nothing here,
but starts workers elsewhere, each of which runs the study."""


def executor_for(device: str) -> str:
    """Where runs execute by default: in lanes on a GPU, in processes on a CPU.

    Raises:
        ConfigError: If there is no such device.
    """
    from bnlab.training.device import resolve_device

    return "lanes" if resolve_device(device).type == "cuda" else "processes"


def share_cores(
    jobs: int | None, device: str, threads: int | None, cores: int | None = None
) -> tuple[int, int]:
    """How many runs at once, and how many CPU threads each.

    On a CPU the default is a run per core with one thread each: small convolutions share their
    work among threads badly, and on a busy machine threads wait for one another.

    Args:
        jobs: Runs at once, if the user said so.
        device: As for `resolve_device`.
        threads: Threads a run, if earlier runs of the study have settled it.
        cores: How many there are; None for those that this process may use.

    Raises:
        ConfigError: If there is no such device.
    """
    from bnlab.training.device import resolve_device

    cores = cores or usable_cores()
    wished = os.environ.get("OMP_NUM_THREADS", "")
    if wished.isdigit() and int(wished) > 0:
        threads = int(wished)
    if resolve_device(device).type == "cuda":
        told = os.environ.get("BNLAB_LANES", "")
        usual = int(told) if told.isdigit() and int(told) > 0 else min(AT_ONCE_ON_A_GPU, cores)
        jobs = jobs or usual
        return jobs, threads or max(1, cores // jobs)
    threads = threads or (1 if jobs is None else max(1, cores // jobs))
    return jobs or max(1, cores // threads), threads


def usable_cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# ------------------------------------------------------------------------ cells and workers


def request_of(cell: Cell, options: ExecutorOptions, *, at_once: int) -> workers.Request:
    """What a `CellTrainer` is asked for a cell, `at_once` being the most runs on its device.

    Hundreds of runs need no histograms, which are most of an event file; `BNLAB_HISTOGRAMS=1` has
    them drawn.
    """
    return {
        "config": cell.config.resolved(),
        "root": str(cell.root),
        "options": {
            "device": options.device,
            "deterministic": options.deterministic,
            "arm": cell.arm,
            "runs_at_once": at_once,
            "histograms": os.environ.get("BNLAB_HISTOGRAMS") == "1",
        },
    }


def outcome_of(cell: Cell, reply: workers.Reply, options: ExecutorOptions) -> Outcome:
    """What a trainer's reply means; keeps the log of a failure only."""
    if reply.error:
        keep_log(options, cell, reply.log)
        return Outcome(cell, "failed", reply.error)
    ending: Ending = "stopped" if reply.answer is None else reply.answer["ending"]
    if ending != "taken":
        with suppress(OSError):  # as below
            log_path(options.logs, cell).unlink(missing_ok=True)
    return Outcome(cell, ending)


def keep_log(options: ExecutorOptions, cell: Cell, text: str) -> None:
    """Keep what is known of a failure."""
    log = log_path(options.logs, cell)
    with suppress(OSError):  # a full disk must not take the other runs along
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(f"{text.rstrip()}\n")


def log_path(logs: Path, cell: Cell) -> Path:
    """Where the stderr of a cell's last attempt lies, if that failed."""
    return logs / f"{cell.root.parent.name}-{cell.root.name}.log"


def last_line(log: Path) -> str:
    """The last line of a failed run's log."""
    try:
        return workers.last_line(log.read_text(errors="replace"))
    except OSError:
        return "its log cannot be read"
