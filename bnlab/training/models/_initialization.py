"""How weights start: each parameter from a random stream of its own.

A normalizer, or its place, therefore changes no weight that two arms share.
"""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from bnlab.config import InitConfig
from bnlab.training.models._activations import GAINS
from bnlab.training.models._roles import roles
from bnlab.training.streams import stream

INITS: Mapping[str, Callable[[Tensor, float, torch.Generator], object]] = {
    "he_normal": lambda weight, gain, generator: nn.init.normal_(
        weight, std=gain / math.sqrt(weight[0].numel()), generator=generator
    ),
    # U(-1/sqrt(fan_in), 1/sqrt(fan_in)), in the words of torch's own layers.
    "torch_default": lambda weight, _, generator: nn.init.kaiming_uniform_(
        weight, a=5**0.5, generator=generator
    ),
    "xavier_normal": lambda weight, _, generator: nn.init.xavier_normal_(
        weight, generator=generator
    ),
    "orthogonal": lambda weight, _, generator: nn.init.orthogonal_(weight, generator=generator),
    "normal_small": lambda weight, _, generator: nn.init.normal_(
        weight, std=0.01, generator=generator
    ),
}
"""How the weight of a convolution or linear layer starts, by `model.init.name`; given the weight,
the gain that suits the activation (He et al. 2015, arXiv:1502.01852), and the random stream."""


def initialize(
    model: nn.Module, config: InitConfig, seed: int, *, activation: str = "relu"
) -> None:
    """Draw weights and biases of all convolutions and linear layers anew, in place.

    Args:
        model: The network; the last of these layers is its classifier, which takes no gain.
        config: The scheme and its gain.
        seed: Seed of the run.
        activation: As `model.activation` has it.
    """
    weighted = roles(model).weighted
    classifier = next(reversed(weighted), None)
    with torch.no_grad():
        for name, layer in weighted.items():
            generator = stream(seed, "init", f"{name}.weight")
            INITS[config.name](layer.weight, GAINS[activation], generator)
            if name != classifier:
                layer.weight.mul_(config.gain)
            if layer.bias is None:
                continue
            if config.name == "torch_default":
                bound = layer.weight[0].numel() ** -0.5
                generator = stream(seed, "init", f"{name}.bias")
                nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
            else:
                nn.init.zeros_(layer.bias)
