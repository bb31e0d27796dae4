"""Distributions inside the network: mean and spread of pre-activations, dead ReLU units."""

import torch
from torch import nn

from bnlab.training.models import outputs_of, roles
from bnlab.training.probes import PROBES
from bnlab.training.probes._base import Sample
from bnlab.training.probes._channels import mean_and_std


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
            mean, std = mean_and_std(output)
            values[f"probe/activation_mean/{name}"] = float(mean.abs().median())
            values[f"probe/activation_std/{name}"] = float(std.median())
    return values
