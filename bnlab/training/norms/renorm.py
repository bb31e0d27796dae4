"""Batch renormalization: batch statistics, corrected towards the running ones."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnlab.config import NormConfig
from bnlab.training.norms import NORMS
from bnlab.training.norms._affine import RunningAffine, align, widen


class BatchRenorm(RunningAffine):
    """Batch renormalization (Ioffe 2017, arXiv:1702.03275).

    Features normalized by their batch are mapped by `x * r + d`, with `r = sigma_B / sigma` and
    `d = (mu_B - mu) / sigma` taken for constants by the gradient. Within their bounds, 1 / r_max to
    r_max and -d_max to d_max, training computes what testing does. The bounds open evenly over the
    first `renorm_steps` steps from 1 and 0, at which this is batch norm.

    The paper holds them at 1 and 0 for 5,000 steps, then opens the two at different paces; and it
    averages standard deviations where this, as torch does, averages variances.

    Args:
        channels: Number of channels.
        config: Its r_max, d_max, renorm_steps, momentum, eps and affine are used.
    """

    def __init__(self, channels: int, config: NormConfig) -> None:
        super().__init__((channels,), config)
        self.r_max, self.d_max, self.steps = config.r_max, config.d_max, config.renorm_steps

    def forward(self, features: Tensor) -> Tensor:
        """Normalize by the batch and correct; in eval mode by the running estimates."""
        if not self.training:
            return self.normalize(features)
        # With momentum 1, torch hands back the batch's own mean and unbiased variance.
        mean, variance = torch.zeros_like(self.running_mean), torch.zeros_like(self.running_var)
        plain = F.batch_norm(features, mean, variance, training=True, momentum=1, eps=self.eps)
        samples = features.numel() // features.shape[1]
        biased = variance * ((samples - 1) / samples)
        sigma = (self.running_var + self.eps).sqrt()
        # Tensors, not numbers: reading how far it is would make the host wait for the device.
        opened = (self.num_batches_tracked / max(1, self.steps)).clamp(max=1)
        if self.steps == 0:
            opened = torch.ones_like(opened)
        r_max, d_max = 1 + opened * (self.r_max - 1), opened * self.d_max
        r = ((biased + self.eps).sqrt() / sigma).clamp(1 / r_max, r_max)
        d = ((mean - self.running_mean) / sigma).clamp(-d_max, d_max)
        self.track(mean, variance)
        wide = widen(plain)
        return self.scale_and_shift(wide * align(r, wide) + align(d, wide)).to(features.dtype)


@NORMS.register("renorm", facts=("batch_statistics", "foldable"))
def renorm(shape: tuple[int, ...], config: NormConfig) -> nn.Module:
    """Batch renormalization, which opens from batch norm towards running statistics."""
    return BatchRenorm(shape[0], config)
