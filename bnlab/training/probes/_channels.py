"""Moments of features per channel, over images and positions."""

from collections.abc import Callable

import torch
from torch import Tensor

CONSTANT = 1e-6
"""A channel with a standard deviation below this part of its mean is constant but for rounding."""

PART_IMAGES = 8
"""Images per part of a sum on a CPU."""


def mean_and_std(output: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per channel, (channels,) each in fp64.

    On a CPU part by part, so that a part stays in its cache between its passes: over the whole of
    67 million values at once this takes four times as long. A GPU would mostly wait for launches.
    """
    count = output[:, 0].numel()
    mean = _sum_of(output, lambda rows: rows) / count
    centered = _sum_of(output, lambda rows: (rows - mean.to(rows.dtype)).square_())
    return mean, (centered / (count - 1)).sqrt()


def _sum_of(output: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """The sum of changed values per channel, (channels,) in fp64; fp32 within a part."""
    total = torch.zeros(output.shape[1], dtype=torch.float64, device=output.device)
    for part in output.split(PART_IMAGES if output.device.type == "cpu" else len(output)):
        rows = part.movedim(1, -1).reshape(-1, output.shape[1])  # no copy of channels_last
        wide = rows if rows.dtype == torch.float64 else rows.float()
        total += change(wide).sum(0)
    return total
