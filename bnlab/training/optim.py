"""Parameter groups, optimizers, and learning-rate schedules as pure functions of the step."""

import math
from functools import cache
from threading import Thread

import torch
from torch import nn

from bnlab.config import OptimConfig
from bnlab.training.models import roles


def parameter_groups(model: nn.Module, config: OptimConfig) -> list[dict[str, object]]:
    """Split the parameters into those that decay and those that do not.

    With `decay_weights_only`, weight decay acts on the weights of convolutions and linear layers;
    biases and a normalizer's gamma and beta are left alone. Otherwise it acts on everything, as
    document 001 has it.
    """
    weights = {id(layer.weight) for layer in roles(model).weighted.values()}
    decays = [p for p in model.parameters() if id(p) in weights or not config.decay_weights_only]
    spared = [
        p for p in model.parameters() if not (id(p) in weights or not config.decay_weights_only)
    ]
    groups: list[dict[str, object]] = [{"params": decays, "weight_decay": config.weight_decay}]
    return groups + ([{"params": spared, "weight_decay": 0.0}] if spared else [])


@cache
def _load_compiler() -> None:
    """Let torch import its compiler, which it does with a process' first optimizer.

    In a thread of its own: some frame of that import refers to itself, and so it and all frames
    that called it, with a network and its images among their variables, would stay in memory until
    a garbage collection.
    """
    thread = Thread(target=lambda: torch.optim.SGD([torch.zeros(1)], lr=0.0))
    thread.start()
    thread.join()


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """SGD with momentum or Adam (with L2 in the gradient, as torch.optim.Adam), both fused."""
    _load_compiler()
    groups = parameter_groups(model, config)
    if config.name == "adam":
        return torch.optim.Adam(groups, lr=config.lr, betas=config.betas, fused=True)
    return torch.optim.SGD(
        groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov, fused=True
    )


def lr_at(config: OptimConfig, step: int, steps_per_epoch: int, epochs: int) -> float:
    """The learning rate of one optimizer step.

    Args:
        config: Peak rate, schedule and warm-up.
        step: Optimizer steps taken before this one, from 0.
        steps_per_epoch: Optimizer steps in an epoch.
        epochs: Length of training; `linear` and `cosine` would reach 0 at its end.
    """
    total = steps_per_epoch * epochs
    warmup = round(config.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    match config.schedule:
        case "linear":
            factor = 1 - progress
        case "cosine":
            factor = 0.5 * (1 + math.cos(math.pi * progress))
        case "step":
            passed = sum(step >= milestone * total for milestone in config.milestones)
            factor = config.step_factor**passed
        case "constant":
            factor = 1.0
    return config.lr * factor
