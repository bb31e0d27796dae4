"""Normalizers of a network in eval mode, folded into the layers in front of them.

In eval mode batch normalization is `scale * features + shift` per channel. Directly behind a
convolution or a linear layer that is a convolution or a linear layer with other weights (Jacob et
al. 2018, arXiv:1712.05877, section 3.2).
"""

import copy
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from bnlab.errors import ConfigError
from bnlab.training.models import Dropout, roles
from bnlab.training.models._conv import Conv2d
from bnlab.training.models._tracing import trace

# By exact type: what a subclass does in eval mode is not known.
_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, Conv2d)
_OF_TORCH = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_IDENTITIES = (nn.Identity, Dropout, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)

Front: TypeAlias = tuple[str, nn.Module]
"""A module and its name."""


@dataclass(frozen=True)
class Folding:
    """What became of one normalizer.

    Attributes:
        norm: Its dotted name.
        kind: Its class.
        into: The layer that does its work now; "" if it stays.
        why: Why it stays; "" if it does not.
    """

    norm: str
    kind: str
    into: str = ""
    why: str = ""


def fold(model: nn.Module, in_shape: tuple[int, ...]) -> tuple[nn.Module, tuple[Folding, ...]]:
    """A copy of a network in which every normalizer that can be is part of the layer before it.

    Layers keep their names, and layers without a bias get one. In an `nn.Sequential` an identity
    stands in a folded normalizer's place; a graph of torch.fx loses it. A network of another make
    is traced for it.

    Args:
        model: In eval mode; it is left as it is.
        in_shape: Of one image: (channels, height, width).

    Returns:
        The network, and what became of each normalizer, in data-flow order.
    """
    network, untraced = copy.deepcopy(model), ""
    found = _fronts(network)
    if roles(network).norms.keys() - found.keys():
        try:
            network = trace(network, in_shape, 2).eval()
            found = _fronts(network)
        except ConfigError as error:
            untraced = f"what is in front of it is not known: {error}"
    calls = _calls(network)
    told = []
    for name, norm in roles(network).norms.items():
        front = found.get(name)
        why = untraced or "what is in front of it is not known"
        if front is not None:
            why = next(_obstacles(front, norm, calls), "")
        if front is not None and not why:
            _merge(front[1], *_scale_and_shift(norm))
            _drop(network, name)
        into = front[0] if front is not None and not why else ""
        told.append(Folding(name, type(norm).__name__, into, why))
    if isinstance(network, fx.GraphModule):
        network.recompile()
    return network, tuple(told)


def _calls(network: nn.Module) -> Counter[Any]:
    """In how many places each module is used."""
    if isinstance(network, fx.GraphModule):
        called = (node.target for node in network.graph.nodes if node.op == "call_module")
        return Counter(network.get_submodule(str(name)) for name in called)
    return Counter(module for _, module in network.named_modules(remove_duplicate=False))


def _fronts(network: nn.Module) -> dict[str, Front]:
    """What feeds each normalizer, and nothing else, by the normalizer's name."""
    norms = roles(network).norms
    if isinstance(network, fx.GraphModule):
        return {
            str(node.target): _before(node, network)
            for node in network.graph.nodes
            if node.op == "call_module" and str(node.target) in norms
        }
    fronts: dict[str, Front] = {}
    for chain in _chains("", network):
        front: Front = ("", nn.Identity())
        for name, module in chain:
            if name in norms:
                fronts[name] = front
            if not isinstance(module, _IDENTITIES):
                front = (name, module)
    return fronts


def _before(node: fx.Node, network: fx.GraphModule) -> Front:
    """The module whose output a node alone reads."""
    while True:
        before = node.all_input_nodes[0]
        if before.op != "call_module":
            return str(before.target), nn.Identity()
        name = str(before.target)
        module = network.get_submodule(name)
        if len(before.users) > 1:
            return f"{name}, which others read too", nn.Identity()
        if not isinstance(module, _IDENTITIES):
            return name, module
        node = before


def _chains(name: str, module: nn.Module) -> Iterator[list[Front]]:
    """Modules that are called one after another: those of an `nn.Sequential`, inner ones laid out.

    Of anything else the order of calls is not known, but inside it there may be others.
    """
    if type(module) is nn.Sequential:
        chain = list(_laid_out(name, module))
        yield chain
        for inner in chain:
            yield from _chains(*inner)
    else:
        for part, child in module.named_children():
            yield from _chains(f"{name}.{part}".lstrip("."), child)


def _laid_out(name: str, module: nn.Module) -> Iterator[Front]:
    if type(module) is not nn.Sequential:
        yield name, module
        return
    for part, child in module._modules.items():  # noqa: SLF001 - named_children has each once
        assert child is not None
        yield from _laid_out(f"{name}.{part}".lstrip("."), child)


def _obstacles(front: Front, norm: nn.Module, calls: Counter[Any]) -> Iterator[str]:
    """Why a normalizer stays; once there is a reason, nothing else is asked."""
    name, layer = front[0], cast("Any", front[1])
    mean = getattr(norm, "running_mean", None)
    if type(norm) not in _OF_TORCH and not getattr(norm, "foldable", False):
        yield "not known to be a scale and a shift per channel in eval mode"
    if type(norm) in _OF_TORCH and mean is None:
        yield "it keeps no running statistics"
    if getattr(norm, "use_global_stats", None) is False:
        yield "it takes the batch's own statistics, in eval mode too"
    if mean is not None and mean.ndim > 1:
        yield "it has statistics for each position"
    if type(layer) not in _LAYERS:
        kind = "" if isinstance(layer, nn.Identity) else f" ({type(layer).__name__})"
        before = f", but {name}{kind}" if name else ""
        yield f"no convolution or linear layer right in front of it{before}"
    if max(calls[layer], calls[norm]) > 1 or parametrize.is_parametrized(layer):
        yield f"{name} or it is used in more than one place, or parametrized"
    if _scale_and_shift(norm)[0].numel() not in (1, len(layer.weight)):
        yield f"its channels are not those of {name}"


def _scale_and_shift(norm: Any) -> tuple[Tensor, Tensor]:
    """What a normalizer does in eval mode, per channel, in float64."""
    scale, shift = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    if hasattr(norm, "running_mean"):
        scale = (norm.running_var.double() + norm.eps).rsqrt()
        shift = -norm.running_mean.double() * scale
    if norm.weight is None:
        return scale, shift
    return norm.weight.double() * scale, norm.weight.double() * shift + norm.bias.double()


def _merge(layer: Any, scale: Tensor, shift: Tensor) -> None:
    """Let a layer give `scale * output + shift`. Its parameters are new: others may share them."""
    weight, bias = layer.weight.double(), layer.bias
    weight = weight * scale.view(-1, *[1] * (weight.ndim - 1))
    shift = shift if bias is None else bias.double() * scale + shift
    layer.weight = nn.Parameter(weight.to(layer.weight.dtype))
    layer.bias = nn.Parameter(shift.to(layer.weight.dtype))


def _drop(network: nn.Module, name: str) -> None:
    """Take a normalizer out."""
    if not isinstance(network, fx.GraphModule):
        above, _, last = name.rpartition(".")
        setattr(network.get_submodule(above), last, nn.Identity())
        return
    (node,) = (node for node in network.graph.nodes if node.target == name)
    node.replace_all_uses_with(node.all_input_nodes[0])
    network.graph.erase_node(node)
    network.delete_submodule(name)
