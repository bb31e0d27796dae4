"""A network of the user's own, from its file to its record."""

from pathlib import Path

import pytest
import torch
from torch import nn
from trained_runs import StopAt, assert_same_run
from typer.testing import CliRunner

import bnlab
from bnlab.cli import app
from bnlab.config import Config, load_config
from bnlab.errors import ConfigError, RefusedError, StopRequestedError
from bnlab.records import RunDir
from bnlab.training.experiment import RunOptions, run_experiment
from bnlab.training.models import build_model, init_hash, roles

SOURCE = """
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass
class Size:
    width: int


class Net(nn.Module):
    def __init__(self, width: int = 4, num_classes: int = 10) -> None:
        super().__init__()
        size = Size(width)
        self.conv1 = nn.Conv2d(3, size.width, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(size.width)
        self.conv2 = nn.Conv2d(size.width, size.width, 3, padding=1, stride=2)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(size.width, num_classes)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.max_pool2d(x, 2)
        x = self.conv2(x).relu()
        return self.head(self.drop(x.mean((2, 3))))


def wrong(num_classes):
    return nn.Flatten(2)


def number():
    return 3


def raises():
    raise OSError("the cat stood on the keyboard")
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(SOURCE)
    return path


def config(source: Path, *more: str, function: str = "Net") -> Config:
    tiny = ("dataset.name=synthetic", "dataset.train_size=64", "dataset.test_size=20")
    sets = (f"model.file={source}:{function}", *tiny, "train.epochs=3", "train.batch_size=16")
    return load_config((), [*sets, "optim.lr=0.05", *more])


def built(chosen: Config) -> nn.Module:
    return build_model(chosen.model, seed=chosen.seed)


def test_a_file_names_its_network_and_only_what_it_reads_is_kept(source: Path) -> None:
    resolved = config(source, "model.arguments.width=6").resolved()["model"]
    assert set(resolved) == {"name", "file", "arguments", "source", "rewrite", "norm"}
    assert resolved["name"] == "file"
    assert resolved["arguments"] == {"width": 6}


def test_arms_that_differ_in_norms_start_from_the_same_weights(source: Path) -> None:
    norms = ("none", "batch", "group")
    hashes = {init_hash(built(config(source, f"model.norm={norm}"))) for norm in norms}
    assert len(hashes) == 1
    assert init_hash(built(config(source, "seed=1"))) not in hashes


def test_the_norm_is_where_the_configuration_says(source: Path) -> None:
    assert not roles(built(config(source, "model.norm=none"))).norms
    assert len(roles(built(config(source))).norms) == 2  # behind both convolutions
    as_it_is = built(config(source, "model.rewrite=false"))
    assert list(roles(as_it_is).norms) == ["bn1"]


def test_building_it_moves_no_stream_but_its_own(source: Path) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    built(config(source))
    assert torch.equal(before, torch.get_rng_state())


def test_the_text_is_hashed_and_the_path_is_not(source: Path, tmp_path: Path) -> None:
    plain = config(source).hash
    moved = tmp_path / "other" / "yours.py"
    moved.parent.mkdir()
    moved.write_text(SOURCE)
    assert config(moved).hash == plain
    moved.write_text(SOURCE.replace("0.3", "0.4"))
    assert config(moved).hash != plain
    assert config(source, "model.arguments.width=5").hash != plain


def test_it_trains_resumes_to_the_bit_and_its_record_keeps_the_source(
    source: Path, tmp_path: Path
) -> None:
    chosen = config(source, "probes=[activations, gradients]")
    run_experiment(chosen, tmp_path / "whole")
    with pytest.raises(StopRequestedError):
        run_experiment(chosen, tmp_path / "cut", watcher=StopAt(1, 2))
    run_experiment(chosen, tmp_path / "cut", RunOptions(resume="must"))
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
    assert RunDir(tmp_path / "whole").source.read_text() == SOURCE


def test_a_runs_network_is_loaded_from_its_record_and_only_when_trusted(
    source: Path, tmp_path: Path
) -> None:
    run_experiment(config(source), tmp_path / "run")
    source.unlink()
    with pytest.raises(RefusedError, match=r"model\.py; look at it, then say that you trust"):
        bnlab.load_model(tmp_path / "run")
    model = bnlab.load_model(tmp_path / "run", trust=True)
    assert model(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape == (2, 10)
    kept = RunDir(tmp_path / "run").source
    kept.write_text(kept.read_text() + "\nimport os\n")
    with pytest.raises(ConfigError, match="is not what it was"):
        bnlab.load_model(tmp_path / "run", trust=True)


def test_a_record_of_another_source_is_not_gone_on_with(source: Path, tmp_path: Path) -> None:
    (tmp_path / "kept.yaml").write_text(config(source).to_yaml())
    assert load_config([tmp_path / "kept.yaml"]).hash == config(source).hash
    source.write_text(SOURCE + "\n# changed\n")
    with pytest.raises(ConfigError, match="not what it was when this configuration was made"):
        load_config([tmp_path / "kept.yaml"])


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("Nett", "has no function or class Nett"),
        ("number", "gave a int, not a torch.nn.Module"),
        ("raises", "calling it raised OSError: the cat stood"),
        ("wrong", r"gives \(2, 3, 1024\) for two images, not logits \(2, classes\)"),
    ],
)
def test_what_makes_no_network_is_named(source: Path, function: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        built(config(source, function=function))


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (["model.file=nowhere.py:Net"], "nowhere.py: the network's file cannot be read"),
        (["model.file=mine.py"], "expected path.py:function"),
        (["model.name=file"], "needs model.file, as in"),
        (["model.file=mine.py:Net", "model.name=resnet18"], "are two networks"),
    ],
)
def test_a_file_that_cannot_be_meant_is_a_fault(sets: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_config((), sets)


def test_a_network_of_other_classes_than_the_images_is_refused(
    source: Path, tmp_path: Path
) -> None:
    chosen = config(source, "model.arguments.num_classes=7")
    with pytest.raises(ConfigError, match="ends in 7 logits, but the images have 10 classes"):
        run_experiment(chosen, tmp_path / "run")


def test_a_file_that_does_not_run_says_what_it_raised(source: Path) -> None:
    source.write_text("import no_such_package\n")
    with pytest.raises(ConfigError, match=r"mine\.py: running it raised ModuleNotFoundError"):
        built(config(source))


def test_check_prints_what_becomes_of_every_layer(source: Path, tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(f"model: {{file: '{source}:Net', norm: {{placement: after_activation}}}}\n")
    done = CliRunner().invoke(app, ["check", str(file)])
    assert done.exit_code == 0, done.output
    assert "conv1" in done.output
    assert "moved" in done.output
    assert "conv2" in done.output
    assert "added" in done.output
