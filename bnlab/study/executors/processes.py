"""Runs in processes apart: a crash costs that run and no other."""

from collections.abc import Iterator, Sequence

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
from bnlab.training.workers import ProcessWorker

TRAINER = "bnlab.study.cells:CellTrainer"


@EXECUTORS.register("processes")
def run_in_processes(
    cells: Sequence[Cell], options: ExecutorOptions, stop: StopRequest, watcher: StudyWatcher
) -> Iterator[Outcome]:
    """A process trains one cell after another: starting one takes as long as a small run."""
    at_once = min(options.jobs, len(cells))
    work = [(cell, request_of(cell, options, at_once=at_once)) for cell in cells]
    with Crew(lambda: ProcessWorker(TRAINER, options.threads), stop) as crew:
        for cell, reply in crew.share(work, lambda: at_once, watcher.started, watcher.running):
            yield outcome_of(cell, reply, options)
