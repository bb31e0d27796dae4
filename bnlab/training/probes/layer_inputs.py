"""How far the distributions of layer inputs drift: internal covariate shift as first defined."""

from collections.abc import Mapping
from typing import TypeAlias

import torch
from torch import Tensor, nn

from bnlab.training.models import Dropout, roles
from bnlab.training.probes import PROBES
from bnlab.training.probes._base import Sample, gradients_in, inputs_of, step_by
from bnlab.training.probes._channels import CONSTANT, mean_and_std

Moments: TypeAlias = Mapping[str, Tensor]
"""By layer, mean and standard deviation of each channel of its input: (2, channels), fp64."""

DROPOUTS = (Dropout, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)


@PROBES.register("layer_inputs", facts=("remembers",))
def layer_inputs(model: nn.Module, sample: Sample) -> dict[str, float]:
    """Change of the inputs of every convolution and linear layer, behind norm and ReLU.

    Internal covariate shift as Ioffe and Szegedy (2015, section 1) mean it, in two moments. Per
    layer, medians over channels of

    - `probe/drift_mean_<span>/<layer>`: |change of the mean| / earlier standard deviation;
    - `probe/drift_sd_<span>/<layer>`: |change of the standard deviation|, in octaves (log2),

    where the span is `epoch` (from the end of the epoch before, or the start of training, to here)
    or `step` (from here to after the step that training takes next). Moments are over images and
    positions, in training mode, without dropout, whose noise is no drift; that of a normalizer is.
    Channels that are constant at either end are dropped. The first layer, whose input are the
    images, has none. A step is as large as the learning rate of the moment: by a schedule that ends
    at 0 the last epoch's is small.
    """
    values = dict[str, float]()
    now = _moments(model, sample)
    place = "layer_inputs/{}".format
    if all(place(layer) in sample.memory for layer in now):
        values |= _drift("epoch", {layer: sample.memory[place(layer)] for layer in now}, now)
    sample.memory.update({place(layer): moments.cpu() for layer, moments in now.items()})
    if sample.ahead is not None:
        optimizer, batches = sample.ahead()
        parameters = list(model.parameters())
        step_by(optimizer, parameters, gradients_in(model, next(batches), parameters)[1])
        values |= _drift("step", now, _moments(model, sample))
    return values


def _moments(model: nn.Module, sample: Sample) -> Moments:
    """Of the inputs of all layers but the first."""
    dropouts = [module for module in model.modules() if isinstance(module, DROPOUTS)]
    for dropout in dropouts:
        dropout.eval()
    with (
        torch.no_grad(),
        inputs_of(
            roles(model).weighted, lambda entered: torch.stack(mean_and_std(entered))
        ) as seen,
    ):
        model(sample.images)
    for dropout in dropouts:
        dropout.train()
    return dict(list(seen.items())[1:])


def _drift(span: str, before: Moments, after: Moments) -> dict[str, float]:
    values = {}
    for layer, (new_mean, new_sd) in after.items():
        mean, sd = before[layer].to(new_mean.device)
        varies = (sd > CONSTANT * mean.abs()) & (new_sd > CONSTANT * new_mean.abs())
        for moment, change in (
            ("mean", (new_mean - mean).abs() / sd),
            ("sd", (new_sd / sd).log2().abs()),
        ):
            # Not by picking channels, whose number a GPU would be waited for to tell.
            median = torch.where(varies, change, torch.nan).nanmedian()
            values[f"probe/drift_{moment}_{span}/{layer}"] = float(median)
    return values
