"""torch's convolution, without the two things that cost a GPU more than the products."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHANNELS_AT_ONCE = 8
"""Tensor cores take input channels by eights; for other numbers cuDNN has no fast kernels."""


class Conv2d(nn.Conv2d):
    """The same sums; on a GPU some of them in another order.

    On an H100 a training step of document 001's network in bf16 takes 900 us, 96 of them for the
    gradients of the convolutions' biases, which torch sums in one pass with too few threads, and
    45 for the weight gradient of the first layer, which has three input channels.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's name)
        """Convolve (images, channels, height, width)."""
        if not input.is_cuda or torch.compiler.is_compiling() or self.groups > 1:
            return super().forward(input)
        weight = self.weight
        if missing := -self.in_channels % CHANNELS_AT_ONCE:
            more = (0, 0, 0, 0, 0, missing)
            input, weight = F.pad(input, more), F.pad(weight, more)  # noqa: A001
        features = F.conv2d(input, weight, None, self.stride, self.padding, self.dilation)
        if self.bias is None:
            return features
        added: Tensor = AddBias.apply(features, self.bias)  # type: ignore[no-untyped-call]
        return added


class AddBias(torch.autograd.Function):
    """`features + bias`, the bias's gradient summed in two passes: positions, then images."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, bias: Tensor) -> Tensor:  # noqa: ARG004 - torch's signature
        """Features (images, channels, height, width) and a bias a channel, in features' dtype."""
        return features + bias.to(features.dtype).view(1, -1, 1, 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG004
        """The gradients of features and bias; the latter in fp32 at the least."""
        dtype = torch.promote_types(grad.dtype, torch.float32)
        return grad, grad.sum((2, 3), dtype=dtype).sum(0)
