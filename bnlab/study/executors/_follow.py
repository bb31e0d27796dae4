"""Following workers that train elsewhere: their runs are seen to go on and end in the folder."""

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bnlab.errors import BnlabError, RefusedError, StopRequestedError
from bnlab.records import RunDir, read_summary
from bnlab.study.executors import (
    Cell,
    ExecutorOptions,
    Outcome,
    StudyWatcher,
    last_line,
    log_path,
)
from bnlab.study.fleet import Fleet, read_notes
from bnlab.training.signals import StopRequest

LOOK_SECONDS = 1.0
"""How often to look at the runs, of which looking may take a tenth at the most."""

ASK_SECONDS = 5.0
"""How often to ask whoever started the workers which are alive: others ask too."""

CANCEL_SECONDS = 120.0
"""For cancelled workers to save what they are at."""


class NoWorkersError(BnlabError):
    """All workers of a study are gone, and it is not finished."""


@dataclass(frozen=True)
class Alive:
    """A worker that waits or works.

    Attributes:
        state: `running`, or what it waits in: `pending`, `requeued`.
        where: Machine, or why it waits.
    """

    state: str
    where: str = ""


class Starter(Protocol):
    """Starts workers on other machines and knows which are alive."""

    detaches: bool
    """Whether they live on without whoever started them."""

    def hire(self, count: int) -> list[str]:
        """Start so many workers; gives their names."""

    def alive(self, names: Sequence[str]) -> Mapping[str, Alive]:
        """Those of the workers that are."""

    def cancel(self, names: Sequence[str]) -> None:
        """Let them stop, with all saved; do not wait for it."""

    def last_words(self, name: str) -> str:
        """What a worker that is gone said last."""

    def advice(self, names: Sequence[str]) -> str:
        """How to cancel them by hand."""


def follow(
    cells: Sequence[Cell],
    options: ExecutorOptions,
    stop: StopRequest,
    watcher: StudyWatcher,
    make_starter: Callable[[Fleet], Starter],
) -> Iterator[Outcome]:
    """Give each cell's outcome as the folder shows it; start workers if too few are alive.

    The workers go on to the next stage of a study by themselves.

    Raises:
        NoWorkersError: If the last worker has gone and cells are left.
        RefusedError: If every worker was refused.
        StopRequestedError: If a signal came and the workers go on.
    """
    assert options.fleet is not None
    kept = options.fleet.kept
    if "failures" not in kept:  # of later stages, workers may be ahead
        kept["failures"] = {log: _written_at(log) for log in options.logs.glob("*.log")}
    runs = _Runs(cells, options.logs, kept["failures"], watcher)
    yield from runs.ended()
    if not runs.left:
        return
    if "crew" not in kept:
        kept["crew"] = _Crew(options.fleet, make_starter(options.fleet), watcher)
    crew: _Crew = kept["crew"]
    crew.fill()
    while runs.left:
        began = time.monotonic()
        yield from runs.ended()
        if stop():
            yield from crew.part(stop, runs)
            return
        # Asked first, looked at then: what the last worker finished counts.
        alone = not crew.ask()
        yield from runs.ended()
        if alone and runs.left:
            raise crew.gone(len(runs.left))
        time.sleep(max(LOOK_SECONDS, 9 * (time.monotonic() - began)) if runs.left else 0)


class _Runs:
    """Cells that workers train, as their directories show them.

    Args:
        logs: Folder for what failed runs wrote.
        failures: When those there had been written before any worker was started.

    Attributes:
        left: By run directory, those that have not ended.
        running: Those that are locked.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        logs: Path,
        failures: Mapping[Path, float],
        watcher: StudyWatcher,
    ) -> None:
        self.left = {cell.root: cell for cell in cells}
        self.running = dict[Path, Cell]()
        self._logs, self._failures, self._watcher = logs, failures, watcher

    def ended(self) -> Iterator[Outcome]:
        """Those that have ended since the last look."""
        for root, cell in list(self.left.items()):
            run_dir = RunDir(root)
            if run_dir.finished:
                outcome = _finished(cell)
            elif run_dir.locked:
                if root not in self.running:
                    self.running[root] = cell
                    self._watcher.started(cell)
                continue
            elif _written_at(log := log_path(self._logs, cell)) > self._failures.get(log, 0.0):
                outcome = Outcome(cell, "failed", last_line(log))
            else:
                self.running.pop(root, None)
                continue
            self.running.pop(root, None)
            del self.left[root]
            yield outcome
        self._watcher.running(list(self.running.values()))


def _written_at(log: Path) -> float:
    try:
        return log.stat().st_mtime
    except OSError:
        return 0.0


def _finished(cell: Cell) -> Outcome:
    try:
        return Outcome(cell, read_summary(RunDir(cell.root).files).status)
    except BnlabError as error:  # damaged: the study's survey says so, too
        return Outcome(cell, "failed", str(error))


class _Crew:
    """The workers, whoever of them is alive."""

    def __init__(self, fleet: Fleet, starter: Starter, watcher: StudyWatcher) -> None:
        self._fleet, self._starter, self._watcher = fleet, starter, watcher
        self._names = list[str]()
        self._alive: Mapping[str, Alive] = {}
        self._asked, self._said, self._heard = 0.0, "", set[str]()

    def fill(self) -> None:
        """Start workers, unless enough are alive from before.

        Later, only if none is alive: whoever has cancelled one of them since means it.
        """
        first = not self._names
        alive = list(self._starter.alive(self._names or self._fleet.known()))
        if alive and first:
            self._watcher.say(f"workers of this study that are alive: {_list(alive)}")
        missing = self._fleet.hiring.workers - len(alive)
        if missing > 0 and (first or not alive):
            hired = self._starter.hire(missing)
            self._watcher.say(f"workers asked for: {_list(hired)}")
            alive += hired
        self._names = alive
        self._fleet.note_hired(alive)

    def ask(self) -> bool:
        """Whether any is alive; asks not too often."""
        if time.monotonic() - self._asked < ASK_SECONDS:
            return True
        self._asked = time.monotonic()
        self._alive = self._starter.alive(self._names)
        counts = Counter(
            f"{one.state} ({one.where})" if one.state != "running" and one.where else one.state
            for one in self._alive.values()
        )
        said = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
        if said and said != self._said:
            self._said = said
            self._watcher.say(f"workers: {said}")
        for name in self._names:
            if name not in self._alive and name not in self._heard:
                self._heard.add(name)
                words = self._starter.last_words(name)
                self._watcher.say(f"worker {name} is gone{f': {words}' * bool(words)}")
        return bool(self._alive)

    def part(self, stop: StopRequest, runs: _Runs) -> Iterator[Outcome]:
        """Leave the workers alone, or let them stop, as the user wishes.

        Raises:
            StopRequestedError: If they go on.
        """
        names = list(self._starter.alive(self._names))
        if self._starter.detaches and self._fleet.hiring.on_interrupt == "detach":
            raise StopRequestedError(
                f"{self._fleet.folder}: {stop.name}: {len(names)} workers go on: {_list(names)}; "
                "`bnlab study status` shows them, the same command watches them again, and "
                f"`{self._starter.advice(names)}` cancels them (so does --on-interrupt cancel)",
                stop.exit_code,
            )
        self._watcher.say(f"stopping {len(names)} workers; their runs are checkpointed")
        under_way = list(runs.running.values())
        self._starter.cancel(names)
        until = time.monotonic() + CANCEL_SECONDS
        while self._starter.alive(names) and time.monotonic() < until:
            time.sleep(LOOK_SECONDS)
        yield from runs.ended()
        yield from (Outcome(cell, "stopped") for cell in under_way if cell.root in runs.left)

    def gone(self, left: int) -> BnlabError:
        """What is to be said when no worker is left."""
        words = {name: self._starter.last_words(name) for name in self._names}
        told = "\n".join(f"  worker {name}: {said or 'nothing'}" for name, said in words.items())
        notes = read_notes(self._fleet.folder)
        refused = [name for name in words if name in notes and notes[name].state == "refused"]
        error = RefusedError if words and len(refused) == len(words) else NoWorkersError
        return error(
            f"no worker is left, and {left} runs are not finished; what the workers said "
            f"last:\n{told}\ntheir logs are in {self._fleet.workers}; the same command starts "
            "new ones"
        )


def _list(names: Sequence[str]) -> str:
    """Names, shortened if there are many."""
    names = sorted(names, key=lambda name: [*map(int, re.findall("[0-9]+", name))])
    if len(names) > 4:
        return f"{names[0]}, {names[1]}, ... {names[-1]}"
    return ", ".join(names)
