"""The convolution-norm-activation chains of a graph, and where in them normalizers stand."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from torch import fx, nn

from bnlab.training.models._dropout import Dropout
from bnlab.training.models._roles import ACTIVATIONS
from bnlab.training.models._tracing import called
from bnlab.training.models.convnet import Add
from bnlab.training.norms import is_norm

Place: TypeAlias = Literal["before_conv", "before_activation", "after_activation", "after_pool"]

PLACES: tuple[Place, ...] = ("before_conv", "before_activation", "after_activation", "after_pool")
"""In data-flow order."""

_MODULES: Mapping[str, tuple[type[nn.Module], ...]] = {
    "weighted": (nn.modules.conv._ConvNd, nn.Linear),  # noqa: SLF001 - no public name says it
    "activation": (
        *ACTIVATIONS,
        nn.CELU,
        nn.Hardsigmoid,
        nn.Hardtanh,
        nn.LogSigmoid,
        nn.RReLU,
        nn.Softsign,
        nn.Threshold,
    ),
    "pool": (
        nn.modules.pooling._MaxPoolNd,  # noqa: SLF001
        nn.modules.pooling._AvgPoolNd,  # noqa: SLF001
        nn.modules.pooling._LPPoolNd,  # noqa: SLF001
        nn.FractionalMaxPool2d,
    ),
    "pass": (nn.modules.dropout._DropoutNd, Dropout, nn.Identity),  # noqa: SLF001
    "add": (Add,),
}

_FUNCTIONS: Mapping[str, tuple[str, ...]] = {
    "norm": ("batch_norm", "group_norm", "layer_norm", "instance_norm", "local_response_norm"),
    "activation": (
        *("relu", "relu6", "leaky_relu", "prelu", "rrelu", "elu", "selu", "celu", "gelu", "silu"),
        *("mish", "hardswish", "hardtanh", "hardsigmoid", "softplus", "softsign", "sigmoid"),
        *("logsigmoid", "tanh", "threshold", "clamp", "clamp_min"),
    ),
    "pool": ("max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d"),
    "pass": ("dropout", "dropout2d", "alpha_dropout", "stochastic_depth", "contiguous"),
    "layout": ("permute", "transpose"),
    "add": ("add", "iadd"),
    "gate": ("mul", "imul"),
}

_CLASSES: Mapping[str, str] = {"DropPath": "pass", "StochasticDepth": "pass", "Permute": "layout"}
"""Classes that other libraries bring; what they are called is all that is known of them."""


@dataclass(eq=False)
class Chain:
    """A weighted layer and what follows it alone: no other way leads into or out of it.

    Attributes:
        layer: The call of the convolution or linear layer.
        norms: Calls of normalizers, by place: the one whose output this layer alone reads, and
            those behind it. Without an activation these count as in front of one.
        activation: The nonlinearity that ends the layer.
        pool: The last pooling behind that.
        permuted: What comes behind a permutation of axes: channels are not its second axis.
        gate: Whether the layer computes what other features are multiplied by (Hu et al. 2018,
            squeeze-and-excitation, arXiv:1709.01507).
        stop: Why the chain ends, in words.
    """

    layer: fx.Node
    norms: dict[Place, list[fx.Node]] = field(default_factory=dict)
    activation: fx.Node | None = None
    pool: fx.Node | None = None
    permuted: set[fx.Node] = field(default_factory=set)
    gate: bool = False
    stop: str = ""

    def standing(self, *places: Place) -> list[fx.Node]:
        """The normalizers at these places, in their order."""
        return [node for place in places for node in self.norms.get(place, [])]

    def anchor(self, place: Place) -> fx.Node:
        """What a normalizer at a place that the chain has would read."""
        anchors = {
            "before_conv": self.layer.all_input_nodes[0],
            "before_activation": self.layer,
            "after_activation": self.activation,
            "after_pool": self.pool,
        }
        anchor = anchors[place]
        assert anchor is not None
        return anchor

    def is_permuted(self, node: fx.Node) -> bool:
        """Whether channels are not the second axis of what a node of the chain gives."""
        return node in self.permuted


def kinds_of(module: fx.GraphModule) -> dict[fx.Node, str]:
    """What every call is in a chain: a key of the tables above; others are left out."""
    kinds = {node: _kind(node, module) for node in module.graph.nodes if "shape" in node.meta}
    return {node: kind for node, kind in kinds.items() if kind}


def find_chains(module: fx.GraphModule, kinds: Mapping[fx.Node, str]) -> list[Chain]:
    """The chain of every weighted layer, in data-flow order."""
    depths = _depths(module.graph, kinds)
    gates = set(_gates(module.graph, kinds))
    chains = []
    for node in module.graph.nodes:
        if kinds.get(node) == "weighted":
            chain = _walk(node, module, kinds, depths)
            chain.gate = node in gates
            before = node.all_input_nodes[0]
            if kinds.get(before) == "norm" and list(before.users) == [node]:
                chain.norms["before_conv"] = [before]
            chains.append(chain)
    return chains


def _kind(node: fx.Node, module: fx.GraphModule) -> str:
    if node.op == "call_module":
        layer = module.get_submodule(str(node.target))
        if is_norm(layer):
            return "norm"
        known = _CLASSES.get(type(layer).__name__, "")
        return next((kind for kind, types in _MODULES.items() if isinstance(layer, types)), known)
    if node.op in ("call_function", "call_method"):
        name = called(node).removesuffix("_")
        return next((kind for kind, names in _FUNCTIONS.items() if name in names), "")
    return ""


def _named(node: fx.Node, module: fx.GraphModule) -> str:
    if node.op != "call_module":
        return called(node)
    return f"{node.target} ({type(module.get_submodule(str(node.target))).__name__})"


def _walk(
    layer: fx.Node,
    module: fx.GraphModule,
    kinds: Mapping[fx.Node, str],
    depths: Mapping[fx.Node, int],
) -> Chain:
    chain, node = Chain(layer), layer
    place: Place = "before_activation"
    while True:
        if len(node.users) != 1:
            chain.stop = "several layers read it" if node.users else "nothing reads it"
            return chain
        (user,) = node.users
        kind = kinds.get(user, "")
        ends = {
            "add": place != "before_activation" or _main(user, depths) is not node,
            "activation": chain.activation is not None,
            "layout": place != "before_activation",
            "norm": user.all_input_nodes[0] is not node,
            "pool": False,
            "pass": False,
        }
        if ends.get(kind, True):
            chain.stop = f"{_named(user, module)} follows"
            return chain
        if kind == "norm":
            chain.norms.setdefault(place, []).append(user)
        elif kind == "activation":
            chain.activation, place = user, "after_activation"
        elif kind == "pool" and chain.activation is not None:
            chain.pool, place = user, "after_pool"
        if kind == "layout" or node in chain.permuted:
            chain.permuted.add(user)
        node = user


def _main(add: fx.Node, depths: Mapping[fx.Node, int]) -> fx.Node | None:
    """Of the two ways that an addition joins, the one with more layers; the left one of equals.

    The other is the shortcut, and what follows is none of its business. None where no two feature
    maps of one shape are added.
    """
    ways = add.all_input_nodes
    if add.op == "call_module":
        return ways[0]
    if len(ways) != 2 or len({way.meta.get("shape") for way in ways}) != 1:
        return None
    return max(ways, key=lambda way: depths[way])


def _depths(graph: fx.Graph, kinds: Mapping[fx.Node, str]) -> dict[fx.Node, int]:
    """The most weighted layers on a way from the input to each node."""
    depths: dict[fx.Node, int] = {}
    for node in graph.nodes:
        before = max((depths[way] for way in node.all_input_nodes), default=0)
        depths[node] = before + (kinds.get(node) == "weighted")
    return depths


def _gates(graph: fx.Graph, kinds: Mapping[fx.Node, str]) -> Iterator[fx.Node]:
    """Weighted layers between features and a factor that these same features are multiplied by."""
    for node in graph.nodes:
        if kinds.get(node) == "gate" and len(node.all_input_nodes) == 2:
            one, other = node.all_input_nodes
            yield from _between(one, other, kinds)
            yield from _between(other, one, kinds)


def _between(end: fx.Node, start: fx.Node, kinds: Mapping[fx.Node, str]) -> Collection[fx.Node]:
    """The weighted layers on the one way from `start` to `end`; none where it forks."""
    found, node = [], end
    while node is not start:
        if len(node.users) != 1 or not node.all_input_nodes:
            return ()
        if kinds.get(node) == "weighted":
            found.append(node)
        node = node.all_input_nodes[0]
    return found
