"""A network layer by layer, as an image goes through it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from bnlab.config import Config
from bnlab.training.models import CLASSES, build_model, outputs_of, roles
from bnlab.training.norms import evaluating

UNSEEN = (nn.Identity, nn.Flatten)
"""Modules that compute nothing."""


@dataclass(frozen=True)
class Layer:
    """One layer.

    Attributes:
        name: Its dotted name.
        what: `conv3x3`, with its stride `conv3x3/2`, `BN`, `ReLU`, `pool`, ...
        output: Shape of what it gives for one image.
        parameters: Learned values in it.
        weighted: Whether it is a convolution or a linear layer.
        norm: Whether it is a normalizer.
    """

    name: str
    what: str
    output: tuple[int, ...]
    parameters: int
    weighted: bool
    norm: bool


def list_layers(config: Config) -> tuple[Layer, ...]:
    """The layers in the order in which they are called; functions called in between are not seen.

    Raises:
        ConfigError: If the network cannot be built.
    """
    model = build_model(
        config.model, in_shape=config.dataset.image_shape, num_classes=CLASSES, seed=config.seed
    )
    found = roles(model)
    leaves = dict(_leaves(model, found.norms))
    with evaluating(model), torch.no_grad(), outputs_of(leaves) as outputs:
        model(torch.zeros(2, *config.dataset.image_shape))
    return tuple(
        Layer(
            name,
            _what(leaves[name], norm=name in found.norms),
            tuple(output.shape[1:]),
            sum(parameter.numel() for parameter in leaves[name].parameters()),
            name in found.weighted,
            name in found.norms,
        )
        for name, output in outputs.items()
        if not isinstance(leaves[name], UNSEEN)
    )


def blocks_of(layers: Sequence[Layer]) -> tuple[tuple[Layer, ...], ...]:
    """The layers in groups that begin with a convolution or linear layer each.

    What stands in front of the first is a group of its own.
    """
    groups: list[list[Layer]] = []
    for layer in layers:
        if layer.weighted or not groups:
            groups.append([])
        groups[-1].append(layer)
    return tuple(map(tuple, groups))


def _leaves(model: nn.Module, norms: dict[str, nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    """Modules without modules, and normalizers whole."""
    inside = {module for norm in norms.values() for module in norm.modules()} - {*norms.values()}
    for name, module in model.named_modules():
        if module not in inside and (name in norms or not any(True for _ in module.children())):
            yield name, module


def _what(module: nn.Module, *, norm: bool) -> str:
    kind = type(module).__name__
    if isinstance(module, nn.Conv2d):
        stride = f"/{module.stride[0]}" if module.stride[0] != 1 else ""
        return f"conv{'x'.join(map(str, module.kernel_size))}{stride}"
    if isinstance(module, nn.Linear):
        return "linear"
    if norm:
        return "BN" if kind.startswith("BatchNorm") else kind
    if "Pool" in kind:
        return "pool"
    return kind
