"""A network that somebody else wrote as a graph of torch.fx which provably is that network.

Reed et al. 2022, torch.fx (arXiv:2112.08429). A trace holds what one call did. Where `forward`
reads `self.training` a trace would keep dropout off, or on, for good, so both modes are traced and
compared; and what the graph gives is compared with what the network gives, to the bit.
"""

import copy
import inspect
import linecache
import operator
import sys
import traceback
from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from bnlab.errors import ConfigError, shown
from bnlab.training.norms import evaluating, is_norm

_TORCH = str(Path(torch.__file__).parent)


def trace(model: nn.Module, in_shape: tuple[int, ...], num_images: int) -> fx.GraphModule:
    """A copy of the network as a graph.

    Args:
        model: From (images, *in_shape) to a tensor, or several; it is left as it is.
        in_shape: Of one image: (channels, height, width).
        num_images: In the batch that the shapes are taken from.

    Returns:
        A module of the same output, whose layers have their dotted names and are in the modes they
        were in. Nothing in it works in place. `shape` in a node's `meta` is that of its output,
        images included; `line` says where the user's code calls it.

    Raises:
        ConfigError: If the network cannot be copied, called or traced, or is not a function of its
            input in eval mode.
    """
    network = _copied(model)
    modes = {name: module.training for name, module in network.named_modules()}
    saved = set(network.state_dict())
    example = _example(network, (num_images, *in_shape))
    _require_signature(network, example)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        network.eval()
        expected = _call(network, example)
        if not _equal(expected, _call(network, example)):
            raise ConfigError(
                f"{type(model).__name__}: two passes in eval mode over the same images differ, so "
                "that no two networks made of it could be compared; make forward deterministic"
            )
        for module in network.modules():
            if getattr(module, "inplace", False):
                setattr(module, "inplace", False)  # noqa: B010 - not every module has it
        traced = fx.GraphModule(network, _graph(network), type(model).__name__)
        for name, module in traced.named_modules():
            module.training = modes[name]
            # A GraphModule registers anew, for good, the buffers and constants that it reads.
            module._non_persistent_buffers_set |= {  # noqa: SLF001 - no public way
                key
                for key, _ in module.named_buffers(recurse=False)
                if f"{name}.{key}".lstrip(".") not in saved
            }
        try:
            with evaluating(traced):
                outcome = _Shapes(traced).run(example)
        except Exception as error:
            raise ConfigError(f"{type(model).__name__}: its trace does not run: {error}") from error
    if not _equal(expected, outcome):
        raise ConfigError(
            f"{type(model).__name__}: its trace gives other outputs than the network; forward does "
            "something that torch.fx does not see (values kept between calls, or overwritten)"
        )
    return traced


def owner_of(node: fx.Node) -> str:
    """The dotted name of the module in whose `forward` a node is; "" for the network itself."""
    stack = [name for name, _ in (node.meta.get("nn_module_stack") or {"": ("", None)}).values()]
    if node.op == "call_module" and stack[-1] == node.target:
        stack.pop()
    return stack[-1] if stack else ""


def described(node: fx.Node) -> str:
    """A node for a message: its dotted name or what it calls, and the user's line."""
    line = node.meta.get("line", "")
    if node.op == "call_module":
        name = str(node.target)
    else:
        name = f"{called(node)} in {owner_of(node) or 'forward'}"
    return f"{name} ({line})" if line else name


def called(node: fx.Node) -> str:
    """The bare name of what a node calls: `relu` for a function, a method or their like."""
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "?")


class _Tracer(fx.Tracer):
    """torch.fx's tracer, which remembers lines, and takes a module without children as one piece.

    Such a module may look at its own mode, or at values: the graph need not know.
    """

    failed = ""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        own = not list(m.children()) or is_norm(m)
        return own or super().is_leaf_module(m, module_qualified_name)

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        del is_module, concrete_args
        # Other parameters keep their defaults: as a placeholder, None would not be None.
        return root_fn, [self.root, self.create_proxy("placeholder", "images", (), {})]

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            self.failed = self.failed or self.path_of_module(m)
            raise

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        frame = sys._getframe().f_back  # noqa: SLF001 - a traceback a node takes seconds
        ours = (_Tracer.call_module.__code__, _Tracer.create_args_for_root.__code__)
        while frame and (frame.f_code in ours or _inside(frame.f_code.co_filename)):
            frame = frame.f_back
        if frame is not None and frame.f_code is not _traced.__code__:
            node.meta["line"] = f"{frame.f_code.co_filename}:{frame.f_lineno}"
        return node


class _Shapes(fx.Interpreter):
    """Runs the graph and notes the shape of every tensor."""

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            n.meta["shape"] = tuple(result.shape)
        return result


def _graph(network: nn.Module) -> fx.Graph:
    """The graph of both modes; the network is left in eval mode."""
    trained, evaluated = (_traced(network.train(mode)) for mode in (True, False))
    for here, there in zip_longest(list(evaluated.nodes), list(trained.nodes)):
        _unite(here, there, network)
    for node in evaluated.nodes:
        _out_of_place(node)
    return evaluated


def _traced(network: nn.Module) -> fx.Graph:
    tracer = _Tracer()
    try:
        return tracer.trace(network)
    except Exception as error:
        where = tracer.failed or "forward"
        raise ConfigError(
            f"{where}: cannot be traced by torch.fx: {_first_line(error)}{_raised_at(error)}; "
            "write it without decisions that depend on values, shapes or a tensor's length"
        ) from error


def _unite(here: fx.Node | None, there: fx.Node | None, network: nn.Module) -> None:
    """Let a node of eval mode ask for the mode where only that differs from the one in training.

    Raises:
        ConfigError: If anything else differs.
    """
    known = here or there
    assert known is not None
    apart = ConfigError(
        f"{described(known)}: forward goes another way in training than in eval mode, of which a "
        "graph has but one; move what depends on self.training into a module of its own"
    )
    if here is None or there is None or here.op != there.op:
        raise apart
    if here.target != there.target and not _same_constant(here, there, network):
        raise apart
    if len(here.args) != len(there.args) or here.kwargs.keys() != there.kwargs.keys():
        raise apart
    mode = ".".join(filter(None, (owner_of(here), "training")))

    def pick(value: Any, other: Any) -> Any:
        if "_tensor_constant" in str(value) or str(value) == str(other):
            return value
        if value is False and other is True:
            with here.graph.inserting_before(here):
                return here.graph.create_node("get_attr", mode)
        raise apart

    here.args = tuple(pick(*pair) for pair in zip(here.args, there.args, strict=True))
    here.kwargs = {key: pick(value, there.kwargs[key]) for key, value in here.kwargs.items()}


def _same_constant(here: fx.Node, there: fx.Node, network: nn.Module) -> bool:
    """Whether two names stand for one tensor that `forward` makes in every call."""
    names = str(here.target), str(there.target)
    if here.op != "get_attr" or not all(name.startswith("_tensor_constant") for name in names):
        return False
    return torch.equal(*(operator.attrgetter(name)(network) for name in names))


def _out_of_place(node: fx.Node) -> None:
    """Without a norm between them, what works in place would overwrite what others still read."""
    if node.kwargs.get("inplace") is True:
        node.update_kwarg("inplace", False)
    if node.op not in ("call_function", "call_method") or not node.users:
        return
    name = called(node)
    if not name.endswith("_") or name.startswith("_"):
        return
    plain = name.removesuffix("_")
    if node.op == "call_method" and hasattr(Tensor, plain):
        node.target = plain
    elif node.op == "call_function" and (hasattr(torch, plain) or hasattr(F, plain)):
        node.target = getattr(torch, plain, None) or getattr(F, plain)


def _copied(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except Exception as error:
        raise ConfigError(
            f"{type(model).__name__}: cannot be copied: {_first_line(error)}"
        ) from error


def _example(network: nn.Module, shape: tuple[int, ...]) -> Tensor:
    """Images of N(0, 1), drawn apart from everything else, where and as the weights are."""
    weights = [weight for weight in network.parameters() if weight.is_floating_point()]
    like = weights[0] if weights else torch.empty(0)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(like)


def _require_signature(network: nn.Module, example: Tensor) -> None:
    try:
        inspect.signature(network.forward).bind(example)
    except TypeError as error:
        raise ConfigError(
            f"{type(network).__name__}: forward takes other input than one batch of images: {error}"
        ) from error


def _call(network: nn.Module, example: Tensor) -> Any:
    """What the network gives, or a ConfigError that names the module that failed."""
    names = {module: name for name, module in network.named_modules()}
    inside: list[str] = []

    def enter(module: nn.Module, _inputs: Any) -> None:
        inside.append(names[module])

    def leave(_module: nn.Module, _inputs: Any, _output: Any) -> None:
        inside.pop()

    hooks = [module.register_forward_pre_hook(enter) for module in names]
    hooks += [module.register_forward_hook(leave) for module in names]
    try:
        return network(example)
    except Exception as error:
        where = next((name for name in reversed(inside) if name), type(network).__name__)
        raise ConfigError(
            f"{where}: forward fails on images of shape {tuple(example.shape)}: "
            f"{_first_line(error)}{_raised_at(error)}"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()


def _equal(one: Any, other: Any) -> bool:
    """Whether two outputs agree to the bit, where NaN equals NaN."""
    leaves, others = (
        [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]
        for output in (one, other)
    )
    return len(leaves) == len(others) and all(
        a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)
        for a, b in zip(leaves, others, strict=True)
    )


def _first_line(error: BaseException) -> str:
    text = str(error).strip().partition("\n")[0]
    return shown(f"{type(error).__name__}: {text}", limit=200)


def _raised_at(error: BaseException) -> str:
    """Where the user's code was when something failed: file, line and what stands there."""
    frames = traceback.extract_tb(error.__traceback__)
    users = [frame for frame in frames if not _inside(frame.filename)]
    if not users or users[-1].filename == __file__:
        return ""
    last = users[-1]
    code = linecache.getline(last.filename, last.lineno or 0).strip()
    return f" ({last.filename}:{last.lineno}: {shown(code)})"


def _inside(filename: str) -> bool:
    """Whether a file is torch's, or generated by it."""
    return filename.startswith((_TORCH, "<eval_with_key>"))
