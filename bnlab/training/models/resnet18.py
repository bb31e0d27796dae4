"""ResNet-18 for small images."""

from collections import OrderedDict
from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import skip_init

from bnlab.config import ModelConfig
from bnlab.errors import ConfigError
from bnlab.training.models import ACTIVATIONS, MODELS, Shape
from bnlab.training.models._conv import Conv2d
from bnlab.training.norms import build_norm

STAGES = (1, 2, 4, 8)
"""Channels of each stage of two blocks, in widths of the first; each but the first halves sides."""

ORDERS: Mapping[str, tuple[str, ...]] = {
    "before_activation": ("conv", "norm", "add", "activation"),
    "after_activation": ("conv", "add", "activation", "norm"),
    "before_conv": ("norm", "conv", "add", "activation"),
    "both": ("conv", "norm", "add", "activation", "norm2"),
}
"""Parts around a convolution by placement, in order; `add` is where a block's shortcut ends."""


class Block(nn.Module):
    """Two convolutions and a shortcut around them.

    Args:
        inner: From the block's input to where the shortcut ends.
        outer: What follows there.
        shortcut: What the input passes on the other way.
    """

    def __init__(self, inner: nn.Module, outer: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.inner, self.shortcut, self.outer = inner, shortcut, outer

    def forward(self, features: Tensor) -> Tensor:
        """Both ways, added."""
        through: Tensor = self.inner(features) + self.shortcut(features)
        outer: Tensor = self.outer(through)
        return outer


class GlobalMean(nn.Module):
    """The mean over positions."""

    def forward(self, features: Tensor) -> Tensor:
        """(images, channels, height, width) to (images, channels)."""
        return F.adaptive_avg_pool2d(features, 1).flatten(1)


class _Builder:
    """Makes the parts of one network, keeping account of the shape of features."""

    def __init__(self, config: ModelConfig, shape: Shape) -> None:
        if config.norm.placement not in ORDERS and config.norm.name != "none":
            raise ConfigError(
                f"model.norm.placement: {config.norm.placement}: resnet18 pools nowhere but at its "
                f"end; use {', '.join(ORDERS)}"
            )
        self.config, self.shape = config, shape

    def unit(self, number: str, width: int, stride: int) -> tuple[nn.Sequential, nn.Sequential]:
        """A convolution with what belongs to it, before and after the end of a shortcut."""
        norm = self.config.norm
        has_norm = norm.name != "none" and norm.conv
        halves = (OrderedDict[str, nn.Module](), OrderedDict[str, nn.Module]())
        behind = 0
        for part in ORDERS.get(norm.placement, ORDERS["before_activation"]):
            if part == "add":
                behind = 1
            elif part == "conv":
                halves[behind][f"conv{number}"] = self.convolution(width, 3, stride)
            elif part == "activation":
                name = self.config.activation
                halves[behind][f"{name}{number}"] = ACTIVATIONS[name]()
            elif has_norm:
                halves[behind][f"{part}{number}"] = build_norm(self.shape, norm)
        return nn.Sequential(halves[0]), nn.Sequential(halves[1])

    def convolution(self, width: int, size: int, stride: int) -> nn.Module:
        """A convolution; what follows sees its shape."""
        channels, *sides = self.shape
        self.shape = (width, *(-(-side // stride) for side in sides))
        made: nn.Module = skip_init(
            Conv2d, channels, width, kernel_size=size, stride=stride, padding=size // 2
        )
        return made

    def block(self, width: int, stride: int) -> Block:
        """A basic block (He et al. 2016, option B of the shortcut)."""
        entered = self.shape
        first = self.unit("1", width, stride)
        second, outer = self.unit("2", width, 1)
        left, self.shape = self.shape, entered
        shortcut: nn.Module = nn.Identity()
        if entered != left:
            parts = OrderedDict[str, nn.Module](conv=self.convolution(width, 1, stride))
            if self.config.norm.name != "none" and self.config.norm.conv:
                parts["norm"] = build_norm(self.shape, self.config.norm)
            shortcut = nn.Sequential(parts)
        inner = OrderedDict[str, nn.Module]()
        for part in (*first, second):
            inner |= dict(part.named_children())
        return Block(nn.Sequential(inner), outer, shortcut)


@MODELS.register("resnet18")
def resnet18(
    config: ModelConfig,
    in_shape: Shape,
    num_classes: int,
    seed: int,  # noqa: ARG001 - it draws nothing
) -> nn.Sequential:
    """ResNet-18 (He et al. 2016, arXiv:1512.03385) as CIFAR's versions have it.

    A first convolution of 3 x 3 without stride or pooling, four stages of two blocks, the mean over
    positions, a classifier. Convolutions have biases, in every arm, for without a normalizer they
    need them. A shortcut that changes shape is a convolution of 1 x 1, behind which its normalizer
    stands in every placement: it has no activation.
    """
    builder = _Builder(config, in_shape)
    layers = OrderedDict[str, nn.Module]()
    inner, outer = builder.unit("", config.width, 1)
    stem = OrderedDict([*inner.named_children(), *outer.named_children()])
    layers["stem"] = nn.Sequential(stem)
    for stage, factor in enumerate(STAGES, 1):
        blocks = [
            builder.block(config.width * factor, 2 if first and stage > 1 else 1)
            for first in (True, False)
        ]
        layers[f"stage{stage}"] = nn.Sequential(*blocks)
    layers["mean"] = GlobalMean()
    layers["classifier"] = skip_init(nn.Linear, builder.shape[0], num_classes)
    return nn.Sequential(layers)
