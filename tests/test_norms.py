from collections.abc import Iterator
from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from bnlab.config import NormConfig
from bnlab.errors import ConfigError
from bnlab.training.norms import NORMS, build_norm, calibrate
from bnlab.training.norms.frozen_init import FrozenInit
from bnlab.training.norms.ghost import ghost_batches

MAPS, VECTORS = (4, 3, 3), (6,)
LAW = settings(deadline=None, max_examples=25, derandomize=True)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def build(name: str, shape: tuple[int, ...] = MAPS, **fields: object) -> nn.Module:
    config = NormConfig.model_validate({"name": name, **fields})
    return build_norm(shape, config)


def reads(name: str) -> set[str]:
    """The fields of its section that mean something for a norm."""
    return set(NormConfig.model_fields) - {"name"} - NormConfig(name=name).idle_fields()


def ready(name: str, shape: tuple[int, ...] = MAPS, **fields: object) -> nn.Module:
    norm = build(name, shape, **fields)
    calibrate(norm, 2 * torch.randn(32, *shape) + 1)
    return norm


def tensor_of(norm: nn.Module, name: str) -> Tensor:
    value = getattr(norm, name)
    assert isinstance(value, Tensor)
    return value


def state(norm: nn.Module) -> dict[str, Tensor | None]:
    return {
        name: None if value is None else value.clone() for name, value in norm.state_dict().items()
    }


def assert_same_state(before: dict[str, Tensor | None], after: dict[str, Tensor | None]) -> None:
    assert before.keys() == after.keys()
    for name, value in before.items():
        other = after[name]
        assert (value is None) == (other is None), name
        assert value is None or (other is not None and torch.equal(value, other)), name


def names_and_shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    for name in NORMS:
        yield name, MAPS
        if "conv_only" not in NORMS.entry(name).facts:
            yield name, VECTORS


every_norm = pytest.mark.parametrize(("name", "shape"), list(names_and_shapes()))
repeatable_norm = pytest.mark.parametrize(
    ("name", "shape"), [case for case in names_and_shapes() if case[0] != "noisy_batch"]
)


# ------------------------------------------------------------------- what holds for all of them


def test_the_documented_normalizers_are_registered() -> None:
    assert set(NORMS) == {
        *("none", "batch", "batch_reference", "caffe", "batch_tf", "group", "layer", "instance"),
        *("ghost", "affine_only", "frozen_init", "noisy_batch", "renorm", "running"),
    }


@pytest.mark.parametrize("name", list(NORMS))
def test_every_fact_is_a_known_word(name: str) -> None:
    assert NORMS.entry(name).facts <= {
        *("batch_statistics", "per_position", "conv_only", "foldable")
    }


CHANGED: dict[str, object] = {
    "momentum": 0.7,
    "eps": 0.5,
    "affine": False,
    "groups": 2,
    "ghost_size": 2,
    "moving_average_fraction": 0.3,
    "use_global_stats": True,
    "noise_mean": 3.0,
    "noise_std": 4.0,
    "r_max": 1.5,
    "d_max": 0.01,
    "renorm_steps": 0,
}


def behavior(name: str, fields: dict[str, object]) -> list[Tensor]:
    """Outcomes of two training steps and of eval mode, and the parameters."""
    generator = torch.Generator().manual_seed(1)
    first, second = torch.randn(2, 6, *MAPS, generator=generator)
    norm = build(name, MAPS, **fields)
    calibrate(norm, first)
    outcomes = [norm(first), norm(2 * second)]
    return [*outcomes, norm.eval()(first), *norm.parameters()]


@pytest.mark.parametrize("name", list(NORMS))
def test_fields_that_a_norm_does_not_read_change_nothing(name: str) -> None:
    idle = {field: value for field, value in CHANGED.items() if field not in reads(name)}
    for plain, changed in zip(behavior(name, {}), behavior(name, idle), strict=True):
        assert torch.equal(plain, changed)


@pytest.mark.parametrize(
    ("name", "field"),
    [(name, field) for name in NORMS for field in CHANGED if field in reads(name)],
)
def test_every_field_that_a_norm_reads_changes_something(name: str, field: str) -> None:
    plain, changed = behavior(name, {}), behavior(name, {field: CHANGED[field]})
    assert len(plain) != len(changed) or not all(map(torch.equal, plain, changed))


@every_norm
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("training", [True, False])
def test_a_norm_keeps_shape_and_dtype(
    name: str, shape: tuple[int, ...], dtype: torch.dtype, training: bool
) -> None:
    norm = ready(name, shape).to(dtype).train(training)
    features = torch.randn(6, *shape, dtype=dtype)
    normalized = norm(features)
    assert normalized.shape == features.shape
    assert normalized.dtype == dtype


@every_norm
@pytest.mark.parametrize("autocast", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_bf16_goes_in_and_out(
    name: str, shape: tuple[int, ...], autocast: bool, affine: bool
) -> None:
    norm = ready(name, shape, affine=affine)
    features = torch.randn(6, *shape, dtype=torch.bfloat16, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        for training in (True, False):
            assert norm.train(training)(features).dtype == torch.bfloat16
        norm.train()(features).sum().backward()
    assert features.grad is not None
    assert features.grad.isfinite().all()


@repeatable_norm
def test_statistics_of_bf16_are_taken_in_fp32(name: str, shape: tuple[int, ...]) -> None:
    # Around 100 bf16 is spaced by 1/2: a mean kept in bf16 would shift the outcome by up to 1/4,
    # fp32 statistics leave only the rounding of outcomes around 1.
    features = (100 + torch.randn(64, *shape)).bfloat16()
    if name in {"none", "affine_only"}:
        features = features - 100
    coarse, exact = build(name, shape, affine=False), build(name, shape, affine=False).double()
    calibrate(coarse, features)
    calibrate(exact, features.double())
    torch.testing.assert_close(
        coarse(features).double(), exact(features.double()), rtol=8e-3, atol=5e-3
    )
    for key, buffer in coarse.named_buffers():
        assert buffer.dtype in {torch.float32, torch.int64}, key
    if hasattr(coarse, "running_mean"):
        mean = tensor_of(coarse, "running_mean").double()
        torch.testing.assert_close(mean, tensor_of(exact, "running_mean"), rtol=1e-5, atol=1e-5)


@every_norm
def test_a_finite_gradient_reaches_the_input_and_every_parameter(
    name: str, shape: tuple[int, ...]
) -> None:
    norm = ready(name, shape)
    features = torch.randn(6, *shape, requires_grad=True)
    (norm(features) * torch.randn(6, *shape)).sum().backward()
    for leaf in (features, *norm.parameters()):
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()
        assert leaf.grad.abs().sum() > 0


@every_norm
def test_eval_mode_repeats_itself_and_changes_nothing(name: str, shape: tuple[int, ...]) -> None:
    norm = ready(name, shape)
    norm(torch.randn(6, *shape))
    norm.eval()
    before, features = state(norm), torch.randn(6, *shape)
    first, second = norm(features), norm(features)
    assert torch.equal(first, second)
    assert_same_state(before, state(norm))


@every_norm
def test_eval_mode_does_not_couple_images(name: str, shape: tuple[int, ...]) -> None:
    norm = ready(name, shape)
    norm(torch.randn(6, *shape))
    norm.eval()
    features = torch.randn(6, *shape)
    torch.testing.assert_close(norm(features)[:1], norm(features[:1]))


@repeatable_norm
def test_only_batch_statistics_couple_images_in_training(name: str, shape: tuple[int, ...]) -> None:
    norm = ready(name, shape)
    features = torch.randn(6, *shape)
    changed = torch.cat([features[:1], features[1:] * 5 + 1])
    coupled = not torch.allclose(norm(features)[:1], norm(changed)[:1], atol=1e-4)
    assert coupled == ("batch_statistics" in NORMS.entry(name).facts)


@every_norm
def test_a_state_dict_carries_everything(name: str, shape: tuple[int, ...]) -> None:
    norm = ready(name, shape)
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.normal_()
    norm(torch.randn(6, *shape))
    copy = build(name, shape)
    copy.load_state_dict(norm.state_dict())
    features = torch.randn(6, *shape)
    assert torch.equal(norm(features), copy(features))
    assert torch.equal(norm.eval()(features), copy.eval()(features))


@every_norm
def test_affine_false_leaves_no_parameters(name: str, shape: tuple[int, ...]) -> None:
    count = sum(1 for _ in build(name, shape, affine=False).parameters())
    assert count == (2 if name == "affine_only" else 0)
    assert sum(1 for _ in build(name, shape).parameters()) == (0 if name == "none" else 2)
    assert ("affine" in reads(name)) == (name not in {"none", "affine_only"})


@every_norm
def test_a_new_norm_has_torch_names_and_an_identity_affine_map(
    name: str, shape: tuple[int, ...]
) -> None:
    parameters = dict(build(name, shape).named_parameters())
    if name == "none":
        assert parameters == {}
        return
    assert set(parameters) == {"weight", "bias"}
    expected = shape if name == "batch_tf" else shape[:1]
    assert torch.equal(parameters["weight"], torch.ones(expected))
    assert torch.equal(parameters["bias"], torch.zeros(expected))


@pytest.mark.parametrize("name", sorted(set(NORMS) - {"noisy_batch"}))
def test_channels_last_input_gives_the_same_values(name: str) -> None:
    norm, features = ready(name), torch.randn(6, *MAPS)
    other = features.to(memory_format=torch.channels_last)
    torch.testing.assert_close(deepcopy(norm)(features), norm(other))


@pytest.mark.parametrize("name", [n for n in NORMS if "batch_statistics" in NORMS.entry(n).facts])
def test_one_image_of_vectors_has_no_batch_statistics(name: str) -> None:
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        build(name, VECTORS)(torch.randn(1, *VECTORS))


@pytest.mark.parametrize(
    "name", ["batch", "batch_reference", "caffe", "ghost", "group", "layer", "instance"]
)
def test_each_normalized_group_has_zero_mean_and_unit_variance(name: str) -> None:
    norm = build(name, (4, 8, 8), groups=2, ghost_size=3, eps=1e-9)
    features = 3 * torch.randn(6, 4, 8, 8) + 2
    # Which values share their statistics, as rows.
    rows = {
        "group": lambda out: out.reshape(12, -1),
        "layer": lambda out: out.reshape(6, -1),
        "instance": lambda out: out.reshape(24, -1),
        "ghost": lambda out: out.reshape(2, 3, 4, 64).transpose(1, 2).reshape(8, -1),
    }.get(name, lambda out: out.transpose(0, 1).reshape(4, -1))(norm(features))
    torch.testing.assert_close(rows.mean(1), torch.zeros(len(rows)), rtol=0, atol=1e-5)
    torch.testing.assert_close(rows.var(1, correction=0), torch.ones(len(rows)))


# ------------------------------------------------------------------------------------ batch


@pytest.mark.parametrize("name", ["batch", "batch_reference", "ghost", "batch_tf", "noisy_batch"])
def test_running_mean_moves_by_momentum(name: str) -> None:
    norm = build(name, (2, 3, 3), momentum=0.25)
    norm(torch.full((4, 2, 3, 3), 8.0))
    mean = tensor_of(norm, "running_mean")
    torch.testing.assert_close(mean, torch.full_like(mean, 2.0))  # 0 + 0.25 * (8 - 0)
    assert tensor_of(norm, "num_batches_tracked") == 1


@pytest.mark.parametrize(
    "name", ["batch", "batch_reference", "ghost", "noisy_batch", "renorm", "running"]
)
def test_running_variance_averages_the_unbiased_one(name: str) -> None:
    norm = build(name, (1,), momentum=0.5)
    norm(torch.tensor([[0.0], [4.0]]))  # biased variance 4, unbiased 8
    torch.testing.assert_close(tensor_of(norm, "running_var"), torch.tensor([4.5]))


@given(
    images=st.integers(2, 5),
    channels=st.integers(1, 4),
    size=st.one_of(st.none(), st.tuples(st.integers(1, 4), st.integers(1, 4))),
    momentum=st.floats(0.05, 1),
    eps=st.sampled_from([1e-5, 1e-3, 0.1]),
    affine=st.booleans(),
    seed=st.integers(0, 1000),
)
@LAW
def test_the_formulas_are_torchs_batch_norm(
    *,
    images: int,
    channels: int,
    size: tuple[int, int] | None,
    momentum: float,
    eps: float,
    affine: bool,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    shape = (channels, *(size or ()))
    fields: dict[str, object] = {"momentum": momentum, "eps": eps, "affine": affine}
    torchs, ours = build("batch", shape, **fields), build("batch_reference", shape, **fields)
    torchs, ours = torchs.double(), ours.double()
    with torch.no_grad():
        for one, other in zip(torchs.parameters(), ours.parameters(), strict=True):
            other.copy_(one.normal_())

    for _ in range(2):
        batch = torch.randn(images, *shape).double() * 3 + 1
        pull = torch.randn(images, *shape).double()
        gradients, outcomes = [], []
        for norm in (torchs, ours):
            features = batch.clone().requires_grad_()
            outcome = norm(features)
            gradients.append(
                torch.autograd.grad((outcome * pull).sum(), [features, *norm.parameters()])
            )
            outcomes.append(outcome)
        torch.testing.assert_close(*outcomes, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-6)

    torch.testing.assert_close(ours.state_dict(), torchs.state_dict(), rtol=1e-6, atol=1e-6)
    probe = torch.randn(1, *shape).double()
    torch.testing.assert_close(ours.eval()(probe), torchs.eval()(probe), rtol=1e-6, atol=1e-6)


# --------------------------------------------------------------------------------- batch_tf


def test_per_position_statistics_have_the_shape_of_the_features() -> None:
    norm = build("batch_tf", (2, 3, 4))
    for name in ("weight", "bias", "running_mean", "running_var"):
        assert tensor_of(norm, name).shape == (2, 3, 4)


def test_per_position_moments_are_over_the_images_alone() -> None:
    norm = build("batch_tf", (1, 1, 2), eps=1e-12)
    # One position holds 0 and 2, the other 10 and 30: each becomes -1 and 1 by itself.
    features = torch.tensor([[[[0.0, 10.0]]], [[[2.0, 30.0]]]])
    expected = torch.tensor([[[[-1.0, -1.0]]], [[[1.0, 1.0]]]])
    torch.testing.assert_close(norm(features), expected)


def test_per_position_running_statistics_serve_eval_mode() -> None:
    norm = build("batch_tf", (1, 1, 2), momentum=1.0, eps=1e-12)
    norm(torch.tensor([[[[0.0, 10.0]]], [[[2.0, 30.0]]]]))
    outcome = norm.eval()(torch.tensor([[[[1.0, 20.0]]]]))
    torch.testing.assert_close(outcome, torch.zeros(1, 1, 1, 2))


def test_on_vectors_per_position_is_per_feature() -> None:
    features = torch.randn(5, *VECTORS)
    torch.testing.assert_close(
        build("batch_tf", VECTORS)(features), build("batch", VECTORS)(features)
    )


# --------------------------------------------------------------------------- renorm and running


def after_a_batch(name: str, **fields: object) -> tuple[nn.Module, Tensor]:
    """A norm whose running statistics are no longer those that it starts from, and a batch."""
    norm = build(name, MAPS, **fields).double()
    norm(3 * torch.randn(8, *MAPS).double() + 2)
    return norm, 2 * torch.randn(8, *MAPS).double() - 1


def test_renorm_with_closed_bounds_is_batch_norm() -> None:
    renorm, batch = after_a_batch("renorm", renorm_steps=10**9)
    torch.testing.assert_close(renorm(batch), build("batch").double()(batch), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("renorm_steps", [0, 1])
def test_renorm_within_its_bounds_trains_on_what_it_tests_with(renorm_steps: int) -> None:
    norm, batch = after_a_batch("renorm", r_max=1e3, d_max=1e3, renorm_steps=renorm_steps)
    tested = deepcopy(norm).eval()(batch)
    torch.testing.assert_close(norm(batch), tested)


def test_renorm_corrects_no_further_than_its_bounds() -> None:
    norm, batch = after_a_batch("renorm", r_max=1.0, d_max=0.25, renorm_steps=0)
    plain = build("batch").double()(batch)
    moved = (norm(batch) - plain).detach()
    assert float(moved.abs().max()) <= 0.25 + 1e-9
    assert float(moved.abs().min()) == pytest.approx(0.25)  # the batch lies far from the last one


def test_the_bounds_of_renorm_open_evenly() -> None:
    norm, batch = after_a_batch("renorm", r_max=1.0, d_max=1.0, renorm_steps=4)
    plain = build("batch").double()(batch)
    moved = [float((deepcopy(norm)(batch) - plain).detach().abs().max())]
    norm(3 * torch.randn(8, *MAPS).double() + 2)
    moved.append(float((norm(batch) - plain).detach().abs().max()))
    assert moved == pytest.approx([0.25, 0.5])


def test_the_gradient_takes_the_corrections_of_renorm_for_constants() -> None:
    norm, batch = after_a_batch("renorm", r_max=1e3, d_max=1e3, renorm_steps=0)
    pull = torch.randn_like(batch)
    features = batch.clone().requires_grad_()
    sigma = (tensor_of(norm, "running_var") + 1e-5).sqrt()
    (found,) = torch.autograd.grad((norm(features) * pull).sum(), features)
    by_batch = batch.clone().requires_grad_()
    (plain,) = torch.autograd.grad((build("batch").double()(by_batch) * pull).sum(), by_batch)
    r = (batch.var((0, 2, 3), correction=0) + 1e-5).sqrt() / sigma
    torch.testing.assert_close(found, plain * r.view(1, -1, 1, 1), rtol=1e-6, atol=1e-6)


def test_running_lets_a_batch_in_and_normalizes_by_what_it_then_has() -> None:
    norm, batch = after_a_batch("running")
    trained = norm(batch)
    torch.testing.assert_close(trained, norm.eval()(batch))


def test_running_of_momentum_1_is_batch_norm_whose_gradient_knows_no_statistics() -> None:
    norm, batch = after_a_batch("running", momentum=1.0)
    features = batch.clone().requires_grad_()
    outcome = norm(features)
    samples = batch.numel() // batch.shape[1]
    plain = build("batch", eps=1e-12).double()(batch) * ((samples - 1) / samples) ** 0.5
    torch.testing.assert_close(outcome, plain, rtol=1e-3, atol=1e-3)
    (found,) = torch.autograd.grad(outcome.sum(), features)
    scale = (tensor_of(norm, "running_var") + 1e-5).rsqrt().view(1, -1, 1, 1)
    torch.testing.assert_close(found, scale.expand_as(found))


# ------------------------------------------------------------------------------------- caffe


def test_caffe_sums_start_at_zero_and_grow_by_its_recurrence() -> None:
    norm = build("caffe", (1,), moving_average_fraction=0.5)
    assert [float(tensor_of(norm, name)) for name in ("sum_mean", "sum_var", "factor")] == [0, 0, 0]
    norm(torch.tensor([[0.0], [4.0]]))  # mean 2, variance with Bessel's correction 8
    norm(torch.tensor([[5.0], [7.0]]))  # mean 6, variance 2
    assert float(tensor_of(norm, "factor")) == 1.5  # 0.5 * 1 + 1
    torch.testing.assert_close(tensor_of(norm, "sum_mean"), torch.tensor([7.0]))  # 0.5 * 2 + 6
    torch.testing.assert_close(tensor_of(norm, "sum_var"), torch.tensor([6.0]))  # 0.5 * 8 + 2


@given(steps=st.integers(1, 6), fraction=st.floats(0.1, 0.999), seed=st.integers(0, 1000))
@LAW
def test_caffe_estimates_are_a_bias_corrected_moving_average(
    steps: int, fraction: float, seed: int
) -> None:
    torch.manual_seed(seed)
    norm = build("caffe", (3, 2, 2), moving_average_fraction=fraction).double()
    mean, var = torch.zeros(3).double(), torch.zeros(3).double()
    for _ in range(steps):
        batch = torch.randn(4, 3, 2, 2).double()
        norm(batch)
        mean = fraction * mean + (1 - fraction) * batch.mean((0, 2, 3))
        var = fraction * var + (1 - fraction) * batch.var((0, 2, 3), correction=1)
    correction = 1 - fraction**steps
    torch.testing.assert_close(tensor_of(norm, "running_mean"), mean / correction)
    torch.testing.assert_close(tensor_of(norm, "running_var"), var / correction)
    probe = torch.randn(1, 3, 2, 2).double()
    torch.testing.assert_close(
        norm.eval()(probe),
        F.batch_norm(probe, mean / correction, var / correction, eps=1e-5),
    )


def test_caffe_trains_as_batch_norm_does() -> None:
    features = torch.randn(5, *MAPS)
    assert torch.equal(build("caffe")(features), build("batch")(features))


@pytest.mark.parametrize("training", [True, False])
def test_caffe_global_statistics_from_scratch_multiply_by_one_over_root_eps(training: bool) -> None:
    norm = build("caffe", use_global_stats=True, eps=1e-4).train(training)
    features = torch.randn(5, *MAPS, requires_grad=True)
    torch.testing.assert_close(norm(features), features * 100)
    norm(features).sum().backward()
    # The backward pass treats the statistics as constants.
    torch.testing.assert_close(features.grad, torch.full_like(features, 100.0))
    assert float(tensor_of(norm, "factor")) == 0


def test_caffe_without_global_statistics_tests_by_the_batch() -> None:
    norm = build("caffe", use_global_stats=False)
    norm(torch.randn(5, *MAPS) * 4 + 2)
    features = torch.randn(5, *MAPS)
    assert torch.equal(norm.eval()(features), build("batch")(features))


# ------------------------------------------------------------------------------------- ghost


@given(images=st.integers(1, 300), size=st.integers(2, 64))
@LAW
def test_ghost_batches_cover_the_batch_and_hold_two_images_or_more(images: int, size: int) -> None:
    cut = [each for ghosts, each in ghost_batches(images, size) for _ in range(ghosts)]
    assert sum(cut) == images
    assert min(cut) >= min(2, images)
    assert set(cut[:-1]) <= {size}
    assert cut[-1] <= size + 1


def test_a_lone_image_joins_the_ghost_batch_before() -> None:
    assert ghost_batches(9, 4) == [(1, 4), (1, 5)]
    assert ghost_batches(10, 4) == [(2, 4), (1, 2)]


def test_a_ghost_batch_is_normalized_by_itself() -> None:
    norm, parts = build("ghost", ghost_size=4), torch.randn(9, *MAPS).split([4, 5])
    with torch.no_grad():
        tensor_of(norm, "weight").copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
        tensor_of(norm, "bias").copy_(torch.tensor([4.0, 3.0, 2.0, 1.0]))
    weight, bias = tensor_of(norm, "weight"), tensor_of(norm, "bias")
    expected = [F.batch_norm(part, None, None, weight, bias, training=True) for part in parts]
    torch.testing.assert_close(norm(torch.cat(parts)), torch.cat(expected))


def test_one_ghost_batch_is_batch_norm() -> None:
    ghost, batch = build("ghost", ghost_size=64), build("batch")
    features = torch.randn(6, *MAPS)
    torch.testing.assert_close(ghost(features), batch(features))
    torch.testing.assert_close(ghost.state_dict(), batch.state_dict())


def test_ghost_running_mean_is_that_of_the_whole_batch() -> None:
    norm, features = build("ghost", ghost_size=4, momentum=1.0), torch.randn(9, *MAPS)
    norm(features)
    torch.testing.assert_close(tensor_of(norm, "running_mean"), features.mean((0, 2, 3)))


# ----------------------------------------------------------------- group, layer and instance


@pytest.mark.parametrize("name", ["group", "layer", "instance"])
def test_image_statistics_learn_from_channels_last_images_that_need_no_gradient(name: str) -> None:
    images = torch.randn(4, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    norm = NORMS[name]((3, 8, 8), NormConfig(name=name))
    norm(images).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in norm.parameters())


@pytest.mark.parametrize(
    ("shape", "wanted", "groups"),
    [
        ((64, 4, 4), 32, 32),
        ((48, 4, 4), 32, 24),  # 32 does not divide 48; 24 is the largest below that does
        ((7, 4, 4), 4, 1),
        ((8, 4, 4), 32, 8),
        ((8,), 32, 4),  # 8 groups of one value each would be all zero
        ((6, 1, 1), 6, 3),
    ],
)
def test_group_norm_takes_the_largest_number_of_groups_that_fits(
    shape: tuple[int, ...], wanted: int, groups: int
) -> None:
    norm = build("group", shape, groups=wanted)
    assert isinstance(norm, nn.GroupNorm)
    assert norm.num_groups == groups


def test_layer_norm_over_a_vector_is_torchs() -> None:
    features = torch.randn(3, *VECTORS)
    torch.testing.assert_close(build("layer", VECTORS)(features), F.layer_norm(features, VECTORS))


def test_instance_norm_is_torchs() -> None:
    features = torch.randn(3, *MAPS)
    torch.testing.assert_close(build("instance")(features), F.instance_norm(features))


@pytest.mark.parametrize(
    ("name", "shape"), [("instance", (4, 1, 1)), ("layer", (1,)), ("group", (1, 1, 1))]
)
def test_a_norm_that_would_be_zero_everywhere_is_refused(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=rf"model\.norm\.name: {name}.*to zero; use wider"):
        build(name, shape)


# --------------------------------------------------------------------- affine_only, noisy_batch


def test_affine_only_scales_and_shifts_per_channel() -> None:
    norm = build("affine_only", (2, 1, 1))
    with torch.no_grad():
        tensor_of(norm, "weight").copy_(torch.tensor([2.0, 3.0]))
        tensor_of(norm, "bias").copy_(torch.tensor([1.0, -1.0]))
    features = torch.tensor([[[[5.0]], [[7.0]]]])
    assert norm(features).flatten().tolist() == [11.0, 20.0]


def test_noise_is_drawn_anew_per_step_and_per_activation() -> None:
    norm, features = build("noisy_batch", (2, 64, 64)), torch.randn(8, 2, 64, 64)
    plain = F.batch_norm(features, None, None, training=True)
    first, second = norm(features) - plain, norm(features) - plain
    for noise in (first, second):
        mean, std = noise.mean((0, 2, 3)), noise.std((0, 2, 3))
        # 32,768 draws a channel: the sampling error of mean and deviation is below 0.01.
        assert (mean.abs() < 0.5 + 0.03).all()
        assert (mean.abs() > 0.03).any()
        assert ((std > 1 - 0.03) & (std < 1.25 + 0.03)).all()
        assert noise.unique().numel() > 0.99 * noise.numel()
    assert ((first.mean((0, 2, 3)) - second.mean((0, 2, 3))).abs() > 0.03).any()


def test_noise_has_the_mean_and_deviation_asked_for() -> None:
    norm = build("noisy_batch", (1, 128, 128), noise_mean=0.0, noise_std=1.0)
    features = torch.randn(4, 1, 128, 128)
    noise = norm(features).detach() - F.batch_norm(features, None, None, training=True)
    assert abs(float(noise.mean())) < 0.02
    assert abs(float(noise.std()) - 1) < 0.02


def test_noise_draws_from_its_own_stream_and_its_state_resumes() -> None:
    norm, features = build("noisy_batch"), torch.randn(6, *MAPS)
    norm(features)
    saved, global_stream = norm.state_dict(), torch.get_rng_state()
    expected = norm(features)
    assert torch.equal(global_stream, torch.get_rng_state())
    resumed = build("noisy_batch")
    resumed.load_state_dict(saved)
    assert torch.equal(resumed(features), expected)


def test_noise_is_absent_in_eval_mode() -> None:
    noisy, plain, features = build("noisy_batch"), build("batch"), torch.randn(6, *MAPS)
    assert torch.equal(noisy.eval()(features), plain.eval()(features))


# ------------------------------------------------------------------------------- frozen_init


def test_frozen_init_before_calibration_says_what_to_call() -> None:
    with pytest.raises(RuntimeError, match=r"call bnlab\.training\.norms\.calibrate"):
        build("frozen_init")(torch.randn(2, *MAPS))


def test_frozen_init_whitens_what_it_was_measured_on_and_stays_constant() -> None:
    norm, images = build("frozen_init", eps=1e-9), 3 * torch.randn(16, *MAPS) + 2
    calibrate(norm, images)
    normalized = norm(images)
    torch.testing.assert_close(normalized.mean((0, 2, 3)), torch.zeros(4), rtol=0, atol=1e-5)
    torch.testing.assert_close(normalized.var((0, 2, 3), correction=0), torch.ones(4))
    # Training on other images moves nothing: the map is the same affine one.
    norm(torch.randn(16, *MAPS) * 100)
    assert torch.equal(norm(images), normalized)
    assert torch.equal(norm.eval()(images), normalized)


def test_later_frozen_norms_are_measured_behind_normalized_ones() -> None:
    first, second = build("frozen_init"), build("frozen_init")
    model, images = nn.Sequential(first, nn.ReLU(), second), 50 * torch.randn(16, *MAPS) + 20
    calibrate(model, images)
    torch.testing.assert_close(
        tensor_of(second, "running_mean"), first(images).relu().mean((0, 2, 3))
    )
    torch.testing.assert_close(
        model(images).var((0, 2, 3), correction=0), torch.ones(4), rtol=0, atol=1e-3
    )


def test_calibration_touches_nothing_else() -> None:
    frozen, batch, noisy = build("frozen_init"), build("batch"), build("noisy_batch")
    model = nn.Sequential(batch, noisy, frozen)
    batch.eval()  # a mixture of modes, to be found again
    images = torch.randn(8, *MAPS)
    before, streams = (state(batch), state(noisy)), torch.get_rng_state()
    calibrate(model, images)
    assert_same_state(before[0], state(batch))
    assert_same_state(before[1], state(noisy))
    assert torch.equal(streams, torch.get_rng_state())
    assert [module.training for module in (model, batch, noisy, frozen)] == [
        True,
        False,
        True,
        True,
    ]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert isinstance(frozen, FrozenInit)
    assert frozen.calibrated
    assert not frozen._forward_pre_hooks


def test_calibration_of_a_model_without_frozen_norms_runs_nothing() -> None:
    class Untouchable(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            raise AssertionError(images)

    calibrate(Untouchable(), torch.zeros(1))


def test_a_failed_calibration_leaves_the_modes_as_they_were() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 1), build("frozen_init")).train()
    with pytest.raises(RuntimeError, match="channels"):
        calibrate(model, torch.randn(2, 3, 3, 3))
    assert model.training
    assert model[1].training


def test_a_loaded_frozen_init_is_calibrated() -> None:
    norm, copy = ready("frozen_init"), build("frozen_init")
    copy.load_state_dict(norm.state_dict())
    features = torch.randn(3, *MAPS)
    assert torch.equal(copy(features), norm(features))
