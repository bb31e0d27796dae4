"""The conv-norm-ReLU-pool network of the documents, from its configuration.

The network is a flat sequence of named layers in the order data flows through them; where the
normalizer stands is a tuple of part names. Every arm has the same convolutions and linear layers,
biases included, and draws each of their parameters from a random stream of its own: a normalizer,
or its place, changes no weight that the arms share.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from bnlab.config import ModelConfig
from bnlab.errors import ConfigError
from bnlab.training.norms import NORMS, build_norm
from bnlab.training.streams import Stochastic, stream, stream_seed

Shape: TypeAlias = tuple[int, ...]

CONV_ORDERS: Mapping[str, tuple[str, ...]] = {
    "before_activation": ("keep", "conv", "norm", "add", "relu", "pool"),
    "after_activation": ("keep", "conv", "add", "relu", "norm", "pool"),
    "after_pool": ("keep", "conv", "add", "relu", "pool", "norm"),
    "before_conv": ("keep", "norm", "conv", "add", "relu", "pool"),
    "both": ("keep", "conv", "norm", "add", "relu", "norm2", "pool"),
}
"""Parts of a convolution block by placement, in order; `keep` and `add` are the two ends of a
shortcut (He et al. 2016, arXiv:1512.03385, around one convolution)."""

FC_ORDERS: Mapping[str, tuple[str, ...]] = {
    "before_activation": ("fc", "norm", "relu", "dropout"),
    "after_activation": ("fc", "relu", "norm", "dropout"),
    "after_pool": ("fc", "relu", "norm", "dropout"),
    "before_conv": ("norm", "fc", "relu", "dropout"),
    "both": ("fc", "norm", "relu", "norm2", "dropout"),
}
"""Parts of a hidden fully connected layer by placement, in order."""

NORM_PARTS = ("norm", "norm2")
CLASSIFIER = "classifier"


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


# --------------------------------------------------------------------------------- the layers


@dataclass(frozen=True)
class Slot:
    """One layer of the network.

    Attributes:
        block: `conv1`, `fc1`, ...; also the name of the layer that carries the weights.
        part: What it is: an entry of the orders above, `flatten` or `classifier`.
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
            norm=norm.conv and norm.name != "none",
            keep=shortcut,
            add=shortcut,
            pool=last,
        )
        planned += [(f"conv{number}", part, width) for part in parts]
        channels = width
    fc_parts = _present(
        FC_ORDERS[norm.placement],
        norm=norm.fc and norm.name != "none" and "conv_only" not in facts,
        dropout=config.dropout > 0,
    )
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


def _present(order: tuple[str, ...], *, norm: bool, **others: bool) -> tuple[str, ...]:
    """The parts of an order less those that are said to be absent."""
    present = {"norm": norm, "norm2": norm, **others}
    return tuple(part for part in order if present.get(part, True))


def _build_layer(slot: Slot, config: ModelConfig, built: Mapping[str, nn.Module]) -> nn.Module:
    channels = slot.shape[0]
    builders: Mapping[str, Callable[[], nn.Module]] = {
        # skip_init: torch's own initialization would draw from the global stream, in vain.
        "conv": lambda: skip_init(nn.Conv2d, channels, slot.width, kernel_size=3, padding=1),
        "fc": lambda: skip_init(nn.Linear, channels, slot.width),
        CLASSIFIER: lambda: skip_init(nn.Linear, channels, slot.width),
        "norm": lambda: build_norm(slot.shape, config.norm),
        "norm2": lambda: build_norm(slot.shape, config.norm),
        "relu": nn.ReLU,
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


def build_model(
    config: ModelConfig, *, in_shape: Shape = (3, 32, 32), num_classes: int = 10, seed: int
) -> nn.Sequential:
    """The network on the CPU, in fp32 and training mode; torch's global random stream stays put.

    Args:
        config: The network.
        in_shape: (channels, height, width) of an image.
        num_classes: Outputs of the classifier.
        seed: Seed of the run; every parameter has its own stream under it.

    Returns:
        A flat sequence of `conv1`, `conv1_norm`, `conv1_relu`, `conv1_pool`, `conv2`, ...,
        `flatten`, `fc1`, `fc1_norm`, `fc1_relu`, `fc1_dropout`, ..., `classifier`, as far as the
        configuration has them. A second normalizer of a block is `conv1_norm2`.

    Raises:
        ConfigError: If the normalizer is unknown or cannot stand on one of the layers.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for slot in layout(config, in_shape, num_classes):
        layers[slot.name] = _build_layer(slot, config, layers)
    model = nn.Sequential(layers)
    _initialize(model, config, seed)
    for name, module in model.named_children():
        if isinstance(module, Dropout):
            module.reseed(stream_seed(seed, "dropout", name))
        elif isinstance(module, Stochastic):
            module.reseed(stream_seed(seed, "noise", name))
    return model


# ------------------------------------------------------------------------------ initialization

INITS: Mapping[str, Callable[[Tensor, torch.Generator], object]] = {
    "he_normal": lambda weight, generator: nn.init.kaiming_normal_(
        weight, nonlinearity="relu", generator=generator
    ),
    # U(-1/sqrt(fan_in), 1/sqrt(fan_in)), in the words of torch's own layers.
    "torch_default": lambda weight, generator: nn.init.kaiming_uniform_(
        weight, a=5**0.5, generator=generator
    ),
    "xavier_normal": lambda weight, generator: nn.init.xavier_normal_(weight, generator=generator),
    "orthogonal": lambda weight, generator: nn.init.orthogonal_(weight, generator=generator),
    "normal_small": lambda weight, generator: nn.init.normal_(
        weight, std=0.01, generator=generator
    ),
}
"""How the weight of a convolution or linear layer starts, by `model.init.name`."""


def _initialize(model: nn.Sequential, config: ModelConfig, seed: int) -> None:
    init = config.init
    with torch.no_grad():
        for name, module in _weighted_layers(model):
            INITS[init.name](module.weight, stream(seed, "init", f"{name}.weight"))
            if name != CLASSIFIER:
                module.weight.mul_(init.gain)
            assert module.bias is not None
            if init.name == "torch_default":
                bound = module.weight[0].numel() ** -0.5
                nn.init.uniform_(
                    module.bias, -bound, bound, generator=stream(seed, "init", f"{name}.bias")
                )
            else:
                nn.init.zeros_(module.bias)


def _weighted_layers(model: nn.Module) -> Iterator[tuple[str, nn.Conv2d | nn.Linear]]:
    for name, module in model.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            yield name, module


# ---------------------------------------------------------------------------- facts of a model


def init_hash(model: nn.Module) -> str:
    """SHA-256 of the names and values of all convolution and linear parameters, in hex.

    These are what every arm has, whatever its normalizer: arms of one seed agree on it.
    """
    digest = hashlib.sha256()
    parameters = {
        f"{layer}.{name}": parameter
        for layer, module in _weighted_layers(model)
        for name, parameter in module.named_parameters()
    }
    for name, parameter in sorted(parameters.items()):
        digest.update(f"{name}\0".encode())
        digest.update(parameter.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


def norm_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The normalizers of a model by name, in data-flow order."""
    return {
        name: module
        for name, module in model.named_children()
        if name.partition("_")[2] in NORM_PARTS
    }


def parameter_count(model: nn.Module) -> int:
    """Number of learned values."""
    return sum(parameter.numel() for parameter in model.parameters())


def check_batch(
    config: ModelConfig,
    batch_size: int,
    images: int,
    *,
    in_shape: Shape = (3, 32, 32),
    keys: tuple[str, str] = ("train.batch_size", "dataset.train_size"),
) -> None:
    """Refuse a batch of one image where a normalizer would have to take statistics from it.

    Args:
        config: The network.
        batch_size: Images per step.
        images: Images of an epoch; the last batch holds what is left of them.
        in_shape: (channels, height, width) of an image.
        keys: Where the configuration says how many images a batch and an epoch hold.

    Raises:
        ConfigError: If a batch would hold one image and a feature one value in it.
    """
    facts = NORMS.entry(config.norm.name).facts
    if "batch_statistics" not in facts or (batch_size > 1 and images % batch_size != 1):
        return
    alone = [
        slot.name
        for slot in layout(config, in_shape, num_classes=1)
        if slot.part in NORM_PARTS
        and ("per_position" in facts or torch.Size(slot.shape[1:]).numel() == 1)
    ]
    if not alone:
        return
    which = "every batch" if batch_size == 1 else f"the last batch of {keys[1]}={images}"
    fixes = [f"choose another {keys[0]} or {keys[1]}"]
    if any(name.startswith("fc") for name in alone):
        fixes.append("set model.norm.fc=false")
    if any(name.startswith("conv") for name in alone):
        fixes.append("another model.norm.name")
    raise ConfigError(
        f"{keys[0]}: {batch_size}: {which} holds one image, from which "
        f"model.norm.name={config.norm.name} cannot take statistics at {', '.join(alone)}; "
        + ", or ".join((fixes[0], " and ".join(fixes[1:])))
    )
