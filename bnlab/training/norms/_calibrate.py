"""Statistics that are measured once, at a network's start: one pass, in data-flow order."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn


@runtime_checkable
class Measuring(Protocol):
    """A normalizer that wants to see its input once before training."""

    def measure(self, features: Tensor) -> None:
        """Take statistics from these features: (images, channels, ...)."""


def calibrate(model: nn.Module, images: Tensor) -> None:
    """Let every normalizer that wants it measure its statistics in one pass; touch nothing else.

    Each normalizes by what it has just measured, so that those behind it see normalized inputs.
    The pass runs in eval mode: other running statistics and random streams stay as they are, and
    every module returns to the mode it was in.

    Args:
        model: The network; nothing happens if it has no such normalizer.
        images: (images, channels, height, width), as in training: about 2,048, normalized.
    """
    frozen = [module for module in model.modules() if isinstance(module, Measuring)]
    if not frozen:
        return
    hooks = [
        module.register_forward_pre_hook(lambda norm, inputs: norm.measure(inputs[0]))
        for module in frozen
    ]
    try:
        with evaluating(model), torch.no_grad():
            model(images)
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The network in eval mode; every module then returns to the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
