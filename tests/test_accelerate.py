import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import MakeConfig
from hypothesis import given, settings
from hypothesis import strategies as st
from raw import raw_run
from torch import nn
from trained_runs import StopAt, assert_same_run, weights

from bnlab.errors import StopRequestedError
from bnlab.records import RunDir, run_path
from bnlab.training.accelerate import (
    WARM_UP_CALLS,
    CapturedSteps,
    EagerSteps,
    build_forward,
    capture,
    hold_lr,
    pool_before_relu,
    resolve_acceleration,
)
from bnlab.training.batches import Batches, fit_normalize
from bnlab.training.datasets._splits import Split
from bnlab.training.experiment import RunOptions, run_experiment
from bnlab.training.models import build_model
from bnlab.training.norms import NORMS
from bnlab.training.streams import Stochastic
from bnlab.training.task import build_task

CPU = torch.device("cpu")


def batches(images: int, *, shuffle: bool = True, augment: bool = True) -> Batches:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (images, 3, 32, 32), dtype=torch.uint8, generator=generator)
    split = Split(pixels, torch.arange(images) % 10)
    return Batches(
        split,
        fit_normalize("zscore", pixels),
        batch_size=4,
        device=CPU,
        seed=3,
        flip=augment,
        crop_padding=4 if augment else 0,
        shuffle=shuffle,
    )


# --------------------------------------------------------------------- pooling before the ReLU


def gradients(model: nn.Module, forward: Any, images: torch.Tensor) -> list[torch.Tensor]:
    model.zero_grad()
    images = images.clone().requires_grad_()
    out = forward(images)
    (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
    return [out, images.grad, *(p.grad for p in model.parameters())]


@settings(deadline=None, max_examples=25, derandomize=True)
@given(st.lists(st.sampled_from([-1.0, -0.0, 0.0, 1.0, 2.0]), min_size=64, max_size=64))
def test_a_relu_behind_pooling_gives_the_same_values_and_gradients_ties_included(
    values: list[float],
) -> None:
    model = nn.Sequential(nn.ReLU(), nn.MaxPool2d(2))
    images = torch.tensor(values).view(2, 2, 4, 4).to(memory_format=torch.channels_last)
    plain = gradients(model, model, images)
    swapped = gradients(model, lambda x: pool_before_relu(model, x), images)
    for one, two in zip(plain, swapped, strict=True):
        assert torch.equal(one, two)


def test_a_value_that_is_not_a_number_passes_both_orders() -> None:
    model = nn.Sequential(nn.ReLU(), nn.MaxPool2d(2))
    images = torch.tensor([[[[float("nan"), -1.0], [1.0, 0.0]]]])
    assert model(images).isnan().all()
    assert pool_before_relu(model, images).isnan().all()


@pytest.mark.parametrize("norm", ["none", "batch", "group"])
@pytest.mark.parametrize("placement", ["before_activation", "after_activation", "after_pool"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_swapped_network_is_bit_identical(
    tiny_config: MakeConfig, norm: str, placement: str, dtype: torch.dtype
) -> None:
    overrides = [f"model.norm.name={norm}"]
    if norm != "none":
        overrides.append(f"model.norm.placement={placement}")
    model = build_model(tiny_config(*overrides).model, seed=0)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    swapped = build_forward(model, "swap")
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        for one, two in zip(
            gradients(model, model, images), gradients(model, swapped, images), strict=True
        ):
            assert torch.equal(one, two)


def test_eager_leaves_the_network_as_it_is() -> None:
    model = nn.Sequential(nn.ReLU())
    assert build_forward(model, "eager") is model


def test_auto_captures_on_a_gpu_only() -> None:
    assert resolve_acceleration("auto", torch.device("cuda:0")) == "graph"
    assert resolve_acceleration("auto", CPU) == "swap"
    for name in ("eager", "graph", "compile"):
        assert resolve_acceleration(name, CPU) == name


# ----------------------------------------------------------------------------- captured steps


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("augment", [True, False])
@pytest.mark.parametrize("images", [8, 10])
def test_captured_steps_see_the_batches_that_eager_ones_see(
    shuffle: bool, augment: bool, images: int
) -> None:
    source = batches(images, shuffle=shuffle, augment=augment)
    seen: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {"eager": [], "captured": []}
    eager = EagerSteps(source, lambda *batch: seen["eager"].append(batch))
    captured = CapturedSteps(source, lambda *batch: seen["captured"].append(batch), list)
    for epoch, first in [*((epoch, 0) for epoch in range(WARM_UP_CALLS + 2)), (9, 1), (2, 0)]:
        for steps in (eager, captured):
            steps.start(epoch, first)
            for _ in range(first, source.steps):
                steps()
    assert len(seen["eager"]) == len(seen["captured"]) > 2 * WARM_UP_CALLS
    for one, two in zip(seen["eager"], seen["captured"], strict=True):
        assert torch.equal(one[0], two[0])
        assert one[0].is_contiguous(memory_format=torch.channels_last)
        assert two[0].stride() == one[0].stride()
        assert torch.equal(one[1], two[1])


def test_a_step_is_captured_once_for_each_size_of_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    captured, replayed = [], []

    def fake(work: Any, device: Any, generators: Any) -> Any:
        captured.append(list(generators))

        def replay() -> None:
            replayed.append(1)
            work()

        return replay

    monkeypatch.setattr("bnlab.training.accelerate.capture", fake)
    sizes: list[int] = []
    generator = torch.Generator()
    steps = CapturedSteps(
        batches(10), lambda *batch: sizes.append(len(batch[1])), lambda: [generator]
    )
    for epoch in range(6):
        steps.start(epoch)
        for _ in range(3):
            steps()
    assert sizes == [4, 4, 2] * 6
    assert captured == [[generator], [generator]]
    assert len(replayed) == len(sizes) - 2 * WARM_UP_CALLS


def test_a_captured_step_keeps_to_its_tensors() -> None:
    places: set[tuple[int, ...]] = set()
    steps = CapturedSteps(batches(8), lambda *_: None, list)
    for epoch in range(3):
        steps.start(epoch)
        steps()
        assert steps._plan is not None
        tensors = [steps._place, steps._offsets, *steps._plan.tensors()]
        places.add(tuple(tensor.data_ptr() for tensor in tensors))
    assert len(places) == 1


def test_on_a_cpu_a_capture_is_the_work_itself() -> None:
    def work() -> None:
        raise AssertionError

    assert capture(work, CPU, ()) is work


def test_the_learning_rate_keeps_its_bits_and_its_place() -> None:
    weight = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.1, fused=True)
    hold_lr(optimizer, CPU)
    (lr,) = (group["lr"] for group in optimizer.param_groups)
    assert lr.item() == 0.1
    optimizer.load_state_dict(optimizer.state_dict())
    hold_lr(optimizer, CPU)
    assert optimizer.param_groups[0]["lr"].item() == 0.1


# --------------------------------------------------------------------------------- whole runs


@pytest.mark.parametrize(("way", "norm"), [("auto", "batch"), *(("graph", n) for n in NORMS)])
def test_an_accelerated_run_is_the_eager_run_bit_for_bit(
    tmp_path: Path, tiny_config: MakeConfig, way: str, norm: str
) -> None:
    overrides = (
        f"model.norm.name={norm}",
        "dataset.train_size=100",
        "model.dropout=0.3",
        "optim.schedule=cosine",
        "probes=[activations, gradients]",
        "train.epochs=3",
    )
    roots = {}
    for how in ("eager", way):
        config = tiny_config(*overrides, f"train.accelerate={how}")
        roots[how] = tmp_path / how
        run_experiment(config, roots[how])
    assert_same_run(roots["eager"], roots[way])


@pytest.mark.parametrize(
    "overrides",
    [
        ("optim.name=adam", "optim.lr=0.001"),
        ("optim.nesterov=true", "optim.warmup_epochs=1"),
        ("train.evaluate_in_train_mode=true", "dataset.augment_test=true"),
        ("dataset.flip=false", "dataset.crop_padding=0", "dataset.normalize=per_image"),
        ("train.precision=bf16",),
        ("dataset.val_size=20", "train.test_every=0"),
    ],
)
def test_a_captured_run_is_the_eager_run_under_every_setting(
    tmp_path: Path, tiny_config: MakeConfig, overrides: tuple[str, ...]
) -> None:
    for how in ("eager", "graph"):
        config = tiny_config("dataset.train_size=100", *overrides, f"train.accelerate={how}")
        run_experiment(config, tmp_path / how)
    assert_same_run(tmp_path / "eager", tmp_path / "graph")


@pytest.mark.parametrize(("first", "then"), [("graph", "eager"), ("eager", "graph")])
def test_a_run_may_go_on_in_another_way(
    tmp_path: Path, tiny_config: MakeConfig, first: str, then: str
) -> None:
    common = ("dataset.train_size=100", "model.dropout=0.5", "model.norm.name=noisy_batch")
    run_experiment(tiny_config(*common), tmp_path / "whole")
    cut = tmp_path / "cut"
    with pytest.raises(StopRequestedError):
        run_experiment(tiny_config(*common, f"train.accelerate={first}"), cut, watcher=StopAt(1, 2))
    again = tiny_config(*common, f"train.accelerate={then}")
    run_experiment(again, cut, RunOptions(resume="must"))
    assert_same_run(tmp_path / "whole", cut)
    assert raw_run(RunDir(cut))["acceleration"] == then


def test_only_compile_is_part_of_the_hash(tiny_config: MakeConfig) -> None:
    plain = tiny_config().hash
    for way in ("auto", "eager", "graph"):
        assert tiny_config(f"train.accelerate={way}").hash == plain
    assert tiny_config("train.accelerate=compile").hash != plain


def test_a_random_stream_goes_back_without_changing_its_generator() -> None:
    module = Stochastic()
    module.reseed(5)
    start = module.get_extra_state()
    generator = module.generator(CPU)
    first = torch.rand(3, generator=generator)
    position = module.get_extra_state()
    second = torch.rand(3, generator=generator)
    for state, drawn in ((position, second), (start, first)):
        module.set_extra_state(state)
        assert module.generator(CPU) is generator
        assert torch.equal(torch.rand(3, generator=generator), drawn)


@pytest.mark.parametrize("way", ["auto", "eager"])
def test_the_memory_of_a_finished_run_is_free_at_once(
    tmp_path: Path, tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    models: list[weakref.ref[nn.Module]] = []

    def built(*arguments: Any) -> Any:
        task = build_task(*arguments)
        models.append(weakref.ref(task.model))
        return task

    monkeypatch.setattr("bnlab.training.experiment.build_task", built)
    gc.disable()  # it would find a circle in time, and a GPU has no time
    try:
        run_experiment(tiny_config(f"train.accelerate={way}"), tmp_path / "run")
        assert [model() for model in models] == [None]
    finally:
        gc.enable()


def test_a_run_records_how_it_was_accelerated(tmp_path: Path, tiny_config: MakeConfig) -> None:
    root = run_path(tmp_path, tiny_config())
    run_experiment(tiny_config(), root)
    assert raw_run(RunDir(root))["acceleration"] == "swap"
    assert weights(root)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_a_compiled_network_gives_nearly_the_same_numbers(tiny_config: MakeConfig) -> None:
    model = build_model(tiny_config().model, seed=0)
    compiled = build_forward(model, "compile")
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(compiled(images), model(images))
