"""Distributions inside the network: mean and spread of pre-activations, dead ReLU units."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from bnlab.training.models import outputs_of, roles
from bnlab.training.probes import PROBES
from bnlab.training.probes._base import Sample

PART_IMAGES = 8
"""Images per part of a sum on a CPU."""


@PROBES.register("activations")
def activations(model: nn.Module, sample: Sample) -> dict[str, float]:
    """Per layer, medians over channels of |mean| and standard deviation, and the dead fraction.

    `probe/activation_mean/<layer>` and `probe/activation_std/<layer>` describe the layer's own
    output (before any normalizer). Statistics are taken per channel, over images and positions:
    pooled over channels they would hide that single channels have become constant. A unit is dead
    (`probe/dead/<relu>`) if its activation is zero on every image and position.
    """
    found = roles(model)
    relus = {name: layer for name, layer in found.activations.items() if isinstance(layer, nn.ReLU)}
    with torch.no_grad(), outputs_of({**found.weighted, **relus}) as outputs:
        model(sample.images)
    values: dict[str, float] = {}
    for name, output in outputs.items():
        if name in relus:
            over = [axis for axis in range(output.ndim) if axis != 1]  # all but channels
            values[f"probe/dead/{name}"] = float((output.amax(over) <= 0).double().mean())
        else:
            mean, std = _mean_and_std(output)
            values[f"probe/activation_mean/{name}"] = float(mean.abs().median())
            values[f"probe/activation_std/{name}"] = float(std.median())
    return values


def _mean_and_std(output: Tensor) -> tuple[Tensor, Tensor]:
    """Per channel, each (channels,) in fp64, over images and positions.

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
