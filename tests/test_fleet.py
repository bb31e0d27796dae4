"""Workers elsewhere: followed, refused, lost, and let go."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import TINY
from trained_runs import assert_same_run

from bnlab.errors import BnlabError, ConfigError, RefusedError, StopRequestedError
from bnlab.study.executors import StudyWatcher, slurm
from bnlab.study.executors._follow import Alive
from bnlab.study.fleet import (
    Fleet,
    Hiring,
    NoWorkersError,
    last_words,
    read_notes,
    read_orders,
    write_orders,
)
from bnlab.study.plan import load_study
from bnlab.study.run import StudyOptions, prepare_study, run_study


class LocalJobs:
    """Workers by submitit's local executor, in Slurm's place."""

    detaches = True

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.jobs = dict[str, Any]()

    def hire(self, count: int) -> list[str]:
        from submitit import LocalExecutor

        executor = LocalExecutor(self.fleet.workers)
        executor.update_parameters(timeout_min=5)
        worker = slurm.Job(str(self.fleet.folder), self.fleet.orders.token)
        jobs = executor.map_array(worker, range(count))
        self.jobs |= {str(job.job_id): job for job in jobs}
        return [str(job.job_id) for job in jobs]

    def alive(self, names: Sequence[str]) -> Mapping[str, Alive]:
        states = {name: self.jobs[name].state for name in names if name in self.jobs}
        return {name: Alive("running") for name, state in states.items() if state == "RUNNING"}

    def cancel(self, names: Sequence[str]) -> None:
        for name in names:
            self.jobs[name]._process.terminate()

    def last_words(self, name: str) -> str:
        return last_words(self.fleet.folder, name)

    def advice(self, names: Sequence[str]) -> str:
        return f"kill {' '.join(names)}"


class Says(StudyWatcher):
    def __init__(self) -> None:
        self.lines = list[str]()

    def say(self, line: str) -> None:
        self.lines.append(line)
        print("SAY", line)

    def ended(self, outcome) -> None:
        print("ENDED", outcome.cell.label, outcome.ending, outcome.reason)


def write_study(folder: Path, **changes: Any) -> Path:
    settings = {}
    for text in TINY:
        key, _, value = text.partition("=")
        settings[key] = yaml.safe_load(value)
    settings.pop("name")
    study = {
        "name": "tiny",
        "set": settings,
        "arms": {"none": {"model.norm": "none"}, "batch": {"model.norm.name": "batch"}},
        "seeds": 2,
        **changes,
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(study, sort_keys=False))
    return path


def hiring(workers: int = 2, **settings: str) -> StudyOptions:
    return StudyOptions(None, "cpu", executor="slurm", hiring=Hiring(workers, settings, "detach"))


def test_a_study_trained_by_workers_has_the_bits_of_a_local_one(tmp_path, monkeypatch):
    monkeypatch.setattr(slurm, "make_starter", LocalJobs)
    file = write_study(tmp_path)
    study = load_study(file, runs_dir=tmp_path / "runs")
    t = time.time()
    finished = run_study(study, tmp_path / "runs", hiring(), Says(), print)
    print("took", time.time() - t)
    for p in (tmp_path / "runs/tiny/workers").iterdir():
        print(p.name)
    for p in (tmp_path / "runs/tiny/workers").glob("*.json"):
        print(p.read_text())
    assert not finished.failures
