"""What a probe is, and how it is kept from touching the experiment that it measures."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

import torch
from torch import Tensor, nn

from bnlab.registry import Registry

Probe: TypeAlias = Callable[[nn.Sequential, Tensor, Tensor], dict[str, float]]
"""(model in training mode, normalized images (N, 3, H, W), labels (N,)) -> value by tag.
Tags are `probe/<quantity>/<layer>`."""

PROBES: Registry[Probe] = Registry("probe")

PROBE_IMAGES = 1024
"""Fixed, un-augmented training images that probes look at (a dead unit needs about 1,000)."""


@contextmanager
def leave_no_trace(model: nn.Module) -> Iterator[None]:
    """Put back parameters, running statistics, random streams, gradients and modes afterwards."""
    state = {
        key: value.clone() if isinstance(value, Tensor) else value
        for key, value in model.state_dict().items()
    }
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    global_stream = torch.get_rng_state()
    try:
        yield
    finally:
        model.load_state_dict(state)
        for parameter, gradient in gradients:
            parameter.grad = gradient
        for module, training in modes:
            module.training = training
        torch.set_rng_state(global_stream)


def run_probes(
    names: Sequence[str], model: nn.Sequential, images: Tensor, labels: Tensor
) -> dict[str, float]:
    """Measure with each named probe on one fixed batch, in training mode, leaving no trace.

    Args:
        names: Entries of `PROBES`.
        model: The network as it stands.
        images: Normalized, un-augmented training images, (N, 3, H, W).
        labels: Their classes, (N,).
    """
    values: dict[str, float] = {}
    for name in names:
        with leave_no_trace(model):
            model.train()
            values.update(PROBES[name](model, images, labels))
    return values


@contextmanager
def outputs_of(
    model: nn.Sequential, kinds: tuple[type[nn.Module], ...]
) -> Iterator[dict[str, Tensor]]:
    """Collect, while the context lasts, what the children of some kinds give, by their name."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
            seen[name] = output

        return hook

    handles = [
        child.register_forward_hook(keep(name))
        for name, child in model.named_children()
        if isinstance(child, kinds)
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
