"""Faults planted in networks, and a network without."""

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import TINY
from torch import nn
from typer.testing import CliRunner

from bnlab.cli import app
from bnlab.config import Config, load_config
from bnlab.doctor import (
    CHECKS,
    Finding,
    Subject,
    examine,
    faults,
    subject_of_config,
    subject_of_run,
)
from bnlab.errors import ConfigError, RefusedError
from bnlab.records import RunFiles
from bnlab.training.experiment import run_experiment

SOURCE = """
import torch
from torch import nn
from torch.nn import functional as F


class Net(nn.Module):
    def __init__(self, bias=False, drop=0.0, last=False, num_classes=10, **norm):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1, bias=bias)
        self.bn1 = nn.BatchNorm2d(4, **norm)
        self.drop = nn.Dropout(drop)
        self.conv2 = nn.Conv2d(4, 6, 3, padding=1, bias=bias)
        self.bn2 = nn.BatchNorm2d(6, **norm)
        self.head = nn.Linear(6, num_classes)
        self.last = nn.BatchNorm1d(num_classes) if last else nn.Identity()

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.max_pool2d(self.drop(x), 4)
        x = F.relu(self.bn2(self.conv2(x)))
        return self.last(self.head(x.mean((2, 3))))


class Stubborn(Net):
    def train(self, mode=True):
        super().train(mode)
        self.bn1.train()
        return self


class Frozen(Net):
    def train(self, mode=True):
        super().train(mode)
        self.bn1.eval()
        return self


class Shut(Net):
    def __init__(self, num_classes=10):
        super().__init__(num_classes=num_classes)
        with torch.no_grad():
            self.bn1.bias[:3] = -1000


class Small(Net):
    def __init__(self, num_classes=10):
        super().__init__(num_classes=num_classes)
        with torch.no_grad():
            self.conv1.weight *= 1e-4


class Winding(Net):
    def forward(self, x):
        return super().forward(x if x.mean() > -1e9 else -x)


class Functional(Net):
    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.dropout(self.conv2(x), 0.5, self.training)
        return self.head(F.relu(self.bn2(x)).mean((2, 3)))


class Shared(Net):
    def __init__(self, num_classes=10):
        super().__init__(True, num_classes=num_classes)
        self.conv3 = nn.Conv2d(4, 4, 1)
        self.bn3 = nn.BatchNorm2d(4)

    def forward(self, x):
        x = self.conv1(x)
        x = self.conv3(F.relu(self.bn3(self.conv3(F.relu(x)))))
        return self.head(F.relu(self.bn2(self.conv2(self.bn1(x)))).mean((2, 3)))


class Double(Net):
    def forward(self, x):
        logits = super().forward(x)
        return (logits, logits) if self.training else logits


class Bare(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.head = nn.Linear(3, num_classes)

    def forward(self, x):
        return self.head(x.mean((2, 3)))
"""

IMAGES = ("dataset.name=synthetic", "dataset.train_size=640", "dataset.test_size=200")
HEALTHY = (
    *TINY,
    *IMAGES,
    "dataset.normalize=zscore",
    "model.widths=[8, 16]",
    "train.epochs=4",
    "optim.schedule=linear",
    "optim.decay_weights_only=true",
)
"""As configs/seed_fair.yaml, in a second."""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(SOURCE)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs") / "healthy"
    run_experiment(load_config((), HEALTHY), root)
    return root


@pytest.fixture
def trained(run: Path) -> Subject:
    return subject_of_run(RunFiles(run))


def config(source: Path, function: str, *more: str) -> Config:
    sets = ("model.rewrite=false", "optim.decay_weights_only=true", "train.batch_size=32")
    return load_config((), [f"model.file={source}:{function}", *IMAGES, *sets, *more])


def by_code(subject: Subject) -> dict[str, list[Finding]]:
    found = defaultdict(list)
    for finding in examine(subject):
        found[finding.code].append(finding)
    return found


Plant = tuple[str, str, tuple[str, ...], str, str]
"""Code, function, settings, the layer that is named, what is said of it."""

PLANTED: tuple[Plant, ...] = (
    ("BN001", "Net", ("train.evaluate_in_train_mode=true",), "bn1", "evaluate_in_train_mode"),
    ("BN001", "Net", ("model.arguments.track_running_stats=false",), "bn2", "in eval mode, too"),
    ("BN001", "Stubborn", (), "bn1", "200 answers change in batches of 16"),
    ("BN002", "Stubborn", (), "bn1", "moves the running variances by"),
    ("BN002", "Net", ("train.evaluate_in_train_mode=true",), "bn2", "test batches enter"),
    ("BN003", "Net", ("dataset.train_size=641", "model.arguments.last=true"), "last", "stops with"),
    ("BN003", "Net", ("train.batch_size=1",), "bn1", "statistics are those of one image"),
    ("BN004", "Net", ("model.arguments.drop=0.5",), "bn2", "times the variance that it will get"),
    ("BN005", "Net", ("optim.decay_weights_only=false",), "bn1", "acts on 20 scales and shifts"),
    ("BN006", "Net", ("model.arguments.bias=true",), "conv2", "10 parameters of"),
    ("BN007", "Net", ("model.arguments.last=true",), "last", "no layer with weights"),
    ("BN008", "Net", ("model.arguments.momentum=0.99",), "bn1", "Keras and Flax"),
    ("BN008", "Net", ("train.epochs=1",), "bn1", "after 20 steps of momentum 0.1, 12% of them"),
    ("BN009", "Small", (), "bn1", "eps 1e-05 beside a variance of"),
    ("BN011", "Net", ("model.arguments.momentum=0.0",), "bn1", "never updates"),
    ("BN011", "Net", ("model.arguments.momentum=null",), "bn1", "averages over all of training"),
    ("BN011", "Frozen", (), "bn1", "leaves it in eval mode"),
    ("BN013", "Shut", (), "relu", "3 of 4 channels are zero"),
    ("BN014", "Net", ("train.batch_size=4",), "bn1", "from batch to batch it varies by"),
    (
        "BN014",
        "Net",
        ("train.batch_size=20", "model.arguments.last=true"),
        "last",
        "sees 20 values",
    ),
)


@pytest.mark.parametrize(("code", "function", "sets", "layer", "said"), PLANTED)
def test_a_planted_fault_is_found_where_it_is(
    source: Path, code: str, function: str, sets: tuple[str, ...], layer: str, said: str
) -> None:
    there = by_code(subject_of_config(config(source, function, *sets)))[code]
    told = [f"{one.what}; {one.cost}" for one in there if layer in one.layers]
    assert any(said in line for line in told), there


def test_a_network_of_which_nothing_is_known_to_be_wrong_has_no_finding(source: Path) -> None:
    assert examine(subject_of_config(config(source, "Net"))) == ()


def test_a_healthy_run_has_no_fault_and_is_told_of_its_biases(trained: Subject) -> None:
    found = examine(trained)
    assert faults(found) == []
    # Its images were cropped and flipped: by plain ones the population would be another.
    assert "BN010" not in {finding.code for finding in found}
    [biases] = [finding for finding in found if finding.code == "BN006"]
    assert biases.layers == ("conv1", "conv2", "fc1")
    assert biases.severity == "told"


@torch.no_grad()
def _lag(norm: nn.BatchNorm2d) -> None:
    assert norm.running_var is not None
    norm.running_var.mul_(16)


def _forget(norm: nn.BatchNorm2d) -> None:
    norm.reset_running_stats()


@torch.no_grad()
def _flatten(norm: nn.BatchNorm2d) -> None:
    assert norm.running_var is not None
    norm.running_var.fill_(1e-6)


@torch.no_grad()
def _turn(norm: nn.BatchNorm2d) -> None:
    norm.weight[:2] = -1


@torch.no_grad()
def _vanish(norm: nn.BatchNorm2d) -> None:
    norm.weight[:4] = 0


def _hurry(norm: nn.BatchNorm2d) -> None:
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.fill_(10)


@pytest.mark.parametrize(
    ("code", "spoil", "said", "severity"),
    [
        ("BN008", _hurry, "after 10 steps of momentum 0.1, 35% of them is their start", "fault"),
        ("BN009", _flatten, "eps 1e-05 beside a variance of 1e-06", "fault"),
        ("BN010", _lag, "by population statistics", "fault"),
        ("BN011", _forget, "never updated", "fault"),
        ("BN012", _turn, "25% of its scales are negative in front of conv1_pool", "told"),
        ("BN012", _vanish, "50% of its scales are nearly 0", "told"),
    ],
)
def test_values_that_training_would_not_leave_are_found_in_a_checkpoint(
    trained: Subject, code: str, spoil: Callable[[nn.Module], None], said: str, severity: str
) -> None:
    spoil(trained.norms["conv1_norm"])
    there = [one for one in by_code(trained)[code] if "conv1_norm" in one.layers]
    assert any(said in f"{one.what}; {one.cost}" for one in there), there
    assert {one.severity for one in there} == {severity}


def test_every_check_has_a_planted_fault() -> None:
    planted = {plant[0] for plant in PLANTED} | {"BN010", "BN012"}
    assert planted == {check.code for check in CHECKS}
    assert [check.code for check in CHECKS] == [f"BN{n:03}" for n in range(1, len(CHECKS) + 1)]


def test_the_gradient_of_a_dead_bias_is_nothing_beside_its_weights(source: Path) -> None:
    subject = subject_of_config(config(source, "Net", "model.arguments.bias=true"))
    [finding] = by_code(subject)["BN006"]
    bias, weight = finding.cost.partition("largest gradient ")[2].split(", of the weights ")
    assert float(bias) < 1e-4 * float(weight)


@pytest.mark.parametrize(
    ("sets", "dropout", "norm"),
    [
        (("model.hidden=[16, 16]",), "fc1_dropout", "fc2_norm"),
        (("model.dropout_first=true",), "fc1_dropout", "fc1_norm"),
    ],
)
def test_dropout_of_the_documents_network_is_found_in_front_of_a_norm(
    sets: tuple[str, ...], dropout: str, norm: str
) -> None:
    chosen = load_config((), [*HEALTHY, "model.dropout=0.5", *sets])
    [finding] = by_code(subject_of_config(chosen))["BN004"]
    assert finding.layers == (norm,)
    assert finding.what == f"{dropout} stands in front"
    assert float(finding.cost.split(" gets ")[1].split()[0]) > 1.2  # 2 for a mean of 0


def test_dropout_as_a_function_is_found_and_not_measured(source: Path) -> None:
    [finding] = by_code(subject_of_config(config(source, "Functional")))["BN004"]
    assert finding.layers == ("bn2",)
    assert finding.cost == ""


def test_a_layer_that_is_called_twice_keeps_its_bias(source: Path) -> None:
    [finding] = by_code(subject_of_config(config(source, "Shared")))["BN006"]
    assert finding.layers == ("conv2",)


def test_a_network_that_gives_no_logits_in_training_is_refused(source: Path) -> None:
    with pytest.raises(ConfigError, match="in training mode the network gives tuple"):
        subject_of_config(config(source, "Double"))
    with pytest.raises(ConfigError, match=r"gives \(2, 7\) for two images, not logits \(2, 10\)"):
        subject_of_config(config(source, "Net", "model.arguments.num_classes=7"))


def test_a_frozen_batch_norm_takes_no_statistics_of_small_batches(source: Path) -> None:
    [finding] = by_code(subject_of_config(config(source, "Frozen", "train.batch_size=4")))["BN014"]
    assert finding.layers == ("bn2",)


def test_a_network_that_diverged_is_examined_all_the_same(trained: Subject) -> None:
    with torch.no_grad():
        for parameter in trained.model.parameters():
            parameter.fill_(torch.nan)
    assert {finding.code for finding in examine(trained)} >= {"BN006"}


def test_dropout_behind_the_last_batch_norm_is_no_fault(source: Path) -> None:
    source.write_text(
        SOURCE.replace("self.head(x.mean((2, 3)))", "self.head(self.drop(x.mean((2, 3))))").replace(
            "F.max_pool2d(self.drop(x), 4)", "F.max_pool2d(x, 4)"
        )
    )
    assert "BN004" not in by_code(
        subject_of_config(config(source, "Net", "model.arguments.drop=0.5"))
    )


def test_examining_changes_neither_the_network_nor_the_streams(source: Path) -> None:
    sets = ("model.arguments={bias: true, drop: 0.5}", "train.evaluate_in_train_mode=true")
    subject = subject_of_config(config(source, "Net", *sets))
    before = {
        key: value.clone() for key, value in subject.model.state_dict().items() if value is not None
    }
    stream = torch.get_rng_state()
    first = examine(subject)
    assert examine(subject) == first
    after = subject.model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert torch.equal(torch.get_rng_state(), stream)
    assert all(module.training for module in subject.model.modules())


def test_a_network_that_cannot_be_traced_is_taken_in_the_order_of_its_modules(
    source: Path,
) -> None:
    more = ("model.arguments={bias: true, drop: 0.5}",)
    subject = subject_of_config(config(source, "Winding", *more))
    assert "in the order of the modules, for" in subject.remarks[0]
    found = by_code(subject)
    assert found["BN006"][0].layers == ("conv1", "conv2")
    assert found["BN004"][0].layers == ("bn2",)


OWN = ("ghost", "caffe", "batch_tf", "batch_reference", "noisy_batch", "renorm", "running")


@pytest.mark.parametrize("norm", OWN)
def test_bnlabs_own_batch_norms_are_known(norm: str) -> None:
    subject = subject_of_config(load_config((), [*HEALTHY, f"model.norm={norm}"]))
    assert len(subject.norms) == 3
    assert by_code(subject)["BN006"]


@pytest.mark.parametrize("norm", ["none", "group", "layer", "instance", "frozen_init"])
def test_norms_without_a_batch_have_no_finding(norm: str) -> None:
    subject = subject_of_config(load_config((), [*HEALTHY, f"model.norm={norm}"]))
    assert not subject.norms
    assert faults(examine(subject)) == []


def told(*arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, ["doctor", *arguments])
    assert done.exit_code == code, done.output
    return done.output


def sets_of(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def test_the_table_fits_eighty_columns_and_says_what_to_do(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    output = told(f"{source}:Net", *sets_of(*IMAGES, "train.evaluate_in_train_mode=true"))
    lines = output.splitlines()
    assert max(map(len, lines[1:])) <= 80
    assert any(line.startswith("BN001") and "fault" in line for line in lines)
    assert "To do: call model.eval() before testing" in output


def test_json_has_every_finding_whole(source: Path) -> None:
    sets = sets_of(*IMAGES, "model.arguments.bias=true", "optim.decay_weights_only=true")
    data = json.loads(told(f"{source}:Net", "--json", *sets))
    assert data["norms"] == ["bn1", "bn2"]
    [finding] = data["findings"]
    assert finding["code"] == "BN006"
    assert finding["layers"] == ["conv1", "conv2"]
    assert set(finding) == {"code", "layers", "what", "why", "todo", "cost", "severity"}


def test_strict_ends_with_4_for_a_fault_and_with_0_for_what_is_told(source: Path) -> None:
    told(f"{source}:Net", "--strict", *sets_of(*IMAGES))  # weight decay on everything
    told(f"{source}:Stubborn", "--strict", *sets_of(*IMAGES), code=4)


def test_without_images_the_measured_is_left_out_and_said(source: Path, tmp_path: Path) -> None:
    output = told(f"{source}:Stubborn", "--no-data", *sets_of(*IMAGES))
    assert "left out without images: BN010, BN013" in output
    assert "answers change" not in output
    output = told(f"{source}:Net", *sets_of(f"dataset.root={tmp_path}"))
    assert "no CIFAR-10 here" in output


def test_a_run_is_examined_by_its_record_and_one_of_a_file_only_when_trusted(
    source: Path, run: Path, tmp_path: Path
) -> None:
    assert "BN006" in told(str(run))
    root = tmp_path / "run"
    run_experiment(config(source, "Net", "train.epochs=1"), root)
    source.unlink()
    with pytest.raises(RefusedError, match="say that you trust it"):
        subject_of_run(RunFiles(root))
    data = json.loads(told(str(root), "--trust", "--json"))
    assert data["trained"]
    (root / "checkpoints" / "last.pt").unlink()
    data = json.loads(told(str(root), "--trust", "--json"))
    assert not data["trained"]
    assert "as it was before training" in data["remarks"][0]


@pytest.mark.parametrize("target", ["nowhere", "nowhere.py", "mine.py:a b"])
def test_what_is_neither_a_network_nor_a_run_is_a_mistake(target: str) -> None:
    done = CliRunner().invoke(app, ["doctor", target])
    assert "neither path.py:function, as in net.py:Net, nor a run" in str(done.exception)
    assert getattr(done.exception, "exit_code", None) == 2


def test_a_run_takes_no_settings(run: Path) -> None:
    done = CliRunner().invoke(app, ["doctor", str(run), "--set", "train.epochs=1"])
    assert "a run has its own configuration" in str(done.exception)


def test_a_network_without_batch_norm_is_said_to_have_none(source: Path) -> None:
    assert "No batch norm among its modules" in told(f"{source}:Bare", *sets_of(*IMAGES))


TORCHVISION = """
import importlib

from bnlab.training.datasets import torchvision_datasets

torchvision_datasets()  # makes the import work beside any build of torch


def build(name, num_classes):
    models = importlib.import_module("torchvision.models")
    return getattr(models, name)(weights=None, num_classes=num_classes)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "norms", "codes"),
    [
        ("resnet18", 20, {"BN005"}),
        ("vgg11_bn", 8, {"BN005", "BN006", "BN013"}),
        ("mobilenet_v2", 52, {"BN005", "BN009"}),
    ],
)
def test_torchvisions_networks_are_examined(
    tmp_path: Path, name: str, norms: int, codes: set[str]
) -> None:
    file = tmp_path / "theirs.py"
    file.write_text(TORCHVISION)
    chosen = config(file, "build", f"model.arguments.name={name}")
    optim = chosen.optim.model_copy(update={"decay_weights_only": False})
    subject = subject_of_config(chosen.model_copy(update={"optim": optim}))
    assert len(subject.norms) == norms
    assert not subject.wiring.why_not
    found = by_code(subject)
    assert set(found) == codes
    if name == "vgg11_bn":
        [biases] = found["BN006"]
        assert len(biases.layers) == 8
        assert biases.cost.startswith("2752 parameters")
        # Only where no batch norm is in front: its inputs are not centered.
        dead = {layer for finding in found["BN013"] for layer in finding.layers}
        assert dead == {"classifier.1", "classifier.4"}
