"""The nonlinearities that a configuration can name, and the gains that suit them."""

import math
from collections.abc import Callable, Mapping

from torch import nn

ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}
"""By `model.activation`; torch's defaults (a slope of 0.01, GELU by the error function)."""

GAINS: Mapping[str, float] = {
    "relu": math.sqrt(2),
    "leaky_relu": math.sqrt(2 / (1 + 0.01**2)),
    "tanh": 5 / 3,
    "sigmoid": 1.0,
    "gelu": 1.5335,
    "silu": 1.6765,
}
"""Factor on 1/sqrt(fan_in) for He's initialization: torch.nn.init.calculate_gain's, and where it
has none, that which keeps the mean square of N(0, 1): 1/sqrt(E[f(z)^2])."""
