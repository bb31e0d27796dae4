"""A network layer by layer."""

import json
from pathlib import Path

import pytest
from conftest import MakeConfig
from typer.testing import CliRunner

from bnlab.cli import app
from bnlab.training.layers import blocks_of, list_layers
from bnlab.training.models import build_model, parameter_count


def shown(*words: str) -> str:
    result = CliRunner().invoke(app, ["layers", *words])
    assert result.exit_code == 0, result.exception
    return result.stdout


@pytest.mark.parametrize("model", ["convnet", "resnet18", "vgg11"])
@pytest.mark.parametrize("norm", ["none", "batch", "ghost"])
def test_all_parameters_are_in_the_layers_and_each_stands_once(
    tiny_config: MakeConfig, model: str, norm: str
) -> None:
    small = "model.widths=[4, 8]" if model == "convnet" else "model.width=4"
    config = tiny_config(f"model.name={model}", f"model.norm.name={norm}", small)
    layers = list_layers(config)
    network = build_model(config.model, seed=0)
    assert sum(layer.parameters for layer in layers) == parameter_count(network)
    assert len({layer.name for layer in layers}) == len(layers)
    assert any(layer.norm for layer in layers) == (norm != "none")
    assert [layer for block in blocks_of(layers) for layer in block] == list(layers)


def test_placements_stand_side_by_side_in_the_order_of_the_calls(tiny_config: MakeConfig) -> None:
    told = {}
    for placement in ("before_activation", "after_activation", "before_conv"):
        layers = list_layers(tiny_config(f"model.norm.placement={placement}"))
        told[placement] = [" ".join(layer.what for layer in block) for block in blocks_of(layers)]
    assert told["before_activation"][0] == "conv3x3 BN ReLU pool"
    assert told["after_activation"][0] == "conv3x3 ReLU BN pool"
    assert told["before_conv"][:2] == ["BN", "conv3x3 ReLU pool BN"]


def test_a_configuration_a_study_and_several_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    alone = shown("seed")
    assert "conv1_norm  BN        64x32x32         128" in alone
    assert "4,579,338" in alone
    study = shown("quick")
    assert study.splitlines()[1].split() == ["from", "output", "none", "before", "after"]
    assert "3 times (conv3x3 BN ReLU pool)" in shown("placement")
    assert max(map(len, (alone + study).splitlines())) <= 80
    arms = json.loads(shown("seed", "seed_fair", "--set", "model.norm=none", "--json"))
    assert list(arms) == ["seed", "seed_fair"]
    assert not any(layer["norm"] for one in arms.values() for layer in one)


NETS = """
from torch import nn
from torch.nn import functional as F

class Shared(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.relu, self.pool, self.fc = nn.ReLU(), nn.MaxPool2d(2), nn.Linear(512, num_classes)

    def forward(self, x):
        x = self.pool(self.relu(self.bn1(self.conv1(x))))
        x = self.pool(self.relu(self.bn2(self.conv2(x))))
        return self.fc(x.flatten(1))

class Functional(Shared):
    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 2)
        x = F.adaptive_avg_pool2d(self.bn2(self.conv2(x)).relu(), 8)
        return self.fc(x.flatten(1))
"""


@pytest.mark.parametrize("function", ["Shared", "Functional"])
@pytest.mark.parametrize(
    ("placement", "block"),
    [
        ("before_activation", "conv3x3 BN ReLU pool"),
        ("after_activation", "conv3x3 ReLU BN pool"),
    ],
)
def test_modules_that_are_called_twice_and_functions_stand_wherever_they_are_called(
    tiny_config: MakeConfig, tmp_path: Path, function: str, placement: str, block: str
) -> None:
    (tmp_path / "nets.py").write_text(NETS)
    file = f"model.file={tmp_path / 'nets.py'}:{function}"
    layers = list_layers(tiny_config(file, f"model.norm.placement={placement}"))
    told = [" ".join(layer.what for layer in one) for one in blocks_of(layers)]
    assert told == [block, block, "linear"]
    assert [one[-1].output for one in blocks_of(layers)] == [(4, 16, 16), (8, 8, 8), (10,)]
    assert sum(layer.parameters for layer in layers) == 112 + 8 + 296 + 16 + 5130
