"""Normalizers' running statistics: taken anew, taken from test batches, put in."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bnlab.training.norms import widen
from bnlab.training.norms.caffe import CaffeBatchNorm
from bnlab.training.probes._base import Batch

LARGE_BATCH = 128
"""Images of a batch, in training and in testing, as in document 001."""


@dataclass(frozen=True)
class Moments:
    """What training images say of a normalizer's input, each of the shape of its statistics, fp64.

    Attributes:
        mean: Mean of the batches' means.
        variance: Mean of the batches' unbiased variances, m/(m-1) times their own for m values a
            channel: document 002's formula, and torch's cumulative average.
        pooled_mean: Of all values together.
        pooled_variance: Likewise: the batches' variances, weighted by size, and the variance of
            their means. The m/(m-1) of independent values makes up for the latter only in part,
            for the positions of an image are alike.
    """

    mean: Tensor
    variance: Tensor
    pooled_mean: Tensor
    pooled_variance: Tensor


def tracking_norms(model: nn.Module) -> list[nn.Module]:
    """Normalizers that train by a batch's statistics and are tested by running ones."""
    return [module for module in model.modules() if _tracks(module)]


def _tracks(module: nn.Module) -> bool:
    if isinstance(module, CaffeBatchNorm):
        return module.use_global_stats is None
    by_momentum = isinstance(getattr(module, "momentum", None), float)
    return by_momentum and getattr(module, "num_batches_tracked", None) is not None


def average_statistics(model: nn.Module, norms: list[nn.Module], batches: Iterable[Batch]) -> None:
    """Make the running statistics plain averages over batches of training images.

    Args:
        model: In eval mode.
        norms: Those of its normalizers that track, in training mode.
        batches: Images, normalized, and labels.
    """
    for norm, moments in moments_of(model, norms, batches).items():
        set_statistics(norm, moments.mean, moments.variance)


def moments_of(
    model: nn.Module, norms: list[nn.Module], batches: Iterable[Batch]
) -> Mapping[nn.Module, Moments]:
    """What enters normalizers while each normalizes by its batches; spoils running statistics.

    Args:
        model: In eval mode.
        norms: Those of its normalizers that track, in training mode.
        batches: Images, normalized, and labels.
    """
    sums = {norm: _Sums() for norm in norms}
    hooks = [norm.register_forward_pre_hook(sums[norm].enter) for norm in norms]
    momenta = [getattr(norm, "momentum", None) for norm in norms]
    try:
        for images, _labels in batches:
            for norm in norms:
                _forget(norm)
            model(images)
            for norm, found in sums.items():
                found.add(_running(norm))
    finally:
        for hook, norm, momentum in zip(hooks, norms, momenta, strict=True):
            hook.remove()
            if momentum is not None:
                norm.momentum = momentum
    return {norm: found.moments() for norm, found in sums.items()}


class _Sums:
    """Over batches: (mean, unbiased variance) as tracked; (mean, square) of all values by hand."""

    def __init__(self) -> None:
        self._batches = self._values = 0
        self._tracked: Tensor | float = 0.0
        self._pooled: Tensor | float = 0.0
        self._entered: Tensor | None = None

    def enter(self, _norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Keep a batch until it is known of which shape the statistics are."""
        self._entered = inputs[0].detach()

    def add(self, running: tuple[Tensor, Tensor]) -> None:
        """Count the batch, whose statistics are the running ones now."""
        assert self._entered is not None
        shape, features = running[0].shape, widen(self._entered)
        over = [0, *range(1 + len(shape), features.ndim)]
        values = features.numel() // shape.numel()
        variance, mean = torch.var_mean(features, over, correction=0)
        mean, variance = mean.double(), variance.double()
        self._tracked = self._tracked + torch.stack(running).double()
        self._pooled = self._pooled + values * torch.stack([mean, variance + mean.square()])
        self._batches, self._values, self._entered = self._batches + 1, self._values + values, None

    def moments(self) -> Moments:
        """Of all batches so far, one at least."""
        mean, variance = torch.as_tensor(self._tracked / self._batches)
        pooled, square = torch.as_tensor(self._pooled / self._values)
        return Moments(mean, variance, pooled, (square - pooled.square()).clamp(min=0))


def _forget(norm: nn.Module) -> None:
    """Let the next batch's statistics be the running ones, whatever these are."""
    if isinstance(norm, CaffeBatchNorm):
        kept = [norm.sum_mean, norm.sum_var, norm.factor]
    else:
        kept = list(_running(norm))
        norm.momentum = 1.0  # type: ignore[assignment]
    for buffer in kept:
        buffer.zero_()


def _running(norm: nn.Module) -> tuple[Tensor, Tensor]:
    mean, variance = norm.running_mean, norm.running_var
    assert isinstance(mean, Tensor)
    assert isinstance(variance, Tensor)
    return mean, variance


def set_statistics(norm: nn.Module, mean: Tensor, variance: Tensor) -> None:
    """Let a normalizer that tracks be tested by these."""
    if isinstance(norm, CaffeBatchNorm):
        norm.sum_mean.copy_(mean)
        norm.sum_var.copy_(variance)
        norm.factor.fill_(1)
        return
    for running, value in zip(_running(norm), (mean, variance), strict=True):
        running.copy_(value)


@contextmanager
def in_training(norms: list[nn.Module]) -> Iterator[None]:
    """Let these normalizers, and nothing else, behave as in training."""
    for norm in norms:
        norm.train()
    try:
        yield
    finally:
        for norm in norms:
            norm.eval()


@contextmanager
def of_whole_batches(norms: list[nn.Module]) -> Iterator[None]:
    """Take ghost batches as large as they come."""
    sizes = [(norm, norm.ghost_size) for norm in norms if hasattr(norm, "ghost_size")]
    try:
        for norm, _ in sizes:
            norm.ghost_size = LARGE_BATCH  # type: ignore[assignment]
        yield
    finally:
        for norm, size in sizes:
            norm.ghost_size = size
