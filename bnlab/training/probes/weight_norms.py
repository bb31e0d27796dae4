"""Norms of filters, their growth, and the learning rate that they leave (van Laarhoven 2017)."""

import torch
from torch import Tensor, nn

from bnlab.training.models import roles
from bnlab.training.probes import PROBES
from bnlab.training.probes._base import Sample, gradients_in

SCALE_FREE = 1e-3
"""Cosine of a filter and its gradient below which the filter's scale does not matter: it is then
rounding, where chance alone gives 0.015 for a filter of 4,608 weights."""


@PROBES.register("weight_norms", facts=("remembers",))
def weight_norms(model: nn.Module, sample: Sample) -> dict[str, float]:
    """Per layer, the norms of its filters (rows, of a linear layer) and what they do to learning.

    - `probe/filter_norm_low/<layer>`, `..._median/...`, `..._high/...`: quantiles .1, .5 and .9;
    - `probe/weight_growth/<layer>`: log2 of the weight's norm over that before the first step;
    - `probe/radial_gradient/<layer>`: cosine of a filter and its gradient on the next training
      batch, root mean square over filters. It is 0 where the scale of a filter does not matter, as
      in front of batch normalization. By plain gradient descent such a filter can only grow;
    - `probe/effective_lr/<layer>`: the peak learning rate over the squared norm of the median
      filter, for layers of that kind alone: by it the direction of a filter learns (van Laarhoven
      2017, arXiv:1706.05350). A schedule's factor comes on top, and 1 / (1 - momentum).
    """
    values, layers = dict[str, float](), roles(model).weighted
    norms = {name: _by_filter(layer.weight).norm(dim=1) for name, layer in layers.items()}
    quantiles = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    for name, found in norms.items():
        spread = found.quantile(quantiles.to(found)).tolist()
        for part, value in zip(("low", "median", "high"), spread, strict=True):
            values[f"probe/filter_norm_{part}/{name}"] = value
        key, whole = f"weight_norms/{name}", found.norm()
        if key in sample.memory:
            growth = (whole / sample.memory[key].to(whole)).log2()
            values[f"probe/weight_growth/{name}"] = float(growth)
        else:
            sample.memory[key] = whole.cpu()
    if sample.ahead is None:
        return values
    optimizer, batches = sample.ahead()
    weights = [layer.weight for layer in layers.values()]
    _, grads = gradients_in(model, next(batches), weights)
    for (name, found), weight, grad in zip(norms.items(), weights, grads, strict=True):
        slopes = _by_filter(grad)
        cosines = (_by_filter(weight) * slopes).sum(1) / (found * slopes.norm(dim=1))
        radial = values[f"probe/radial_gradient/{name}"] = float(cosines.square().nanmean().sqrt())
        if radial < SCALE_FREE:
            lr, median = optimizer.defaults["lr"], values[f"probe/filter_norm_median/{name}"]
            values[f"probe/effective_lr/{name}"] = float(lr) / median**2
    return values


def _by_filter(weight: Tensor) -> Tensor:
    """(filters, weights of one), fp64."""
    return weight.detach().flatten(1).double()
