import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bnlab.config import OptimConfig
from bnlab.training.optim import build_optimizer, lr_at, parameter_groups


def optim(**values: object) -> OptimConfig:
    return OptimConfig.model_validate(values)


def test_a_constant_schedule_is_the_rate_at_every_step() -> None:
    assert {lr_at(optim(lr=0.3), step, 10, 2) for step in range(20)} == {0.3}


def test_a_linear_schedule_falls_by_equal_amounts_and_would_reach_zero_at_the_end() -> None:
    config = optim(lr=1.0, schedule="linear")
    assert [lr_at(config, step, 2, 2) for step in range(5)] == [1.0, 0.75, 0.5, 0.25, 0.0]


def test_a_cosine_schedule_is_half_way_down_in_the_middle() -> None:
    config = optim(lr=2.0, schedule="cosine")
    assert lr_at(config, 0, 5, 2) == 2.0
    assert lr_at(config, 5, 5, 2) == pytest.approx(1.0)
    assert lr_at(config, 10, 5, 2) == pytest.approx(0.0)


def test_a_step_schedule_drops_at_its_milestones() -> None:
    config = optim(lr=1.0, schedule="step", milestones=(0.5, 0.75), step_factor=0.1)
    rates = [lr_at(config, step, 4, 2) for step in range(8)]
    assert rates == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])


def test_warm_up_rises_linearly_to_the_peak_and_the_schedule_takes_what_is_left() -> None:
    config = optim(lr=1.0, schedule="linear", warmup_epochs=1.0)
    rates = [lr_at(config, step, 4, 2) for step in range(8)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 0.75, 0.5, 0.25])


@given(
    st.sampled_from(["constant", "linear", "cosine", "step"]),
    st.integers(1, 50),
    st.integers(1, 20),
    st.floats(0, 3),
)
@settings(deadline=None, max_examples=60, derandomize=True)
def test_no_schedule_leaves_the_range_from_zero_to_the_peak(
    schedule: str, steps: int, epochs: int, warmup: float
) -> None:
    config = optim(lr=0.7, schedule=schedule, warmup_epochs=warmup)
    rates = [lr_at(config, step, steps, epochs) for step in range(steps * epochs)]
    assert all(0 <= rate <= 0.7 + 1e-12 for rate in rates)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def test_decay_acts_on_everything_or_on_weights_only() -> None:
    everything = parameter_groups(network(), optim(weight_decay=0.1))
    assert [group["weight_decay"] for group in everything] == [0.1]
    weights, rest = parameter_groups(network(), optim(weight_decay=0.1, decay_weights_only=True))
    assert (weights["weight_decay"], rest["weight_decay"]) == (0.1, 0.0)
    assert isinstance(weights["params"], list)
    assert isinstance(rest["params"], list)
    assert sorted(p.dim() for p in weights["params"]) == [2, 4]
    assert [p.dim() for p in rest["params"]] == [1, 1, 1, 1]


@pytest.mark.parametrize("decay_weights_only", [False, True])
def test_every_parameter_is_optimized_exactly_once(decay_weights_only: bool) -> None:
    model = network()
    groups = parameter_groups(model, optim(decay_weights_only=decay_weights_only))
    given_out = [id(p) for group in groups for p in group["params"]]  # type: ignore[attr-defined]
    assert sorted(given_out) == sorted(id(p) for p in model.parameters())


def test_sgd_moves_by_momentum_and_decay_as_the_formula_says() -> None:
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(2.0)
    optimizer = build_optimizer(model, optim(lr=0.5, momentum=0.9, weight_decay=0.1))
    velocity, weight = 0.0, 2.0
    for _ in range(3):
        model.weight.grad = torch.ones(1, 1)
        optimizer.step()
        velocity = 0.9 * velocity + (1.0 + 0.1 * weight)
        weight -= 0.5 * velocity
    assert model.weight.item() == pytest.approx(weight, abs=1e-5)


def test_adam_is_torchs_adam_with_the_configured_betas() -> None:
    optimizer = build_optimizer(network(), optim(name="adam", betas=(0.8, 0.99)))
    assert isinstance(optimizer, torch.optim.Adam)
    assert optimizer.param_groups[0]["betas"] == (0.8, 0.99)
