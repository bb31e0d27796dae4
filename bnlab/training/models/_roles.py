"""What the layers of a network are for, whatever the network is called and however it is nested."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

from torch import Tensor, nn

from bnlab.training.norms import is_norm

Weighted: TypeAlias = nn.Conv2d | nn.Linear

ACTIVATIONS = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.PReLU,
    nn.ELU,
    nn.SELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Hardswish,
    nn.Softplus,
    nn.Sigmoid,
    nn.Tanh,
)


@dataclass(frozen=True, eq=False)
class Roles:
    """The layers of a network by dotted name, in data-flow order.

    The order is that in which modules were assigned, as torch prints them; a module in two places
    has its first name.

    Attributes:
        weighted: Convolutions and linear layers; the last is the classifier.
        norms: Normalizers: those of `build_norm`, and torch's own.
        activations: Nonlinearities.
    """

    weighted: dict[str, Weighted] = field(default_factory=dict)
    norms: dict[str, nn.Module] = field(default_factory=dict)
    activations: dict[str, nn.Module] = field(default_factory=dict)


def roles(model: nn.Module) -> Roles:
    """Which layers of a network do what; what a normalizer is made of is no layer of it."""
    found, of_norms = Roles(), set[nn.Module]()
    for name, module in model.named_modules():
        if module in of_norms:
            continue
        if is_norm(module):
            found.norms[name] = module
            of_norms.update(module.modules())
        elif isinstance(module, (nn.Conv2d, nn.Linear)):
            found.weighted[name] = module
        elif isinstance(module, ACTIVATIONS):
            found.activations[name] = module
    return found


@contextmanager
def outputs_of(layers: Mapping[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """Collect, while the context lasts, what layers give, by name, in the order they are called.

    Args:
        layers: By name; of one that is called twice the last output counts.
    """
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
            seen[name] = output

        return hook

    handles = [layer.register_forward_hook(keep(name)) for name, layer in layers.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def init_hash(model: nn.Module) -> str:
    """SHA-256 of the names and values of all convolution and linear parameters, in hex.

    These are what every arm has, whatever its normalizer: arms of one seed agree on it.
    """
    digest = hashlib.sha256()
    parameters = {
        f"{layer}.{name}": parameter
        for layer, module in roles(model).weighted.items()
        for name, parameter in module.named_parameters()
    }
    for name, parameter in sorted(parameters.items()):
        digest.update(f"{name}\0".encode())
        digest.update(parameter.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


def parameter_count(model: nn.Module) -> int:
    """Number of learned values."""
    return sum(parameter.numel() for parameter in model.parameters())
