"""The networks: a file each, all called alike.

To add one: a file here that registers a builder in `MODELS` under the file's own stem. It makes
normalizers with `build_norm` and, if it has dropout, `Dropout`; `build_model` then draws all
weights. What the rest of the code wants of a network it asks `roles`.
"""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import nn

from bnlab import registry
from bnlab.config import ModelConfig
from bnlab.errors import ConfigError
from bnlab.training.models._activations import ACTIVATIONS
from bnlab.training.models._dropout import Dropout
from bnlab.training.models._initialization import initialize
from bnlab.training.models._roles import Roles, init_hash, outputs_of, parameter_count, roles
from bnlab.training.norms import NORMS, evaluating
from bnlab.training.streams import Stochastic, stream_seed

Shape: TypeAlias = tuple[int, ...]

ModelBuilder: TypeAlias = Callable[[ModelConfig, Shape, int, int], nn.Module]
"""From the configuration, the shape of an image (channels, height, width), the number of classes
and the run's seed to a network from images to logits. What it draws beside the weights of
convolutions and linear layers, it draws from a `stream` of that seed."""

MODELS: registry.Registry[ModelBuilder] = registry.MODELS
"""Networks by `model.name`; the fact `initialized`: its builder has drawn the weights as well."""

__all__ = [
    "ACTIVATIONS",
    "CLASSES",
    "MODELS",
    "Dropout",
    "ModelBuilder",
    "Roles",
    "Shape",
    "build_model",
    "check_batch",
    "check_classes",
    "init_hash",
    "initialize",
    "outputs_of",
    "parameter_count",
    "roles",
]


CLASSES = 10
"""Of a network that is looked at before anybody knows the images that it is for."""


def build_model(
    config: ModelConfig, *, in_shape: Shape = (3, 32, 32), num_classes: int = CLASSES, seed: int
) -> nn.Module:
    """The network on the CPU, in fp32 and training mode.

    Args:
        config: The network.
        in_shape: (channels, height, width) of an image.
        num_classes: Outputs of the classifier.
        seed: Seed of the run; every parameter has its own stream under it.

    Raises:
        ConfigError: If network or normalizer are unknown, or do not fit each other.
    """
    model = MODELS[config.name](config, in_shape, num_classes, seed)
    if "initialized" not in MODELS.entry(config.name).facts:
        initialize(model, config.init, seed, activation=config.activation)
    for name, module in model.named_modules():
        if isinstance(module, Stochastic):
            kind = "dropout" if isinstance(module, Dropout) else "noise"
            module.reseed(stream_seed(seed, kind, name))
        elif getattr(module, "inplace", False):
            module.inplace = False  # it would overwrite the output that a probe looks at
    return model


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
    shapes = _norm_shapes(config, in_shape)
    alone = [
        name
        for name, shape in shapes.items()
        if "per_position" in facts or torch.Size(shape[1:]).numel() == 1
    ]
    if not alone:
        return
    which = "every batch" if batch_size == 1 else f"the last batch of {keys[1]}={images}"
    fixes = [f"choose another {keys[0]} or {keys[1]}"]
    if any(len(shapes[name]) == 1 for name in alone):
        fixes.append("set model.norm.fc=false")
    if any(len(shapes[name]) > 1 for name in alone):
        fixes.append("another model.norm.name")
    raise ConfigError(
        f"{keys[0]}: {batch_size}: {which} holds one image, from which "
        f"model.norm.name={config.norm.name} cannot take statistics at {', '.join(alone)}; "
        + ", or ".join((fixes[0], " and ".join(fixes[1:])))
    )


def check_classes(model: nn.Module, in_shape: Shape, num_classes: int) -> None:
    """Refuse a network that does not give as many logits as the images have classes.

    Args:
        model: One that can be run as it is.
        in_shape: (channels, height, width) of an image.
        num_classes: Of the images.

    Raises:
        ConfigError: With both numbers.
    """
    with evaluating(model), torch.no_grad():
        found = model(torch.zeros(2, *in_shape)).shape[-1]
    if found != num_classes:
        raise ConfigError(
            f"model.file: the network ends in {found} logits, but the images have {num_classes} "
            "classes; let its function take num_classes, or set it in model.arguments"
        )


def _norm_shapes(config: ModelConfig, in_shape: Shape) -> dict[str, Shape]:
    """The shape of one image's features at every normalizer, by name."""
    model = build_model(config, in_shape=in_shape, seed=0).eval()
    with torch.no_grad(), outputs_of(roles(model).norms) as outputs:
        model(torch.zeros(2, *in_shape))
    return {name: tuple(output.shape[1:]) for name, output in outputs.items()}
