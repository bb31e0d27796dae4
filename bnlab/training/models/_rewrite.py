"""Normalizers of a network that somebody else wrote: kept, removed, added, replaced or moved.

A chain is a weighted layer with what follows it alone: a normalizer, the end of a shortcut, an
activation, pooling and dropout, as far as it has them. Ioffe and Szegedy 2015 (arXiv:1502.03167,
section 3.2) put the normalizer in front of the activation; the other places are those of `convnet`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import fx, nn

from bnlab.config import NormConfig
from bnlab.training.models._placing import Change, Plan, Step
from bnlab.training.models._tracing import trace

__all__ = ["Change", "Rewritten", "rewrite"]


@dataclass(frozen=True, eq=False)
class Rewritten:
    """A network with its normalizers where a configuration wants them.

    Attributes:
        module: It runs, trains, and has the dotted names of the network it was made of.
        changes: One a normalizer: those of layers that a placement serves in data-flow order, then
            the others.
        without: Layers that no placement serves, by dotted name, and why.
    """

    module: fx.GraphModule
    changes: tuple[Change, ...]
    without: Mapping[str, str]


def rewrite(
    model: nn.Module, norm: NormConfig, in_shape: tuple[int, ...], *, num_images: int = 2
) -> Rewritten:
    """A copy of a network whose normalizers stand where a configuration wants them.

    Every convolution (`norm.conv`) and linear layer (`norm.fc`) with an activation in its chain
    gets exactly one, or two for `both`. The last layer, which is the classifier, gates and layers
    without an activation get none; one that they have stays in its place, as does one that no layer
    has, and is replaced there if it is of another kind. A normalizer of the kind that is asked for
    stays as it is where it stands right, and else moves if its channels fit: `momentum`, `eps` and
    the like are those of normalizers made anew. `none` removes all.

    Args:
        model: From (images, *in_shape) to a tensor, or several. It is not modified, and nothing is
            drawn from the global random stream.
        norm: The normalizer and where it stands. Convolutions without a bias stay without.
        in_shape: Of one image: (channels, height, width).
        num_images: In the batch that the shapes are taken from.

    Raises:
        ConfigError: If the network is not a function of one batch that torch.fx can trace; if a
            normalizer has two places, is out of reach, or cannot be moved to where it is wanted or
            built there; if there is no place for any.
    """
    module = trace(model, in_shape, num_images)
    steps, without = Plan(module, norm).settle()
    for step in steps:
        _apply(step, module)
    _clean(module, [step.old for step in steps if step.old is not None])
    return Rewritten(module, tuple(step.change for step in steps), without)


def _apply(step: Step, module: fx.GraphModule) -> None:
    """Edit the graph."""
    graph, name, old = module.graph, step.change.norm, step.old
    if step.change.what == "kept":
        return
    if step.new is not None:
        module.add_submodule(name, step.new)
        if step.seat is None and old is not None and old.op == "call_module":
            return
    if step.seat is not None:
        chain, place = step.seat
        read = chain.anchor(place)
        if place == "before_conv":
            with graph.inserting_before(chain.layer):
                norm = graph.call_module(name, (read,))
            chain.layer.replace_input_with(read, norm)
        else:
            with graph.inserting_after(read):
                norm = graph.call_module(name, (read,))
            read.replace_all_uses_with(norm, lambda user: user is not norm)
    elif step.new is not None and old is not None:
        with graph.inserting_before(old):
            norm = graph.call_module(name, (old.all_input_nodes[0],))
        old.replace_all_uses_with(norm)
    if old is not None:
        old.replace_all_uses_with(old.all_input_nodes[0])
        graph.erase_node(old)


def _clean(module: fx.GraphModule, old: list[fx.Node]) -> None:
    """Drop the modules and parameters that nothing calls any more."""
    graph = module.graph
    unread = [node for node in graph.nodes if node.op == "get_attr" and not node.users]
    for node in unread:
        graph.erase_node(node)
    used = {str(node.target) for node in graph.nodes if node.op in ("call_module", "get_attr")}
    for target in {str(node.target) for node in old if node.op == "call_module"} - used:
        module.delete_submodule(target)
    for target in {str(node.target) for node in unread} - used:
        owner, _, name = target.rpartition(".")
        if name != "training":
            delattr(module.get_submodule(owner), name)
    module.recompile()
