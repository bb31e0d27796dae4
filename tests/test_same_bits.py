"""However a run is trained, a configuration and a seed give one set of bits (on one CPU thread)."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import TINY
from raw import raw_run
from trained_runs import assert_same_run

import bnlab
from bnlab.config import Config, load_config
from bnlab.records import RunDir
from bnlab.study.executors import EXECUTORS, Cell, ExecutorOptions, StudyWatcher
from bnlab.study.plan import load_study
from bnlab.study.run import StudyOptions, run_study
from bnlab.training.experiment import run_experiment
from bnlab.training.signals import StopRequest

ARMS: Mapping[str, tuple[str, ...]] = {
    "none": ("model.norm.name=none", "seed=1"),
    "batch": ("model.dropout=0.3", "probes=[gradients]", "seed=2"),
    "bf16": ("train.precision=bf16", "seed=3"),
}

Train = Callable[[Path], Mapping[str, Path]]
"""Trains arms below a folder; where each then lies."""


def config(arm: str) -> Config:
    return load_config((), [*TINY, *ARMS[arm]])


def by_executor(name: str, jobs: int, folder: Path) -> dict[str, Path]:
    cells = [Cell(folder / arm, arm, arm, config(arm)) for arm in ARMS]
    options = ExecutorOptions(jobs, 1, "cpu", deterministic=False, logs=folder / "logs")
    ended = list(EXECUTORS[name](cells, options, StopRequest(), StudyWatcher()))
    assert [end.reason for end in ended] == [""] * len(ARMS)
    return {cell.arm: cell.root for cell in cells}


def by_python(folder: Path) -> dict[str, Path]:
    """After other runs in one process, and backwards, so that each arm follows another."""
    return {arm: bnlab.train(config(arm), folder).root for arm in reversed(list(ARMS))}


def by_command(folder: Path) -> dict[str, Path]:
    words = [word for setting in (*TINY, *ARMS["batch"]) for word in ("--set", setting)]
    done = subprocess.run(
        [sys.executable, "-m", "bnlab.cli", "train", *words, "--runs-dir", str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in {0, 3}, done.stderr
    return {"batch": Path(done.stdout.splitlines()[-1])}


WAYS: Mapping[str, Train] = {
    "the Python API": by_python,
    "the command line": by_command,
    **{
        f"{name}, {jobs} at once": partial(by_executor, name, jobs)
        for name in EXECUTORS
        if "hires" not in EXECUTORS.entry(name).facts  # test_fleet.py has those of other machines
        for jobs in (1, 2)
    },
}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("alone")
    for arm in ARMS:
        run_experiment(config(arm), folder / arm)
    return {arm: folder / arm for arm in ARMS}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_train_gives_the_bits_of_a_run_alone(
    way: str, alone: Mapping[str, Path], tmp_path: Path
) -> None:
    for arm, root in WAYS[way](tmp_path).items():
        assert_same_run(alone[arm], root)
        ours, theirs = raw_run(RunDir(root)), raw_run(RunDir(alone[arm]))
        assert ours["environment"]["threads"] == 1
        for fact in ("init_hash", "data_order_hash", "config_hash", "code", "precision"):
            assert ours[fact] == theirs[fact], fact


def test_a_study_that_goes_on_with_other_threads_says_so_and_records_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = dict(setting.split("=") for setting in TINY if not setting.startswith("name="))
    lines = "".join(f"  {key}: {value}\n" for key, value in settings.items())
    file = tmp_path / "study.yaml"

    def run(threads: int, seeds: int) -> list[str]:
        monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
        file.write_text(f"name: tiny\nset:\n{lines}arms: {{a: {{}}}}\nseeds: {seeds}\n")
        said: list[str] = []
        options = StudyOptions(executor="inline", device="cpu")
        finished = run_study(
            load_study(file, runs_dir=tmp_path), tmp_path, options, say=said.append
        )
        facts = [raw_run(RunDir(root)) for root in finished.survey.cells]
        assert [one["environment"]["threads"] for one in facts] == [1, 2][:seeds]
        return said

    assert not any("earlier" in line for line in run(threads=1, seeds=1))
    said = run(threads=2, seeds=2)
    assert any("CPU threads for each: 2 (earlier runs had 1: other last bits" in s for s in said)
