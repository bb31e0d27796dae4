"""What a probe is, and how it is kept from touching the experiment that it measures."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bnlab.training.streams import Stochastic

T = TypeVar("T")

Batch: TypeAlias = tuple[Tensor, Tensor]
"""Normalized images and their labels."""

BatchesOf: TypeAlias = Callable[[int], Iterable[Batch]]
"""From a batch size to batches of normalized, un-augmented images and their labels, in an order
that is fixed and mixes the classes."""

Ahead: TypeAlias = Callable[[], tuple[torch.optim.Optimizer, Iterator[Batch]]]
"""Gives what training would go on with: an optimizer of the network's own parameters with a copy of
the state (momentum, moments, the rate of the last step), and the batches of the coming epoch,
augmented. After the last epoch they are those of an epoch more."""


@dataclass(frozen=True, eq=False)
class Sample:
    """What probes look at.

    Attributes:
        images: The same training images every time, normalized, not augmented: (N, 3, H, W).
        labels: Their classes: (N,).
        batch_size: Images a training step.
        train: More of the training images in batches.
        test: All test images in batches; None where the run does not read them.
        ahead: The steps that training would take next; a probe may take some of them.
        memory: What probes keep from look to look, on the CPU, under keys that begin with the
            probe's name. A checkpoint holds it, so that a resumed run remembers the same.
    """

    images: Tensor
    labels: Tensor
    batch_size: int = 128
    train: BatchesOf | None = None
    test: BatchesOf | None = None
    ahead: Ahead | None = None
    memory: dict[str, Tensor] = field(default_factory=dict)


Probe: TypeAlias = Callable[[nn.Module, Sample], dict[str, float]]
"""(model in training mode, sample) -> value by tag. Tags are `probe/<quantity>/<layer>`, or what
else a quantity is measured by."""

PROBE_IMAGES = 1024
"""Fixed, un-augmented training images that probes look at (a dead unit needs about 1,000)."""

POPULATION_IMAGES = 10_000
"""Training images behind a population's statistics, but at least one batch: 10^3 to 10^4 suffice
(Wu and Johnson 2021)."""


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
        torch.clear_autocast_cache()  # weights in half precision that are no longer these


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """The network as it is at test time: running statistics, no dropout."""
    model.eval()
    with torch.no_grad():
        yield


def loss_and_accuracy(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]
) -> tuple[float, float]:
    """Mean cross-entropy in nats and accuracy as a fraction, in the mode the network is in."""
    loss, correct, count = 0.0, 0, 0
    for images, labels in batches:
        logits = model(images).float()
        loss += float(F.cross_entropy(logits, labels, reduction="sum"))
        correct += int((logits.argmax(dim=1) == labels).sum())
        count += len(labels)
    return loss / count, correct / count


@contextmanager
def inputs_of(
    layers: Mapping[str, nn.Module], look: Callable[[Tensor], T]
) -> Iterator[dict[str, T]]:
    """Collect, while the context lasts, what a look at a layer's input gives; the last call counts.

    Inputs themselves are not kept: together they take much memory.
    """
    seen: dict[str, T] = {}
    hooks = [
        layer.register_forward_pre_hook(
            lambda _layer, entered, name=name: seen.update({name: look(entered[0])})
        )
        for name, layer in layers.items()
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


class ForwardState:
    """What a forward pass in training mode changes, as it stands: buffers and random streams.

    Put back before each of several passes, all compute the same function.
    """

    def __init__(self, model: nn.Module) -> None:
        self._buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
        self._streams = [
            (module, module.get_extra_state())
            for module in model.modules()
            if isinstance(module, Stochastic)
        ]
        self._global = torch.get_rng_state()

    def put_back(self) -> None:
        """Let everything stand so again."""
        with torch.no_grad():
            for buffer, value in self._buffers:
                buffer.copy_(value)
        for module, state in self._streams:
            module.set_extra_state(state)
        torch.set_rng_state(self._global)


def gradients_in(
    model: nn.Module, batch: Batch, parameters: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Mean cross-entropy of a batch, and its gradients; zero where the loss does not depend on one.

    In fp32, whatever the run trains in: differences of gradients would drown in bf16's rounding.
    Nothing is left in `grad`.
    """
    images, labels = batch
    with torch.enable_grad(), torch.autocast(images.device.type, enabled=False):
        loss = F.cross_entropy(model(images), labels)
        grads = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    return loss.detach(), list(grads)


def step_by(
    optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter], grads: Sequence[Tensor]
) -> None:
    """Let an optimizer take the step that it makes of these gradients."""
    for parameter, grad in zip(parameters, grads, strict=True):
        parameter.grad = grad
    optimizer.step()
    torch.clear_autocast_cache()  # it holds the weights from before in half precision


def put(parameters: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Give parameters these values, in place: captured steps read them there."""
    with torch.no_grad():
        for parameter, value in zip(parameters, values, strict=True):
            parameter.copy_(value)
