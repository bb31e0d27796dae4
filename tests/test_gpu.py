import gc
from pathlib import Path

import pytest
import torch
from conftest import MakeConfig
from trained_runs import assert_same_run, curves

from bnlab.study.executors import EXECUTORS, Cell, ExecutorOptions, StudyWatcher
from bnlab.training.accelerate import CapturedSteps
from bnlab.training.datasets import load_splits
from bnlab.training.device import numerics
from bnlab.training.experiment import RunOptions, run_experiment
from bnlab.training.loop import evaluate, fit
from bnlab.training.norms import NORMS
from bnlab.training.signals import StopRequest
from bnlab.training.task import build_task

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

EXACT = RunOptions(device="cuda", deterministic=True)


@pytest.mark.parametrize("norm", NORMS)
def test_a_captured_run_is_the_eager_run(
    tmp_path: Path, tiny_config: MakeConfig, norm: str
) -> None:
    for how in ("eager", "graph"):
        config = tiny_config(
            f"model.norm.name={norm}",
            "model.dropout=0.3",
            "dataset.train_size=100",
            "optim.schedule=cosine",
            "train.epochs=6",
            f"train.accelerate={how}",
        )
        run_experiment(config, tmp_path / how, EXACT)
    assert_same_run(tmp_path / "eager", tmp_path / "graph")


@pytest.mark.parametrize(
    "override", ["optim.name=adam", "train.precision=bf16", "probes=[gradients]"]
)
def test_other_settings_are_captured_as_well(
    tmp_path: Path, tiny_config: MakeConfig, override: str
) -> None:
    for how in ("eager", "graph"):
        config = tiny_config(override, "optim.lr=0.01", "train.epochs=6", f"train.accelerate={how}")
        run_experiment(config, tmp_path / how, EXACT)
    assert_same_run(tmp_path / "eager", tmp_path / "graph")


def test_without_determinism_the_losses_stay_close(tmp_path: Path, tiny_config: MakeConfig) -> None:
    for how in ("eager", "graph"):
        config = tiny_config("train.epochs=4", f"train.accelerate={how}")
        run_experiment(config, tmp_path / how, RunOptions(device="cuda"))
    for eager, graph in zip(curves(tmp_path / "eager"), curves(tmp_path / "graph"), strict=True):
        assert graph["train/loss"] == pytest.approx(eager["train/loss"], rel=0.02)


def test_replayed_epochs_never_wait_for_the_device(tiny_config: MakeConfig) -> None:
    config = tiny_config("model.dropout=0.3", "train.epochs=9", "dataset.train_size=100")
    device = torch.device("cuda:0")
    task = build_task(config, load_splits(config.dataset), device, "fp32")
    with numerics("fp32"):
        run = fit(task, lambda _position: False)
        for _ in range(5):
            next(run)
        _, steps = task.passes[task.train]
        assert isinstance(steps, CapturedSteps)
        assert sorted(steps._replays) == [4, 32]
        steps.start(5)
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(task.train.steps - 1):
                steps()
            steps._replays[4]()  # the last step, less the drawing of the next epoch
        finally:
            torch.cuda.set_sync_debug_mode("default")
        evaluate(task, task.held_out["test"])


def test_runs_at_once_leave_the_records_that_they_leave_alone(
    tmp_path: Path, tiny_config: MakeConfig
) -> None:
    arms = [("none",), ("batch",), ("noisy_batch",), ("group",)]
    configs = [
        tiny_config(f"model.norm.name={norm}", "model.dropout=0.2", "train.epochs=8", seed=seed)
        for seed, (norm,) in enumerate(arms)
    ]
    for number, config in enumerate(configs):
        run_experiment(config, tmp_path / "alone" / str(number), EXACT)
    cells = [
        Cell(tmp_path / "many" / str(number), "arm", str(number), config)
        for number, config in enumerate(configs)
    ]
    options = ExecutorOptions(4, 1, "cuda", deterministic=True, logs=tmp_path / "logs")
    for outcome in EXECUTORS["threads"](cells, options, StopRequest(), StudyWatcher()):
        assert outcome.ending != "failed", outcome.reason
    for number in range(len(configs)):
        assert_same_run(tmp_path / "alone" / str(number), tmp_path / "many" / str(number))


def test_the_memory_of_a_finished_run_is_free_at_once(
    tmp_path: Path, tiny_config: MakeConfig
) -> None:
    run_experiment(tiny_config("train.epochs=6"), tmp_path / "first", EXACT)
    held = torch.cuda.memory_allocated()
    gc.disable()  # it would find a circle in time
    try:
        run_experiment(tiny_config("train.epochs=6"), tmp_path / "second", EXACT)
        assert torch.cuda.memory_allocated() <= held + 2**20
    finally:
        gc.enable()
