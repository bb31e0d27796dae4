"""Distributions inside the network: mean and spread of pre-activations, dead ReLU units."""

import torch
from torch import Tensor, nn

from bnlab.probes.base import PROBES, outputs_of


@PROBES.register("activations")
def activations(model: nn.Sequential, images: Tensor, _labels: Tensor) -> dict[str, float]:
    """Per layer, medians over channels of |mean| and standard deviation, and the dead fraction.

    `probe/activation_mean/<layer>` and `probe/activation_std/<layer>` describe the layer's own
    output (before any normalizer). Statistics are taken per channel, over images and positions:
    pooled over channels they would hide that single channels have become constant. A unit is dead
    (`probe/dead/<layer>_relu`) if its activation is zero on every image and position.
    """
    with torch.no_grad(), outputs_of(model, (nn.Conv2d, nn.Linear, nn.ReLU)) as outputs:
        model(images)
    values: dict[str, float] = {}
    for name, output in outputs.items():
        over = [axis for axis in range(output.ndim) if axis != 1]  # all but channels
        if name.endswith("_relu"):
            values[f"probe/dead/{name}"] = float((output.amax(over) <= 0).double().mean())
        else:
            # Not in fp64, and not by torch.std: a quarter of the time, over 67 million values.
            wide = output if output.dtype == torch.float64 else output.float()
            mean = wide.mean(over, keepdim=True)
            std = ((wide - mean).square_().sum(over) / (wide[:, 0].numel() - 1)).sqrt()
            values[f"probe/activation_mean/{name}"] = float(mean.abs().median())
            values[f"probe/activation_std/{name}"] = float(std.median())
    return values
