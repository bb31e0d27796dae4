import gc
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from conftest import MakeConfig
from trained_runs import StopAt, assert_same_run, curves

from bnlab.config import Config
from bnlab.errors import StopRequestedError
from bnlab.study.executors import EXECUTORS, Cell, ExecutorOptions, StudyWatcher
from bnlab.training.accelerate import CapturedSteps
from bnlab.training.datasets import load_splits
from bnlab.training.device import numerics
from bnlab.training.experiment import RunOptions, run_experiment
from bnlab.training.lane import lane
from bnlab.training.loop import evaluate, fit
from bnlab.training.models._conv import Conv2d
from bnlab.training.norms import NORMS, build_norm
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


def test_an_epoch_of_replays_never_waits_for_the_device(tiny_config: MakeConfig) -> None:
    config = tiny_config("model.dropout=0.3", "train.epochs=9", "dataset.train_size=100")
    device = torch.device("cuda:0")
    with lane(device), numerics("fp32"):
        task = build_task(config, load_splits(config.dataset), device, "fp32")
        run = fit(task, lambda _position: False)
        for _ in range(5):
            next(run)
        _, steps = task.passes[task.train]
        assert isinstance(steps, CapturedSteps)
        assert sorted(steps._replays) == [4, 32]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch calls the mode a prototype
            torch.cuda.set_sync_debug_mode("error")
            try:
                steps.start(5)
                for _ in range(task.train.steps):  # with the last the next epoch is drawn
                    steps()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        evaluate(task, task.held_out["test"])


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path, tiny_config: MakeConfig) -> None:
    config = tiny_config("model.dropout=0.3", "train.epochs=6", "model.norm.name=noisy_batch")
    run_experiment(config, tmp_path / "whole", EXACT)
    with pytest.raises(StopRequestedError):
        run_experiment(config, tmp_path / "cut", EXACT, StopAt(5, 2))
    again = RunOptions(device="cuda", deterministic=True, resume="must")
    run_experiment(config, tmp_path / "cut", again)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.parametrize("norm", sorted(set(NORMS) - {"frozen_init"}))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_norm_leaves_channels_last(
    tiny_config: MakeConfig, norm: str, dtype: torch.dtype
) -> None:
    module = build_norm((8, 6, 6), tiny_config(f"model.norm.name={norm}").model.norm).cuda()
    images = torch.randn(4, 8, 6, 6, device="cuda", dtype=dtype)
    images = images.to(memory_format=torch.channels_last).requires_grad_()
    with torch.autocast("cuda", torch.bfloat16, enabled=dtype == torch.bfloat16):
        out = module(images)
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_a_capture_that_fails_says_so() -> None:
    code = """
import torch
from bnlab.training.accelerate import CaptureFailedError, capture
from bnlab.training.lane import lane
device = torch.device("cuda:0")
with lane(device):
    number = torch.ones((), device=device)
    try:
        capture(lambda: number.item(), device, ())
    except CaptureFailedError as error:
        print("said:", error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("said: "), done.stderr


def _together(
    configs: Sequence[Config], folder: Path, executor: str, *, deterministic: bool
) -> None:
    cells = [
        Cell(folder / str(number), "arm", str(number), config)
        for number, config in enumerate(configs)
    ]
    options = ExecutorOptions(
        len(cells), 1, "cuda", deterministic=deterministic, logs=folder / "logs"
    )
    for outcome in EXECUTORS[executor](cells, options, StopRequest(), StudyWatcher()):
        assert outcome.ending in {"done", "diverged"}, outcome.reason


@pytest.mark.parametrize("executor", ["threads", "lanes"])
def test_six_runs_at_once_tune_their_kernels_and_capture_without_disturbing_one_another(
    tmp_path: Path, tiny_config: MakeConfig, executor: str
) -> None:
    configs = [
        tiny_config(f"train.batch_size={16 + 4 * number}", "train.epochs=8", seed=number)
        for number in range(6)
    ]
    _together(configs, tmp_path, executor, deterministic=False)


def test_short_runs_come_and_go_beside_a_long_one(tmp_path: Path, tiny_config: MakeConfig) -> None:
    long = tiny_config("train.epochs=60", "model.dropout=0.3", seed=99)
    run_experiment(long, tmp_path / "alone", EXACT)
    configs = [long, *(tiny_config("train.epochs=5", seed=seed) for seed in range(12))]
    cells = [
        Cell(tmp_path / str(number), "arm", str(number), config)
        for number, config in enumerate(configs)
    ]
    options = ExecutorOptions(4, 1, "cuda", deterministic=True, logs=tmp_path / "logs")
    for outcome in EXECUTORS["threads"](cells, options, StopRequest(), StudyWatcher()):
        assert outcome.ending in {"done", "diverged"}, outcome.reason
    assert_same_run(tmp_path / "alone", tmp_path / "0")


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
    _together(configs, tmp_path / "many", "threads", deterministic=True)
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


@pytest.mark.parametrize("channels", [3, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_convolution_gives_what_torchs_gives(channels: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    ours = Conv2d(channels, 16, 3, padding=1).cuda()
    ours.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.randn(32, channels, 16, 16, device="cuda")
    images = images.to(memory_format=torch.channels_last).requires_grad_()
    exact = torch.nn.Conv2d(channels, 16, 3, padding=1).double().cuda()
    exact.load_state_dict(ours.state_dict())
    wide = images.detach().double().requires_grad_()
    pull = torch.randn(32, 16, 16, 16, device="cuda")
    with numerics("fp32"):  # not torch's default of tf32
        with torch.autocast("cuda", torch.bfloat16, enabled=dtype == torch.bfloat16):
            out = ours(images)
        assert out.dtype == dtype
        assert out.is_contiguous(memory_format=torch.channels_last)
        out.backward(pull.to(dtype))
    exact(wide).backward(pull.to(dtype).double())
    assert ours.bias is not None
    assert exact.bias is not None
    assert images.grad is not None
    assert wide.grad is not None
    for found, true in (
        (out, exact(wide)),
        (images.grad, wide.grad),
        (ours.weight.grad, exact.weight.grad),
        (ours.bias.grad, exact.bias.grad),
    ):
        assert found is not None
        assert true is not None
        error = (found.double() - true).norm() / true.norm()
        assert error < (1e-2 if dtype == torch.bfloat16 else 1e-5)
