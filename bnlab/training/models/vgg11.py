"""VGG-11 for small images."""

from torch import nn

from bnlab.config import ModelConfig
from bnlab.training.models import MODELS, Shape
from bnlab.training.models.convnet import convnet

STAGES = (1, 2, 4, 8, 8)
"""Channels of each stage, in widths of the first."""

DEPTHS = (1, 1, 2, 2, 2)


@MODELS.register("vgg11")
def vgg11(config: ModelConfig, in_shape: Shape, num_classes: int, seed: int) -> nn.Module:
    """Configuration A of Simonyan and Zisserman 2015 (arXiv:1409.1556) with one linear layer.

    Eight convolutions, numbered through, each stage pooled. On images of 32 x 32 nothing is left
    for the paper's three linear layers; one classifier is what CIFAR's versions have.
    """
    widths = tuple(config.width * stage for stage in STAGES)
    shape = {"widths": widths, "depths": DEPTHS, "hidden": (), "residual": False, "dropout": 0.0}
    return convnet(config.model_copy(update=shape), in_shape, num_classes, seed)
