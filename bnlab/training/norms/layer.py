"""Layer normalization."""

from torch import nn

from bnlab.config import NormConfig
from bnlab.training.norms import NORMS
from bnlab.training.norms._group import group_norm


@NORMS.register("layer")
def layer(shape: tuple[int, ...], config: NormConfig) -> nn.Module:
    """Layer normalization (Ba et al. 2016): over all features of an image, affine per channel."""
    return group_norm(shape, 1, config)
