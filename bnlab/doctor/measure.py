"""What is measured on the images at hand; the network is left as it was."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from bnlab.doctor.subject import Subject, kept
from bnlab.doctor.wiring import is_batch_norm, is_dropout
from bnlab.training.models import outputs_of
from bnlab.training.probes import (
    Sample,
    average_statistics,
    in_training,
    inputs_of,
    tracking_norms,
)

PART = 128
"""Images at a time where it does not matter."""

MOST_BATCHES = 16
"""More would tell a spread hardly better."""

OTHER_BATCH = 16
"""Images a batch where it is looked at whether an answer depends on its batch."""


@dataclass(frozen=True, eq=False)
class Answers:
    """What a network says of images: cross-entropy in nats and predicted class, (N,) each."""

    losses: Tensor
    predicted: Tensor
    labels: Tensor

    @property
    def accuracy(self) -> float:
        """As a fraction."""
        return float((self.predicted == self.labels).double().mean())

    @property
    def loss(self) -> float:
        """Mean over the images."""
        return float(self.losses.double().mean())


def answers(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Answers:
    """In the mode the network is in."""
    losses, predicted, labels = [], [], []
    for images, classes in batches:
        logits = model(images).float()
        losses.append(F.cross_entropy(logits, classes, reduction="none"))
        predicted.append(logits.argmax(dim=1))
        labels.append(classes)
    return Answers(torch.cat(losses), torch.cat(predicted), torch.cat(labels))


def in_other_batches(subject: Subject, sample: Sample) -> tuple[Answers, Answers, int]:
    """Answers as the configuration tests; the same in batches of another size; and that size."""
    assert sample.test is not None
    own = _test_batch(subject)
    other = OTHER_BATCH if own >= 2 * OTHER_BATCH else 2 * own
    found = []
    for size in (own, other):
        with kept(subject.model, evaluate=not subject.config.train.evaluate_in_train_mode):
            for module in subject.model.modules():
                if is_dropout(module):
                    module.eval()  # its noise is not what is asked for
            found.append(answers(subject.model, sample.test(size)))
    return found[0], found[1], other


def _test_batch(subject: Subject) -> int:
    """Images a batch of testing, but two at least: of one there may be no statistics."""
    return max(2, subject.config.train.eval_batch_size)


def moved_by_testing(subject: Subject, sample: Sample) -> float:
    """By what part one pass over test images, as configured, moves the running variances."""
    assert sample.test is not None
    before = {
        norm: found[1].clone()
        for norm in subject.norms.values()
        if (found := running_statistics(norm)) is not None
    }
    with kept(subject.model, evaluate=not subject.config.train.evaluate_in_train_mode):
        for images, _ in sample.test(_test_batch(subject)):
            subject.model(images)
        moved = [
            ((found[1] - was).abs() / was.clamp(min=1e-12)).flatten()
            for norm, was in before.items()
            if (found := running_statistics(norm)) is not None
        ]
    return float(torch.cat(moved).median())


def running_statistics(norm: nn.Module) -> tuple[Tensor, Tensor] | None:
    """Running mean and variance; None where a normalizer keeps none."""
    mean, var = (getattr(norm, f"running_{name}", None) for name in ("mean", "var"))
    return None if mean is None or var is None else (mean, var)


def by_population(subject: Subject, sample: Sample) -> tuple[Answers, Answers] | None:
    """Answers by running statistics, and by those of training images; None without running ones."""
    assert sample.test is not None
    assert sample.train is not None
    tracking = tracking_norms(subject.model)
    if not tracking:
        return None
    with kept(subject.model, evaluate=True):
        running = answers(subject.model, sample.test(PART))
        with in_training(tracking):
            average_statistics(subject.model, tracking, sample.train(sample.batch_size))
        return running, answers(subject.model, sample.test(PART))


def batch_variances(
    subject: Subject, images: Tensor, *, dropout: bool = False
) -> Mapping[str, Tensor]:
    """Variance per channel of what enters each batch norm in one batch, as training normalizes."""
    with kept(subject.model, evaluate=False), inputs_of(subject.norms, variance) as found:
        for module in subject.model.modules():
            if not dropout and is_dropout(module):
                module.eval()
        subject.model(images)
    return found


def variance(features: Tensor) -> Tensor:
    """Per channel, over images and positions."""
    return features.transpose(0, 1).flatten(1).var(dim=1, correction=0)


def noise_of_batches(subject: Subject, sample: Sample, size: int) -> Mapping[str, float]:
    """Relative spread from batch to batch of a channel's standard deviation, median channel."""
    spreads: dict[str, list[Tensor]] = {name: [] for name in subject.norms}
    for images in sample.images.split(size):
        if len(images) == size and len(next(iter(spreads.values()), [])) < MOST_BATCHES:
            for name, found in batch_variances(subject, images).items():
                spreads[name].append(found.sqrt())
    stds = {name: torch.stack(found) for name, found in spreads.items() if len(found) > 1}
    return {
        name: float((each.std(dim=0) / each.mean(dim=0).clamp(min=1e-12)).median())
        for name, each in stds.items()
    }


def bias_gradients(
    subject: Subject, sample: Sample, layers: Iterable[str]
) -> Mapping[str, tuple[float, float]]:
    """Largest absolute gradient of each layer's bias, and of its weight, in one batch."""
    images, labels = sample.images[: sample.batch_size], sample.labels[: sample.batch_size]
    with kept(subject.model, evaluate=False), torch.enable_grad():
        subject.model.zero_grad(set_to_none=True)
        F.cross_entropy(subject.model(images).float(), labels).backward()
        found = {}
        for layer in layers:
            parts = (subject.model.get_parameter(f"{layer}.{part}") for part in ("bias", "weight"))
            bias, weight = (0.0 if p.grad is None else float(p.grad.abs().max()) for p in parts)
            found[layer] = (bias, weight)
    return found


def dead_channels(subject: Subject, sample: Sample) -> Mapping[str, tuple[int, int]]:
    """Of each ReLU, how many channels are zero on all training images at hand, and of how many."""
    assert sample.train is not None
    highest: dict[str, Tensor] = {}

    def look(name: str, output: Tensor) -> None:
        top = output.transpose(0, 1).flatten(1).amax(dim=1)
        highest[name] = top.maximum(highest.get(name, top))

    graph, relus = subject.wiring.graph, subject.wiring.those("relu")
    modules = {name: subject.model.get_submodule(name) for name in relus if graph is None}
    with kept(subject.model, evaluate=True):
        network = subject.model if graph is None else graph.eval()
        for module in network.modules():
            # What running statistics start from says nothing of what training will meet.
            module.training = is_batch_norm(module) and not subject.trained
        for images, _ in sample.train(PART):
            if graph is not None:
                watched = {subject.wiring.nodes[name]: name for name in relus}
                _Watching(graph, watched, look).run(images)
                continue
            with outputs_of(modules) as outputs:
                subject.model(images)
            for name, output in outputs.items():
                look(name, output)
    return {name: (int((top <= 0).sum()), len(top)) for name, top in highest.items()}


class _Watching(fx.Interpreter):
    """Runs a graph and shows what some of its nodes give, calls of functions included."""

    def __init__(
        self,
        graph: fx.GraphModule,
        watched: Mapping[fx.Node, str],
        look: Callable[[str, Tensor], None],
    ) -> None:
        super().__init__(graph)
        self._watched, self._look = watched, look

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n in self._watched:
            self._look(self._watched[n], result)
        return result
