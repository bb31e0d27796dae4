"""A run's network as one file, and its normalizers as part of other layers."""

import errno
import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY
from made_runs import make_run
from test_model_file import SOURCE
from test_networks import COMBINATIONS, network
from torch import Tensor, nn
from typer.testing import CliRunner, Result

import bnlab
from bnlab.analysis import Run
from bnlab.cli import app
from bnlab.config import load_config
from bnlab.errors import BnlabError, ConfigError, RefusedError
from bnlab.training import export
from bnlab.training.folding import fold
from bnlab.training.models import build_model, roles
from bnlab.training.norms import calibrate

SHAPE = (3, 32, 32)
PIXELS = torch.randint(0, 256, (5, *SHAPE), dtype=torch.uint8)
NETWORKS = {
    "convnet": ["model.residual=true", "model.widths=[4, 4]", "model.dropout=0.2"],
    "resnet18": ["model.name=resnet18", "model.width=2"],
    "vgg11": ["model.name=vgg11", "model.width=2"],
}


def sets_of(*sets: str) -> list[str]:
    """Those of a tiny run; widths are the convnet's alone."""
    other = any(one.startswith("model.name=") for one in sets)
    tiny = [one for one in TINY if not (other and one.startswith("model."))]
    return [*tiny, "train.epochs=1", "dataset.normalize=zscore", *sets]


@pytest.fixture
def trained(tmp_path: Path) -> Callable[..., Run]:
    def make(*sets: str) -> Run:
        return bnlab.train(load_config((), sets_of(*sets)), tmp_path / "runs", device="cpu")

    return make


@pytest.fixture
def mine(tmp_path: Path) -> str:
    source = tmp_path / "mine.py"
    source.write_text(SOURCE)
    return f"model.file={source}:Net"


def command(*words: object) -> Result:
    return CliRunner().invoke(app, ["export", *map(str, words)])


def shaken(model: nn.Module) -> nn.Module:
    """The network in eval mode, with random parameters and statistics of its normalizers."""
    calibrate(model, torch.randn(8, *SHAPE))
    model.train()
    for _ in range(2):
        model(torch.randn(8, *SHAPE))
    with torch.no_grad():
        for norm in roles(model).norms.values():
            for name, values in [*norm.named_parameters(), *norm.named_buffers()]:
                if values.is_floating_point() and values.ndim:
                    low, high = (0.3, 3) if "var" in name else (-2, 2)
                    values.uniform_(low, high)
    return model.eval()


def assert_folds(model: nn.Module) -> dict[str, str]:
    """What each normalizer was folded into, "" for what stayed, after a look at the outputs."""
    images = torch.randn(6, *SHAPE)
    before = {name: value.clone() for name, value in state(model).items()}
    with torch.no_grad():
        expected = model(images)
        network, told = fold(model, SHAPE)
        found = network(images)
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert {one.norm for one in told} == roles(model).norms.keys()
    assert {one.norm for one in told if one.why} == roles(network).norms.keys()
    assert all(bool(one.into) is not bool(one.why) for one in told)
    assert all(torch.equal(value, before[name]) for name, value in state(model).items())
    return {one.norm: one.into for one in told}


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in model.state_dict().items() if value is not None}


@pytest.mark.parametrize(("name", "norm", "place"), COMBINATIONS)
def test_folding_keeps_the_outputs_of_every_network_with_every_norm_everywhere(
    name: str, norm: str, place: str
) -> None:
    found = assert_folds(shaken(network(name, norm, place)))
    affine = norm not in ("none", "group", "layer", "instance", "batch_tf")
    assert any(found.values()) == (
        (affine and place in ("before_activation", "both"))
        or (affine and name == "resnet18")  # the shortcuts' stand there in every placement
        or (norm == "batch_tf" and name == "convnet" and place in ("before_activation", "both"))
    )
    if affine and place == "before_activation":
        assert all(found.values())


def test_a_folded_network_has_the_weights_of_one_without_norm() -> None:
    config = load_config((), list(TINY)).model
    folded, _ = fold(shaken(build_model(config, seed=0)), SHAPE)
    bare = build_model(load_config((), [*TINY, "model.norm=none"]).model, seed=1).eval()
    bare.load_state_dict(folded.state_dict())
    images = torch.randn(3, *SHAPE)
    with torch.no_grad():
        torch.testing.assert_close(bare(images), folded(images))


class Odd(nn.Module):
    """Its forward, not its names, says what is in front of what."""

    def __init__(self) -> None:
        super().__init__()
        self.norm2, self.norm1 = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.conv1 = nn.Conv2d(3, 4, 3, bias=False)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.norm3 = nn.BatchNorm2d(4)
        self.norm4 = nn.BatchNorm2d(4, track_running_stats=False)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(self.conv1(x)).relu()
        y = self.conv2(x)
        x = self.norm2(y).relu() + self.norm3(y)
        logits: Tensor = self.head(self.norm4(self.conv2(x)).mean((2, 3)))
        return logits


def test_a_network_of_another_make_is_traced_and_only_what_is_certain_is_folded() -> None:
    model = shaken(Odd())
    found = assert_folds(model)
    assert found == {"norm1": "conv1", "norm2": "", "norm3": "", "norm4": ""}
    _, told = fold(model, SHAPE)
    why = {one.norm: one.why for one in told}
    assert "conv2, which others read too" in why["norm2"]
    assert "no running statistics" in why["norm4"]


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.norm, self.head = nn.BatchNorm2d(3), nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(self.conv(self.conv(x))).mean((2, 3)))
        return logits


class Untraceable(Twice):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.sum() > 0 else -x)


@pytest.mark.parametrize(
    ("make", "said"), [(Twice, "more than one place"), (Untraceable, "is not known: ")]
)
def test_what_is_not_certain_stays(make: type[nn.Module], said: str) -> None:
    model = shaken(make())
    assert assert_folds(model) == {"norm": ""}
    assert said in fold(model, SHAPE)[1][0].why


def test_layers_in_two_places_of_a_sequence_are_not_taken_for_one() -> None:
    relu, conv = nn.ReLU(), nn.Conv2d(3, 3, 1)
    layers = [conv, relu, nn.Conv2d(3, 3, 1), relu, nn.BatchNorm2d(3), conv, nn.BatchNorm2d(3)]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(3 * 32 * 32, 5))
    assert set(assert_folds(shaken(model)).values()) == {""}


def test_dropout_and_inner_sequences_do_not_part_a_layer_from_its_norm() -> None:
    inner = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(4), nn.ReLU())
    model = nn.Sequential(nn.Conv2d(3, 4, 3), inner, nn.Flatten(), nn.Linear(3600, 5))
    assert assert_folds(shaken(model)) == {"1.1": "0"}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_state_loads_without_bnlab_s_types_and_gives_the_run_s_logits(
    trained: Callable[..., Run], tmp_path: Path, name: str
) -> None:
    run = trained(*NETWORKS[name])
    made = bnlab.export(run, tmp_path / "x.pt")
    assert made.difference is not None
    assert made.difference < 1e-5
    loaded = torch.load(tmp_path / "x.pt", weights_only=True)
    header = loaded["header"]
    assert json.loads(json.dumps(header)) == header
    assert header["folded"]
    assert header["kept"] == {}
    assert not [key for key in loaded["state_dict"] if "norm" in key]
    assert header["run"] == run.path
    assert header["classes"] == list(bnlab.load_model(run).classes)
    assert header["input"]["shape"] == [3, 32, 32]
    bare = build_model(
        load_config((), [*sets_of(*NETWORKS[name]), "model.norm=none"]).model, seed=0
    )
    bare.load_state_dict(loaded["state_dict"])
    scale, shift = (torch.tensor(header["input"][key]).view(3, 1, 1) for key in ("scale", "shift"))
    with torch.no_grad():
        found = bare.eval()(PIXELS.float() * scale + shift)
        torch.testing.assert_close(found, bnlab.load_model(run)(PIXELS), rtol=1e-4, atol=1e-5)


def test_without_folding_the_state_is_the_run_s(
    trained: Callable[..., Run], tmp_path: Path
) -> None:
    run = trained()
    made = bnlab.export(run, tmp_path / "x.pt", fold=False)
    assert (made.foldings, made.difference) == ((), None)
    loaded = torch.load(tmp_path / "x.pt", weights_only=True)["state_dict"]
    own = bnlab.load_model(run).network.state_dict()
    assert loaded.keys() == own.keys()
    assert all(torch.equal(value, own[name]) for name, value in loaded.items())


def test_a_network_of_ones_own_is_exported_when_trusted(
    trained: Callable[..., Run], tmp_path: Path, mine: str
) -> None:
    for rewrite in ("true", "false"):
        run = trained(mine, f"model.rewrite={rewrite}", "model.name=file")
        with pytest.raises(RefusedError, match="then say that you trust it"):
            bnlab.export(run, tmp_path / "x.pt")
        made = bnlab.export(run, tmp_path / f"{rewrite}.pt", trust=True)
        assert made.header["folded"]["bn1"] == "conv1"
        program = tmp_path / f"{rewrite}.pt2"
        bnlab.export(run, program, format="torch", trust=True)
        assert_same_program(program, run)


def assert_same_program(path: Path, run: Run) -> None:
    program = torch.export.load(path, extra_files=(extra := {"header.json": ""}))
    assert json.loads(extra["header.json"])["run"] == run.path
    with torch.no_grad():
        for images in (PIXELS, PIXELS[:1]):
            found, expected = program.module()(images), bnlab.load_model(run, trust=True)(images)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("fold", [True, False])
def test_a_program_goes_from_pixels_to_the_run_s_logits(
    trained: Callable[..., Run], tmp_path: Path, name: str, fold: bool
) -> None:
    run = trained(*NETWORKS[name], "dataset.normalize=per_image")
    bnlab.export(run, tmp_path / "x.pt2", format="torch", fold=fold)
    assert_same_program(tmp_path / "x.pt2", run)


def test_the_command_names_what_was_folded_and_what_stays(
    trained: Callable[..., Run], tmp_path: Path
) -> None:
    run = trained("model.norm.placement=both")
    done = command(run.root, "-o", tmp_path / "x.pt")
    assert done.exit_code == 0, done.output
    assert "folded into conv1" in done.stdout
    assert "but conv1_relu (ReLU)" in done.stdout
    assert "largest difference" in done.stdout
    told = json.loads(command(run.root, "-o", tmp_path / "y.pt", "--json").stdout)
    assert set(told["header"]["folded"]) == {"conv1_norm", "conv2_norm", "fc1_norm"}
    assert set(told["header"]["kept"]) == {"conv1_norm2", "conv2_norm2", "fc1_norm2"}
    assert told["bytes"] == (tmp_path / "y.pt").stat().st_size


def test_a_file_that_exists_is_left_alone(trained: Callable[..., Run], tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    path.write_text("mine")
    with pytest.raises(RefusedError, match="is there already") as refused:
        bnlab.export(trained(), path)
    assert refused.value.exit_code == 5
    assert path.read_text() == "mine"


def test_a_full_disk_leaves_no_file(
    trained: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained()

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(BnlabError, match="cannot be written: No space left"):
        bnlab.export(run, out / "x.pt")
    assert list(out.iterdir()) == []


def test_a_folding_that_changes_the_outputs_is_refused(
    trained: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(model: nn.Module, shape: tuple[int, ...]) -> Any:
        network, told = fold(model, shape)
        with torch.no_grad():
            roles(network).weighted["conv1"].weight.mul_(1.1)
        return network, told

    monkeypatch.setattr(export, "fold", wrong)
    with pytest.raises(RefusedError, match=r"more than 1e-03; use --no-fold"):
        bnlab.export(trained(), tmp_path / "x.pt")
    assert not (tmp_path / "x.pt").exists()


def test_onnx_without_its_packages_names_them(
    trained: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match="pip install onnx onnxscript"):
        bnlab.export(trained(), tmp_path / "x.onnx", format="onnx")


@pytest.mark.parametrize("name", NETWORKS)
def test_onnx_gives_the_run_s_logits_and_prints_nothing_else(
    trained: Callable[..., Run], tmp_path: Path, name: str
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    run = trained(*NETWORKS[name])
    done = command(run.root, "-o", tmp_path / "x.onnx", "--format", "onnx", "--json")
    assert json.loads(done.stdout)["format"] == "onnx"
    session = onnxruntime.InferenceSession(tmp_path / "x.onnx")
    with torch.no_grad():
        for images in (PIXELS, PIXELS[:1]):
            (found,) = session.run(None, {"images": images.numpy()})
            expected = bnlab.load_model(run)(images)
            torch.testing.assert_close(torch.tensor(found), expected, rtol=1e-4, atol=1e-5)


def test_a_network_that_torch_cannot_export_says_so(
    trained: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ValueError("the cat stood on the graph")

    monkeypatch.setattr(torch.export, "export", fails)
    with pytest.raises(RefusedError, match=r"the cat stood on the graph; use --format state"):
        bnlab.export(trained(), tmp_path / "x.pt2", format="torch")


def test_a_run_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    made = make_run(tmp_path / "runs", seed=0)
    with pytest.raises(RefusedError, match="archives leave behind"):
        bnlab.export(made.root, tmp_path / "x.pt")


def test_a_diverged_network_is_exported_without_folding_only(
    trained: Callable[..., Run], tmp_path: Path
) -> None:
    run = trained("optim.lr=1e30")
    with pytest.raises(RefusedError, match="use --no-fold"):
        bnlab.export(run, tmp_path / "x.pt")
    made = bnlab.export(run, tmp_path / "x.pt", fold=False)
    assert made.header["status"] == "diverged"
