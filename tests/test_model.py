from collections import OrderedDict
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from bnlab.config import InitConfig, ModelConfig, NormConfig
from bnlab.errors import ConfigError
from bnlab.registry import Entry
from bnlab.training.accelerate import build_forward
from bnlab.training.models import (
    MODELS,
    Dropout,
    build_model,
    check_batch,
    init_hash,
    outputs_of,
    parameter_count,
    roles,
)
from bnlab.training.models.convnet import CONV_ORDERS, FC_ORDERS
from bnlab.training.norms import NORMS, calibrate
from bnlab.training.streams import stream

LAW = settings(deadline=None, max_examples=25, derandomize=True)
SMALL = {"widths": (4, 6), "hidden": (8,)}


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def configured(norm: dict[str, object] | None = None, **fields: object) -> ModelConfig:
    return ModelConfig.model_validate(
        {**SMALL, "norm": NormConfig.model_validate(norm or {}), **fields}
    )


def tiny(norm: dict[str, object] | None = None, **fields: object) -> nn.Sequential:
    model = build_model(configured(norm, **fields), in_shape=(3, 8, 8), num_classes=5, seed=0)
    assert isinstance(model, nn.Sequential)
    return model


def children(model: nn.Sequential) -> list[str]:
    return [name for name, _ in model.named_children()]


def images(count: int = 6) -> Tensor:
    return torch.randn(count, 3, 8, 8)


def parameter(model: nn.Module, name: str) -> nn.Parameter:
    return model.get_parameter(name)


def loss_gradients(model: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    labels = torch.arange(len(inputs)) % 5
    names, parameters = zip(*model.named_parameters(), strict=True)
    loss = F.cross_entropy(model(inputs), labels)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


# ------------------------------------------------------------------------------------ layers


def test_the_seed_network_without_a_norm_has_4576394_parameters() -> None:
    model = build_model(ModelConfig(norm=NormConfig(name="none")), seed=0)
    # 3x3 convolutions and linear layers with biases: 1,792 + 73,856 + 295,168 + 4,195,328 + 10,250
    assert parameter_count(model) == 4_576_394


def test_batch_norm_adds_two_parameters_per_channel() -> None:
    assert parameter_count(tiny()) - parameter_count(tiny({"name": "none"})) == 2 * (4 + 6 + 8)


def test_layers_are_named_in_the_order_data_flows() -> None:
    assert children(tiny(dropout=0.5)) == [
        *("conv1", "conv1_norm", "conv1_relu", "conv1_pool"),
        *("conv2", "conv2_norm", "conv2_relu", "conv2_pool"),
        "flatten",
        *("fc1", "fc1_norm", "fc1_relu", "fc1_dropout"),
        "classifier",
    ]


@pytest.mark.parametrize(
    ("placement", "conv", "fc"),
    [
        ("before_activation", "conv1 norm relu pool", "fc1 norm relu"),
        ("after_activation", "conv1 relu norm pool", "fc1 relu norm"),
        ("after_pool", "conv1 relu pool norm", "fc1 relu norm"),
        ("before_conv", "norm conv1 relu pool", "norm fc1 relu"),
        ("both", "conv1 norm relu norm2 pool", "fc1 norm relu norm2"),
    ],
)
def test_a_placement_is_an_order_of_parts(placement: str, conv: str, fc: str) -> None:
    names = children(tiny({"placement": placement}, widths=(4,)))
    short = [name.removeprefix("conv1_").removeprefix("fc1_") for name in names]
    assert " ".join(short) == f"{conv} flatten {fc} classifier"


def test_depths_number_the_convolutions_through_and_pool_once_a_width() -> None:
    model = tiny({"name": "none"}, depths=(2, 1))
    assert children(model)[:8] == [
        *("conv1", "conv1_relu", "conv2", "conv2_relu", "conv2_pool"),
        *("conv3", "conv3_relu", "conv3_pool"),
    ]
    shapes = [parameter(model, f"conv{i}.weight").shape[:2] for i in (1, 2, 3)]
    assert shapes == [(4, 3), (4, 4), (6, 4)]


def test_one_convolution_of_each_width_is_the_network_without_depths() -> None:
    assert configured(depths=(1, 1)) == configured()


@pytest.mark.parametrize(
    ("placement", "second"),
    [
        ("before_activation", "keep conv2 norm add relu pool"),
        ("after_activation", "keep conv2 add relu norm pool"),
        ("after_pool", "keep conv2 add relu pool norm"),
        ("before_conv", "keep norm conv2 add relu pool"),
        ("both", "keep conv2 norm add relu norm2 pool"),
    ],
)
def test_shortcuts_end_before_the_relu_where_shapes_allow(placement: str, second: str) -> None:
    names = children(tiny({"placement": placement}, depths=(2, 1), residual=True))
    assert not any("add" in name for name in names if name.startswith(("conv1", "conv3")))
    found = [name.removeprefix("conv2_") for name in names if name.startswith("conv2")]
    assert " ".join(found) == second


def test_a_residual_block_adds_its_input_before_its_relu() -> None:
    fields: dict[str, object] = {"widths": (4,), "depths": (2,), "hidden": ()}
    model = tiny({"name": "none"}, **fields, residual=True)
    plain = tiny({"name": "none"}, **fields)
    inputs = images()
    first = F.relu(F.conv2d(inputs, *conv(model, 1), padding=1))
    second = F.relu(first + F.conv2d(first, *conv(model, 2), padding=1))
    expected = F.linear(F.max_pool2d(second, 2).flatten(1), *linear(model))
    torch.testing.assert_close(model(inputs), expected)
    assert {k: v.shape for k, v in model.state_dict().items()} == {
        k: v.shape for k, v in plain.state_dict().items()
    }
    assert all(torch.equal(v, plain.state_dict()[k]) for k, v in model.state_dict().items())


def test_a_residual_block_whose_convolution_is_zero_passes_its_input() -> None:
    model = tiny({"name": "none"}, widths=(4,), depths=(3,), residual=True)
    shallow = tiny({"name": "none"}, widths=(4,))
    with torch.no_grad():
        for layer in ("conv2", "conv3"):
            parameter(model, f"{layer}.weight").zero_()
    shallow.load_state_dict(
        {k: v for k, v in model.state_dict().items() if not k.startswith(("conv2", "conv3"))}
    )
    inputs = images()
    assert torch.equal(model(inputs), shallow(inputs))


def conv(model: nn.Module, number: int) -> tuple[Tensor, Tensor]:
    return parameter(model, f"conv{number}.weight"), parameter(model, f"conv{number}.bias")


def linear(model: nn.Module) -> tuple[Tensor, Tensor]:
    return parameter(model, "classifier.weight"), parameter(model, "classifier.bias")


@pytest.mark.parametrize(("name", "placement"), list(product(NORMS, CONV_ORDERS)))
def test_every_norm_trains_in_deep_residual_networks(name: str, placement: str) -> None:
    model = tiny({"name": name, "placement": placement}, depths=(2, 2), residual=True)
    inputs = images()
    calibrate(model, inputs)
    loss = F.cross_entropy(model(inputs), torch.arange(6) % 5)
    loss.backward()
    for key, value in model.named_parameters():
        assert value.grad is not None, key
        assert value.grad.isfinite().all(), key


def test_the_two_tables_of_orders_have_the_placements_of_the_schema() -> None:
    placements = NormConfig.model_fields["placement"].annotation
    assert set(CONV_ORDERS) == set(FC_ORDERS) == set(getattr(placements, "__args__", ()))


@pytest.mark.parametrize(
    ("norm", "expected"),
    [
        ({}, ["conv1_norm", "conv2_norm", "fc1_norm"]),
        ({"fc": False}, ["conv1_norm", "conv2_norm"]),
        ({"conv": False}, ["fc1_norm"]),
        ({"conv": False, "fc": False}, []),
        ({"name": "none"}, []),
        ({"name": "instance"}, ["conv1_norm", "conv2_norm"]),
        (
            {"placement": "both"},
            [
                *("conv1_norm", "conv1_norm2", "conv2_norm", "conv2_norm2"),
                *("fc1_norm", "fc1_norm2"),
            ],
        ),
    ],
)
def test_switches_say_which_layers_have_a_norm(
    norm: dict[str, object], expected: list[str]
) -> None:
    model = tiny(norm)
    assert list(roles(model).norms) == expected
    assert [name for name in children(model) if "norm" in name] == expected


def test_every_arm_has_the_same_convolutions_and_linear_layers_with_biases() -> None:
    for name in NORMS:
        model = tiny({"name": name})
        for layer in ("conv1", "conv2", "fc1", "classifier"):
            assert model.get_parameter(f"{layer}.bias").ndim == 1


def test_a_map_of_one_pixel_is_not_pooled() -> None:
    model = tiny(widths=(4, 4, 4, 4, 4))  # 8, 4, 2, 1, 1, 1
    assert [name for name in children(model) if "pool" in name] == [
        *("conv1_pool", "conv2_pool", "conv3_pool")
    ]
    assert model(images()).shape == (6, 5)


def test_a_model_may_have_no_hidden_layer() -> None:
    assert children(tiny({"name": "none"}, widths=(4,), hidden=())) == [
        *("conv1", "conv1_relu", "conv1_pool", "flatten", "classifier")
    ]


@pytest.mark.parametrize("placement", CONV_ORDERS)
def test_norms_stand_on_the_features_that_reach_them(placement: str) -> None:
    model = tiny({"name": "batch_tf", "placement": placement})
    expected = {
        "before_conv": [(3, 8, 8), (4, 4, 4), (24,)],
        "after_pool": [(4, 4, 4), (6, 2, 2), (8,)],
        "both": [*[(4, 8, 8)] * 2, *[(6, 4, 4)] * 2, *[(8,)] * 2],
    }.get(placement, [(4, 8, 8), (6, 4, 4), (8,)])
    assert [tuple(n.get_parameter("weight").shape) for n in roles(model).norms.values()] == expected


@pytest.mark.parametrize(("name", "placement"), list(product(NORMS, CONV_ORDERS)))
def test_every_norm_at_every_place_takes_a_training_step(name: str, placement: str) -> None:
    model = tiny({"name": name, "placement": placement, "ghost_size": 2}, dropout=0.2)
    inputs = images()
    calibrate(model, inputs)
    before = {key: value.clone() for key, value in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss = F.cross_entropy(model(inputs), torch.arange(6) % 5)
    loss.backward()
    optimizer.step()
    for key, value in model.named_parameters():
        assert value.isfinite().all(), key
    assert not torch.equal(before["conv1.weight"], parameter(model, "conv1.weight"))
    assert model.eval()(inputs).shape == (6, 5)


@pytest.mark.parametrize(("name", "placement"), list(product(NORMS, CONV_ORDERS)))
def test_every_model_runs_under_bf16_autocast(name: str, placement: str) -> None:
    model = tiny({"name": name, "placement": placement})
    calibrate(model, images())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(images())
    logits.float().sum().backward()
    assert parameter(model, "conv1.weight").grad is not None
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_a_model_resumes_from_its_state_dict() -> None:
    for name in NORMS:
        model, copy = tiny({"name": name}, dropout=0.5), tiny({"name": name}, dropout=0.5)
        calibrate(model, images())
        model(images())
        copy.load_state_dict(model.state_dict())
        inputs = images()
        assert torch.equal(model(inputs), copy(inputs)), name
        assert torch.equal(model.eval()(inputs), copy.eval()(inputs)), name


def test_an_unknown_norm_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="unknown norm 'bacth'; did you mean 'batch'"):
        tiny({"name": "bacth"})


def test_an_instance_norm_on_a_one_pixel_map_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"instance over features of shape \(4, 1, 1\)"):
        tiny({"name": "instance"}, widths=(4, 4, 4, 4))


# ----------------------------------------------------------------------------------- dropout


def test_dropout_keeps_units_with_their_probability_and_scales_them_up() -> None:
    dropout = Dropout(0.75)
    dropped = dropout(torch.ones(100, 100))
    assert set(dropped.unique().tolist()) == {0.0, 4.0}
    assert abs(float(dropped.mean()) - 1) < 0.1  # 10,000 draws: 5.8 standard errors


def test_dropout_is_the_identity_in_eval_mode() -> None:
    features = torch.randn(4, 4)
    assert Dropout(0.5).eval()(features) is features


def test_dropout_passes_gradient_where_it_passed_the_unit() -> None:
    features = torch.ones(50, requires_grad=True)
    dropped = Dropout(0.5)(features)
    dropped.sum().backward()
    assert features.grad is not None
    assert torch.equal(dropped, features.grad)


def test_dropout_layers_draw_from_streams_of_their_own() -> None:
    model = tiny({"name": "none"}, hidden=(32, 32), dropout=0.5)
    before = torch.get_rng_state()
    names = ("fc1_dropout", "fc2_dropout")
    masks = [model.get_submodule(name)(torch.ones(4, 32)) for name in names]
    assert not torch.equal(*masks)
    assert torch.equal(before, torch.get_rng_state())
    again = tiny({"name": "batch"}, hidden=(32, 32), dropout=0.5)
    assert torch.equal(masks[0], again.get_submodule("fc1_dropout")(torch.ones(4, 32)))


# ------------------------------------------------------------------------- roles and any network


@pytest.mark.parametrize("name", sorted(set(MODELS) - {"file"}))
def test_every_network_gives_logits_and_has_roles_in_the_order_data_flows(name: str) -> None:
    before = torch.get_rng_state()
    model = build_model(configured(name=name), num_classes=5, seed=3)
    assert torch.equal(before, torch.get_rng_state())
    found = roles(model)
    called: list[nn.Module] = []
    for layer in (*found.weighted.values(), *found.norms.values(), *found.activations.values()):
        layer.register_forward_hook(lambda layer, _inputs, _output: called.append(layer))
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 5)
    for layers in (found.weighted, found.norms, found.activations):
        assert layers
        assert [layer for layer in called if layer in layers.values()] == list(layers.values())
    assert list(found.weighted.values())[-1].weight.shape[0] == 5


@pytest.mark.parametrize("name", sorted(set(MODELS) - {"file"}))
def test_every_network_draws_its_weights_from_the_seed_alone(name: str) -> None:
    one, same, other = (build_model(configured(name=name), seed=seed) for seed in (3, 3, 4))
    assert init_hash(one) == init_hash(same) != init_hash(other)


class Block(nn.Module):
    """A part of a network of somebody else's, whose activation works in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.act = nn.SiLU(inplace=True)

    def forward(self, features: Tensor) -> Tensor:
        activated: Tensor = self.act(self.norm(self.conv(features)))
        return activated.mean((2, 3))


def nested(*_: object) -> nn.Module:
    """Another's network, first drawn from the global stream."""
    return nn.Sequential(OrderedDict(block=Block(), head=nn.Linear(4, 5)))


@pytest.fixture
def _nested_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS._entries, "nested", Entry(nested, frozenset()))


def test_the_layers_of_a_nested_network_have_dotted_names() -> None:
    found = roles(nested())
    assert [list(names) for names in (found.weighted, found.norms, found.activations)] == [
        ["block.conv", "head"],
        ["block.norm"],
        ["block.act"],
    ]


@pytest.mark.usefixtures("_nested_is_known")
def test_the_weights_of_any_network_start_as_the_configuration_says() -> None:
    gained = configured(name="nested", init=InitConfig(gain=2.0))
    one, same = (build_model(gained, seed=1) for _ in range(2))
    assert init_hash(one) == init_hash(same)
    plain = build_model(configured(name="nested"), seed=1)
    for name, factor in (("block.conv.weight", 2), ("head.weight", 1)):
        torch.testing.assert_close(parameter(one, name), factor * parameter(plain, name))
    assert parameter(one, "head.bias").count_nonzero() == 0


@pytest.mark.usefixtures("_nested_is_known")
def test_what_a_layer_gives_outlives_an_activation_in_place() -> None:
    model = build_model(configured(name="nested"), seed=1).eval()
    found, inputs = roles(model), images()
    with torch.no_grad(), outputs_of(found.norms) as outputs:
        model(inputs)
    expected = found.norms["block.norm"](found.weighted["block.conv"](inputs))
    torch.testing.assert_close(outputs["block.norm"], expected)


def test_a_norm_of_any_class_is_one_and_its_parts_are_no_layers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def squeezing(shape: tuple[int, ...], _config: NormConfig) -> nn.Module:
        return nn.Sequential(nn.Conv2d(shape[0], shape[0], 1), nn.ReLU())

    monkeypatch.setitem(NORMS._entries, "squeezing", Entry(squeezing, frozenset()))
    found = roles(tiny({"name": "squeezing", "fc": False}))
    assert list(found.norms) == ["conv1_norm", "conv2_norm"]
    assert list(found.weighted) == ["conv1", "conv2", "fc1", "classifier"]
    assert list(found.activations) == ["conv1_relu", "conv2_relu", "fc1_relu"]


def test_only_of_a_plain_sequence_are_layers_called_in_another_order() -> None:
    class Doubled(nn.Sequential):
        def forward(self, features: Tensor) -> Tensor:
            for layer in self:
                features = layer(features)
            return 2 * features

    model, inputs = Doubled(nn.ReLU(), nn.MaxPool2d(2)), images()
    assert torch.equal(build_forward(model, "swap")(inputs), model(inputs))


# ------------------------------------------------------------------------------ initialization


def started(name: str, gain: float = 1.0) -> nn.Module:
    return build_model(
        configured(
            {"name": "none"},
            widths=(64,),
            hidden=(64,),
            init=InitConfig.model_validate({"name": name, "gain": gain}),
        ),
        in_shape=(32, 8, 8),
        seed=1,
    )


@pytest.mark.parametrize(
    ("name", "std"),
    [
        ("he_normal", (2 / 288) ** 0.5),  # fan_in 32 * 9
        ("torch_default", (1 / 288 / 3) ** 0.5),  # a uniform's deviation is its bound / sqrt(3)
        ("xavier_normal", (2 / (288 + 576)) ** 0.5),  # fan_out 64 * 9
        ("normal_small", 0.01),
    ],
)
def test_weights_start_with_the_deviation_of_their_init(name: str, std: float) -> None:
    weight = parameter(started(name), "conv1.weight").detach()
    # 18,432 draws: the relative standard error of a deviation is 0.5 %.
    assert float(weight.std()) == pytest.approx(std, rel=0.03)
    assert abs(float(weight.mean())) < 0.03 * std


def test_orthogonal_weights_are_orthogonal() -> None:
    rows = parameter(started("orthogonal"), "conv1.weight").detach().flatten(1)
    torch.testing.assert_close(rows @ rows.T, torch.eye(64), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["he_normal", "xavier_normal", "orthogonal", "normal_small"])
def test_biases_start_at_zero(name: str) -> None:
    model = started(name)
    for layer in ("conv1", "fc1", "classifier"):
        assert not parameter(model, f"{layer}.bias").any()


def test_torch_default_draws_biases_within_one_over_root_fan_in() -> None:
    model = started("torch_default")
    for layer, fan_in in (("conv1", 288), ("fc1", 1024), ("classifier", 64)):
        bias, bound = parameter(model, f"{layer}.bias").detach(), fan_in**-0.5
        assert float(bias.abs().max()) <= bound
        assert float(bias.abs().max()) > bound / 2
        assert float(parameter(model, f"{layer}.weight").detach().abs().max()) <= bound


@pytest.mark.parametrize("name", ["he_normal", "torch_default"])
def test_gain_multiplies_all_weights_but_the_classifiers_and_no_bias(name: str) -> None:
    plain, scaled = started(name), started(name, gain=3.0)
    for key, value in plain.named_parameters():
        factor = 3.0 if key in {"conv1.weight", "fc1.weight"} else 1.0
        torch.testing.assert_close(parameter(scaled, key), factor * value)


def test_a_parameter_is_drawn_from_the_stream_of_its_name() -> None:
    weight = torch.empty(4, 3, 3, 3)
    nn.init.kaiming_normal_(
        weight, nonlinearity="relu", generator=stream(0, "init", "conv1.weight")
    )
    assert torch.equal(parameter(tiny(), "conv1.weight"), weight)


# ------------------------------------------------------------------------------- batches of one


@pytest.mark.parametrize(
    ("norm", "batch_size", "count", "where"),
    [
        ({}, 1, 100, "every batch holds one image.*fc1_norm"),
        ({}, 8, 41, "the last batch of dataset.train_size=41 holds one image.*fc1_norm"),
        ({"name": "ghost"}, 8, 41, "fc1_norm"),
        ({"name": "batch_tf", "fc": False}, 8, 41, "conv1_norm, conv2_norm"),
    ],
)
def test_a_batch_of_one_image_is_refused_with_what_to_do(
    norm: dict[str, object], batch_size: int, count: int, where: str
) -> None:
    with pytest.raises(ConfigError, match=where) as raised:
        check_batch(configured(norm), batch_size, count)
    message = str(raised.value)
    assert "train.batch_size" in message
    assert "dataset.train_size" in message
    assert ("model.norm.fc=false" in message) == ("fc1" in where)


def test_a_one_pixel_map_cannot_be_normalized_by_a_batch_of_one() -> None:
    config = configured({"fc": False, "placement": "after_pool"}, widths=(2, 2, 2, 2, 2))
    with pytest.raises(ConfigError, match=r"at conv5_norm; choose .*or another model\.norm\.name"):
        check_batch(config, 1, 10)


@pytest.mark.parametrize(
    ("norm", "batch_size", "count"),
    [
        ({}, 128, 50_000),
        ({}, 8, 42),
        ({"fc": False}, 1, 100),
        ({"name": "group"}, 1, 100),
        ({"name": "none"}, 8, 41),
    ],
)
def test_other_batches_are_accepted(norm: dict[str, object], batch_size: int, count: int) -> None:
    check_batch(configured(norm), batch_size, count)


def test_what_check_batch_refuses_does_fail_in_training() -> None:
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        tiny()(images(1))
    tiny({"fc": False})(images(1))


# ----------------------------------------------------- invariances that the theory promises


def test_scaling_a_weight_before_batch_norm_keeps_logits_and_divides_its_gradient() -> None:
    for layer in ("conv1", "conv2", "fc1"):
        model = tiny({"eps": 1e-30}).double()
        inputs = images().double()
        logits, gradient = model(inputs), loss_gradients(model, inputs)[f"{layer}.weight"]
        with torch.no_grad():
            parameter(model, f"{layer}.weight").mul_(7)
        torch.testing.assert_close(model(inputs), logits)
        scaled = loss_gradients(model, inputs)[f"{layer}.weight"]
        torch.testing.assert_close(scaled, gradient / 7)


def test_scaling_a_weight_without_a_norm_changes_the_logits() -> None:
    model, inputs = tiny({"name": "none"}), images()
    logits = model(inputs)
    with torch.no_grad():
        parameter(model, "conv1.weight").mul_(7)
    assert not torch.allclose(model(inputs), logits)


def test_a_bias_before_batch_norm_has_no_gradient() -> None:
    gradients = loss_gradients(tiny().double(), images().double())
    for layer in ("conv1", "conv2", "fc1"):
        assert float(gradients[f"{layer}.bias"].norm()) < 1e-12
        assert float(gradients[f"{layer}.weight"].norm()) > 1e-3
    without = loss_gradients(tiny({"name": "none"}).double(), images().double())
    assert float(without["conv1.bias"].norm()) > 1e-3


@given(size=st.integers(2, 6), seed=st.integers(0, 1000))
@LAW
def test_relu_and_max_pool_commute(size: int, seed: int) -> None:
    features = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(seed))
    leaf = features.requires_grad_()
    relu_first = F.max_pool2d(F.relu(leaf), 2)
    pool_first = F.relu(F.max_pool2d(leaf, 2))
    assert torch.equal(relu_first, pool_first)
    pull = torch.randn(relu_first.shape, generator=torch.Generator().manual_seed(seed + 1))
    gradients = [torch.autograd.grad((out * pull).sum(), leaf) for out in (relu_first, pool_first)]
    assert torch.equal(gradients[0][0], gradients[1][0])


def trained_statistics(placement: str) -> nn.Sequential:
    model = tiny({"placement": placement}).double()
    with torch.no_grad():
        for norm in roles(model).norms.values():
            for value in norm.parameters():
                value.normal_()
    for _ in range(3):
        model(images(16).double())
    return model.eval()


def scale_and_offset(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Batch norm in eval mode as `scale * features + offset` per channel."""
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return scale, norm.bias - norm.running_mean * scale


def test_batch_norm_before_the_activation_folds_into_the_convolution_exactly() -> None:
    model = trained_statistics("before_activation")
    scale, offset = scale_and_offset(model.get_submodule("conv1_norm"))
    weight = parameter(model, "conv1.weight") * scale[:, None, None, None]
    bias = parameter(model, "conv1.bias") * scale + offset
    inputs = images().double()
    expected = model.get_submodule("conv1_norm")(model.get_submodule("conv1")(inputs))
    torch.testing.assert_close(F.conv2d(inputs, weight, bias, padding=1), expected)


def test_batch_norm_after_the_activation_folds_forward_except_at_zero_padded_borders() -> None:
    model = trained_statistics("after_activation")
    scale, offset = scale_and_offset(model.get_submodule("conv1_norm"))
    weight, bias = parameter(model, "conv2.weight"), parameter(model, "conv2.bias")
    folded_weight = weight * scale[:, None, None]
    folded_bias = bias + (weight * offset[:, None, None]).sum((1, 2, 3))
    features = torch.randn(6, 4, 8, 8).double().relu()
    normalized = model.get_submodule("conv1_norm")(features)
    expected = model.get_submodule("conv2")(normalized)
    folded = F.conv2d(features, folded_weight, folded_bias, padding=1)
    inside = (..., slice(1, -1), slice(1, -1))
    torch.testing.assert_close(folded[inside], expected[inside])
    # The original pads normalized features with 0, the folded one pads raw features with 0.
    error = (folded - expected).abs().mean((0, 1))
    edge = torch.ones(8, 8, dtype=torch.bool)
    edge[1:-1, 1:-1] = False
    assert (error[edge] > 1e-3).all()


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_leaves_correlations_between_channels_as_they_are(training: bool) -> None:
    norm = trained_statistics("before_activation").get_submodule("conv1_norm").train(training)
    features = torch.randn(8, 4, 4, 4).double()
    features[:, 1] += 2 * features[:, 0]

    def correlations(maps: Tensor) -> Tensor:
        return maps.detach().transpose(0, 1).flatten(1).corrcoef().abs()

    assert float(correlations(features)[0, 1]) > 0.5
    torch.testing.assert_close(correlations(norm(features)), correlations(features))


def test_weights_before_batch_norm_are_orthogonal_to_their_gradient() -> None:
    cosines = {}
    for name in ("batch", "none"):
        model = tiny({"name": name, "eps": 1e-30}).double()
        gradients = loss_gradients(model, images().double())
        cosines[name] = [
            float(
                F.cosine_similarity(
                    parameter(model, f"{layer}.weight").detach().flatten(),
                    gradients[f"{layer}.weight"].flatten(),
                    dim=0,
                ).abs()
            )
            for layer in ("conv1", "conv2", "fc1")
        ]
    assert max(cosines["batch"]) < 1e-12
    assert min(cosines["none"]) > 1e-4


def test_a_forward_pass_changes_running_statistics_in_training_mode_only() -> None:
    model, inputs = tiny(), images() + 5

    def running() -> list[Tensor]:
        return [buffer.clone() for buffer in model.buffers()]

    start = running()
    with torch.no_grad():
        model.eval()(inputs)
        after_eval = running()
        model.train()(inputs)
    assert all(torch.equal(a, b) for a, b in zip(start, after_eval, strict=True))
    # What forgetting eval() does to a test pass, even under no_grad.
    assert not any(torch.equal(a, b) for a, b in zip(start, running(), strict=True))


def test_a_batch_of_one_vector_raises_in_training_and_works_in_eval_mode() -> None:
    model = tiny()
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        model(images(1))
    assert model.eval()(images(1)).shape == (1, 5)


# ------------------------------------------------------------------- against nets by hand


class PlainNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1)
        self.conv2 = nn.Conv2d(64, 128, kernel_size=3, stride=1, padding=1)
        self.conv3 = nn.Conv2d(128, 256, kernel_size=3, stride=1, padding=1)
        self.fc1 = nn.Linear(256 * 4 * 4, 1024)
        self.classifier = nn.Linear(1024, 10)

    def forward(self, batch: Tensor) -> Tensor:
        for conv in (self.conv1, self.conv2, self.conv3):
            batch = F.max_pool2d(F.relu(conv(batch)), 2)
        logits: Tensor = self.classifier(F.relu(self.fc1(batch.view(-1, 256 * 4 * 4))))
        return logits


class DocumentNet(PlainNet):
    """The network of document 001, a norm between each layer and its activation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1_norm = nn.BatchNorm2d(64)
        self.conv2_norm = nn.BatchNorm2d(128)
        self.conv3_norm = nn.BatchNorm2d(256)
        self.fc1_norm = nn.BatchNorm1d(1024)

    def forward(self, batch: Tensor) -> Tensor:
        batch = F.max_pool2d(F.relu(self.conv1_norm(self.conv1(batch))), 2)
        batch = F.max_pool2d(F.relu(self.conv2_norm(self.conv2(batch))), 2)
        batch = F.max_pool2d(F.relu(self.conv3_norm(self.conv3(batch))), 2)
        batch = batch.view(-1, 256 * 4 * 4)
        logits: Tensor = self.classifier(F.relu(self.fc1_norm(self.fc1(batch))))
        return logits


@pytest.mark.parametrize(("name", "by_hand"), [("none", PlainNet), ("batch", DocumentNet)])
def test_the_network_is_bit_equal_to_one_written_by_hand(
    name: str, by_hand: type[PlainNet]
) -> None:
    model = build_model(ModelConfig(norm=NormConfig(name=name)), seed=3)
    net = by_hand()
    net.load_state_dict(OrderedDict(model.state_dict()))
    batch = torch.randn(4, 3, 32, 32)
    assert torch.equal(model(batch), net(batch))
    # Once more in eval mode: the running statistics have moved alike.
    assert torch.equal(model.eval()(batch), net.eval()(batch))
