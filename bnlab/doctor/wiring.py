"""What stands in front of a network's batch norms, and behind them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from torch import fx, nn

from bnlab.errors import ConfigError
from bnlab.training.models import Dropout
from bnlab.training.models._chains import kinds_of
from bnlab.training.models._roles import ACTIVATIONS
from bnlab.training.models._tracing import called, owner_of, trace
from bnlab.training.norms import RunningAffine, is_norm
from bnlab.training.norms.caffe import CaffeBatchNorm

_KINDS: Mapping[str, tuple[type[nn.Module], ...]] = {
    "batch_norm": (nn.modules.batchnorm._BatchNorm, RunningAffine, CaffeBatchNorm),  # noqa: SLF001
    "weighted": (nn.modules.conv._ConvNd, nn.Linear),  # noqa: SLF001
    "dropout": (nn.modules.dropout._DropoutNd, Dropout),  # noqa: SLF001
    "max_pool": (nn.modules.pooling._MaxPoolNd,),  # noqa: SLF001
    "relu": (nn.ReLU, nn.ReLU6),
    "activation": ACTIVATIONS,
    "pass": (nn.Identity,),
}

_FUNCTIONS: Mapping[str, tuple[str, ...]] = {
    "dropout": ("dropout", "dropout2d"),
    "max_pool": ("max_pool1d", "max_pool2d", "max_pool3d"),
    "relu": ("relu", "relu6"),
}


@dataclass(frozen=True, eq=False)
class Wiring:
    """The layers of a network and the ways between them.

    Attributes:
        kinds: What each layer is, by name, in data-flow order: a key of the table above, another
            kind of `_chains`, or "". A module has its dotted name.
        inputs: By layer, the layers that it reads.
        graph: The network as a graph, with the values it had when it was traced; None if it cannot
            be traced. Layers then are taken to stand in line, in the order of the modules.
        nodes: By layer, its place in the graph.
        why_not: Why it cannot be traced.
    """

    kinds: Mapping[str, str]
    inputs: Mapping[str, tuple[str, ...]]
    graph: fx.GraphModule | None = None
    nodes: Mapping[str, fx.Node] = field(default_factory=dict)
    why_not: str = ""

    def those(self, kind: str) -> list[str]:
        """The layers of a kind."""
        return [name for name, found in self.kinds.items() if found == kind]

    def module_of(self, name: str) -> str | None:
        """The dotted name of the module that a layer calls, maybe not alone; None of a function."""
        node = self.nodes.get(name)
        if node is None:
            return name
        return str(node.target) if node.op == "call_module" else None

    def users(self, name: str) -> list[str]:
        """The layers that read a layer."""
        return [user for user, read in self.inputs.items() if name in read]

    def before(self, name: str) -> set[str]:
        """Every layer on a way to a layer."""
        return _reached(name, lambda layer: self.inputs[layer])

    def behind(self, name: str) -> set[str]:
        """Every layer on a way from a layer."""
        users: dict[str, list[str]] = {layer: [] for layer in self.kinds}
        for user, read in self.inputs.items():
            for layer in read:
                users[layer].append(user)
        return _reached(name, lambda layer: users[layer])

    def read_by(self, name: str) -> str | None:
        """The layer that a layer reads directly, if it is the only one."""
        read = self.inputs[name]
        while len(read) == 1 and self.kinds[read[0]] == "pass" and len(self.users(read[0])) == 1:
            read = self.inputs[read[0]]
        return read[0] if len(read) == 1 else None


def wiring_of(model: nn.Module, in_shape: tuple[int, ...]) -> Wiring:
    """The wiring of a network, by a trace if one can be made; the network is left as it is."""
    try:
        graph = trace(model, in_shape, 2)
    except ConfigError as error:
        return _in_line(model, str(error))
    known = kinds_of(graph)
    names: dict[fx.Node, str] = {}
    kinds: dict[str, str] = {}
    for node in graph.graph.nodes:
        if node.op == "output":
            continue
        name = names[node] = _unused(_name_of(node), kinds)
        if node.op == "call_module":
            kinds[name] = _kind_of(graph.get_submodule(str(node.target))) or known.get(node, "")
        else:
            kinds[name] = _kind_of_function(node, known.get(node, ""))
    inputs = {
        name: tuple(names[read] for read in node.all_input_nodes) for node, name in names.items()
    }
    return Wiring(kinds, inputs, graph, {name: node for node, name in names.items()})


def is_batch_norm(module: nn.Module) -> bool:
    """Whether a normalizer takes its statistics over the images of a batch."""
    return isinstance(module, _KINDS["batch_norm"])


def is_dropout(module: nn.Module) -> bool:
    """Whether a module drops units in training."""
    return isinstance(module, _KINDS["dropout"])


def _in_line(model: nn.Module, why_not: str) -> Wiring:
    names = list(_layers(model))
    kinds = {name: _kind_of(model.get_submodule(name)) for name in names}
    inputs = {name: tuple(names[max(0, n - 1) : n]) for n, name in enumerate(names)}
    return Wiring(kinds, inputs, why_not=why_not)


def _layers(model: nn.Module) -> Iterator[str]:
    inside = set[nn.Module]()
    for name, module in model.named_modules():
        if module not in inside and (is_norm(module) or not list(module.children())):
            inside.update(module.modules())
            yield name


def _kind_of(module: nn.Module) -> str:
    return next((kind for kind, types in _KINDS.items() if isinstance(module, types)), "")


def _kind_of_function(node: fx.Node, known: str) -> str:
    name = called(node).removesuffix("_")
    found = next((kind for kind, names in _FUNCTIONS.items() if name in names), None)
    return found or (known if name == "contiguous" or known != "pass" else "")


def _name_of(node: fx.Node) -> str:
    if node.op == "call_module":
        return str(node.target)
    return ".".join(filter(None, (owner_of(node), called(node))))


def _unused(name: str, taken: Mapping[str, str]) -> str:
    number, found = 1, name
    while found in taken:
        number += 1
        found = f"{name} ({number})"
    return found


def _reached(name: str, neighbors: Callable[[str], "tuple[str, ...] | list[str]"]) -> set[str]:
    found: set[str] = set()
    waiting = [name]
    while waiting:
        new = [layer for layer in neighbors(waiting.pop()) if layer not in found]
        found.update(new)
        waiting += new
    return found
