"""What every network of the registry keeps to, with every norm in every place."""

import math
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import MakeConfig
from torch import Tensor, nn
from trained_runs import StopAt, assert_same_run

from bnlab.config import Config, ModelConfig, NormConfig, load_config
from bnlab.errors import ConfigError, StopRequestedError
from bnlab.training.experiment import RunOptions, run_experiment
from bnlab.training.models import (
    ACTIVATIONS,
    MODELS,
    build_model,
    init_hash,
    parameter_count,
    roles,
)
from bnlab.training.models._activations import GAINS
from bnlab.training.models.convnet import CONV_ORDERS
from bnlab.training.models.resnet18 import ORDERS
from bnlab.training.norms import NORMS, calibrate

NETWORKS = [name for name in MODELS if name != "file"]
"""That of `model.file` is the user's, and has tests of its own."""

PLACES = {name: ORDERS if name == "resnet18" else CONV_ORDERS for name in NETWORKS}
COMBINATIONS = [
    (model, norm, place)
    for model in NETWORKS
    for norm in NORMS
    for place in (PLACES[model] if norm != "none" else ["before_activation"])
    if (model, norm, place) != ("vgg11", "instance", "after_pool")  # one value a channel is left
]
SIZE: dict[str, dict[str, Any]] = {
    "convnet": {"widths": (4, 6), "hidden": (8,)},
    "resnet18": {"width": 2},
    "vgg11": {"width": 2},
}


def network(
    name: str, norm: str = "batch", place: str = "before_activation", **more: object
) -> nn.Module:
    config = ModelConfig.model_validate(
        {
            "name": name,
            **SIZE[name],
            "norm": NormConfig.model_validate({"name": norm, "placement": place}),
            **more,
        }
    )
    return build_model(config, num_classes=5, seed=0)


def images(count: int = 4) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("name", "norm", "place"), COMBINATIONS)
def test_every_norm_trains_in_every_place_of_every_network(
    name: str, norm: str, place: str
) -> None:
    model = network(name, norm, place)
    calibrate(model, images())
    logits = model(images())
    assert logits.shape == (4, 5)
    F.cross_entropy(logits, torch.arange(4)).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
    found = roles(model)
    assert list(found.weighted)[-1] == "classifier"
    assert bool(found.norms) is (norm != "none")
    assert found.activations
    kinds = (nn.Conv2d, nn.Linear)
    assert len(found.weighted) == sum(isinstance(module, kinds) for module in model.modules())


@pytest.mark.parametrize("name", NETWORKS)
def test_arms_of_a_network_start_from_the_same_weights(name: str) -> None:
    hashes = {
        init_hash(network(name, norm, place))
        for norm, place in product(("none", "batch", "group"), PLACES[name])
    }
    assert len(hashes) == 1
    assert init_hash(network(name, activation="tanh")) not in hashes


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_trains_alike_in_every_way_and_resumes_to_the_bit(
    tmp_path: Path, name: str
) -> None:
    def config(way: str) -> Config:
        size = [
            f"model.{key}={list(v) if isinstance(v, tuple) else v}" for key, v in SIZE[name].items()
        ]
        tiny = ["dataset.name=synthetic", "dataset.train_size=70", "dataset.test_size=20"]
        rest = ["train.epochs=3", "train.batch_size=16", "probes=[activations, gradients, weights]"]
        return load_config(
            (), [f"model.name={name}", *size, *tiny, *rest, f"train.accelerate={way}"]
        )

    for way in ("eager", "graph", "auto"):
        run_experiment(config(way), tmp_path / way)
    assert_same_run(tmp_path / "eager", tmp_path / "graph")
    assert_same_run(tmp_path / "eager", tmp_path / "auto")
    with pytest.raises(StopRequestedError):
        run_experiment(config("auto"), tmp_path / "cut", watcher=StopAt(1, 2))
    run_experiment(config("auto"), tmp_path / "cut", RunOptions(resume="must"))
    assert_same_run(tmp_path / "eager", tmp_path / "cut")


def test_resnet18_and_vgg11_are_as_large_as_cifars() -> None:
    def size(name: str) -> int:
        model = build_model(ModelConfig(name=name, norm=NormConfig(name="batch")), seed=0)
        biases = [
            layer.bias.numel()
            for layer in roles(model).weighted.values()
            if isinstance(layer, nn.Conv2d) and layer.bias is not None
        ]
        return parameter_count(model) - sum(biases)

    # kuangliu's pytorch-cifar prints 11,173,962 for ResNet-18, whose convolutions have no biases.
    assert size("resnet18") == 11_173_962
    # And 9,231,114 for VGG-11, whose convolutions have: 2,752 of them.
    assert size("vgg11") == 9_231_114 - 2_752


def test_a_place_that_a_network_does_not_have_is_an_error_with_those_it_has() -> None:
    with pytest.raises(ConfigError, match=r"after_pool: resnet18 pools nowhere .* use before_act"):
        network("resnet18", place="after_pool")


@pytest.mark.parametrize("place", ORDERS)
def test_a_placement_is_an_order_of_parts_in_resnet18_too(place: str) -> None:
    block = network("resnet18", place=place).get_submodule("stage1.1")
    seen = [
        name.removeprefix("inner.").removeprefix("outer.")
        for name, module in block.named_modules()
        if name and not list(module.children()) and not name.startswith("shortcut")
    ]
    expected = {
        "before_activation": "conv1 norm1 relu1 conv2 norm2 relu2",
        "after_activation": "conv1 relu1 norm1 conv2 relu2 norm2",
        "before_conv": "norm1 conv1 relu1 norm2 conv2 relu2",
        "both": "conv1 norm1 relu1 norm21 conv2 norm2 relu2 norm22",
    }
    assert " ".join(seen) == expected[place]


def test_a_block_whose_second_convolution_is_zero_passes_its_input() -> None:
    block = network("resnet18", "none").get_submodule("stage1.1")
    second = block.get_submodule("inner.conv2")
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.zero_()
    features = torch.randn(2, 2, 8, 8)
    assert torch.equal(block(features), F.relu(features))


# --------------------------------------------------------------------------------- activations


@pytest.mark.parametrize(("name", "activation"), list(product(NETWORKS, ACTIVATIONS)))
def test_every_activation_stands_in_every_network(name: str, activation: str) -> None:
    model = network(name, activation=activation)
    kinds = {type(module) for module in roles(model).activations.values()}
    assert kinds == {type(ACTIVATIONS[activation]())}
    assert model(images()).isfinite().all()


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "gelu", "silu"])
def test_he_normal_keeps_the_mean_square_of_a_standard_normal(activation: str) -> None:
    z = torch.linspace(-10, 10, 200_001, dtype=torch.float64)
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    after = ACTIVATIONS[activation]()(z)
    mean_square = torch.trapezoid(after.square() * density, z).item()
    assert GAINS[activation] ** 2 * mean_square == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "tanh", "sigmoid"])
def test_gains_are_torchs_where_it_has_any(activation: str) -> None:
    assert GAINS[activation] == pytest.approx(nn.init.calculate_gain(activation))  # type: ignore[arg-type]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_he_normal_scales_weights_to_suit_the_activation(activation: str) -> None:
    model = network("convnet", widths=(64,), activation=activation)
    weight = model.get_parameter("conv1.weight")
    relu = network("convnet", widths=(64,)).get_parameter("conv1.weight")
    ratio = GAINS[activation] / GAINS["relu"]
    torch.testing.assert_close(weight, relu * ratio)


def test_dropout_may_stand_in_front_of_the_norm_and_is_else_where_it_was(
    tiny_config: MakeConfig,
) -> None:
    def order(*sets: str) -> list[str]:
        model = build_model(tiny_config("model.dropout=0.2", *sets).model, seed=0)
        return [name for name, _ in model.named_children() if name.startswith("fc1_")]

    assert order("model.dropout_first=true") == ["fc1_dropout", "fc1_norm", "fc1_relu"]
    after = order("model.dropout_first=true", "model.norm.placement=after")
    assert after == ["fc1_relu", "fc1_dropout", "fc1_norm"]
    assert order("model.dropout_first=true", "model.norm=none") == order("model.norm=none")
    assert order() == ["fc1_norm", "fc1_relu", "fc1_dropout"]
