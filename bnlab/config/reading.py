"""YAML and `--set` as layers: values, and the file and line where each was given."""

import re
from pathlib import Path
from typing import Any

import yaml

from bnlab.config.tree import KeyPath, Layer, dotted
from bnlab.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """YAML with the floats of YAML 1.2: plain PyYAML reads `1e-3` as a string."""


_FLOAT_TAG = "tag:yaml.org,2002:float"
_MERGE_TAG = "tag:yaml.org,2002:merge"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _FLOAT_TAG]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    _FLOAT_TAG,
    re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|[-+]?\.inf$|\.nan$"),
    list("-+.0123456789"),
)


def parse_yaml(text: str, source: str) -> Layer:
    """Read YAML text, remembering the line of every key.

    Args:
        text: The YAML document; its top level must be a mapping (or empty).
        source: The file's name, for messages.

    Raises:
        ConfigError: On a syntax error, a key given twice or a key that is no word, with its line.
    """
    loader = _Loader(text)
    marks: dict[KeyPath, str] = {}
    try:
        node = loader.get_single_node()
        if node is None:
            return Layer({}, {})
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(f"{source}:1: expected a mapping of sections (key: value)")
        return Layer(_construct(loader, node, (), source, marks), marks)
    except RecursionError:
        raise ConfigError(
            f"{source}: nested too deeply; does an anchor (&name) hold its own alias (*name)?"
        ) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        raise ConfigError(f"{source}{line}: not valid YAML: {problem}") from None
    finally:
        loader.dispose()


def _construct(
    loader: _Loader, node: yaml.Node, path: KeyPath, source: str, marks: dict[KeyPath, str]
) -> Any:
    """The data of a node; fills `marks`. Unlike SafeLoader it refuses a key given twice."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, _ in node.value:
            place = f"{source}:{key.start_mark.line + 1}"
            if not isinstance(key, yaml.ScalarNode):
                raise ConfigError(f"{place}: a key must be a word, not a list or a mapping")
            if key.tag == _MERGE_TAG:
                continue
            if key.value in seen:
                raise ConfigError(f"{place}: {dotted((*path, key.value))}: given twice; keep one")
            seen.add(key.value)
            marks[(*path, key.value)] = place
        loader.flatten_mapping(node)
        return {
            str(key.value): _construct(loader, value, (*path, str(key.value)), source, marks)
            for key, value in node.value
        }
    if isinstance(node, yaml.SequenceNode):
        return [
            _construct(loader, item, (*path, index), source, marks)
            for index, item in enumerate(node.value)
        ]
    return loader.construct_object(node, deep=True)


def read_file(path: Path) -> Layer:
    """The layer of a configuration file.

    Raises:
        ConfigError: If the file cannot be read or parsed.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such configuration file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a configuration: {error}") from None
    return parse_yaml(text, str(path))


def parse_override(assignment: str, flag: str = "--set") -> Layer:
    """The layer of one `a.b=value`; the value is a YAML scalar, or a list or mapping in flow style.

    Raises:
        ConfigError: If there is no `=`, no key, or the value is not YAML.
    """
    key, equals, text = assignment.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"{flag} {assignment}: expected KEY=VALUE, as in model.norm.name=none")
    mark = f"{flag} {assignment}"
    try:
        inner = parse_yaml(f"value: {text}", mark)
    except ConfigError:
        raise ConfigError(f"{mark}: the value is not valid YAML") from None
    if len(inner.tree) != 1:
        raise ConfigError(f"{mark}: expected one value; give --set once for each key")
    path: KeyPath = tuple(parts)
    value = inner.tree["value"]
    marks: dict[KeyPath, str] = {path[:end]: mark for end in range(1, len(path) + 1)}
    marks.update({(*path, *below[1:]): mark for below in inner.marks})
    for part in reversed(parts):
        value = {part: value}
    return Layer(value, marks)
