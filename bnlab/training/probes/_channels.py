"""Moments of features per channel, over images and positions."""

from collections.abc import Callable

import torch
from torch import Tensor

CONSTANT = 1e-6
"""A channel with a standard deviation below this part of its mean is constant but for rounding."""

PART_IMAGES = 8
"""Images per part of a sum on a CPU."""


def mean_and_std(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per channel, (channels,) each in fp64."""
    count = features[:, 0].numel()
    mean = sum_over(features, lambda rows: rows.sum(0)) / count
    squares = sum_over(features, lambda rows: (rows - mean.to(rows)).square_().sum(0))
    return mean, (squares / (count - 1)).sqrt()


def sum_over(features: Tensor, of: Callable[[Tensor], Tensor]) -> Tensor:
    """A sum over images and positions, in fp64; fp32 within a part.

    On a CPU part by part, so that a part stays in its cache between its passes: over the whole of
    67 million values at once this takes four times as long. A GPU would mostly wait for launches.

    Args:
        features: (images, channels, ...).
        of: From values (images and positions, channels) to their share of the sum.
    """
    size = PART_IMAGES if features.device.type == "cpu" else len(features)
    total = torch.zeros((), dtype=torch.float64, device=features.device)
    for part in features.split(size):
        rows = part.movedim(1, -1).reshape(-1, part.shape[1])  # no copy of channels_last
        total = total + of(rows if rows.dtype == torch.float64 else rows.float())
    return total
