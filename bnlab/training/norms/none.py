"""No normalization."""

from torch import nn

from bnlab.config import NormConfig
from bnlab.training.norms import NORMS


@NORMS.register("none")
def none(shape: tuple[int, ...], config: NormConfig) -> nn.Module:  # noqa: ARG001
    """No normalization."""
    return nn.Identity()
