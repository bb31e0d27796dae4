"""Arms of one seed share weights, bit for bit: what makes them comparable in pairs."""

import hashlib
import struct
from itertools import combinations, product

import pytest
import torch
from torch import Tensor, nn

from bnlab.config import InitConfig, ModelConfig, NormConfig
from bnlab.training.models import build_model, init_hash
from bnlab.training.models.convnet import CONV_ORDERS
from bnlab.training.norms import NORMS, calibrate

INITS = ("he_normal", "torch_default", "xavier_normal", "orthogonal", "normal_small")


def build(
    norm: str, placement: str = "before_activation", *, seed: int = 0, init: str = "he_normal"
) -> nn.Module:
    config = ModelConfig(
        widths=(4, 6),
        hidden=(8,),
        dropout=0.5,
        norm=NormConfig.model_validate({"name": norm, "placement": placement}),
        init=InitConfig.model_validate({"name": init}),
    )
    return build_model(config, in_shape=(3, 8, 8), seed=seed)


def test_every_pair_of_norms_and_placements_starts_from_the_same_weights() -> None:
    hashes = {arm: init_hash(build(*arm)) for arm in product(NORMS, CONV_ORDERS)}
    for one, other in combinations(hashes, 2):
        assert hashes[one] == hashes[other], (one, other)


@pytest.mark.parametrize("init", INITS)
def test_arms_share_weights_whatever_the_init(init: str) -> None:
    bare, normalized = build("none", init=init), build("batch", "before_conv", init=init)
    weights = dict(normalized.named_parameters())
    for name, value in bare.named_parameters():
        assert torch.equal(value, weights[name]), name


def test_seeds_and_inits_differ_in_their_weights() -> None:
    hashes = {init_hash(build("batch", seed=seed, init=init)) for seed in (0, 1) for init in INITS}
    assert len(hashes) == 2 * len(INITS)


def test_no_two_parameters_share_a_stream() -> None:
    model = build_model(
        ModelConfig(widths=(3, 3, 3), norm=NormConfig(name="none")), in_shape=(3, 8, 8), seed=0
    )
    weights = [model.get_parameter(f"conv{block}.weight") for block in (1, 2, 3)]
    for one, other in combinations(weights, 2):
        assert not torch.equal(one, other)


def test_the_hash_is_sha256_over_sorted_names_and_little_endian_values() -> None:
    model = build_model(
        ModelConfig(widths=(1,), hidden=(), norm=NormConfig(name="none")),
        in_shape=(1, 2, 2),
        num_classes=1,
        seed=0,
    )
    with torch.no_grad():
        for value, parameter in enumerate(model.parameters()):
            parameter.fill_(value)  # conv1.weight, conv1.bias, classifier.weight, classifier.bias
    digest = hashlib.sha256()
    for name, values in (
        ("classifier.bias", [3.0]),
        ("classifier.weight", [2.0]),
        ("conv1.bias", [1.0]),
        ("conv1.weight", [0.0] * 9),
    ):
        digest.update(name.encode() + b"\0" + struct.pack(f"<{len(values)}f", *values))
    assert init_hash(model) == digest.hexdigest()


def test_the_hash_sees_a_single_changed_bit_of_a_shared_weight() -> None:
    model = build("batch")
    before = init_hash(model)
    with torch.no_grad():
        model.get_parameter("fc1.bias")[0] = 1e-30
    assert init_hash(model) != before


def test_the_hash_is_blind_to_norms_and_memory_layout() -> None:
    model = build("batch")
    before = init_hash(model)
    with torch.no_grad():
        model.get_parameter("conv1_norm.weight").fill_(3)
    for name in ("conv1.weight", "conv2.weight"):
        value = model.get_parameter(name)
        value.data = value.data.to(memory_format=torch.channels_last)
    assert init_hash(model) == before


@pytest.mark.parametrize("norm", list(NORMS))
def test_building_and_training_leave_the_global_stream_alone(norm: str) -> None:
    images = torch.randn(6, 3, 8, 8)
    before = torch.get_rng_state()
    for init in INITS:
        build(norm, init=init)
    model = build(norm)
    calibrate(model, images)
    model(images).sum().backward()
    assert torch.equal(before, torch.get_rng_state())


def test_a_norm_does_not_shift_what_dropout_draws() -> None:
    masks = [build(norm).get_submodule("fc1_dropout")(torch.ones(4, 8)) for norm in NORMS]
    for mask in masks:
        assert torch.equal(mask, masks[0])


def test_noise_has_a_stream_per_layer_and_seed() -> None:
    config = ModelConfig(widths=(4, 4), hidden=(), norm=NormConfig(name="noisy_batch"))
    features = torch.randn(6, 4, 8, 8)

    def noisy(layer: str, seed: int) -> Tensor:
        model = build_model(config, in_shape=(3, 8, 8), seed=seed)
        outcome: Tensor = model.get_submodule(layer)(features)
        return outcome

    first = noisy("conv1_norm", 0)
    assert torch.equal(first, noisy("conv1_norm", 0))
    assert not torch.equal(first, noisy("conv2_norm", 0))
    assert not torch.equal(first, noisy("conv1_norm", 1))


# The shortcut in common use: no bias where a norm follows, torch's own initialization, and one
# global generator for weights and order alike.


def shortcut(norm: bool) -> tuple[list[Tensor], Tensor]:
    torch.manual_seed(0)
    first = nn.Conv2d(3, 4, 3, padding=1, bias=not norm)
    second = nn.Conv2d(4, 6, 3, padding=1, bias=not norm)
    layers = [first, nn.BatchNorm2d(4), second] if norm else [first, second]
    nn.Sequential(*layers)
    return [first.weight, second.weight], torch.randperm(100)


def test_the_common_shortcut_gives_arms_other_weights_and_another_order() -> None:
    (first, second), order = shortcut(norm=False)
    (first_normed, second_normed), order_normed = shortcut(norm=True)
    assert torch.equal(first, first_normed)  # nothing was drawn before it
    assert not torch.equal(second, second_normed)
    assert not torch.equal(order, order_normed)
