"""A network layer by layer, as an image goes through it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bnlab.config import Config
from bnlab.training.models import CLASSES, build_model, roles
from bnlab.training.norms import evaluating

UNSEEN = (nn.Identity, nn.Flatten)
"""Modules that compute nothing."""

FUNCTIONS = {
    "adaptive_avg_pool2d": "pool",
    "adaptive_max_pool2d": "pool",
    "avg_pool2d": "pool",
    "batch_norm": "BN",
    "boolean_dispatch": "pool",
    "dropout": "Dropout",
    "gelu": "GELU",
    "leaky_relu": "LeakyReLU",
    "max_pool2d": "pool",
    "relu": "ReLU",
    "sigmoid": "Sigmoid",
    "silu": "SiLU",
    "tanh": "Tanh",
}
"""Functions that do what a module might, by torch's name."""


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
    """The layers in the order in which they are called, a shared one wherever it is called.

    Raises:
        ConfigError: If the network cannot be built.
    """
    model = build_model(
        config.model, in_shape=config.dataset.image_shape, num_classes=CLASSES, seed=config.seed
    )
    found = roles(model)
    leaves = dict(_leaves(model, found.norms))
    with evaluating(model), torch.no_grad(), _watched(leaves) as calls:
        model(torch.zeros(2, *config.dataset.image_shape))
    layers: list[Layer] = []
    for name, function, output in calls.made:
        module = leaves.get(name)
        if isinstance(module, UNSEEN):
            continue
        own = module if module is not None and all(name != one.name for one in layers) else None
        layers.append(
            Layer(
                name,
                function if module is None else _what(module, norm=name in found.norms),
                output,
                sum(parameter.numel() for parameter in own.parameters()) if own else 0,
                name in found.weighted,
                name in found.norms,
            )
        )
    return tuple(layers)


class _Calls(TorchFunctionMode):
    """Calls of modules, and of functions that do a module's work, each with the shape it gave."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[tuple[str, str, tuple[int, ...]]] = []
        self._within = 0

    def begin(self, _module: nn.Module, _inputs: object) -> None:
        """A module begins; the functions inside are its own."""
        self._within += 1

    def end(self, name: str, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        """A module has given its output."""
        self._within -= 1
        self.made.append((name, "", tuple(output.shape[1:])))

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        what = FUNCTIONS.get(getattr(func, "__name__", "").strip("_"))
        if what and not self._within and isinstance(output, Tensor):
            self.made.append((f"{what.lower()}()", what, tuple(output.shape[1:])))
        return output


@contextmanager
def _watched(modules: Mapping[str, nn.Module]) -> Iterator[_Calls]:
    calls = _Calls()
    hooks = [module.register_forward_pre_hook(calls.begin) for module in modules.values()]
    hooks += [
        module.register_forward_hook(partial(calls.end, name)) for name, module in modules.items()
    ]
    try:
        with calls:
            yield calls
    finally:
        for hook in hooks:
            hook.remove()


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
