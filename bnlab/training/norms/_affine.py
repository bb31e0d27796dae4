"""What normalizers are made of: the affine map, running estimates, and fp32 in between."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnlab.config import NormConfig


class Affine(nn.Module):
    """`weight * features + bias`, the second half of every normalizer.

    Args:
        shape: Shape of `weight` and `bias`: (channels,), or that of one image's features.
        affine: False for no parameters at all (`weight` and `bias` are None).
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(self, shape: tuple[int, ...], *, affine: bool = True) -> None:
        super().__init__()
        self.register_parameter("weight", nn.Parameter(torch.ones(shape)) if affine else None)
        self.register_parameter("bias", nn.Parameter(torch.zeros(shape)) if affine else None)

    def scale_and_shift(self, features: Tensor) -> Tensor:
        """The affine map; `features` as they are without parameters."""
        if self.weight is None or self.bias is None:
            return features
        return features * align(self.weight, features) + align(self.bias, features)

    def forward(self, features: Tensor) -> Tensor:
        """The affine map in the input's dtype."""
        return self.scale_and_shift(widen(features)).to(features.dtype)


class RunningAffine(Affine):
    """An affine map with torch's running estimates of mean and variance.

    Args:
        shape: Shape of the statistics and of the parameters.
        config: Its momentum, eps and affine are used.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, shape: tuple[int, ...], config: NormConfig) -> None:
        super().__init__(shape, affine=config.affine)
        self.momentum, self.eps = config.momentum, config.eps
        self.register_buffer("running_mean", torch.zeros(shape))
        self.register_buffer("running_var", torch.ones(shape))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def track(self, mean: Tensor, unbiased_variance: Tensor) -> None:
        """Let the statistics of one batch into the running ones."""
        with torch.no_grad():
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_(unbiased_variance.to(self.running_var.dtype), self.momentum)
            self.num_batches_tracked.add_(1)

    def normalize(self, features: Tensor) -> Tensor:
        """Torch's batch normalization in the mode the module is in, affine map included."""
        if self.training:
            self.num_batches_tracked.add_(1)
        return F.batch_norm(
            features,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training,
            self.momentum,
            self.eps,
        )


def align(values: Tensor, features: Tensor) -> Tensor:
    """Per-channel values in the shape that broadcasts over (images, channels, ...)."""
    return values.reshape(*values.shape, *[1] * (features.ndim - 1 - values.ndim))


def require_samples(features: Tensor, samples: int) -> None:
    """Refuse to normalize by a batch in which every feature has one value: all would be zero."""
    if samples < 2:
        raise ValueError(
            "Expected more than 1 value per channel when training, got input size "
            f"{tuple(features.shape)}"
        )


def widen(features: Tensor) -> Tensor:
    """Half precision as fp32; fp32 and fp64 as they are."""
    return features.float() if features.dtype in (torch.bfloat16, torch.float16) else features


def laid_out_like(features: Tensor, normalized: Tensor) -> Tensor:
    """The normalized features in the memory layout of the features, if that is channels_last.

    A layer behind would else work in one layout and its neighbors in another.
    """
    if features.ndim == 4 and features.is_contiguous(memory_format=torch.channels_last):
        return normalized.contiguous(memory_format=torch.channels_last)
    return normalized
