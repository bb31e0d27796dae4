"""Runs in this process, one by one: no start-up time, but a crash ends the study."""

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
from bnlab.training.signals import StopRequest
from bnlab.training.workers import attempt


@EXECUTORS.register("inline", facts=("one_by_one",))
def run_inline(
    cells: Sequence[Cell], options: ExecutorOptions, stop: StopRequest, watcher: StudyWatcher
) -> Iterator[Outcome]:
    """One cell after the other, here."""
    from bnlab.study.cells import CellTrainer
    from bnlab.training.device import cpu_threads

    trainer = CellTrainer()
    for cell in cells:
        if stop():
            return
        watcher.started(cell)
        with cpu_threads(options.threads):
            reply = attempt(trainer, request_of(cell, options, at_once=1), stop)
        yield outcome_of(cell, reply, options)
