"""The life of a worker that another machine was asked to start: it runs the study, as all do."""

import os
import platform
import sys
from pathlib import Path

from bnlab.errors import BnlabError, RefusedError, StopRequestedError
from bnlab.study.executors import Outcome, StudyWatcher, share_cores
from bnlab.study.fleet import (
    Orders,
    WorkerNote,
    code_of_all,
    read_orders,
    refuse_other_code,
    refuse_other_folder,
    write_note,
)
from bnlab.study.plan import load_study
from bnlab.study.run import StudyOptions, raise_failures, run_study
from bnlab.training.device import resolve_device
from bnlab.training.signals import StoppedError


def work(folder: Path, token: str, name: str, cores: int | None = None) -> None:
    """Train what is missing of a study, beside whoever else does.

    Args:
        folder: The study's, as whoever hires sees it.
        token: What tells that it is the same here.
        name: This worker's.
        cores: CPU cores that it was given; None for those it may use.

    Raises:
        RefusedError: If the folder, the version or the code is another than was ordered.
        StopRequestedError, StoppedError: On SIGTERM, with every run checkpointed.
        StudyFailedError: If some runs failed.
        BnlabError: As `run_study`.
    """
    refuse_other_folder(folder, token)

    def note(state: str, said: str = "") -> None:
        place = {"host": platform.node(), "pid": os.getpid()}
        write_note(
            folder, WorkerNote.model_validate({"name": name, "state": state, "said": said, **place})
        )

    try:
        orders = read_orders(folder)
        _go_where_paths_begin(orders)
        study = load_study(orders.study, runs_dir=orders.runs_dir)
        refuse_other_code(orders.code, code_of_all(study.configs.values()))
        note("working")
        options = _options(orders, cores)
        finished = run_study(study, orders.runs_dir, options, _Log(), _say)
    except (StopRequestedError, StoppedError):
        note("stopped", "by a signal, its runs checkpointed")
        raise
    except RefusedError as error:
        note("refused", str(error))
        raise
    except BnlabError as error:
        note("failed", str(error))
        raise
    failed = len(finished.failures)
    note("ended", f"{failed} runs failed" if failed else "")
    raise_failures(finished, ["bnlab", "study", "run", str(orders.study)])


def _go_where_paths_begin(orders: Orders) -> None:
    try:
        os.chdir(orders.cwd)
    except OSError as error:
        raise RefusedError(
            f"worker on {platform.node()}: {orders.cwd}: {error.strerror}; the study was run "
            "there, and its relative paths begin there: use a folder that all machines share"
        ) from error


def _options(orders: Orders, cores: int | None) -> StudyOptions:
    if resolve_device(orders.device).type == "cpu":
        # A scheduler may have set its own number, but equal bits need that of whoever hires.
        os.environ["OMP_NUM_THREADS"] = str(orders.threads)
    jobs, _ = share_cores(orders.jobs, orders.device, None, cores)
    return StudyOptions(jobs, orders.device, orders.deterministic, force=True)


class _Log(StudyWatcher):
    """Says on stderr, which is a worker's log, how its runs end."""

    def ended(self, outcome: Outcome) -> None:
        """A line a run."""
        if outcome.ending != "taken":
            _say(f"{outcome.ending}: {outcome.cell.label}: {outcome.reason}".rstrip(": "))


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
