"""Nested data with the place where each key was given: flattened, compared, laid over another."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from bnlab.errors import ConfigError

KeyPath: TypeAlias = tuple[str | int, ...]


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one mapping with dotted keys; lists stay values."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        dotted = f"{prefix}{key}"
        if isinstance(value, dict):
            flat.update(flatten(value, f"{dotted}."))
        else:
            flat[dotted] = value
    return flat


ABSENT = "(not set)"
"""Shown for a key that one side of a difference does not have."""


def differences(
    left: Mapping[str, Any], right: Mapping[str, Any]
) -> list[tuple[str, object, object]]:
    """Dotted keys whose values differ, with both values, in the order of the left side's keys.

    What is written short on one side and in full on the other is the same.
    """
    one, two = (
        {f"{key}.name" if f".{key}".endswith(".model.norm") else key: value for key, value in flat}
        for flat in (flatten(left).items(), flatten(right).items())
    )
    keys = [*one, *(key for key in two if key not in one)]
    pairs = ((key, one.get(key, ABSENT), two.get(key, ABSENT)) for key in keys)
    return [(key, a, b) for key, a, b in pairs if a != b]


@dataclass(frozen=True)
class Layer:
    """Values from one place, to be laid over those of earlier places.

    Attributes:
        tree: Plain nested data.
        marks: Where each key stands: `file:line`, or the flag that set it.
    """

    tree: dict[str, Any]
    marks: dict[KeyPath, str]


def dotted(path: Iterable[str | int]) -> str:
    """`("model", "norm", "name")` as `model.norm.name`."""
    return ".".join(str(part) for part in path)


def mark_of(path: KeyPath, marks: Mapping[KeyPath, str]) -> str:
    """Where a key, or the nearest key above it, was given."""
    above = (path[:end] for end in range(len(path), -1, -1))
    return next((marks[key] for key in above if key in marks), "defaults")


def merge_layers(layers: Iterable[Layer]) -> Layer:
    """Values of configurations laid over one another, later ones on top."""
    tree: dict[str, Any] = {}
    marks: dict[KeyPath, str] = {}
    for layer in map(_in_full, layers):
        overlay(tree, layer.tree)
        marks.update(layer.marks)
    return Layer(tree, marks)


def sublayer(layer: Layer, *path: str | int) -> Layer:
    """The mapping at `path` as a layer of its own; its keys may be dotted, as in `optim.lr: 0.1`.

    Raises:
        ConfigError: If a key is given both dotted and nested.
    """
    value: Any = layer.tree
    for part in path:
        value = value[part]
    below: dict[str | int, list[tuple[KeyPath, str]]] = {}
    for place, mark in layer.marks.items():
        if len(place) > len(path) and place[: len(path)] == path:
            below.setdefault(place[len(path)], []).append((place[len(path) + 1 :], mark))
    tree: dict[str, Any] = {}
    marks: dict[KeyPath, str] = {}
    given: set[str] = set()
    for key, item in (value or {}).items():
        parts = tuple(str(key).split("."))
        for rest, mark in below.get(key, ()):
            for end in range(1, len(parts)):
                marks.setdefault(parts[:end], mark)
            marks[(*parts, *rest)] = mark
        nested = item
        for part in reversed(parts[1:]):
            nested = {part: nested}
        keys = flatten({parts[0]: nested}).keys()
        if twice := given & keys:
            where = mark_of(parts, marks)
            raise ConfigError(f"{where}: {', '.join(sorted(twice))}: given twice; keep one")
        given |= keys
        overlay(tree, {parts[0]: nested})
    return Layer(tree, marks)


def overlay(base: dict[str, Any], top: Mapping[str, Any]) -> None:
    """Lay values over `base`, in place, mapping by mapping."""
    for key, value in top.items():
        below = base.get(key)
        if isinstance(value, dict):
            base[key] = dict(below) if isinstance(below, dict) else {}
            overlay(base[key], value)
        else:
            base[key] = value


def _in_full(layer: Layer) -> Layer:
    """`norm: none` is short for `norm: {name: none}`, and stands where the short form does."""
    model = layer.tree.get("model")
    if not isinstance(model, Mapping) or not isinstance(model.get("norm"), (str, bool)):
        return layer
    norm = ("model", "norm")
    tree = {**layer.tree, "model": {**model, "norm": {"name": model["norm"]}}}
    return Layer(tree, {**layer.marks, (*norm, "name"): mark_of(norm, layer.marks)})
