"""`rewrite` on networks that none of us wrote."""

from collections import Counter

import pytest
import torch
from rewrite_table import (
    IN_SHAPE,
    NETWORKS,
    SLOW,
    config_of,
    logits,
    moving_back_equals,
    network,
    removed_and_put_back,
)

from bnlab.config import NormConfig
from bnlab.errors import ConfigError
from bnlab.training.models._rewrite import rewrite
from bnlab.training.models._roles import roles

EACH = [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in NETWORKS]
BATCH = [each for each in EACH if each.values[0] != "convnext_tiny"]

COUNTS = {
    "resnet18": ({"removed": 20}, {"moved": 17, "kept": 3}),
    "resnet50": ({"removed": 53}, {"moved": 49, "kept": 4}),
    "vgg11_bn": ({"removed": 8}, {"moved": 8}),
    "vgg11": ({}, {"added": 8}),
    "alexnet": ({}, {"added": 5}),
    "mobilenet_v2": ({"removed": 52}, {"moved": 35, "kept": 17}),
    "mobilenet_v3_small": ({"removed": 34}, {"moved": 23, "kept": 11}),
    "densenet121": ({"removed": 121}, {"moved": 59, "kept": 62}),
    "googlenet": ({"removed": 57}, {"moved": 57}),
    "shufflenet_v2_x0_5": ({"removed": 56}, {"moved": 37, "kept": 19}),
    "squeezenet1_0": ({}, {"added": 25}),
    "efficientnet_b0": ({"removed": 49}, {"moved": 33, "kept": 16}),
    "convnext_tiny": ({"removed": 23}, None),
}
"""What `none` and `batch` behind the activation do; convnext's channels are the last axis."""


@pytest.mark.parametrize("name", EACH)
def test_every_norm_is_removed_and_the_rest_is_left(name: str) -> None:
    model = network(name)
    bare = rewrite(model, NormConfig(name="none"), IN_SHAPE)
    assert Counter(change.what for change in bare.changes) == COUNTS[name][0]
    assert not roles(bare.module).norms
    norms = tuple(f"{norm}." for norm in roles(model).norms)
    left = {key for key in model.state_dict() if not key.startswith(norms)} if norms else None
    assert set(bare.module.state_dict()) == (left or set(model.state_dict()))
    assert logits(bare.module).shape == (4, 10)


@pytest.mark.parametrize("name", BATCH)
def test_norms_go_behind_the_activation_and_stay_where_none_is(name: str) -> None:
    made = rewrite(network(name), config_of(network(name), place="after_activation"), IN_SHAPE)
    assert Counter(change.what for change in made.changes) == COUNTS[name][1]
    assert all(c.after.endswith("in place") for c in made.changes if c.what == "kept")
    assert logits(made.module).isfinite().all()


@pytest.mark.parametrize("name", BATCH)
def test_removed_norms_put_back_with_their_values_give_the_same_outputs(name: str) -> None:
    back, expected, lost = removed_and_put_back(network(name))
    assert torch.equal(logits(back), logits(expected))
    assert len(lost) == (COUNTS[name][1] or {}).get("kept", 0)


@pytest.mark.parametrize("name", BATCH)
def test_norms_that_move_away_and_back_are_where_and_what_they_were(name: str) -> None:
    assert moving_back_equals(network(name))


@pytest.mark.slow
def test_convnexts_layer_norms_are_kept_and_not_replaced() -> None:
    model = network("convnext_tiny")
    made = rewrite(model, NormConfig(name="layer", fc=False), IN_SHAPE)
    assert {change.what for change in made.changes} == {"kept"}
    assert torch.equal(logits(made.module), logits(model))
    with pytest.raises(ConfigError, match=r"features\.1\.0\.block\.0.*channels are the last axis"):
        rewrite(model, NormConfig(fc=False), IN_SHAPE)
    with pytest.raises(ConfigError, match=r"block\.3.*last axis; set model\.norm\.fc=false"):
        rewrite(model, NormConfig(), IN_SHAPE)


def test_a_network_that_trains_through_other_layers_than_it_tests_is_an_error() -> None:
    with pytest.raises(ConfigError, match="goes another way in training"):
        rewrite(network("googlenet", aux_logits=True), NormConfig(name="none"), IN_SHAPE)
