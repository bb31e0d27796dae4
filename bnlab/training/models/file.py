"""A network of the user's own, from a Python file."""

import copy
import inspect
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bnlab.config import ModelConfig, read_source
from bnlab.errors import ConfigError
from bnlab.training.models import MODELS, Dropout, Shape
from bnlab.training.models._rewrite import Rewritten, rewrite
from bnlab.training.streams import stream_seed

_drawing = threading.Lock()
"""The file draws from torch's global stream, which all threads share."""


@MODELS.register("file", facts=("initialized",))
def file(config: ModelConfig, in_shape: Shape, num_classes: int, seed: int) -> nn.Module:
    """The network of `model.file`, with the norms that `model.norm` asks for.

    It starts from the weights that its file gives it, drawn from a stream of the seed: arms that
    differ in norms start alike. `nn.Dropout` draws from a stream of its own, as bnlab's does.

    Raises:
        ConfigError: If the file cannot be run, has no such function, is not what it was when the
            configuration was made, or makes no network from such images to as many logits; or if
            the norms have no place in it.
    """
    if config.rewrite:
        return _with_own_dropout(rewritten(config, in_shape, num_classes, seed).module)
    return _with_own_dropout(_own(config, in_shape, num_classes, seed))


def rewritten(config: ModelConfig, in_shape: Shape, num_classes: int, seed: int) -> Rewritten:
    """The same, with what became of each normalizer.

    Raises:
        ConfigError: As `file`.
    """
    return rewrite(_own(config, in_shape, num_classes, seed), config.norm, in_shape)


def _own(config: ModelConfig, in_shape: Shape, num_classes: int, seed: int) -> nn.Module:
    """The network as its file makes it."""
    assert config.file is not None
    made = _function(config)
    arguments = dict(config.arguments)
    if _takes(made, "num_classes"):
        arguments.setdefault("num_classes", num_classes)
    with _drawing, torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, "init", "file"))
        try:
            model = made(**arguments)
        except Exception as error:
            raise ConfigError(
                f"model.file: {config.file}: calling it raised {type(error).__name__}: {error}"
            ) from error
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"model.file: {config.file}: gave a {type(model).__name__}, not a torch.nn.Module"
        )
    _check_output(model, config, in_shape)
    return model


def _function(config: ModelConfig) -> Callable[..., Any]:
    assert config.file is not None
    path, _, name = config.file.rpartition(":")
    text, found = read_source(config.file)
    if config.source and found != config.source:
        raise ConfigError(
            f"model.file: {config.file}: is not what it was when this configuration was made"
        )
    # A module, as an import would make it: dataclasses and torch.fx look their classes' up.
    module = types.ModuleType(f"bnlab_model_{found[:16]}")
    module.__file__ = path
    sys.modules[module.__name__] = module
    folder = str(Path(path).expanduser().resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)  # for what the file imports from beside it
    try:
        exec(compile(text, path, "exec"), vars(module))  # noqa: S102 - the user names the file
    except Exception as error:
        raise ConfigError(
            f"model.file: {path}: running it raised {type(error).__name__}: {error}"
        ) from error
    if not callable(getattr(module, name, None)):
        raise ConfigError(f"model.file: {path}: has no function or class {name}")
    made: Callable[..., Any] = getattr(module, name)
    return made


def _takes(made: Callable[..., Any], name: str) -> bool:
    try:
        return name in inspect.signature(made).parameters
    except (TypeError, ValueError):
        return False


def _with_own_dropout(model: nn.Module) -> nn.Module:
    """The network with dropout that a resumed run draws again as the uninterrupted one would."""
    for name, module in list(model.named_modules()):
        if type(module) is nn.Dropout and name:
            above, _, last = name.rpartition(".")
            setattr(model.get_submodule(above), last, Dropout(module.p))
    return model


def _check_output(model: nn.Module, config: ModelConfig, in_shape: Shape) -> None:
    """See that it maps images to logits, without a trace on it."""
    tried = copy.deepcopy(model).eval()
    try:
        with torch.no_grad():
            logits = tried(torch.zeros(2, *in_shape))
    except Exception as error:
        shape = " x ".join(map(str, in_shape))
        raise ConfigError(
            f"model.file: {config.file}: on images of {shape} it raised "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2 or len(logits) != 2:
        found = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ConfigError(
            f"model.file: {config.file}: gives {found} for two images, not logits (2, classes)"
        )
