"""Batch normalization whose work is undone by noise."""

import torch
from torch import Tensor, nn

from bnlab.config import NormConfig
from bnlab.training.norms import NORMS
from bnlab.training.norms._affine import RunningAffine, align, widen
from bnlab.training.streams import Stochastic


class NoisyBatchNorm(RunningAffine, Stochastic):
    """Batch normalization whose work is undone by noise, in training (Santurkar et al. 2018).

    After the affine map every activation of every image gets normal noise of its own. The noise's
    mean and standard deviation belong to the channel and are drawn anew each step, the mean from
    U(-noise_mean, noise_mean), the deviation from U(1, noise_std): whatever stability of the
    distributions batch normalization gave, this takes away.

    Unverified: the paper's text says independent noise of a mean that is not 0 and a variance that
    is not 1, both changing in time; that it is added, and the constants 0.5 and 1.25, have not been
    held against its appendix.

    Args:
        channels: Number of channels.
        config: Its noise_mean, noise_std, momentum, eps and affine are used.
    """

    def __init__(self, channels: int, config: NormConfig) -> None:
        super().__init__((channels,), config)
        self.noise_mean, self.noise_std = config.noise_mean, config.noise_std

    def forward(self, features: Tensor) -> Tensor:
        """Batch normalization, plus noise in training."""
        normalized = self.normalize(features)
        if not self.training:
            return normalized
        generator = self.generator(features.device)
        noise = torch.empty_like(widen(normalized)).normal_(generator=generator)
        mean = noise.new_empty(noise.shape[1])
        mean.uniform_(-self.noise_mean, self.noise_mean, generator=generator)
        std = torch.empty_like(mean).uniform_(1, self.noise_std, generator=generator)
        noise.mul_(align(std, noise)).add_(align(mean, noise))
        return (normalized + noise).to(normalized.dtype)


@NORMS.register("noisy_batch", facts=("batch_statistics", "foldable"))
def noisy_batch(shape: tuple[int, ...], config: NormConfig) -> nn.Module:
    """Batch normalization followed by noise of changing mean and variance."""
    return NoisyBatchNorm(shape[0], config)
