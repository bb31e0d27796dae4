"""Runs on a GPU that has no data: what would fail there fails here, on a machine without one.

Not seen are values, kernels, streams and threads, and a capture itself: tests/test_gpu.py has them.
"""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_cuda_faults import FAULTS

from bnlab.training.models.convnet import CONV_ORDERS
from bnlab.training.norms import NORMS
from bnlab.training.probes import PROBES

HERE, TORCH = Path(__file__).parent, Path(torch.__file__).parent
COMPILER = shutil.which("g++") or shutil.which("c++")
HEADER = TORCH / "include/ATen/detail/CUDAHooksInterface.h"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(torch.backends.cuda.is_built(), reason="needs a torch without CUDA"),
    pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler"),
    pytest.mark.skipif(not HEADER.exists(), reason="needs torch's headers"),
]

Ask = Callable[..., dict[str, Any]]
"""From a check of fake_cuda.py and its arguments to an answer: `found`, or an `error`."""


@pytest.fixture(scope="session")
def hooks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fake_cuda") / "hooks.so"
    assert COMPILER is not None
    command: list[str | Path] = [
        COMPILER,
        "-std=c++20",
        "-O0",
        "-shared",
        "-fPIC",
        "-o",
        path,
        HERE / "fake_cuda.cpp",
    ]
    headers = [f"-I{TORCH / 'include'}"]
    libraries = [f"-L{TORCH / 'lib'}", f"-Wl,-rpath,{TORCH / 'lib'}", "-ltorch_cpu", "-lc10"]
    subprocess.run([*command, *headers, *libraries], check=True)
    return path


@pytest.fixture(scope="session")
def ask(hooks: Path) -> Iterator[Ask]:
    log = hooks.with_suffix(".log")
    code = f"import ctypes; ctypes.CDLL({str(hooks)!r}); import fake_cuda; fake_cuda.serve()"
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=HERE,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        ) as process,
    ):
        asked, answered = process.stdin, process.stdout
        assert asked is not None
        assert answered is not None

        def ask(*request: str) -> dict[str, Any]:
            asked.write(json.dumps(request) + "\n")
            asked.flush()
            line = answered.readline()
            assert line, log.read_text()
            answer: dict[str, Any] = json.loads(line)
            return answer

        yield ask


def found(answer: dict[str, Any]) -> Any:
    if "error" in answer:
        pytest.fail(answer["error"])
    return answer["found"]


UNEVEN = ("dataset.train_size=68", "train.eval_batch_size=32", "model.dropout=0.3")
EVERY_PROBE = f"probes=[{', '.join(PROBES)}]"
SIZES = {"train": {"32", "4"}, "test": {"32", "8"}}
"""The batches of it."""


def sizes(run: dict[str, Any]) -> dict[str, set[str]]:
    """What was captured."""
    return {name: set(by_size) for name, by_size in run["kernels"].items()}


NORM_SETTINGS = [
    (norm, list(CONV_ORDERS)[number % len(CONV_ORDERS)], ("bf16", "fp32", "tf32")[number % 3])
    for number, norm in enumerate(NORMS)
]
"""Every norm, in one placement and precision after another."""


@pytest.mark.parametrize(("norm", "placement", "precision"), NORM_SETTINGS)
def test_with_every_norm_steps_are_captured_and_probes_between_them_change_nothing(
    ask: Ask, norm: str, placement: str, precision: str
) -> None:
    settings = [f"model.norm.placement={placement}", f"train.precision={precision}", EVERY_PROBE]
    run = found(ask("train", *UNEVEN, f"model.norm.name={norm}", *settings))
    assert sizes(run) == SIZES
    # bnlab's convolution for a GPU fills 3 channels and 4 up to 8, those of the weights as well.
    assert run["kernels"]["test"]["32"].count("aten.constant_pad_nd.default") == 4


@pytest.mark.parametrize(
    "overrides",
    [
        ("optim.name=adam", "optim.lr=0.001"),
        ("optim.nesterov=true", "optim.decay_weights_only=true"),
        ("optim.momentum=0", "optim.schedule=cosine"),
        ("model.depths=[2, 2]", "model.residual=true"),
        ("model.norm.placement=both", "model.norm.affine=false"),
        ("train.evaluate_in_train_mode=true", "dataset.augment_test=true"),
        ("dataset.normalize=per_image", "dataset.flip=false", "dataset.crop_padding=0"),
        ("dataset.normalize=zscore", "dataset.crop_padding=0"),
    ],
    ids=" ".join,
)
def test_under_other_settings_too(ask: Ask, overrides: tuple[str, ...]) -> None:
    run = found(ask("train", *UNEVEN, "train.precision=bf16", *overrides))
    assert sizes(run) == SIZES


def test_images_held_out_are_captured_apart(ask: Ask) -> None:
    run = found(ask("train", *UNEVEN, "dataset.val_size=20"))
    assert sizes(run) == {**SIZES, "val": {"20"}}


@pytest.mark.parametrize("optim", ["sgd", "adam"])
def test_a_resumed_run_is_captured_as_well(ask: Ask, optim: str) -> None:
    settings = ("model.norm.name=noisy_batch", f"optim.name={optim}", "train.epochs=6")
    assert sizes(found(ask("resume", *UNEVEN, *settings))) == SIZES


@pytest.mark.parametrize("how", ["graph", "eager"])
def test_however_many_steps_an_epoch_has_the_host_waits_equally_often(ask: Ask, how: str) -> None:
    few, many = (
        found(ask("train", f"train.accelerate={how}", f"dataset.train_size={size}"))["waits"]
        for size in (64, 320)
    )
    assert few == many
    assert len(set(few)) == 1


def test_a_probe_of_one_sample_keeps_its_launches_few(ask: Ask) -> None:
    network = ("model.widths=[64, 128, 256]", "model.hidden=[1024]", "dataset.train_size=1024")
    launches = found(ask("probe", *network, "train.precision=bf16"))
    for name, count in launches.items():
        if "costly" not in PROBES.entry(name).facts:  # those go over a data set in batches
            # `activations` had 5,913, in parts of 8 images; `shift` takes four steps.
            assert count < (2500 if name in {"shift", "landscape"} else 700), launches


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_and_named(ask: Ask, name: str) -> None:
    answer = ask("spoil", name)
    assert "error" in answer, answer
    assert re.search(FAULTS[name].said, answer["error"])
