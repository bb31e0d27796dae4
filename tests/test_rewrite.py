"""`rewrite` on small networks: what it does, point by point, and what it refuses."""

import copy
import re
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from bnlab.config import ModelConfig, NormConfig
from bnlab.errors import ConfigError
from bnlab.training.models import build_model, initialize, roles
from bnlab.training.models._rewrite import Rewritten, rewrite
from bnlab.training.models.convnet import CONV_ORDERS
from bnlab.training.models.resnet18 import ORDERS
from bnlab.training.norms import NORMS, calibrate

SHAPE = (3, 8, 8)


def norm(name: str = "batch", place: str = "before_activation", **more: object) -> NormConfig:
    return NormConfig.model_validate({"name": name, "placement": place, **more})


def images(count: int = 4) -> Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(1))


def outputs(model: nn.Module) -> Tensor:
    with torch.no_grad():
        result: Tensor = model.eval()(images())
    return result


def order(made: Rewritten) -> list[str]:
    """What is called, in order; a normalizer by its class."""
    return [
        type(made.module.get_submodule(str(node.target))).__name__
        if node.op == "call_module"
        else str(getattr(node.target, "__name__", node.target))
        for node in made.module.graph.nodes
        if node.op.startswith("call")
    ]


def whats(made: Rewritten) -> list[str]:
    return [change.what for change in made.changes]


def head(channels: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 5)]


def plain(*, place: str = "before", pool: bool = True) -> nn.Sequential:
    """Two convolutions with batch normalization."""
    layers: list[nn.Module] = []
    for before, behind in ((3, 4), (4, 6)):
        conv, bn = nn.Conv2d(before, behind, 3, padding=1), nn.BatchNorm2d(behind)
        unit = {"before": [bn], "after": [], "none": []}[place]
        layers += [conv, *unit, nn.ReLU()]
        layers += [bn] if place == "after" else []
        layers += [nn.MaxPool2d(2)] if pool else []
    return trained(nn.Sequential(*layers, *head(6)))  # type: ignore[no-any-return]


def trained(model: Any) -> Any:
    """With statistics that are no identity."""
    generator = torch.Generator().manual_seed(2)
    for module in roles(model).norms.values():
        for key, values in module.state_dict().items():
            if key.endswith(("weight", "running_var")):
                values.uniform_(0.5, 2, generator=generator)
            elif values.is_floating_point():
                values.normal_(generator=generator)
    return model


def assert_same(one: nn.Module, other: nn.Module) -> None:
    ours, theirs = one.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(values, theirs[key]) for key, values in ours.items())
    assert torch.equal(outputs(one), outputs(other))


# -------------------------------------------------------------------------------- where norms go

BLOCK = {
    "before_activation": "Conv2d BatchNorm2d ReLU MaxPool2d",
    "after_activation": "Conv2d ReLU BatchNorm2d MaxPool2d",
    "after_pool": "Conv2d ReLU MaxPool2d BatchNorm2d",
    "before_conv": "BatchNorm2d Conv2d ReLU MaxPool2d",
    "both": "Conv2d BatchNorm2d ReLU BatchNorm2d MaxPool2d",
}


@pytest.mark.parametrize("start", ["none", "before", "after"])
@pytest.mark.parametrize("place", BLOCK)
def test_a_placement_is_an_order_of_calls_wherever_norms_were(place: str, start: str) -> None:
    made = rewrite(plain(place=start), norm(place=place), SHAPE)
    assert order(made) == [*BLOCK[place].split() * 2, "AdaptiveAvgPool2d", "Flatten", "Linear"]
    assert list(made.without.values()) == ["the last layer, the classifier"]


@pytest.mark.parametrize(
    ("name", "kind", "place"),
    [
        (name, kind, place)
        for name, orders in (("convnet", CONV_ORDERS), ("vgg11", CONV_ORDERS), ("resnet18", ORDERS))
        for kind, place in product(NORMS, orders)
        if kind != "none" and (name, kind, place) != ("vgg11", "instance", "after_pool")
        if name == "convnet" or kind in ("batch", "group")
    ],
)
def test_norms_stand_where_bnlabs_own_networks_have_them(name: str, kind: str, place: str) -> None:
    size = {"widths": (4, 4), "hidden": (8,), "residual": True} if name == "convnet" else {}

    def built(config: NormConfig) -> nn.Module:
        model = ModelConfig.model_validate(
            {"name": name, **(size or {"width": 2}), "norm": config.model_dump()}
        )
        return build_model(model, num_classes=5, seed=0)

    asked = norm(kind, place)
    # A shortcut's convolution has its normalizer in every place, and gets none where it has none.
    start = norm(kind) if name == "resnet18" else norm("none")
    made = rewrite(built(start), asked, (3, 32, 32)).module
    expected = built(asked)
    batch = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for model in (made, expected):
        initialize(model, ModelConfig().init, 0)
        calibrate(model, batch)
    with torch.no_grad():
        assert torch.equal(made.eval()(batch), expected.eval()(batch))


def test_a_norm_behind_dropout_or_an_addition_is_in_front_of_the_activation_all_the_same() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Dropout(), nn.BatchNorm2d(4), nn.ReLU(), *head(4))
    assert whats(rewrite(model, norm(), SHAPE)) == ["kept"]


def test_where_nothing_pools_after_pool_is_after_the_activation() -> None:
    made = rewrite(plain(pool=False), norm(place="after_pool"), SHAPE)
    assert order(made)[:3] == ["Conv2d", "ReLU", "BatchNorm2d"]


def test_pooling_may_stand_in_front_of_the_activation() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.MaxPool2d(2), nn.ReLU(), *head(4))
    assert order(rewrite(model, norm(), SHAPE))[:3] == ["Conv2d", "BatchNorm2d", "MaxPool2d"]
    made = rewrite(model, norm(place="after_pool"), SHAPE)
    assert order(made)[:4] == ["Conv2d", "MaxPool2d", "ReLU", "BatchNorm2d"]


class Functional(nn.Module):
    """One conv, whatever activation, one conv, a classifier."""

    def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.fc = nn.Linear(4, 5)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.conv1(x))
        x = self.activation(self.conv2(x))
        return self.fc(x.mean((2, 3)))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "activation",
    [
        F.relu,
        torch.relu,
        lambda x: x.relu(),
        lambda x: x.relu_(),
        lambda x: F.relu(x, inplace=True),
        F.gelu,
        F.silu,
        F.hardswish,
        F.leaky_relu,
        torch.tanh,
        lambda x: x.sigmoid(),
        lambda x: x.clamp(min=0),
        nn.ReLU(inplace=True),
    ],
)
def test_activations_are_modules_functions_and_methods(activation: Any) -> None:
    model = Functional(activation)
    made = rewrite(model, norm(place="both"), SHAPE)
    assert whats(made) == ["added"] * 4
    assert [c.norm for c in made.changes] == [
        "conv1_norm", "conv1_norm2", "conv2_norm", "conv2_norm2",
    ]  # fmt: skip
    assert torch.equal(outputs(rewrite(made.module, norm("none"), SHAPE).module), outputs(model))


def test_convolutions_and_linear_layers_are_switched_apart() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 1, 7), nn.ReLU(), nn.Flatten(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5)
    )
    both = rewrite(model, norm(), SHAPE)
    assert [c.after for c in both.changes] == [
        "BatchNorm2d(1) before_activation",
        "BatchNorm1d(6) before_activation",
    ]
    conv = rewrite(both.module, norm(fc=False), SHAPE)
    assert whats(conv) == ["kept", "removed"]
    assert conv.without["3"] == "model.norm.fc=false"
    assert whats(rewrite(both.module, norm(conv=False), SHAPE)) == ["kept", "removed"]
    assert rewrite(model, norm("instance"), SHAPE).without["3"] == "instance is for feature maps"


# -------------------------------------------------------------------------- shortcuts and branches


class Residual(nn.Module):
    """A basic block with a projection; the order of addition and what is reused vary."""

    def __init__(self, *, swapped: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(4)
        self.down = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(4, 5)
        self.swapped = swapped

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out = self.down(x) + out if self.swapped else out + self.down(x)
        return self.fc(self.relu(out).mean((2, 3)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("swapped", [False, True])
def test_the_activation_behind_a_shortcut_belongs_to_the_way_with_more_layers(
    swapped: bool,
) -> None:
    made = rewrite(trained(Residual(swapped=swapped)), norm(place="after_activation"), SHAPE)
    assert [(c.layer, c.norm, c.what) for c in made.changes] == [
        ("conv1", "bn1", "moved"),
        ("conv2", "bn2", "moved"),
        ("down.0", "down.1", "kept"),
    ]
    calls = [str(node.target) for node in made.module.graph.nodes]
    assert calls[-5:-2] == ["relu", "bn2", "mean"]
    assert made.without["down.0"] == "no activation behind it: add follows"


def test_a_layer_without_an_activation_has_its_norm_replaced_in_place_or_removed() -> None:
    model = Residual()
    grouped = rewrite(model, norm("group", "after_activation"), SHAPE)
    assert [c.after for c in grouped.changes][-1] == "GroupNorm(4) in place"
    assert whats(grouped) == ["replaced"] * 3
    assert whats(rewrite(model, norm("none"), SHAPE)) == ["removed"] * 3


def test_a_norm_in_front_of_a_convolution_is_made_anew_where_channels_differ() -> None:
    made = rewrite(Residual(), norm(place="before_conv"), SHAPE)
    assert [(c.layer, c.what, c.before, c.after) for c in made.changes][:2] == [
        ("conv1", "replaced", "BatchNorm2d(4) before_activation", "BatchNorm2d(3) before_conv"),
        ("conv2", "moved", "BatchNorm2d(4) before_activation", "BatchNorm2d(4) before_conv"),
    ]
    assert made.module.get_submodule("bn1").num_features == 3
    (down,) = (n for n in made.module.graph.nodes if n.target == "down.0")
    assert down.args[0].op == "placeholder"  # the shortcut reads what it read


class Bottleneck(nn.Module):
    """A linear bottleneck as in MobileNetV2: no activation behind the second convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6), nn.ReLU6(),
            nn.Conv2d(6, 3, 1), nn.BatchNorm2d(3),
            nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU6(),
        )  # fmt: skip
        self.fc = nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x).mean((2, 3)))  # type: ignore[no-any-return]


def test_a_linear_bottlenecks_norm_does_not_become_the_next_layers() -> None:
    made = rewrite(trained(Bottleneck()), norm(place="after_activation"), SHAPE)
    assert [(c.norm, c.what) for c in made.changes] == [
        ("body.1", "moved"), ("body.6", "moved"), ("body.4", "kept"),
    ]  # fmt: skip


class Gated(nn.Module):
    """Squeeze-and-excitation behind a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.squeeze, self.excite = nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x))
        gate = self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(x, 1)))).sigmoid()
        return self.fc((x * gate).mean((2, 3)))  # type: ignore[no-any-return]


def test_gates_get_no_norm() -> None:
    made = rewrite(Gated(), norm(), SHAPE)
    assert [c.layer for c in made.changes] == ["conv"]
    assert made.without["squeeze"] == made.without["excite"]


class PreActivation(nn.Module):
    """Normalizer and activation in front of a convolution, behind the end of a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.bn, self.conv, self.fc = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.conv(F.relu(self.bn(x), inplace=True))
        return self.fc(x.mean((2, 3)))  # type: ignore[no-any-return]


def test_a_norm_of_no_layer_stays_in_place_and_what_was_in_place_overwrites_nothing() -> None:
    model = PreActivation()
    made = rewrite(model, norm("group"), SHAPE)
    assert [(c.layer, c.after) for c in made.changes] == [("bn", "GroupNorm(4) in place")]
    bare = rewrite(model, norm("none"), SHAPE).module
    x = model.stem(images())
    expected = model.fc((x + model.conv(F.relu(x))).mean((2, 3)))
    assert torch.equal(outputs(bare), expected.detach())


# ------------------------------------------------------------------------- what stays as it was


def test_moved_norms_keep_name_parameters_and_buffers_and_come_back() -> None:
    model = plain()
    away = rewrite(model, norm(place="after_pool"), SHAPE)
    assert whats(away) == ["moved", "moved"]
    assert away.module.state_dict().keys() == model.state_dict().keys()
    assert not torch.equal(outputs(away.module), outputs(model))
    assert_same(rewrite(away.module, norm(), SHAPE).module, model)


def test_the_network_that_is_given_stays_as_it_is_and_nothing_is_drawn() -> None:
    model = plain().train()
    model[3].eval()
    before, modes = copy.deepcopy(model), [m.training for m in model.modules()]
    state = torch.get_rng_state()
    made = rewrite(model, norm("group", "both"), SHAPE).module
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in model.modules()] == modes
    assert made.training
    assert not made.get_submodule("3").training
    with torch.no_grad():
        made.get_parameter("0.weight").zero_()
    assert_same(model, before)


def test_a_rewritten_network_trains() -> None:
    made = rewrite(plain(place="none"), norm(place="both"), SHAPE).module
    F.cross_entropy(made.train()(images()), torch.arange(4)).backward()
    assert all(parameter.grad is not None for parameter in made.parameters())
    assert copy.deepcopy(made)(images()).shape == (4, 5)


class Shy(nn.Module):
    """Dropout by a function, a batch norm by a function, a constant and a silent buffer."""

    mean: Tensor
    var: Tensor
    constant: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 1), nn.Linear(4, 5)
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("var", torch.ones(4))
        self.register_buffer("constant", torch.ones(1), persistent=False)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = F.batch_norm(self.conv(x), self.mean, self.var, training=self.training)  # the line
        x = F.dropout(F.relu(x), 0.5, self.training)
        if mask is not None:
            x = x * mask
        return self.fc(x.mean((2, 3)) * self.constant + torch.tensor(2.0))  # type: ignore[no-any-return]


def test_functions_that_ask_for_the_mode_still_do() -> None:
    model = Shy()
    made = rewrite(nn.Sequential(model), norm(), SHAPE).module
    assert made.state_dict().keys() == nn.Sequential(model).state_dict().keys()
    assert torch.equal(outputs(made), outputs(nn.Sequential(model)))
    made.train()
    assert not torch.equal(made(images()), made(images()))
    assert made.get_buffer("0.mean").count_nonzero() == 4
    assert not model.mean.any()
    made.eval()
    assert torch.equal(made(images()), made(images()))
    again = rewrite(made, norm(), SHAPE).module.train()
    assert not torch.equal(again(images()), again(images()))


def test_a_norm_by_a_function_is_removed_and_replaced_but_not_moved() -> None:
    bare = rewrite(Shy(), norm("none"), SHAPE)
    assert [(c.before, c.after) for c in bare.changes] == [("batch_norm(4) before_activation", "")]
    assert set(bare.module.state_dict()) == {"conv.weight", "conv.bias", "fc.weight", "fc.bias"}
    grouped = rewrite(Shy(), norm("group", "after_activation"), SHAPE)
    assert [(c.norm, c.what) for c in grouped.changes] == [("conv_norm", "replaced")]
    assert whats(rewrite(Shy(), norm("group"), SHAPE)) == ["replaced"]
    line = r"batch_norm in forward \(.*test_rewrite\.py:\d+\).*cannot be moved to after_activation"
    with pytest.raises(ConfigError, match=line):
        rewrite(Shy(), norm(place="after_activation"), SHAPE)


def test_names_that_are_taken_are_not_given_again() -> None:
    model = nn.Sequential()
    model.add_module("conv", nn.Conv2d(3, 4, 1))
    model.add_module("conv_norm", nn.ReLU())
    for number, module in enumerate(head(4)):
        model.add_module(str(number), module)
    assert [c.norm for c in rewrite(model, norm(), SHAPE).changes] == ["conv_norm2"]


def test_kinds_are_told_apart_by_what_they_do() -> None:
    def kinds(start: nn.Module, name: str) -> list[str]:
        model = nn.Sequential(nn.Conv2d(3, 4, 1), start, nn.ReLU(), *head(4))
        return whats(rewrite(model, norm(name), SHAPE))

    assert kinds(nn.GroupNorm(2, 4), "group") == ["kept"]
    assert kinds(nn.GroupNorm(1, 4), "group") == ["replaced"]
    assert kinds(nn.GroupNorm(1, 4), "batch") == ["replaced"]
    assert kinds(nn.InstanceNorm2d(4), "instance") == ["kept"]
    assert kinds(nn.LayerNorm([4, 8, 8]), "layer") == ["kept"]
    assert kinds(nn.LocalResponseNorm(2), "batch") == ["replaced"]
    assert kinds(nn.BatchNorm2d(4, eps=1e-3), "batch") == ["kept"]
    assert kinds(nn.BatchNorm2d(4), "batch_reference") == ["replaced"]


def test_a_layer_norm_over_positions_does_not_fit_behind_pooling() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.LayerNorm([4, 8, 8]), nn.ReLU(), nn.MaxPool2d(2), *head(4)
    )
    assert whats(rewrite(model, norm("layer", "after_activation"), SHAPE)) == ["moved"]
    assert whats(rewrite(model, norm("layer", "after_pool"), SHAPE)) == ["replaced"]


# ------------------------------------------------------------------------------------------ laws

PARTS = st.lists(
    st.tuples(
        st.integers(2, 4),
        st.sampled_from(["", "before", "after", "front"]),
        st.sampled_from([nn.ReLU, nn.GELU, None]),
        st.booleans(),
    ),
    min_size=1,
    max_size=3,
)


def network_of(parts: list[tuple[int, str, Any, bool]]) -> nn.Module:
    layers: list[nn.Module] = []
    width = 3
    for channels, place, activation, pool in parts:
        layers += [nn.BatchNorm2d(width)] if place == "front" else []
        layers += [nn.Conv2d(width, channels, 3, padding=1)]
        layers += [nn.BatchNorm2d(channels)] if place == "before" else []
        layers += [activation()] if activation else []
        layers += [nn.BatchNorm2d(channels)] if place == "after" else []
        layers += [nn.MaxPool2d(2)] if pool else []
        width = channels
    return trained(nn.Sequential(*layers, nn.Conv2d(width, 2, 1), nn.ReLU(), *head(2)))  # type: ignore[no-any-return]


PLACEMENTS = st.sampled_from(list(CONV_ORDERS))


@given(PARTS, PLACEMENTS, st.sampled_from(["batch", "group", "batch_reference"]))
@settings(max_examples=60, deadline=None)
def test_a_placement_that_a_network_has_changes_nothing(
    parts: list[tuple[int, str, Any, bool]], place: str, name: str
) -> None:
    once = rewrite(network_of(parts), norm(name, place), SHAPE)
    twice = rewrite(once.module, norm(name, place), SHAPE)
    assert set(whats(twice)) == {"kept"}
    assert_same(twice.module, once.module)


@given(PARTS, PLACEMENTS)
@settings(max_examples=30, deadline=None)
def test_without_norms_it_is_the_same_network_whatever_was_there_before(
    parts: list[tuple[int, str, Any, bool]], place: str
) -> None:
    model = network_of(parts)
    once = rewrite(model, norm("none"), SHAPE)
    assert rewrite(once.module, norm("none"), SHAPE).changes == ()
    moved = rewrite(model, norm(place=place), SHAPE).module
    assert_same(rewrite(moved, norm("none"), SHAPE).module, once.module)


# ---------------------------------------------------------------------------------------- errors


def small(forward: Callable[[Any, Tensor], Any], **modules: nn.Module) -> nn.Module:
    """A network with a forward of one's own."""
    kind = type("Small", (nn.Module,), {"forward": forward})
    model: nn.Module = kind()
    for name, module in modules.items():
        model.add_module(name, module)
    return model


def conv() -> nn.Conv2d:
    return nn.Conv2d(3, 3, 1)


def refused(model: nn.Module, config: NormConfig | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        rewrite(model, config or norm(), SHAPE)
    return str(caught.value)


def test_a_decision_that_depends_on_values_is_named_with_its_line() -> None:
    class Deciding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = conv()

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            if x.sum() > 0:
                x = -x
            return x

    message = refused(nn.Sequential(Deciding(), nn.ReLU()))
    assert message.startswith("0: cannot be traced by torch.fx: TraceError:")
    assert re.search(r"test_rewrite\.py:\d+: if x\.sum\(\) > 0:", message)


def test_other_input_is_named() -> None:
    message = refused(nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU()))
    assert message.startswith("0: forward fails on images of shape (2, 3, 8, 8): RuntimeError:")
    two = small(lambda self, x, y: self.conv(x) + y, conv=conv())  # type: ignore[misc,arg-type]
    assert "takes other input than one batch of images: missing" in refused(two)


def test_what_forward_raises_is_named_with_module_and_line() -> None:
    def forward(_: Any, x: Tensor) -> Tensor:
        raise ValueError("no such thing")

    message = refused(nn.Sequential(conv(), small(forward, conv=conv())))
    assert message.startswith("1: forward fails on images of shape (2, 3, 8, 8): ValueError: no su")
    assert re.search(r'test_rewrite\.py:\d+: raise ValueError\("no such thing"\)', message)


def test_a_network_without_norm_and_place_for_one_is_named_with_reasons() -> None:
    message = refused(nn.Sequential(nn.Conv2d(3, 4, 1), *head(4)))
    assert "nothing to normalize" in message
    assert "0: no activation behind it: 1 (AdaptiveAvgPool2d) follows" in message
    assert rewrite(nn.Sequential(conv()), norm("none"), SHAPE).changes == ()


def test_a_norm_in_two_places_is_named_unless_it_goes_away() -> None:
    shared = nn.BatchNorm2d(3)
    model = nn.Sequential(conv(), shared, nn.ReLU(), conv(), shared, nn.ReLU(), *head(3))
    assert refused(model).startswith("1: called in 2 places")
    bare = rewrite(model, norm("none"), SHAPE)
    assert whats(bare) == ["removed", "removed"]
    assert not roles(bare.module).norms


def test_a_layer_in_two_places_is_named() -> None:
    shared = conv()
    model = nn.Sequential(shared, nn.ReLU(), shared, nn.ReLU(), *head(3))
    assert refused(model).startswith("0: called in 2 places")


def test_a_network_that_is_no_function_of_its_input_is_named() -> None:
    noisy = small(lambda self, x: self.conv(x) + torch.randn(3, 8, 8), conv=conv())
    assert "two passes in eval mode over the same images differ" in refused(noisy)


def test_a_trace_that_is_not_the_network_is_refused() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        y = self.conv(x)
        return self.conv(x).relu() if isinstance(y, fx.Proxy) else y

    assert "its trace gives other outputs than the network" in refused(small(forward, conv=conv()))


def test_another_way_in_training_is_named() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        x = self.conv(x)
        return x.relu() if self.training else x.tanh()

    message = refused(small(forward, conv=conv()))
    assert "forward goes another way in training" in message


def test_norms_inside_one_piece_are_named() -> None:
    piece = nn.TransformerEncoderLayer(8, 2, 8, dropout=0.0, batch_first=True)
    model = small(
        lambda self, x: self.piece(self.conv(x).flatten(2)[:, :, :8]), conv=conv(), piece=piece
    )
    assert refused(model).startswith("piece (")
    assert "is one piece to torch.fx, which does not reach its normalizers (norm1, norm2)" in (
        refused(model, norm("none"))
    )


def test_a_norm_that_cannot_be_built_where_it_is_wanted_is_named() -> None:
    tokens = small(
        lambda self, x: self.fc2(self.fc1(x.flatten(2)).relu()),
        fc1=nn.Linear(64, 8),
        fc2=nn.Linear(8, 5),
    )
    message = refused(tokens)
    assert re.match(r"fc1 \(.*test_rewrite\.py:\d+\): no normalizer .* shape \(3, 8\)", message)
    assert message.endswith("set model.norm.fc=false")
    single = nn.Sequential(nn.Conv2d(3, 4, 8), nn.ReLU(), *head(4))
    assert refused(single, norm("instance")).startswith("0: model.norm.name: instance over")


def test_what_cannot_be_copied_is_named() -> None:
    model = nn.Sequential(conv(), nn.ReLU())
    model.kept = model(images())
    assert refused(model).startswith("Sequential: cannot be copied: RuntimeError:")
