"""Batch normalization that already trains with its running statistics."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnlab.config import NormConfig
from bnlab.training.norms import NORMS
from bnlab.training.norms._affine import RunningAffine, require_samples, widen


class RunningBatchNorm(RunningAffine):
    """Normalization by the running statistics in training, too.

    A training batch first enters them, as in `batch`, and is then normalized by them, and the
    gradient takes them for constants: what Ioffe and Szegedy (2015, section 2) found to let
    parameters grow without end, as a step does not see that the normalization undoes it. With a
    momentum of 1 the statistics are the batch's, and the gradient alone differs from `batch`.

    Args:
        channels: Number of channels.
        config: Its momentum, eps and affine are used.
    """

    def __init__(self, channels: int, config: NormConfig) -> None:
        super().__init__((channels,), config)

    def forward(self, features: Tensor) -> Tensor:
        """Let a training batch into the running statistics; normalize by them in either mode."""
        if self.training:
            require_samples(features, features.numel() // features.shape[1])
            over = [axis for axis in range(features.ndim) if axis != 1]
            variance, mean = torch.var_mean(widen(features.detach()), over)
            self.track(mean, variance)
        return F.batch_norm(
            features, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
        )


@NORMS.register("running", facts=("batch_statistics", "foldable"))
def running(shape: tuple[int, ...], config: NormConfig) -> nn.Module:
    """Running statistics in training and in testing."""
    return RunningBatchNorm(shape[0], config)
