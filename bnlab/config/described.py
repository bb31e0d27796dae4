"""The schema in words: each key, its default, what it accepts, when it counts, what it means."""

import ast
import inspect
import json
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bnlab.config.resolve import NAMED
from bnlab.config.schema import Config, ConfigSection


@dataclass(frozen=True)
class Key:
    """One key of a configuration.

    Attributes:
        name: Dotted, as `--set` takes it.
        default: As YAML and JSON write it; "" for a section, whose keys have defaults of their own.
        accepts: Values that it may have, in words.
        counts: With which values of others it means something; "" where always.
        meaning: The schema's docstring; of a section, its class's.
    """

    name: str
    default: str
    accepts: str
    counts: str
    meaning: str


def describe_keys(section: type[ConfigSection] = Config, above: str = "") -> Iterator[Key]:
    """Every key of a section and of those below it, in the schema's order.

    Args:
        section: A part of the schema.
        above: The dotted name of the section with a dot behind it.
    """
    said = _docstrings(section)
    for field, info in section.model_fields.items():
        name = f"{above}{field}"
        annotation, counts = info.annotation, _counts(section, field, above)
        if isinstance(annotation, type) and issubclass(annotation, ConfigSection):
            yield Key(name, "", "a mapping", counts, inspect.getdoc(annotation) or "")
            yield from describe_keys(annotation, f"{name}.")
            continue
        default = json.dumps(info.get_default(call_default_factory=True))
        accepts = " or ".join(_accepted(annotation, info.metadata))
        if name in NAMED:
            names = ", ".join(NAMED[name])
            accepts = f"a list, each {names}" if accepts.startswith("a list") else names
        yield Key(name, default, accepts, counts, said.get(field, ""))


def _docstrings(section: type[ConfigSection]) -> dict[str, str]:
    """What stands under each field of a class."""
    [parsed] = ast.parse(inspect.getsource(section)).body
    assert isinstance(parsed, ast.ClassDef)
    found = {}
    for above, below in zip(parsed.body, parsed.body[1:], strict=False):
        if (
            isinstance(above, ast.AnnAssign)
            and isinstance(above.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
        ):
            found[above.target.id] = inspect.cleandoc(str(below.value.value))
    return found


def _counts(section: type[ConfigSection], field: str, above: str) -> str:
    told = []
    for table, words in ((section.only_with, "only with"), (section.never_with, "not with")):
        if field in table:
            selector, values = table[field]
            told.append(f"{words} {above}{selector} {' or '.join(values)}")
    return "; ".join(told)


def _accepted(annotation: Any, metadata: list[Any]) -> Iterator[str]:
    """Alternatives, in words."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        yield from _accepted(parts[0], [*parts[1:], *metadata])
    elif origin is types.UnionType:
        for part in parts:
            yield from _accepted(part, metadata)
    elif origin is typing.Literal:
        yield ", ".join(map(str, parts))
    elif origin is tuple:
        [inner] = _accepted(parts[0], [])
        yield f"a list{'' if parts[-1] is Ellipsis else f' of {len(parts)}'}, each {inner}"
    elif annotation in (int, float):
        whole = "a whole number" if annotation is int else "a number"
        yield " ".join([whole, *_bounds(metadata)])
    else:
        named = {bool: "true or false", str: "text", types.NoneType: "null"}
        yield named.get(annotation, "a mapping")


def _bounds(metadata: list[Any]) -> Iterator[str]:
    kept = [one for part in metadata for one in getattr(part, "metadata", [part])]
    for attribute, word in (("ge", "from"), ("gt", "above"), ("le", "up to"), ("lt", "below")):
        for bound in kept:
            value = getattr(bound, attribute, None)
            if value is not None:
                yield f"{word} {value:,}" if isinstance(value, int) else f"{word} {value:g}"
