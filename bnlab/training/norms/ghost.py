"""Batch normalization over sub-batches."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnlab.config import NormConfig
from bnlab.training.norms import NORMS
from bnlab.training.norms._affine import RunningAffine, laid_out_like


class GhostBatchNorm(RunningAffine):
    """Batch normalization over consecutive sub-batches (Hoffer et al. 2017).

    A last sub-batch of one image joins the one before. The running statistics get the mean of the
    sub-batches' statistics, weighted by their images: one update a step, as in `batch`.

    Args:
        channels: Number of channels.
        config: Its ghost_size, momentum, eps and affine are used.
    """

    def __init__(self, channels: int, config: NormConfig) -> None:
        super().__init__((channels,), config)
        self.ghost_size = config.ghost_size

    def forward(self, features: Tensor) -> Tensor:
        """Normalize each sub-batch by itself; in eval mode all by the running estimates."""
        if not self.training:
            return self.normalize(features)
        images = len(features)
        mean, variance = torch.zeros_like(self.running_mean), torch.zeros_like(self.running_var)
        normalized, start = [], 0
        for ghosts, size in ghost_batches(images, self.ghost_size):
            part = features[start : start + ghosts * size]
            outcome, means, variances = self._normalize_ghosts(part, ghosts)
            normalized.append(outcome)
            mean.add_(means.sum(0), alpha=size / images)
            variance.add_(variances.sum(0), alpha=size / images)
            start += ghosts * size
        self.track(mean, variance)
        whole = torch.cat(normalized) if len(normalized) > 1 else normalized[0]
        return laid_out_like(features, whole)

    def _normalize_ghosts(self, features: Tensor, ghosts: int) -> tuple[Tensor, Tensor, Tensor]:
        """Sub-batches of one size; also their means and unbiased variances (ghosts, channels).

        One call does them all: `ghosts` batch norms over C channels are one over ghosts * C.
        """
        channels = features.shape[1]
        side_by_side = features.unflatten(0, (ghosts, -1)).transpose(0, 1).flatten(1, 2)
        mean = self.running_mean.new_zeros(ghosts * channels)
        variance = torch.zeros_like(mean)
        normalized = F.batch_norm(
            side_by_side,
            mean,
            variance,
            None if self.weight is None else self.weight.repeat(ghosts),
            None if self.bias is None else self.bias.repeat(ghosts),
            training=True,
            momentum=1,
            eps=self.eps,
        )
        apart = normalized.unflatten(1, (ghosts, channels)).transpose(0, 1).flatten(0, 1)
        return apart, mean.view(ghosts, channels), variance.view(ghosts, channels)


def ghost_batches(images: int, size: int) -> list[tuple[int, int]]:
    """How a batch is cut: (number of sub-batches, images in each), at most two kinds.

    Args:
        images: Images in the batch.
        size: Images per sub-batch, at least 2; the last may differ, and has at least 2 if the
            batch has.
    """
    whole, rest = divmod(images, size)
    if rest == 1 and whole:
        whole, rest = whole - 1, size + 1
    return [(count, each) for count, each in ((whole, size), (1, rest)) if count and each]


@NORMS.register("ghost", facts=("batch_statistics", "foldable"))
def ghost(shape: tuple[int, ...], config: NormConfig) -> nn.Module:
    """Batch statistics over `ghost_size` images, whatever the batch size of the optimizer."""
    return GhostBatchNorm(shape[0], config)
