"""The conv-norm-ReLU-pool network of the documents, from its configuration.

The network is a flat sequence of named layers in the order data flows through them; where the
normalizer stands is a tuple of part names. Every arm has the same convolutions and linear layers,
biases included.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from bnlab.config import ModelConfig
from bnlab.training.models import ACTIVATIONS, MODELS, Dropout, Shape
from bnlab.training.models._conv import Conv2d
from bnlab.training.norms import NORMS, build_norm

CONV_ORDERS: Mapping[str, tuple[str, ...]] = {
    "before_activation": ("keep", "conv", "norm", "add", "activation", "pool"),
    "after_activation": ("keep", "conv", "add", "activation", "norm", "pool"),
    "after_pool": ("keep", "conv", "add", "activation", "pool", "norm"),
    "before_conv": ("keep", "norm", "conv", "add", "activation", "pool"),
    "both": ("keep", "conv", "norm", "add", "activation", "norm2", "pool"),
}
"""Parts of a convolution block by placement, in order; `keep` and `add` are the two ends of a
shortcut (He et al. 2016, arXiv:1512.03385, around one convolution)."""

FC_ORDERS: Mapping[str, tuple[str, ...]] = {
    "before_activation": ("fc", "norm", "activation", "dropout"),
    "after_activation": ("fc", "activation", "norm", "dropout"),
    "after_pool": ("fc", "activation", "norm", "dropout"),
    "before_conv": ("norm", "fc", "activation", "dropout"),
    "both": ("fc", "norm", "activation", "norm2", "dropout"),
}
"""Parts of a hidden fully connected layer by placement, in order."""

CLASSIFIER = "classifier"


class Keep(nn.Module):
    """The identity at the start of a shortcut, which holds what passes for the shortcut's end."""

    def __init__(self) -> None:
        super().__init__()
        self._kept: Tensor | None = None

    def forward(self, features: Tensor) -> Tensor:
        """The features themselves."""
        self._kept = features
        return features

    def take(self) -> Tensor:
        """What passed last, once."""
        kept, self._kept = self._kept, None
        assert kept is not None
        return kept


class Add(nn.Module):
    """The end of a shortcut: adds what passed at its start.

    Args:
        take: `Keep.take` of the start. A network stays a flat sequence this way.
    """

    def __init__(self, take: Callable[[], Tensor]) -> None:
        super().__init__()
        self._take = take

    def forward(self, features: Tensor) -> Tensor:
        """Features of the same shape as those at the start."""
        return features + self._take()


@MODELS.register("convnet")
def convnet(
    config: ModelConfig,
    in_shape: Shape,
    num_classes: int,
    seed: int,  # noqa: ARG001 - it draws nothing
) -> nn.Sequential:
    """The network of the documents.

    Returns:
        A flat sequence of `conv1`, `conv1_norm`, `conv1_relu`, `conv1_pool`, `conv2`, ...,
        `flatten`, `fc1`, `fc1_norm`, `fc1_relu`, `fc1_dropout`, ..., `classifier`, as far as the
        configuration has them; another activation has its own name there. A second normalizer of a
        block is `conv1_norm2`.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for slot in layout(config, in_shape, num_classes):
        layers[slot.name] = _build_layer(slot, config, layers)
    return nn.Sequential(layers)


@dataclass(frozen=True)
class Slot:
    """One layer of the network.

    Attributes:
        block: `conv1`, `fc1`, ...; also the name of the layer that carries the weights.
        part: What it is: an entry of the orders above, but for `activation` the name of the one
            that is meant; `flatten` or `classifier`.
        shape: Shape of one image's features where it enters.
        width: Output channels of the block's convolution or features of its linear layer.
    """

    block: str
    part: str
    shape: Shape
    width: int

    @property
    def name(self) -> str:
        """The module's name."""
        weighted = self.part in {"conv", "fc"} or self.part == self.block
        return self.block if weighted else f"{self.block}_{self.part}"

    @property
    def out_shape(self) -> Shape:
        """Shape of one image's features where they leave."""
        channels, *size = self.shape
        changed: Mapping[str, Shape] = {
            "conv": (self.width, *size),
            "pool": (channels, *(side // 2 for side in size)),
            "flatten": (torch.Size(self.shape).numel(),),
            "fc": (self.width,),
        }
        return changed.get(self.part, self.shape)


def layout(config: ModelConfig, in_shape: Shape, num_classes: int) -> list[Slot]:
    """The layers of the network in data-flow order.

    Args:
        config: The network.
        in_shape: (channels, height, width) of an image.
        num_classes: Outputs of the classifier.
    """
    norm = config.norm
    facts = NORMS.entry(norm.name).facts
    channels = in_shape[0]
    planned: list[tuple[str, str, int]] = []
    for number, (width, last) in enumerate(_convolutions(config), 1):
        shortcut = config.residual and width == channels
        parts = _present(
            CONV_ORDERS[norm.placement],
            config,
            norm=norm.conv and norm.name != "none",
            keep=shortcut,
            add=shortcut,
            pool=last,
        )
        planned += [(f"conv{number}", part, width) for part in parts]
        channels = width
    fc_parts = _present(
        FC_ORDERS[norm.placement],
        config,
        norm=norm.fc and norm.name != "none" and "conv_only" not in facts,
        dropout=config.dropout > 0,
    )
    if config.dropout_first and {"norm", "dropout"} <= set(fc_parts):
        fc_parts = tuple(part for part in fc_parts if part != "dropout")
        place = fc_parts.index("norm")
        fc_parts = (*fc_parts[:place], "dropout", *fc_parts[place:])
    planned += [
        ("flatten", "flatten", 0),
        *((f"fc{i}", part, w) for i, w in enumerate(config.hidden, 1) for part in fc_parts),
        (CLASSIFIER, CLASSIFIER, num_classes),
    ]
    slots: list[Slot] = []
    shape = in_shape
    for block, part, width in planned:
        if part == "pool" and min(shape[1:]) == 1:
            continue
        slots.append(Slot(block, part, shape, width))
        shape = slots[-1].out_shape
    return slots


def _convolutions(config: ModelConfig) -> list[tuple[int, bool]]:
    """Width of each convolution, and whether it is the last one of that width."""
    depths = config.depths or (1,) * len(config.widths)
    return [
        (width, number == depth)
        for width, depth in zip(config.widths, depths, strict=True)
        for number in range(1, depth + 1)
    ]


def _present(
    order: tuple[str, ...], config: ModelConfig, *, norm: bool, **others: bool
) -> tuple[str, ...]:
    """The parts of an order less those that are said to be absent, the activation by its name."""
    present = {"norm": norm, "norm2": norm, **others}
    names = {"activation": config.activation}
    return tuple(names.get(part, part) for part in order if present.get(part, True))


def _build_layer(slot: Slot, config: ModelConfig, built: Mapping[str, nn.Module]) -> nn.Module:
    channels = slot.shape[0]
    builders: Mapping[str, Callable[[], nn.Module]] = {
        # skip_init: torch's own initialization would draw from the global stream, in vain.
        "conv": lambda: skip_init(Conv2d, channels, slot.width, kernel_size=3, padding=1),
        "fc": lambda: skip_init(nn.Linear, channels, slot.width),
        CLASSIFIER: lambda: skip_init(nn.Linear, channels, slot.width),
        "norm": lambda: build_norm(slot.shape, config.norm),
        "norm2": lambda: build_norm(slot.shape, config.norm),
        **ACTIVATIONS,
        "pool": lambda: nn.MaxPool2d(2),
        "flatten": nn.Flatten,
        "dropout": lambda: Dropout(config.dropout),
        "keep": Keep,
        "add": lambda: Add(_keep_of(built[f"{slot.block}_keep"]).take),
    }
    return builders[slot.part]()


def _keep_of(layer: nn.Module) -> Keep:
    assert isinstance(layer, Keep)
    return layer
