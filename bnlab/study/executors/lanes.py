"""Runs in the threads of one process apart: how a GPU is shared.

The process has so many lanes, each a thread with a stream of its own (`training.lane`); the runs
share one context and one copy of the data. What spoils the device for all of them, a capture that
failed or an error of CUDA, costs no run: the others are checkpointed, the process ends, and a new
one resumes them. A run that fails so twice, or finds no memory, goes on in a process of its own;
what fails there has failed.
"""

import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from bnlab.config import restore_config
from bnlab.errors import BnlabError
from bnlab.study.executors import (
    EXECUTORS,
    Cell,
    ExecutorOptions,
    Outcome,
    StudyWatcher,
    keep_log,
)
from bnlab.training.signals import StopRequest
from bnlab.training.workers import (
    POLL_SECONDS,
    Answer,
    ProcessWorker,
    Request,
    broke_the_device,
    ran_out_of_memory,
    tell,
)

HOUSE = "bnlab.study.executors.lanes:House"

TRIES = 2
"""How often a run may break the process that it shares before it has one for itself; and how often
in a row a process may end before it has begun any run."""

GRACE_SECONDS = 60.0
"""For the other runs of a process that broke to be checkpointed, before it is killed."""

SWITCH_SECONDS = 1e-4
"""How long a lane may keep Python's lock while others want it. By default 5 ms, ten steps' time."""

FEW_STREAMS = 8
"""So many have a connection of their own to the GPU; more share them unless told otherwise."""


@EXECUTORS.register("lanes")
def run_in_lanes(
    cells: Sequence[Cell], options: ExecutorOptions, stop: StopRequest, watcher: StudyWatcher
) -> Iterator[Outcome]:
    """Lanes train one cell after another, in a process that is replaced when it breaks."""
    together, apart = dict(enumerate(cells)), dict[int, Cell]()
    broke, idle = Counter[int](), 0
    while (together or apart) and not stop():
        shared = bool(together)
        queue = together if shared else dict([next(iter(apart.items()))])
        settings = options if shared else replace(options, jobs=1)
        process = _Process(dict(queue), settings)
        for number, outcome, spoiled in process.train(stop, watcher):
            (together if shared else apart).pop(number)
            if stop() or not (spoiled or outcome.ending == "stopped"):
                yield outcome
            elif outcome.ending == "stopped":  # for another's sake
                (together if shared else apart)[number] = outcome.cell
            elif not shared:
                yield outcome
            else:
                broke[number] += 1
                twice = broke[number] >= TRIES or ran_out_of_memory(outcome.reason)
                (apart if twice else together)[number] = outcome.cell
        idle = idle + 1 if process.ended_at_once else 0
        if idle >= TRIES:
            raise BnlabError(f"the process of the lanes ended at once: {process.ended_at_once}")


class _Process:
    """A process in whose lanes cells are trained.

    Args:
        cells: By number, in the order to begin them.
        options: Its `jobs` are the lanes.
    """

    def __init__(self, cells: Mapping[int, Cell], options: ExecutorOptions) -> None:
        connections = {"CUDA_DEVICE_MAX_CONNECTIONS": "32"} if options.jobs > FEW_STREAMS else {}
        self._cells, self._options = cells, options
        self._worker = ProcessWorker(HOUSE, options.threads, connections)
        self._under_way = dict[int, Cell]()
        self._begun, self._broke_at = False, float("inf")
        self.ended_at_once = ""
        """Why it ended before it had begun any run."""

    def train(
        self, stop: StopRequest, watcher: StudyWatcher
    ) -> Iterator[tuple[int, Outcome, bool]]:
        """Tell of each cell that was begun how that ended.

        With it goes whether it may have failed for the process's sake, not for its own.
        """
        told = False
        try:
            self._worker.begin(_request(self._cells, self._options))
            while (reply := self._worker.look(POLL_SECONDS)) is None and not self._overdue():
                yield from self._heard(watcher)
                watcher.running(list(self._under_way.values()))
                if stop() and not told:
                    self._worker.stop()
                    told = True
            yield from self._heard(watcher)
        finally:
            self._worker.end()
        if reply is not None and reply.error and not self._begun:
            self.ended_at_once = reply.error
        for number, cell in self._under_way.items():
            if reply is None or reply.stopped:
                yield number, Outcome(cell, "stopped"), False
            else:
                keep_log(self._options, cell, reply.log)
                yield number, Outcome(cell, "failed", reply.error), True

    def _overdue(self) -> bool:
        return time.monotonic() - self._broke_at > GRACE_SECONDS

    def _heard(self, watcher: StudyWatcher) -> Iterator[tuple[int, Outcome, bool]]:
        for note in self._worker.notes():
            number, self._begun = note["cell"], True
            if note["ending"] is None:
                self._under_way[number] = self._cells[number]
                watcher.started(self._cells[number])
                continue
            outcome = Outcome(self._under_way.pop(number), note["ending"], note["reason"])
            if broke_the_device(outcome.reason):
                self._broke_at = min(self._broke_at, time.monotonic())
            spoiled = broke_the_device(outcome.reason) or ran_out_of_memory(outcome.reason)
            yield number, outcome, spoiled


# -------------------------------------------------------------------------- in that process


def _request(cells: Mapping[int, Cell], options: ExecutorOptions) -> Request:
    return {
        "cells": [
            {
                "number": number,
                "root": str(cell.root),
                "arm": cell.arm,
                "label": cell.label,
                "config": cell.config.resolved(),
            }
            for number, cell in cells.items()
        ],
        "options": {**asdict(options), "logs": str(options.logs)},
    }


class House:
    """What the process serves: trains the cells of a request in its lanes, telling how it goes."""

    def __init__(self) -> None:
        sys.setswitchinterval(SWITCH_SECONDS)

    def __call__(self, request: Request, stop: StopRequest) -> Answer:
        """Train them; stops of itself when the device is spoiled."""
        options = ExecutorOptions(
            **{**request["options"], "logs": Path(request["options"]["logs"])}
        )
        numbers = dict[Path, int]()
        cells = list[Cell]()
        for told in request["cells"]:
            root = Path(told["root"])
            numbers[root] = told["number"]
            cells.append(Cell(root, told["arm"], told["label"], restore_config(told["config"])))
        for outcome in EXECUTORS["threads"](cells, options, stop, _Telling(numbers)):
            _tell(numbers[outcome.cell.root], outcome.ending, outcome.reason)
            if outcome.ending == "failed" and broke_the_device(outcome.reason):
                stop.name, stop.exit_code = "an error of the device", 75
        return {}


class _Telling(StudyWatcher):
    """Tells the process that hired this one which cells begin."""

    def __init__(self, numbers: Mapping[Path, int]) -> None:
        self._numbers = numbers

    def started(self, cell: Cell) -> None:
        _tell(self._numbers[cell.root], None, "")


def _tell(cell: int, ending: str | None, reason: str) -> None:
    tell({"cell": cell, "ending": ending, "reason": reason})
