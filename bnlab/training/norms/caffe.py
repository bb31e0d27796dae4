"""Batch normalization as Caffe has it, with its bias-corrected moving average."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnlab.config import NormConfig
from bnlab.training.norms import NORMS
from bnlab.training.norms._affine import Affine


class CaffeBatchNorm(Affine):
    """Caffe's BatchNorm layer, followed by its Scale layer if `affine`.

    Caffe keeps *sums* that start at 0 and are divided by a factor when used: with fraction f, each
    training batch does `factor <- f * factor + 1` and `blob <- f * blob + statistic`, the variance
    with Bessel's correction m / (m - 1). The quotient is a bias-corrected moving average. Before
    the first batch the factor is 0 and so, by definition, are mean and variance: normalizing by
    them multiplies by 1 / sqrt(eps).

    Two deviations from BVLC's layer: with use_global_stats false it lets test batches into its
    blobs too, where this leaves them, so that testing leaves no trace; and of a batch of one value
    a channel, whose output there is 0, torch raises an error here.

    Args:
        channels: Number of channels.
        config: Its moving_average_fraction, use_global_stats, eps and affine are used.
    """

    sum_mean: Tensor
    sum_var: Tensor
    factor: Tensor

    def __init__(self, channels: int, config: NormConfig) -> None:
        super().__init__((channels,), affine=config.affine)
        self.eps = config.eps
        self.fraction = config.moving_average_fraction
        self.use_global_stats = config.use_global_stats
        self.register_buffer("sum_mean", torch.zeros(channels))
        self.register_buffer("sum_var", torch.zeros(channels))
        self.register_buffer("factor", torch.tensor(0.0))

    @property
    def running_mean(self) -> Tensor:
        """Estimate of the mean per channel, read-only."""
        return self.sum_mean * self._inverse_factor()

    @property
    def running_var(self) -> Tensor:
        """Estimate of the variance per channel, read-only."""
        return self.sum_var * self._inverse_factor()

    def _inverse_factor(self) -> Tensor:
        # Not an `if`: reading the factor would make the host wait for the device.
        return torch.where(self.factor == 0, 0, 1 / self.factor)

    def forward(self, features: Tensor) -> Tensor:
        """Normalize by the batch or by the quotients; a training batch enters the sums."""
        by_default = not self.training
        global_stats = by_default if self.use_global_stats is None else self.use_global_stats
        if global_stats:
            return F.batch_norm(
                features, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        # With momentum 1, torch hands back the batch's own mean and unbiased variance.
        mean, variance = torch.zeros_like(self.sum_mean), torch.zeros_like(self.sum_var)
        normalized = F.batch_norm(
            features, mean, variance, self.weight, self.bias, True, momentum=1, eps=self.eps
        )
        if self.training:
            with torch.no_grad():
                self.factor.mul_(self.fraction).add_(1)
                self.sum_mean.mul_(self.fraction).add_(mean)
                self.sum_var.mul_(self.fraction).add_(variance)
        return normalized


@NORMS.register("caffe", facts=("batch_statistics", "foldable"))
def caffe(shape: tuple[int, ...], config: NormConfig) -> nn.Module:
    """Caffe's BatchNorm and Scale, as in document 002."""
    return CaffeBatchNorm(shape[0], config)
