"""Training: one epoch, one evaluation, and the loop over epochs.

Inside an epoch nothing is read back from the device: losses, counts and gradient norms are summed
there, and the one synchronization comes when the epoch's sums are read.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bnlab.config import Config
from bnlab.records import has_diverged
from bnlab.training.accelerate import Acceleration, Forward, Steps, build_steps, hold_lr
from bnlab.training.batches import Batches
from bnlab.training.device import Precision, autocast
from bnlab.training.lane import alone, wait_for
from bnlab.training.models import roles
from bnlab.training.optim import lr_at


class Sums:
    """Running sums over an epoch, kept on the device, always in the same tensors.

    Args:
        model: Its convolution and linear layers are those whose gradient norms are averaged.
        device: Where the sums live.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self.layers = roles(model).weighted
        self.loss = torch.zeros((), dtype=torch.float64, device=device)
        self.correct = torch.zeros((), dtype=torch.int64, device=device)
        self.grad_norms = torch.zeros(len(self.layers), device=device)

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Count one batch; `loss` is its mean over the images."""
        self.loss += loss.detach() * len(labels)
        self.correct += (logits.detach().argmax(dim=1) == labels).sum()

    def add_gradients(self) -> None:
        """Add the norm of the loss's gradient in each layer's weight, weight decay not included."""
        grads = [
            layer.weight.grad for layer in self.layers.values() if layer.weight.grad is not None
        ]
        self.grad_norms += torch.stack(torch._foreach_norm(grads))  # noqa: SLF001 - one kernel

    def state(self) -> dict[str, Tensor]:
        """For a checkpoint inside an epoch."""
        return {"loss": self.loss, "correct": self.correct, "grad_norms": self.grad_norms}

    def start(self, state: Mapping[str, Tensor] | None = None) -> None:
        """Go on from what `state` gave, or from zero."""
        for name, total in self.state().items():
            total.zero_() if state is None else total.copy_(state[name])

    def score(self, images: int) -> "Score":
        """How this many images were classified; waits for the device."""
        wait_for(self.loss.device)
        with alone(self.loss.device):
            return Score(self.loss.item() / images, self.correct.item() / images)


@dataclass(frozen=True)
class Score:
    """How a set of images was classified."""

    loss: float
    """Mean cross-entropy in nats."""
    accuracy: float
    """Fraction in [0, 1]."""


FinalStatus = Literal["done", "diverged"]


@dataclass
class Position:
    """Where training stands: with the states of model and optimizer, all that a resume needs."""

    epoch: int = 0
    """Epochs completed."""
    step: int = 0
    """Optimizer steps taken inside the current epoch."""
    seconds: float = 0.0
    """Training time spent inside the current epoch."""
    sums: dict[str, Tensor] | None = None
    """Sums of the current epoch so far."""
    outcome: FinalStatus | None = None
    """How training ended; None while it goes on."""


BetweenSteps: TypeAlias = Callable[[Position], bool]
"""Called after every optimizer step; true ends the epoch there."""


@dataclass(frozen=True)
class Task:
    """Everything that a run trains with, ready on its device."""

    config: Config
    model: nn.Module
    forward: Forward
    """The model's output from images, in the way of `acceleration`."""
    optimizer: torch.optim.Optimizer
    train: Batches
    held_out: Mapping[str, Batches]
    """By split name: `val` where images are held out, and `test`."""
    device: torch.device
    precision: Precision
    acceleration: Acceleration
    num_classes: int
    position: Position = field(default_factory=Position)
    passes: dict[Batches, tuple[Sums, Steps]] = field(default_factory=dict)
    """For each data set the sums and steps made on first use; a captured step keeps to them."""
    memory: dict[str, Tensor] = field(default_factory=dict)
    """What probes keep from epoch to epoch."""


def train_epoch(task: Task, between_steps: BetweenSteps) -> Sums:
    """Take one optimizer step per batch, from where the epoch stands; sum over the images seen.

    Ends early, leaving `task.position` inside the epoch, when `between_steps` says so.
    """
    position = task.position
    sums, take_step = _pass(task, task.train, train_step)
    with alone(task.device):
        sums.start(position.sums)
    task.model.train()
    take_step.start(position.epoch, position.step)
    while position.step < task.train.steps:
        set_lr(task)
        take_step()
        position.step += 1
        if between_steps(position):
            break
    position.sums = sums.state()
    return sums


def train_step(task: Task, sums: Sums, images: Tensor, labels: Tensor) -> None:
    """Forward, backward, update: one step on one batch."""
    with autocast(task.precision, task.device):
        logits = task.forward(images)
    loss = F.cross_entropy(logits.float(), labels)

    task.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    sums.add_gradients()
    task.optimizer.step()
    sums.add(loss, logits, labels)


def training_sums(task: Task) -> Sums:
    """The sums that `train_epoch` fills."""
    return _pass(task, task.train, train_step)[0]


def set_lr(task: Task) -> None:
    """Set the scheduled learning rate of the coming step."""
    lr = _lr(task, task.position.epoch, task.position.step)
    task.optimizer.param_groups[0]["lr"].fill_(lr)  # that of all groups, see `hold_lr`


def _lr(task: Task, epoch: int, step: int) -> float:
    steps = task.train.steps
    return lr_at(task.config.optim, epoch * steps + step, steps, task.config.train.epochs)


def evaluate(task: Task, batches: Batches) -> Score:
    """Classify held-out images with the running statistics.

    With `train.evaluate_in_train_mode` (document 001's missing `net.eval()`), normalizers use each
    batch's own statistics and let them enter the running ones.
    """
    task.model.train(task.config.train.evaluate_in_train_mode)
    sums, measure = _pass(task, batches, evaluation_step)
    with alone(task.device):
        sums.start()
    measure.start(task.position.epoch)
    for _ in range(batches.steps):
        measure()
    return sums.score(len(batches))


def evaluation_step(task: Task, sums: Sums, images: Tensor, labels: Tensor) -> None:
    """Forward only."""
    with torch.no_grad(), autocast(task.precision, task.device):
        logits = task.forward(images)
    sums.add(F.cross_entropy(logits.float(), labels), logits, labels)


def _pass(
    task: Task, batches: Batches, step: Callable[[Task, Sums, Tensor, Tensor], None]
) -> tuple[Sums, Steps]:
    """The sums over a data set, and what does `step` on its batches."""
    if batches not in task.passes:
        with alone(task.device):
            sums = Sums(task.model, task.device)
            steps = build_steps(batches, partial(step, task, sums), task.model, task.acceleration)
        task.passes[batches] = sums, steps
    return task.passes[batches]


def fit(task: Task, between_steps: BetweenSteps) -> Iterator[dict[str, Any]]:
    """Train to the end, giving a metrics record after each epoch.

    Ends early when `between_steps` asked for it; `task.position` says where it stands, and holds
    the outcome once there is one. A record is given only for a whole epoch, and `task.position`
    already counts it.
    """
    config, position = task.config.train, task.position
    hold_lr(task.optimizer, task.device)
    while position.outcome is None:
        started = time.perf_counter()
        sums = train_epoch(task, between_steps)
        train = sums.score(len(task.train))  # the epoch's only synchronization with the device
        position.seconds += time.perf_counter() - started
        if position.step < task.train.steps:
            return

        with alone(task.device):
            broken = not math.isfinite(train.loss) or not parameters_are_finite(task.model)
            grad_norms = sums.grad_norms.tolist()
        last = broken or position.epoch + 1 == config.epochs
        record = {
            "epoch": position.epoch + 1,
            "step": (position.epoch + 1) * task.train.steps,
            "seconds": position.seconds,
            "images_per_second": len(task.train) / position.seconds,
            "optim/lr": _lr(task, position.epoch, 0),
            "train/loss": train.loss,
            "train/accuracy": train.accuracy,
        }
        for split, batches in task.held_out.items():
            if split != "test" or _due(position.epoch + 1, config.test_every, last=last):
                score = evaluate(task, batches)
                record[f"{split}/loss"] = score.loss
                record[f"{split}/accuracy"] = score.accuracy
        for name, total in zip(sums.layers, grad_norms, strict=True):
            record[f"probe/grad_norm/{name}"] = total / task.train.steps

        position.epoch, position.step = position.epoch + 1, 0
        position.seconds, position.sums = 0.0, None
        if last:
            diverged = broken or has_diverged(record, task.num_classes)
            position.outcome = "diverged" if diverged else "done"
        yield record


def _due(epoch: int, every: int | None, *, last: bool) -> bool:
    """Whether the test set is read after this epoch; see `train.test_every`."""
    return every is not None and (last or (every > 0 and epoch % every == 0))


def parameters_are_finite(model: nn.Module) -> bool:
    """Whether every parameter is a finite number; one synchronization."""
    norms = torch._foreach_norm([p.detach() for p in model.parameters()])  # noqa: SLF001
    return bool(torch.stack(norms).sum().isfinite())
