"""Where the runs of a study execute.

An executor is a function that takes cells and gives an outcome for each as it finishes. What a run
leaves is its directory; an outcome says only how the attempt ended. Whoever trains a cell holds its
directory's lock, so any number of executors, on any number of machines that share the folder, can
be given the same cells: each is trained once.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal, TypeAlias

from bnlab.config import Config, DatasetConfig, restore_config
from bnlab.errors import BnlabError, StopRequestedError
from bnlab.records import LockedError, RunDir, epoch_of, read_metrics
from bnlab.registry import Registry
from bnlab.training.datasets import Splits, load_splits
from bnlab.training.device import resolve_device
from bnlab.training.experiment import RunOptions, Watcher, run_experiment
from bnlab.training.many import Job, run_many
from bnlab.training.signals import StopRequest

POLL_SECONDS = 0.1
"""How often processes are looked at."""

CUDA_JOBS = 4
"""Runs at once on a CUDA device by default, if there are as many cores to launch them from: a small
network alone leaves most of a device idle."""

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


Executor: TypeAlias = Callable[
    [Sequence[Cell], ExecutorOptions, StopRequest, StudyWatcher], Iterator[Outcome]
]
"""Ends early, every run checkpointed, when the stop request asks for it."""

EXECUTORS: Registry[Executor] = Registry("executor")


def share_cores(jobs: int | None, device: str, threads: int | None) -> tuple[int, int]:
    """How many runs at once, and how many CPU threads each.

    On a CPU the default is a run per core with one thread each: small convolutions share their
    work among threads badly, and on a busy machine threads wait for one another.

    Args:
        jobs: Runs at once, if the user said so.
        device: As for `resolve_device`.
        threads: Threads a run, if earlier runs of the study have settled it.

    Raises:
        ConfigError: If there is no such device.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cores = cores or 1
    wished = os.environ.get("OMP_NUM_THREADS", "")
    if wished.isdigit() and int(wished) > 0:
        threads = int(wished)
    if resolve_device(device).type == "cuda":
        jobs = jobs or min(CUDA_JOBS, cores)
        return jobs, threads or max(1, cores // jobs)
    threads = threads or (1 if jobs is None else max(1, cores // jobs))
    return jobs or max(1, cores // threads), threads


Load: TypeAlias = Callable[[DatasetConfig], Splits]
"""Gives the images of a run."""


def load_once() -> Load:
    """Load images once for cells in a row that share them, as those of a study mostly do."""
    return lru_cache(maxsize=1)(load_splits)


def is_taken(cell: Cell) -> bool:
    """Whether another process has finished the cell or is training it."""
    run_dir = RunDir(cell.root)
    return run_dir.finished or run_dir.locked


def log_path(logs: Path, cell: Cell) -> Path:
    """Where the stderr of a cell's last attempt lies, if that failed."""
    return logs / f"{cell.root.parent.name}-{cell.root.name}.log"


def epochs_done(cell: Cell) -> int:
    """Epochs on record."""
    try:
        records = read_metrics(RunDir(cell.root).files).records
    except BnlabError:
        return 0
    return epoch_of(records[-1]) if records else 0


def show_progress(cell: Cell) -> str:
    """How far a run is, from its metrics."""
    try:
        records = read_metrics(RunDir(cell.root).files).records
    except BnlabError:
        records = ()
    if not records:
        return "in its first epoch"
    last = records[-1]
    split = next((s for s in ("val", "test", "train") if f"{s}/accuracy" in last), "train")
    accuracy = show_metric("accuracy", last.get(f"{split}/accuracy") or 0.0)
    return f"epoch {last['epoch']}/{cell.config.train.epochs}, {split} accuracy {accuracy}"


def show_metric(name: str, value: float) -> str:
    """Accuracy in percent, loss in nats."""
    return f"{100 * value:.2f} %" if name.endswith("accuracy") else f"{value:.4f}"


# ---------------------------------------------------------------------------------- in processes

TAKEN_EXIT_CODE = 64
_CHILD = "import sys; sys.path[:] = sys.argv[1:]; from bnlab.study.executors import child; child()"
"""The child sees the very code that its parent runs, whatever the working directory holds."""


@EXECUTORS.register("processes")
def run_in_processes(
    cells: Sequence[Cell], options: ExecutorOptions, stop: StopRequest, watcher: StudyWatcher
) -> Iterator[Outcome]:
    """Cells in processes apart: a crash costs that run and no other.

    A process trains one cell after another, for starting one takes seconds, as long as a small run.
    """
    waiting, workers = deque(cells), list[_Worker]()
    told_to_stop = False
    try:
        while any(worker.cell for worker in workers) or (waiting and not stop()):
            while waiting and sum(bool(w.cell) for w in workers) < options.jobs and not stop():
                cell = waiting.popleft()
                if is_taken(cell):
                    yield Outcome(cell, "taken")
                    continue
                _free(workers, options).begin(cell)
                watcher.started(cell)
            if stop() and not told_to_stop:
                told_to_stop = True
                for worker in workers:
                    worker.process.terminate()  # it checkpoints, then exits
            for worker in list(workers):
                outcome = worker.look(asked_to_stop=told_to_stop)
                if worker.process.returncode is not None:
                    workers.remove(worker)
                    worker.end()
                if outcome is not None:
                    yield outcome
            watcher.running([worker.cell for worker in workers if worker.cell])
            time.sleep(POLL_SECONDS)
    finally:
        for worker in workers:
            worker.end()


def _free(workers: list["_Worker"], options: ExecutorOptions) -> "_Worker":
    """A worker without a cell; a new one if all have theirs."""
    for worker in workers:
        if worker.cell is None:
            return worker
    workers.append(_Worker(options))
    return workers[-1]


class _Worker:
    """A process that trains one cell after another.

    Its stdin stays open for as long as this process lives: when it closes, however that came about,
    the worker knows that nobody waits for it and stops, with a checkpoint if it is training.
    """

    def __init__(self, options: ExecutorOptions) -> None:
        self.cell: Cell | None = None
        self._options = options
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `end`
        self._stderr_begin = 0
        self._said = b""
        threads = str(options.threads)
        self.process = subprocess.Popen(
            [sys.executable, "-c", _CHILD, *sys.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env={**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
            bufsize=0,
            start_new_session=True,  # Ctrl-C is this process's to pass on
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._stdin, self._stdout = self.process.stdin, self.process.stdout
        os.set_blocking(self._stdout.fileno(), False)

    def begin(self, cell: Cell) -> None:
        """Let it train a cell."""
        self.cell = cell
        self._stderr_begin = os.fstat(self._stderr.fileno()).st_size
        request = {
            "config": cell.config.resolved(),
            "root": str(cell.root),
            "arm": cell.arm,
            "device": self._options.device,
            "deterministic": self._options.deterministic,
        }
        with suppress(BrokenPipeError):  # if it has died, exit code and stderr say why
            self._stdin.write(json.dumps(request).encode() + b"\n")

    def look(self, *, asked_to_stop: bool) -> Outcome | None:
        """How its cell ended, if it just has; it is free for another then, or dead."""
        ended = self.process.poll()  # before reading: what it said last is then there
        with suppress(BlockingIOError):
            self._said += self._stdout.read(64) or b""
        code = ended
        if self._said.endswith(b"\n"):
            code, self._said = int(self._said), b""
        if code is None or self.cell is None:
            return None
        return self._outcome(code, asked_to_stop=asked_to_stop)

    def _outcome(self, code: int, *, asked_to_stop: bool) -> Outcome:
        """What an exit code means; keeps the cell's stderr only if it failed."""
        assert self.cell is not None
        cell, self.cell = self.cell, None
        log = log_path(self._options.logs, cell)
        ending = _ENDINGS.get(code, "failed")
        if ending == "failed" and asked_to_stop and code < 0:
            ending = "stopped"  # the signal came before training had begun
        if ending == "failed":
            size = os.fstat(self._stderr.fileno()).st_size - self._stderr_begin
            # Not by seek and read: the process writes where this file stands.
            said = os.pread(self._stderr.fileno(), size, self._stderr_begin).decode(
                errors="replace"
            )
            if code < 0:
                said += f"killed by {signal.Signals(-code).name}\n"
            return Outcome(cell, "failed", f"{keep_log(log, said)} (exit code {code})")
        if ending != "taken":
            log.unlink(missing_ok=True)
        return Outcome(cell, ending)

    def end(self) -> None:
        """Let it go: nobody waits for what it may still be training."""
        self.process.kill()
        self.process.wait()
        for stream in (self._stdin, self._stdout, self._stderr):
            stream.close()


_ENDINGS: Mapping[int, Ending] = {
    0: "done",
    3: "diverged",
    TAKEN_EXIT_CODE: "taken",
    75: "stopped",
    130: "stopped",
}


def keep_log(log: Path, text: str) -> str:
    """Write what a failed run said, if the disk takes it; its last line."""
    with suppress(OSError):  # a full disk must not take the other runs along
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(f"{text.rstrip()}\n")
    return _last_line(text)


def last_line(log: Path) -> str:
    """The last line of a failed run's log."""
    try:
        return _last_line(log.read_text(errors="replace"))
    except OSError:
        return "its log cannot be read"


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def child() -> None:
    """The whole life of a worker process: requests on stdin, for each an exit code on stdout.

    It dies of what it does not understand, and of a request to stop.
    """
    answers = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whatever a library may print there
    requests = SimpleQueue[bytes]()
    threading.Thread(target=_read_requests, args=(requests,), daemon=True).start()
    load = load_once()
    while line := requests.get():
        request = json.loads(line)
        cell = Cell(Path(request["root"]), request["arm"], "", restore_config(request["config"]))
        code = 0
        try:
            ending = train_cell(
                cell, load, device=request["device"], deterministic=request["deterministic"]
            )
            code = next(code for code, name in _ENDINGS.items() if name == ending)
        except StopRequestedError as error:
            sys.exit(error.exit_code)
        except BnlabError as error:
            print("; ".join(str(error).splitlines()), file=sys.stderr, flush=True)  # noqa: T201
            code = error.exit_code
        os.write(answers, f"{code}\n".encode())


def _read_requests(requests: SimpleQueue[bytes]) -> None:
    """Pass on what comes on stdin, line by line; when it closes, end this process.

    Without Python's buffer, whose lock a daemon thread may hold at exit.
    """
    rest = b""
    while piece := os.read(0, 65536):
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            requests.put(line)
    requests.put(b"")
    os.kill(os.getpid(), signal.SIGTERM)


def train_cell(cell: Cell, load: Load, *, device: str, deterministic: bool) -> Ending:
    """Train a cell in this process, from wherever its directory stands.

    Args:
        cell: What to train, and where.
        load: Gives its images.
        device: As for `RunOptions`.
        deterministic: Likewise.

    Raises:
        BnlabError: As `run_experiment`, but for a cell that another process has.
    """
    options = RunOptions(device, "auto", deterministic=deterministic, arm=cell.arm)
    if is_taken(cell):
        return "taken"
    try:
        data = load(cell.config.dataset)
        summary: Mapping[str, Any] = run_experiment(cell.config, cell.root, options, data=data)
    except LockedError:
        return "taken"
    except BnlabError:
        if RunDir(cell.root).finished:
            return "taken"
        raise
    return "diverged" if summary["status"] == "diverged" else "done"


# ---------------------------------------------------------------------- in this process


@EXECUTORS.register("inline")
def run_inline(
    cells: Sequence[Cell], options: ExecutorOptions, stop: StopRequest, watcher: StudyWatcher
) -> Iterator[Outcome]:
    """One cell after the other in this process: no start-up time, but a crash ends the study."""
    load = load_once()
    for cell in cells:
        if stop():
            return
        watcher.started(cell)
        try:
            ending = train_cell(
                cell, load, device=options.device, deterministic=options.deterministic
            )
        except Exception as error:  # noqa: BLE001 - whatever it is, the other cells go on
            yield _raised(cell, error, options, stop)
        else:
            yield _ended(cell, ending, options)


@EXECUTORS.register("threads")
def run_in_threads(
    cells: Sequence[Cell], options: ExecutorOptions, stop: StopRequest, watcher: StudyWatcher
) -> Iterator[Outcome]:
    """Several cells at once in threads of this process; see `many`.

    On a GPU the runs share one context and one copy of the data, and there are only as many at a
    time as its memory holds. A run that raises costs no other; a crash of the process ends all, and
    `study run` resumes them.
    """
    wanted = RunOptions(options.device, "auto", deterministic=options.deterministic)
    jobs = {
        cell.root: Job(cell.config, cell.root, replace(wanted, arm=cell.arm))
        for cell in cells
        if not is_taken(cell)
    }
    by_root = {cell.root: cell for cell in cells}
    yield from (Outcome(cell, "taken") for cell in cells if cell.root not in jobs)

    def told(job: Job) -> Watcher:
        watcher.started(by_root[job.root])
        return Watcher()

    for ended in run_many(list(jobs.values()), at_once=options.jobs, watcher_for=told, stop=stop):
        cell = by_root[ended.job.root]
        if ended.summary is not None:
            diverged = ended.summary["status"] == "diverged"
            yield _ended(cell, "diverged" if diverged else "done", options)
        elif isinstance(ended.error, LockedError) or RunDir(cell.root).finished:
            yield Outcome(cell, "taken")
        else:
            assert ended.error is not None
            yield _raised(cell, ended.error, options, stop)


def _ended(cell: Cell, ending: Ending, options: ExecutorOptions) -> Outcome:
    if ending != "taken":
        log_path(options.logs, cell).unlink(missing_ok=True)
    return Outcome(cell, ending)


def _raised(
    cell: Cell, error: BaseException, options: ExecutorOptions, stop: StopRequest
) -> Outcome:
    if isinstance(error, StopRequestedError):
        stop.exit_code = error.exit_code
        return Outcome(cell, "stopped")
    said = f"{type(error).__name__}: {'; '.join(str(error).splitlines())}"
    return Outcome(cell, "failed", keep_log(log_path(options.logs, cell), said))
