"""The parameters of batch normalization without its statistics."""

from torch import nn

from bnlab.config import NormConfig
from bnlab.training.norms import NORMS
from bnlab.training.norms._affine import Affine


@NORMS.register("affine_only", facts=("foldable",))
def affine_only(shape: tuple[int, ...], config: NormConfig) -> nn.Module:  # noqa: ARG001
    """`weight * features + bias` per channel: batch normalization's parameters, no statistics."""
    return Affine(shape[:1])
