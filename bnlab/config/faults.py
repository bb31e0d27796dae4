"""What pydantic finds wrong, in bnlab's words: the place, the value, what is allowed."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from bnlab.config.schema import ConfigSection
from bnlab.config.tree import KeyPath, dotted, mark_of
from bnlab.errors import did_you_mean, shown

_EXPECTED = {
    "int_type": "expected a whole number",
    "float_type": "expected a number",
    "bool_type": "expected true or false",
    "string_type": "expected text",
    "too_short": "expected at least one entry",
    "tuple_type": "expected a list, as in [64, 128]",
    "model_type": "expected a mapping of keys",
    "model_attributes_type": "expected a mapping of keys",
    "finite_number": "expected a finite number",
}


def describe_fault(fault: Any, root: type[ConfigSection]) -> str:
    """One pydantic error in bnlab's words: the value, what is allowed, what to do."""
    path, kind, value = fault["loc"], fault["type"], fault["input"]
    if kind == "missing":
        return "required, but not given"
    if kind == "extra_forbidden":
        return f"unknown key{_suggest_key(path, root)}"
    if path[-1:] == ("name",) and isinstance(value, bool):
        return (
            f"got the boolean {str(value).lower()} (YAML reads off, no and false, on, yes and true "
            "as booleans); write a name: `none` switches normalization off, `batch` on"
        )
    given = shown(json.dumps(value, default=str, ensure_ascii=False))
    if kind == "literal_error":
        short = ("before", "after") if path[-1:] == ("placement",) else ()
        return f"got {given}{did_you_mean(value, (*_choices(path, root), *short))}"
    if kind == "string_pattern_mismatch":
        return (
            f"got {given}; use letters, digits, '.', '_' and '-', beginning with a letter or digit"
        )
    own = str(fault["ctx"]["error"]) if kind == "value_error" else None
    message = own or _EXPECTED.get(kind) or str(fault["msg"])
    return f"{message[0].lower()}{message[1:]}, got {given}"


def _section_at(path: KeyPath, root: type[ConfigSection]) -> type[ConfigSection] | None:
    section = root
    for part in path:
        field = section.model_fields.get(str(part))
        annotation = field.annotation if field else None
        if not (isinstance(annotation, type) and issubclass(annotation, ConfigSection)):
            return None
        section = annotation
    return section


def _choices(path: KeyPath, root: type[ConfigSection]) -> tuple[str, ...]:
    section = _section_at(path[:-1], root)
    annotation = section.model_fields[str(path[-1])].annotation if section else None
    return getattr(annotation, "__args__", ())


def _all_keys(section: type[ConfigSection], prefix: str = "") -> Iterable[str]:
    for name, field in section.model_fields.items():
        yield f"{prefix}{name}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, ConfigSection):
            yield from _all_keys(field.annotation, f"{prefix}{name}.")


def _suggest_key(path: KeyPath, root: type[ConfigSection]) -> str:
    """A known key for an unknown one: a near name in its section, else its name in another."""
    section = _section_at(path[:-1], root)
    known = tuple(section.model_fields) if section else ()
    wrong = str(path[-1])
    elsewhere = [key for key in _all_keys(root) if key.split(".")[-1] == wrong]
    if elsewhere:
        return f"; did you mean {elsewhere[0]!r}? (known here: {', '.join(sorted(known))})"
    return did_you_mean(wrong, known)


def describe_all(faults: Iterable[tuple[KeyPath, str]], marks: Mapping[KeyPath, str]) -> str:
    """One line a fault: where the key was given, the key, what is wrong."""
    return "\n".join(
        f"{mark_of(path, marks)}: {dotted(path)}: {message}" for path, message in faults
    )
