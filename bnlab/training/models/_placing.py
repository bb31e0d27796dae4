"""Which normalizer of a network goes where."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

import torch
from torch import fx, nn

from bnlab.config import NormConfig
from bnlab.errors import ConfigError
from bnlab.training.models._chains import PLACES, Chain, Place, find_chains, kinds_of
from bnlab.training.models._tracing import called, described
from bnlab.training.norms import NORMS, build_norm, is_norm

What: TypeAlias = Literal["kept", "moved", "replaced", "added", "removed"]


@dataclass(frozen=True)
class Change:
    """What became of one normalizer.

    Attributes:
        layer: Dotted name of the weighted layer that it belongs to; its own where it has none.
        norm: Dotted name of the normalizer.
        before: What stood where, as in `BatchNorm2d(64) before_activation`; "" for nothing. `in
            place` is a place that no placement moves.
        after: What stands where now.
        what: Both in a word; `kept` and `moved` have their parameters and buffers still.
    """

    layer: str
    norm: str
    before: str
    after: str
    what: What


@dataclass(frozen=True, eq=False)
class Step:
    """A change, and what it takes.

    Attributes:
        change: What is told of it.
        old: The call of the normalizer that was.
        new: The module that comes.
        seat: The chain and the place where the normalizer goes; None if it stays or goes away.
    """

    change: Change
    old: fx.Node | None = None
    new: nn.Module | None = None
    seat: tuple[Chain, Place] | None = None


class Plan:
    """Which normalizer goes where. Nothing is edited yet.

    Args:
        module: The network.
        config: The normalizer and where it stands.
    """

    def __init__(self, module: fx.GraphModule, config: NormConfig) -> None:
        self.module, self.config = module, config
        kinds = kinds_of(module)
        self.chains = find_chains(module, kinds)
        self.norms = [node for node, kind in kinds.items() if kind == "norm"]
        self.calls = Counter(node.target for node in kinds if node.op == "call_module")
        self.names = {name for name, _ in module.named_modules()}

    def settle(self) -> tuple[list[Step], dict[str, str]]:
        """The steps, and the layers that get no normalizer."""
        _require_reach(self.module)
        if self.config.name == "none":
            return [self._leave(node, gone=True) for node in self.norms], {}
        self._require_once(self.norms)
        reasons = {chain: self._reason(chain) for chain in self.chains}
        without = {str(chain.layer.target): why for chain, why in reasons.items() if why}
        placed = [chain for chain, why in reasons.items() if not why]
        if not placed and not self.norms:
            told = "".join(f"; {layer}: {why}" for layer, why in without.items())
            raise ConfigError(
                f"{type(self.module).__name__}: nothing to normalize: no normalizer, and no "
                f"convolution or linear layer with an activation behind it{told}"
            )
        self._require_once(chain.layer for chain in placed)
        claims = self._claims(placed)
        steps = [
            self._seat(chain, place, claims.get((chain, place)))
            for chain in placed
            for place in self._wanted(chain)
        ]
        for node in self.norms:
            if node not in claims.values():
                chain, _ = self._owner(node)
                gone = chain in placed or (chain is not None and self._excluded(chain))
                steps.append(self._leave(node, gone=gone))
        return steps, without

    def _require_once(self, nodes: Iterable[fx.Node]) -> None:
        for node in nodes:
            if self.calls[node.target] > 1:
                raise ConfigError(
                    f"{described(node)}: called in {self.calls[node.target]} places, which one "
                    "normalizer cannot serve; make a module for each place"
                )

    def _reason(self, chain: Chain) -> str:
        """Why a layer gets no normalizer; "" if it gets one."""
        if chain is self.chains[-1]:
            return "the last layer, the classifier"
        if self._excluded(chain):
            flag = f"{'fc' if self._is_linear(chain) else 'conv'}=false"
            only = "conv_only" in NORMS.entry(self.config.name).facts
            return f"{self.config.name} is for feature maps" if only else f"model.norm.{flag}"
        if chain.gate:
            return "a gate, by which features are multiplied"
        return "" if chain.activation else f"no activation behind it: {chain.stop}"

    def _is_linear(self, chain: Chain) -> bool:
        return isinstance(self.module.get_submodule(str(chain.layer.target)), nn.Linear)

    def _excluded(self, chain: Chain) -> bool:
        if chain is self.chains[-1]:
            return False
        if not self._is_linear(chain):
            return not self.config.conv
        return not self.config.fc or "conv_only" in NORMS.entry(self.config.name).facts

    def _wanted(self, chain: Chain) -> list[Place]:
        if self.config.placement == "both":
            return ["before_activation", "after_activation"]
        if self.config.placement == "after_pool" and chain.pool is None:
            return ["after_activation"]
        return [self.config.placement]

    def _claims(self, placed: list[Chain]) -> dict[tuple[Chain, Place], fx.Node]:
        """Of the normalizers there are, the one that each place gets.

        One behind a layer and in front of the next may be either's: first every place takes what
        stands there, then what is left goes to its own layer, from front to back. What stands
        behind a layer without an activation is that layer's, and does not move to the next.
        """
        claims: dict[tuple[Chain, Place], fx.Node] = {}
        seats = [(chain, place) for chain in placed for place in self._wanted(chain)]
        others = {n: chain for chain in self.chains for n in chain.standing("before_activation")}
        for stays in (True, False):
            for chain, place in seats:
                own = chain.standing(place) if stays else chain.standing(*PLACES)
                taken = set(claims.values())
                left = [
                    node
                    for node in own
                    if node not in taken and (stays or others.get(node, chain) is chain)
                ]
                if left and (chain, place) not in claims:
                    claims[chain, place] = max(left, key=self._is_asked_for)
        return claims

    def _owner(self, node: fx.Node) -> tuple[Chain | None, Place | None]:
        """The layer behind which a normalizer stands; if there is none, in front of which."""
        for places in (PLACES[1:], PLACES[:1]):
            for chain in self.chains:
                for place in places:
                    if node in chain.standing(place):
                        return chain, place
        return None, None

    def _seat(self, chain: Chain, place: Place, old: fx.Node | None) -> Step:
        """Fill one place of one layer."""
        layer = str(chain.layer.target)
        stands = next((each for each in PLACES if old in chain.standing(each)), None)
        stays = old is not None and stands == place
        read = old.all_input_nodes[0] if old is not None and stays else chain.anchor(place)
        before = "" if old is None else f"{self._told(old)} {stands}"
        name = self._name(old, layer)
        seat = None if stays else (chain, place)
        if old is not None and self._is_asked_for(old) and (stays or self._fits(old, read)):
            if old.op != "call_module" and not stays:
                raise ConfigError(
                    f"{described(old)}: a call of a function cannot be moved to {place} of "
                    f"{layer}; make it a module"
                )
            what: What = "kept" if stays else "moved"
            return Step(
                Change(layer, name, before, f"{self._told(old)} {place}", what), old, seat=seat
            )
        new = self._build(read, chain, old if stays else None)
        what = "added" if old is None else "replaced"
        after = f"{_told(new, read)} {place}"
        return Step(Change(layer, name, before, after, what), old, new, seat)

    def _leave(self, node: fx.Node, *, gone: bool) -> Step:
        """A normalizer that no place has claimed goes away, or is of the right kind where it is."""
        chain, place = self._owner(node)
        name = self._name(node, "")
        layer = str(chain.layer.target) if chain else name
        if chain is None or chain.activation is None or chain is self.chains[-1]:
            place = None
        told = place or "in place"
        before = f"{self._told(node)} {told}"
        if gone:
            return Step(Change(layer, name, before, "", "removed"), node)
        if self._is_asked_for(node):
            return Step(Change(layer, name, before, before, "kept"), node)
        read = node.all_input_nodes[0]
        new = self._build(read, chain, node)
        after = f"{_told(new, read)} {told}"
        return Step(Change(layer, name, before, after, "replaced"), node, new)

    def _is_asked_for(self, node: fx.Node) -> bool:
        """Whether a normalizer is of the kind that the configuration names."""
        name = self.config.name
        if node.op != "call_module":
            return called(node).removesuffix("_norm") == name
        module = self.module.get_submodule(str(node.target))
        of_torch = {
            "batch": nn.modules.batchnorm._BatchNorm,  # noqa: SLF001 - no public name says it
            "instance": nn.modules.instancenorm._InstanceNorm,  # noqa: SLF001
            "layer": nn.LayerNorm,
        }
        if name in of_torch and isinstance(module, of_torch[name]):
            return True
        shape = node.all_input_nodes[0].meta["shape"][1:]
        if name == "group" and isinstance(module, nn.GroupNorm):
            if 1 < module.num_groups < module.num_channels:
                return True
        elif name not in ("layer", "instance") and isinstance(module, nn.GroupNorm):
            return False
        fresh = build_norm(shape, self.config)
        if isinstance(module, nn.GroupNorm) and isinstance(fresh, nn.GroupNorm):
            return module.num_groups == fresh.num_groups
        return type(module) is type(fresh)

    def _fits(self, old: fx.Node, read: fx.Node) -> bool:
        """Whether a normalizer may stand behind another node with the parameters it has."""
        was, now = old.all_input_nodes[0].meta["shape"][1:], read.meta["shape"][1:]
        if was == now:
            return True
        if len(was) != len(now) or was[0] != now[0]:
            return False
        module = self.module.get_submodule(str(old.target))
        state = [*module.parameters(), *module.buffers()]
        per_channel = all(values.ndim == 0 or values.shape == was[:1] for values in state)
        return per_channel and not isinstance(module, nn.LayerNorm)

    def _build(self, read: fx.Node, chain: Chain | None, old: fx.Node | None) -> nn.Module:
        """A normalizer for what `read` gives, in the mode of the layer it belongs to."""
        shape = read.meta["shape"][1:]
        at = chain.layer if chain else old
        assert at is not None
        last = chain is not None and len(shape) > 1 and self._is_linear(chain)
        last |= chain is not None and chain.is_permuted(read)
        last |= old is not None and self._over_last_axis(old)
        if last or len(shape) not in (1, 3):
            raise ConfigError(
                f"{described(at)}: no normalizer of bnlab's can stand on features of shape {shape}"
                + (" whose channels are the last axis" if last else "")
                + ("; set model.norm.fc=false" if chain and self._is_linear(chain) else "")
            )
        try:
            new = build_norm(shape, self.config)
        except ConfigError as error:
            raise ConfigError(f"{described(at)}: {error}") from error
        like = next(self.module.parameters(), torch.empty(0))
        if at.op == "call_module":
            of = self.module.get_submodule(str(at.target))
            like = next(of.parameters(), like)
            new.train(of.training)
        double = like.dtype == torch.float64
        return new.to(like.device, torch.float64 if double else torch.float32)

    def _over_last_axis(self, node: fx.Node) -> bool:
        """Whether a normalizer is torch's layer norm with axes in front that it leaves alone."""
        if node.op == "call_module":
            module = self.module.get_submodule(str(node.target))
            axes = module.normalized_shape if type(module) is nn.LayerNorm else None
        else:
            is_layer_norm = called(node) == "layer_norm"
            axes = cast("tuple[int, ...]", node.args[1]) if is_layer_norm else None
        shape = node.all_input_nodes[0].meta["shape"][1:]
        return axes is not None and len(axes) < len(shape)

    def _told(self, node: fx.Node) -> str:
        """The kind of a normalizer and its channels."""
        read = node.all_input_nodes[0]
        if node.op != "call_module":
            return f"{called(node)}({read.meta['shape'][1]})"
        return _told(self.module.get_submodule(str(node.target)), read)

    def _name(self, old: fx.Node | None, layer: str) -> str:
        """The dotted name of a normalizer: its old one, or a free one after its layer's."""
        if old is not None and old.op == "call_module":
            return str(old.target)
        stem = f"{layer}_norm" if layer else str(old)
        free = (
            name
            for n in range(1, 1 << 20)
            if (name := f"{stem}{n if n > 1 else ''}") not in self.names
        )
        name = next(free)
        self.names.add(name)
        return name


def _told(norm: nn.Module, read: fx.Node) -> str:
    return f"{type(norm).__name__}({read.meta['shape'][1]})"


def _require_reach(module: fx.GraphModule) -> None:
    for node in module.graph.nodes:
        if node.op == "call_module":
            layer = module.get_submodule(str(node.target))
            inner = [name for name, part in layer.named_modules() if name and is_norm(part)]
            if inner and not is_norm(layer):
                raise ConfigError(
                    f"{described(node)}: {type(layer).__name__} is one piece to torch.fx, which "
                    f"does not reach its normalizers ({', '.join(inner)})"
                )
