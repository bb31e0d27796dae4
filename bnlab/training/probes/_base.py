"""What a probe is, and how it is kept from touching the experiment that it measures."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BatchesOf: TypeAlias = Callable[[int], Iterable[tuple[Tensor, Tensor]]]
"""From a batch size to batches of normalized, un-augmented images and their labels, in an order
that is fixed and mixes the classes."""


@dataclass(frozen=True, eq=False)
class Sample:
    """What probes look at.

    Attributes:
        images: The same training images every time, normalized, not augmented: (N, 3, H, W).
        labels: Their classes: (N,).
        batch_size: Images a training step.
        train: More of the training images in batches.
        test: All test images in batches; None where the run does not read them.
    """

    images: Tensor
    labels: Tensor
    batch_size: int = 128
    train: BatchesOf | None = None
    test: BatchesOf | None = None


Probe: TypeAlias = Callable[[nn.Module, Sample], dict[str, float]]
"""(model in training mode, sample) -> value by tag. Tags are `probe/<quantity>/<layer>`, or what
else a quantity is measured by."""

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
