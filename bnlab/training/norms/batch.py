"""Batch normalization, by torch."""

from torch import nn

from bnlab.config import NormConfig
from bnlab.training.norms import NORMS


@NORMS.register("batch", facts=("batch_statistics",))
def batch(shape: tuple[int, ...], config: NormConfig) -> nn.Module:
    """Torch's batch normalization (Ioffe & Szegedy 2015)."""
    kind = nn.BatchNorm1d if len(shape) == 1 else nn.BatchNorm2d
    return kind(shape[0], eps=config.eps, momentum=config.momentum, affine=config.affine)
