"""Instance normalization."""

from torch import nn

from bnlab.config import NormConfig
from bnlab.training.norms import NORMS
from bnlab.training.norms._group import group_norm


@NORMS.register("instance", facts=("conv_only",))
def instance(shape: tuple[int, ...], config: NormConfig) -> nn.Module:
    """Instance normalization (Ulyanov et al. 2016): each channel of each image by itself."""
    return group_norm(shape, shape[0], config)
