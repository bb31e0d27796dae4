"""Dropout, drawn from a stream of its own."""

import torch
from torch import Tensor

from bnlab.training.streams import Stochastic


class Dropout(Stochastic):
    """Inverted dropout that draws from a stream of its own.

    Args:
        probability: Chance of dropping a unit; the others are divided by 1 - probability.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.keep = 1 - probability

    def forward(self, features: Tensor) -> Tensor:
        """Drop units in training; the identity in eval mode."""
        if not self.training:
            return features
        kept = torch.empty_like(features).bernoulli_(
            self.keep, generator=self.generator(features.device)
        )
        return features * kept.div_(self.keep)
