import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from conftest import MakeConfig
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from bnlab.training.models import build_model
from bnlab.training.norms import build_norm, calibrate
from bnlab.training.probes import PROBES, Sample, look_at_start, run_probes, tracking_norms
from bnlab.training.probes._running import moments_of, set_statistics
from bnlab.training.probes.activations import activations
from bnlab.training.probes.gradients import gradients
from bnlab.training.probes.landscape import FACTORS, PART, along_gradient
from bnlab.training.probes.weights import weights


def batch(images: int = 20) -> Sample:
    generator = torch.Generator().manual_seed(0)
    shape = (images, 3, 32, 32)
    labels = torch.randint(10, (images,), generator=generator)
    pixels = torch.randn(shape, generator=generator).double()

    def batches(size: int) -> list[tuple[Tensor, Tensor]]:
        return list(zip(pixels.split(size), labels.split(size), strict=True))

    return Sample(pixels, labels, 8, batches, batches)


def trained_on(model: nn.Module, sample: Sample, optimizer: Optimizer | None = None) -> Sample:
    """The sample with steps that the training goes on with."""

    def ahead() -> tuple[Optimizer, Iterator[tuple[Tensor, Tensor]]]:
        made = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
        assert sample.train is not None
        return optimizer or made, iter(sample.train(10))

    return replace(sample, ahead=ahead, memory={})


class Planted(Optimizer):
    """Takes a known step, whatever the gradients are."""

    def __init__(self, model: nn.Module, change: Callable[[], object]) -> None:
        super().__init__(model.parameters(), {"lr": 1.0})
        self._change = change

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        with torch.no_grad():
            self._change()


@pytest.fixture
def model(tiny_config: MakeConfig) -> nn.Sequential:
    config = tiny_config("model.dropout=0.5", "model.norm=noisy_batch")
    made = build_model(config.model, seed=0).double()
    assert isinstance(made, nn.Sequential)
    return made


def outputs(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, layer in model.named_children():
        images = layer(images)
        found[name] = images
    return found


@pytest.mark.parametrize("name", list(PROBES))
def test_every_probe_gives_finite_numbers_under_its_own_tags_and_leaves_no_trace(
    name: str, model: nn.Sequential
) -> None:
    sample = trained_on(model, batch())
    look_at_start([name], model, sample)
    model(sample.images).sum().backward()
    model.eval()
    model[0].train()
    before = {key: value.clone() for key, value in model.state_dict().items() if value is not None}
    gradients_before = [parameter.grad for parameter in model.parameters()]
    stream = torch.get_rng_state()
    values = run_probes([name], model, sample, last=True)
    assert values
    assert all(tag.startswith("probe/") and math.isfinite(value) for tag, value in values.items())
    after = model.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    for parameter, gradient in zip(model.parameters(), gradients_before, strict=True):
        assert parameter.grad is gradient
    assert [module.training for module in model] == [True] + [False] * (len(model) - 1)
    assert torch.equal(stream, torch.get_rng_state())


def test_activation_statistics_are_medians_over_channels_of_torchs_own(
    tiny_config: MakeConfig,
) -> None:
    model = build_model(tiny_config().model, seed=0).double()
    sample = batch(19)  # not a whole number of parts
    seen, values = outputs(model, sample.images), activations(model, sample)
    for name in ("conv1", "conv2", "fc1", "classifier"):
        channels = seen[name].transpose(0, 1).flatten(1)
        std = channels.std(dim=1).median()
        assert values[f"probe/activation_std/{name}"] == pytest.approx(std.item(), rel=1e-12)
        mean = channels.mean(dim=1).abs().median()
        assert values[f"probe/activation_mean/{name}"] == pytest.approx(mean.item(), rel=1e-9)


def test_a_relu_channel_that_never_fires_is_dead(tiny_config: MakeConfig) -> None:
    model = build_model(tiny_config("model.norm=none").model, seed=0).double()
    conv = model.get_submodule("conv1")
    assert isinstance(conv, nn.Conv2d)
    assert conv.bias is not None
    with torch.no_grad():
        conv.bias[1] = -1e6
    assert activations(model, batch())["probe/dead/conv1_relu"] == 1 / 4


def test_activation_gradients_are_those_of_the_mean_loss(tiny_config: MakeConfig) -> None:
    model = build_model(tiny_config("model.norm=none").model, seed=0).double()
    sample = batch()
    seen = outputs(model, sample.images)
    loss = F.cross_entropy(seen["classifier"], sample.labels)
    (expected,) = torch.autograd.grad(loss, seen["conv2"])
    found = gradients(model, sample)["probe/activation_grad/conv2"]
    assert found == pytest.approx(expected.square().mean().sqrt().item())


@pytest.mark.parametrize(
    ("normalized", "factor"), [(True, math.sqrt(math.pi / (math.pi - 1))), (False, 1.0)]
)
def test_gradients_grow_by_1_21_a_layer_with_batch_norm_and_not_without(
    normalized: bool, factor: float
) -> None:
    """Of a wide fully connected ladder of ReLU (Luther 2020; Yang et al. 2019, theorem 8)."""
    width, depth, draws = 1024, 16, torch.Generator().manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(width, width, bias=False)]
        layers += [nn.BatchNorm1d(width), nn.ReLU()] if normalized else [nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(width, 10))
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=math.sqrt(2 / width), generator=draws)
    images = torch.randn(512, width, generator=draws)
    found = gradients(model, Sample(images, torch.randint(10, (512,), generator=draws)))
    sizes = torch.tensor(
        [found[f"probe/activation_grad/{3 * i if normalized else 2 * i}"] for i in range(depth)]
    )
    inner = sizes[2:-1].log()  # away from the ends, where the input and the loss show
    growth = ((inner[0] - inner[-1]) / (len(inner) - 1)).exp().item()
    assert growth == pytest.approx(factor, abs=0.01)


def test_weight_probes_count_the_gammas_below_and_near_zero(tiny_config: MakeConfig) -> None:
    model = build_model(tiny_config().model, seed=0)
    norm = model.get_submodule("conv1_norm")
    assert isinstance(norm, nn.BatchNorm2d)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([-1.0, 0.001, 2.0, 3.0]))
    values = weights(model, batch())
    assert values["probe/gamma_negative/conv1_norm"] == 0.25
    assert values["probe/gamma_tiny/conv1_norm"] == 0.25
    assert values["probe/gamma_median/conv1_norm"] == pytest.approx(0.001)
    conv = model.get_submodule("conv1")
    assert isinstance(conv, nn.Conv2d)
    norm_of_conv = conv.weight.norm().item()
    assert values["probe/weight_norm/conv1"] == pytest.approx(norm_of_conv, rel=1e-5)


def test_an_unknown_probe_is_an_error_that_lists_the_known_ones(
    tiny_config: Callable[..., object],
) -> None:
    with pytest.raises(Exception, match=r"unknown probe 'activation'; did you mean 'activations'"):
        tiny_config("probes=[activation]")


def test_the_fit_is_that_of_the_network_at_test_time(tiny_config: MakeConfig) -> None:
    model = build_model(tiny_config("model.dropout=0.5").model, seed=0).double()
    sample = batch()
    model(sample.images)
    values = run_probes(["fit"], model, sample)
    logits = model.eval()(sample.images)
    loss = F.cross_entropy(logits, sample.labels).item()
    assert values["probe/eval_loss/train"] == pytest.approx(loss, rel=1e-6)
    correct = (logits.argmax(1) == sample.labels).double().mean().item()
    assert values["probe/eval_accuracy/train"] == correct


def own_statistics(model: nn.Module, images: Tensor) -> Tensor:
    """Logits by the batch's statistics, without dropout."""
    model.eval()
    for module in model.modules():
        if "num_batches_tracked" in dict(module.named_buffers(recurse=False)):
            module.train()
    with torch.no_grad():
        return model(images)  # type: ignore[no-any-return]


def test_a_network_is_tested_by_its_batches_own_statistics(tiny_config: MakeConfig) -> None:
    model = build_model(tiny_config("model.dropout=0.5").model, seed=0).double()
    sample = batch()
    found = run_probes(["statistics"], model, sample, last=True)
    small = [
        F.cross_entropy(own_statistics(model, images), labels, reduction="sum")
        for images, labels in zip(sample.images.split(8), sample.labels.split(8), strict=True)
    ]
    whole = F.cross_entropy(own_statistics(model, sample.images), sample.labels)
    assert found["probe/test_loss/as_trained"] == pytest.approx(float(sum(small)) / 20, rel=1e-6)
    assert found["probe/test_loss/batches_of_128"] == pytest.approx(whole.item(), rel=1e-6)


def test_population_statistics_are_torchs_cumulative_average(tiny_config: MakeConfig) -> None:
    model = build_model(tiny_config().model, seed=0).double()
    sample = batch()
    found = run_probes(["statistics"], model, sample, last=True)
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.momentum = None
            module.reset_running_stats()
    for images in sample.images.split(8):
        model.train()(images)
    loss = F.cross_entropy(model.eval()(sample.images), sample.labels).item()
    assert found["probe/test_loss/population"] == pytest.approx(loss, rel=1e-6)


def test_ghost_batches_are_tested_as_trained_and_as_large_as_they_come(
    tiny_config: MakeConfig,
) -> None:
    ghost = tiny_config("model.norm={name: ghost, ghost_size: 4}").model
    model, plain = (build_model(c, seed=0).double() for c in (ghost, tiny_config().model))
    plain.load_state_dict(model.state_dict())
    sample = batch()
    found = run_probes(["statistics"], model, sample, last=True)
    of_four = run_probes(["statistics"], plain, replace(sample, batch_size=4), last=True)
    assert {norm.ghost_size for norm in model.modules() if hasattr(norm, "ghost_size")} == {4}
    for name, expected in (("as_trained", of_four), ("batches_of_128", of_four)):
        tag = f"probe/test_loss/{name}"
        assert found[tag] == pytest.approx(expected[tag], rel=1e-6)
    assert found["probe/test_loss/as_trained"] != found["probe/test_loss/batches_of_128"]


@pytest.mark.parametrize("norm", ["none", "group", "frozen_init"])
def test_a_network_without_running_statistics_has_nothing_to_choose(
    tiny_config: MakeConfig, norm: str
) -> None:
    model = build_model(tiny_config(f"model.norm={norm}").model, seed=0).double()
    names = ["statistics", "inference"]
    assert run_probes(names, model, trained_on(model, batch()), last=True) == {}


def test_probes_of_the_end_wait_for_it_and_for_test_images(model: nn.Sequential) -> None:
    assert run_probes(["statistics"], model, batch()) == {}
    sample = replace(trained_on(model, batch()), test=None)
    assert run_probes(["statistics", "inference"], model, sample, last=True) == {}


TRACKING = ["batch", "batch_reference", "batch_tf", "caffe", "ghost", "noisy_batch"]


@pytest.mark.parametrize("name", TRACKING)
def test_a_population_is_averaged_over_batches_or_pooled_over_all_values(
    tiny_config: MakeConfig, name: str
) -> None:
    config = tiny_config(f"model.norm.name={name}", "model.norm.ghost_size=64").model
    norm = build_norm((3, 32, 32), config.norm).double()
    images = batch().images
    norm(7 * images)  # what the running statistics were before is forgotten
    momentum = getattr(norm, "momentum", None)
    parts = [(part, part) for part in images.split(8)]
    found = moments_of(norm, tracking_norms(norm), parts)[norm]
    over = (0,) if name == "batch_tf" else (0, 2, 3)
    means = torch.stack([part.mean(over) for part, _ in parts])
    unbiased = torch.stack([part.var(over) for part, _ in parts])
    torch.testing.assert_close(found.mean, means.mean(0))
    torch.testing.assert_close(found.variance, unbiased.mean(0))
    torch.testing.assert_close(found.pooled_mean, images.mean(over))
    torch.testing.assert_close(found.pooled_variance, images.var(over, correction=0))
    assert getattr(norm, "momentum", None) == momentum
    set_statistics(norm, found.mean, found.pooled_variance)
    torch.testing.assert_close(norm.running_mean, found.mean)
    torch.testing.assert_close(norm.running_var, found.pooled_variance)


def test_where_positions_are_alike_the_mean_of_variances_is_low_and_pooling_is_not() -> None:
    """Of n images of one color each, a batch's variance is (n-1)/n of the population's."""
    colors = torch.randn(4000, 3, 1, 1, generator=torch.Generator().manual_seed(0)).double()
    images, norm = colors.expand(-1, -1, 8, 8), nn.BatchNorm2d(3).double()
    for size in (2, 8):
        found = moments_of(norm, [norm], [(part, part) for part in images.split(size)])[norm]
        population = images.var((0, 2, 3), correction=0)
        torch.testing.assert_close(found.pooled_variance, population)
        expected = (size - 1) / size * (size * 64) / (size * 64 - 1)
        assert (found.variance / population).tolist() == pytest.approx([expected] * 3, rel=0.05)


def test_test_batches_leave_their_statistics_and_may_be_of_one_class(
    tiny_config: MakeConfig,
) -> None:
    model = build_model(tiny_config("model.dropout=0.5").model, seed=0).double()
    sample = trained_on(model, batch())
    for images in sample.images.split(8):
        model(images)
    found = run_probes(["inference"], model, sample)

    def loss(network: nn.Module, *picks: Tensor) -> float:
        with torch.no_grad():
            losses = [
                F.cross_entropy(network(sample.images[p]), sample.labels[p], reduction="sum")
                for p in picks
            ]
        return sum(map(float, losses)) / 20

    order, ahead = torch.arange(20), sample.images.split(10)
    assert found["probe/test_loss/sorted_batches"] == pytest.approx(
        found["probe/test_loss/batches_of_128"]
    )  # of 20 images there is one batch
    own = [own_statistics(copy.deepcopy(model), sample.images[p]) for p in order.split(8)]
    small = F.cross_entropy(torch.cat(own), sample.labels).item()
    assert found["probe/test_loss/batches_of_8"] == pytest.approx(small)
    spoilt = copy.deepcopy(model)
    own_statistics(spoilt, sample.images)
    assert found["probe/test_loss/polluted"] == pytest.approx(loss(spoilt.eval(), order))
    averaged = copy.deepcopy(model)
    for module in averaged.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.momentum = None
            module.reset_running_stats()
    for images in ahead:
        own_statistics(averaged, images)
    assert found["probe/test_loss/document_002"] == pytest.approx(loss(averaged.eval(), order))
    assert found["probe/test_loss/pooled"] != found["probe/test_loss/document_002"]


def test_sorted_batches_hold_class_after_class(
    tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bnlab.training.probes.inference.LARGE_BATCH", 4)
    model = build_model(tiny_config("model.norm.fc=false").model, seed=0).double()
    sample = trained_on(model, batch())
    found = run_probes(["inference"], model, sample)
    order = sample.labels.argsort(stable=True)
    own = [own_statistics(copy.deepcopy(model), sample.images[p]) for p in order.split(4)]
    expected = F.cross_entropy(torch.cat(own), sample.labels[order]).item()
    assert found["probe/test_loss/sorted_batches"] == pytest.approx(expected)
    assert found["probe/test_loss/batches_of_128"] != pytest.approx(expected)


# --------------------------------------------------------------------------- inputs of layers


def no_norm(tiny_config: MakeConfig, *overrides: str) -> nn.Module:
    return build_model(tiny_config("model.norm=none", *overrides).model, seed=0).double()


def double_the_first_layer(model: nn.Module) -> None:
    """ReLU being homogeneous, all that conv2 gets is doubled."""
    with torch.no_grad():
        for parameter in model.get_submodule("conv1").parameters():
            parameter.mul_(2)


def test_a_planted_drift_of_inputs_is_found_in_octaves_and_standard_deviations(
    tiny_config: MakeConfig,
) -> None:
    model, name = no_norm(tiny_config, "model.dropout=0.5"), "layer_inputs"
    sample = trained_on(model, batch(), Planted(model, lambda: double_the_first_layer(model)))
    look_at_start([name], model, sample)
    inputs = outputs(model.eval(), sample.images)["conv1_pool"].transpose(0, 1).flatten(1)
    std, mean = torch.std_mean(inputs, dim=1)
    values = run_probes([name], model, sample)
    assert not any(tag.endswith("/conv1") for tag in values)
    assert values["probe/drift_sd_epoch/conv2"] == 0
    assert values["probe/drift_mean_epoch/fc1"] == 0
    assert values["probe/drift_sd_step/conv2"] == pytest.approx(1)
    moved = (mean / std).nanmedian().item()
    assert values["probe/drift_mean_step/conv2"] == pytest.approx(moved)
    double_the_first_layer(model)
    later = run_probes([name], model, sample)
    assert later["probe/drift_sd_epoch/conv2"] == pytest.approx(1)
    assert run_probes([name], model, sample)["probe/drift_sd_epoch/conv2"] == 0


def test_a_channel_that_is_constant_has_no_drift(tiny_config: MakeConfig) -> None:
    model = no_norm(tiny_config)
    bias = model.get_parameter("conv1.bias")
    with torch.no_grad():
        bias[1:] = -1e6
    sample = trained_on(model, batch(), Planted(model, lambda: double_the_first_layer(model)))
    values = run_probes(["layer_inputs"], model, sample)
    assert values["probe/drift_sd_step/conv2"] == pytest.approx(1)
    with torch.no_grad():
        bias[0] = -1e6
    assert math.isnan(run_probes(["layer_inputs"], model, sample)["probe/drift_sd_step/conv2"])


# ---------------------------------------------------------------------- shift of the gradients


def shift_of(model: nn.Module, change: Callable[[], object]) -> dict[str, float]:
    return run_probes(["shift"], model, trained_on(model, batch(), Planted(model, change)))


def test_a_gradient_shifts_by_what_earlier_layers_alone_have_moved(
    tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bnlab.training.probes.shift.STEPS", 1)
    model = build_model(tiny_config().model, seed=0).double()
    sample = trained_on(model, batch())
    found = run_probes(["shift"], model, sample)
    images, labels = sample.images[:10], sample.labels[:10]
    moved, mixed = copy.deepcopy(model), copy.deepcopy(model)
    F.cross_entropy(moved(images), labels).backward()
    optimizer = torch.optim.SGD(moved.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    optimizer.step()
    for name, layer in list(mixed.named_children()):
        if isinstance(layer, (nn.Conv2d, nn.Linear)) and name != "conv1":
            loss = F.cross_entropy(mixed(images), labels)
            (shifted,) = torch.autograd.grad(loss, layer.weight)
            grad = moved.get_parameter(f"{name}.weight").grad
            assert grad is not None
            change = (grad - shifted).norm()
            assert found[f"probe/gradient_shift/{name}"] == pytest.approx(change.item())
            relative = change / grad.norm()
            assert found[f"probe/gradient_shift_relative/{name}"] == pytest.approx(relative.item())
            cosine = F.cosine_similarity(grad.flatten(), shifted.flatten(), dim=0)
            assert found[f"probe/gradient_shift_cosine/{name}"] == pytest.approx(cosine.item())
        parts = [(name, dict(moved.named_children())[name])]
        layer.load_state_dict(parts[0][1].state_dict())
    assert "probe/gradient_shift/conv1" not in found


def test_a_step_of_later_layers_shifts_no_gradient(tiny_config: MakeConfig) -> None:
    model = build_model(tiny_config("model.dropout=0.5", "model.norm=noisy_batch").model, seed=0)
    model.double()
    found = shift_of(model, lambda: model.get_parameter("classifier.weight").mul_(3))
    assert {found[tag] for tag in found if "cosine" not in tag} == {0}
    assert all(found[t] == pytest.approx(1) for t in found if "cosine" in t)


def test_the_scale_of_a_weight_shifts_no_gradient_behind_batch_norm_but_its_gamma_does(
    tiny_config: MakeConfig,
) -> None:
    model = build_model(tiny_config("model.norm.eps=1e-12").model, seed=0).double()
    without, tag = no_norm(tiny_config), "probe/gradient_shift_relative/conv2"
    assert shift_of(model, lambda: model.get_parameter("conv1.weight").mul_(1.1))[tag] < 1e-10
    assert shift_of(without, lambda: without.get_parameter("conv1.weight").mul_(1.1))[tag] > 1e-3
    assert shift_of(model, lambda: model.get_parameter("conv1_norm.weight")[0].mul_(2))[tag] > 1e-3


# ------------------------------------------------------------------------------- the landscape


def test_the_landscape_of_a_quadratic_is_that_of_its_formula() -> None:
    """With L = c |p|^2 / 2 every distance along the gradient is known."""
    curvature, lr = 3.0, 0.1
    parameter = torch.tensor([3.0, -4.0], dtype=torch.float64)
    unmoved = torch.zeros(2, dtype=torch.float64)  # no norm and no gradient: it must not spoil it

    def look() -> tuple[Tensor, list[Tensor]]:
        loss = curvature * parameter.square().sum() / 2
        return loss, [curvature * parameter, torch.zeros_like(unmoved)]

    found = along_gradient(look, [parameter, unmoved], lr)
    here, size = curvature * 25 / 2, 5.0
    shrunk = [(1 - factor * lr * curvature) ** 2 for factor in FACTORS]
    relative = [(1 - factor * PART) ** 2 for factor in FACTORS]
    expected = {
        "landscape_loss/here": here,
        "landscape_loss/raw_least": here * min(shrunk),
        "landscape_loss/raw_most": here * max(shrunk),
        "landscape_loss/scale_free_least": here * min(relative),
        "landscape_loss/scale_free_most": here * max(relative),
        "gradient_change/raw_least": curvature**2 * size * lr * FACTORS[0],
        "gradient_change/raw_most": curvature**2 * size * lr * FACTORS[-1],
        "gradient_change/scale_free_least": PART * FACTORS[0],
        "gradient_change/scale_free_most": PART * FACTORS[-1],
        "smoothness/raw": curvature,
        "smoothness/scale_free": 1,
    }
    assert found == {f"probe/{tag}": pytest.approx(value) for tag, value in expected.items()}


def test_rescaling_weights_in_front_of_batch_norm_changes_the_raw_landscape_alone(
    tiny_config: MakeConfig,
) -> None:
    model = build_model(tiny_config("model.norm.eps=1e-12").model, seed=0).double()
    found = []
    for _ in range(2):
        found.append(run_probes(["landscape"], model, trained_on(model, batch())))
        with torch.no_grad():
            model.get_parameter("conv2.weight").mul_(10)
            model.get_parameter("fc1.weight").mul_(0.1)
    before, after = found
    for tag, value in before.items():
        same = after[tag] == pytest.approx(value, rel=1e-6)
        assert same == ("scale_free" in tag or tag.endswith("here")), tag


# --------------------------------------------------------------------------------- correlation


def test_channels_and_images_are_compared_pair_by_pair(tiny_config: MakeConfig) -> None:
    model = build_model(tiny_config().model, seed=0).double()
    sample = batch(19)
    seen, found = outputs(model, sample.images), run_probes(["correlation"], model, sample)
    for name in ("conv1", "conv2", "fc1", "classifier"):
        matrices = {
            "channel_correlation": torch.corrcoef(seen[name].transpose(0, 1).flatten(1)),
            "image_cosine": F.cosine_similarity(
                seen[name].flatten(1)[None], seen[name].flatten(1)[:, None], dim=-1
            ),
        }
        for quantity, matrix in matrices.items():
            pairs = matrix.abs()[~torch.eye(len(matrix)).bool()]
            tag = f"probe/{quantity}/{name}"
            assert found[tag] == pytest.approx(pairs.mean().item(), abs=1e-9), tag


def test_batch_norm_changes_no_correlation_of_channels_but_turns_images_apart(
    tiny_config: MakeConfig,
) -> None:
    model = build_model(tiny_config().model, seed=0).double()
    with torch.no_grad():
        model.get_parameter("conv2.bias").add_(3)  # what all images share
        model.get_parameter("conv2_norm.weight").uniform_(-2, 2)
    found = run_probes(["correlation"], model, batch())
    before, behind = ("conv2", "conv2_norm")
    tag = "probe/channel_correlation/"
    assert found[tag + behind] == pytest.approx(found[tag + before], rel=1e-6)
    tag = "probe/image_cosine/"
    assert found[tag + behind] < 0.5 < found[tag + before]


def test_a_constant_channel_correlates_with_none(tiny_config: MakeConfig) -> None:
    model = no_norm(tiny_config)
    whole = run_probes(["correlation"], model, batch())["probe/channel_correlation/conv1"]
    seen = torch.corrcoef(outputs(model, batch().images)["conv1"].transpose(0, 1).flatten(1))[
        1:, 1:
    ]
    with torch.no_grad():
        model.get_parameter("conv1.weight")[0] = 0
        model.get_parameter("conv1.bias")[0] = 1 / 3
    pairs = seen.abs()[~torch.eye(len(seen)).bool()]
    found = run_probes(["correlation"], model, batch())["probe/channel_correlation/conv1"]
    assert found == pytest.approx(pairs.mean().item()) != whole


# ---------------------------------------------------------------------------- norms of weights


def test_filter_norms_are_those_of_output_channels_and_growth_is_in_octaves(
    tiny_config: MakeConfig,
) -> None:
    model = no_norm(tiny_config)
    sample = trained_on(model, batch())
    look_at_start(["weight_norms"], model, sample)
    weight = model.get_parameter("conv2.weight")
    assert run_probes(["weight_norms"], model, sample)["probe/weight_growth/conv2"] == 0
    with torch.no_grad():
        weight.mul_(4)
        weight[0] /= 64
    found = run_probes(["weight_norms"], model, sample)
    norms = weight.detach().flatten(1).norm(dim=1)
    assert found["probe/filter_norm_median/conv2"] == pytest.approx(norms.quantile(0.5).item())
    assert found["probe/filter_norm_low/conv2"] == pytest.approx(norms.quantile(0.1).item())
    assert 1.8 < found["probe/weight_growth/conv2"] < 2
    assert found["probe/weight_growth/fc1"] == 0


@pytest.mark.parametrize("norm", ["batch", "ghost", "caffe", "noisy_batch", "instance"])
def test_in_front_of_batch_norm_no_gradient_points_along_its_filter(
    tiny_config: MakeConfig, norm: str
) -> None:
    settings = (f"model.norm.name={norm}", "model.norm.eps=1e-12", "model.norm.ghost_size=5")
    model = build_model(tiny_config(*settings).model, seed=0).double()
    found = run_probes(["weight_norms"], model, trained_on(model, batch()))
    layers = ["conv1", "conv2"] + ["fc1"] * (norm != "instance")
    for name in layers:
        assert found[f"probe/radial_gradient/{name}"] < 1e-8
        median = found[f"probe/filter_norm_median/{name}"]
        assert found[f"probe/effective_lr/{name}"] == pytest.approx(0.01 / median**2)
    assert found["probe/radial_gradient/classifier"] > 1e-3
    assert "probe/effective_lr/classifier" not in found


@pytest.mark.parametrize("norm", ["none", "frozen_init", "affine_only"])
def test_where_the_scale_of_a_filter_matters_it_has_no_effective_learning_rate(
    tiny_config: MakeConfig, norm: str
) -> None:
    model = build_model(tiny_config(f"model.norm={norm}").model, seed=0)
    sample = batch()
    sample = replace(sample, train=lambda _: [(sample.images.float(), sample.labels)])
    calibrate(model, sample.images.float())
    found = run_probes(["weight_norms"], model, trained_on(model, sample))
    assert not [tag for tag in found if "effective" in tag]
    assert found["probe/radial_gradient/conv1"] > 1e-3
