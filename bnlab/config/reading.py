"""YAML and `--set` as layers: values, and the file and line where each was given; and back.

Whatever the text, what comes back is a layer or a fault with its place, soon and in little memory.
libyaml hands over events without recursing (its composer overflows the stack on deep nesting), and
what is built from them is bounded in depth and number, aliases written out included.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import yaml

from bnlab.config.tree import KeyPath, Layer, dotted
from bnlab.errors import ConfigError, shown

MAX_CHARACTERS = 1_000_000
MAX_NODES = 10_000
"""Values in one text. The largest study has hundreds; a billion laughs have more."""
MAX_DEPTH = 64
MAX_KEY = 100
"""Characters of a key."""
MAX_NUMBER = 100
"""Characters of a number, in whatever form."""
MAX_DIRECTIVES = 8
"""%TAG lines, which do nothing here; libyaml compares each with all before it."""

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_UNREADABLE = re.compile(
    "[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"  # YAML 1.1, section 4.1
)
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")

_WORDS: dict[str, bool | None] = {
    form: value
    for words, value in (("yes true on", True), ("no false off", False), ("null", None))
    for word in words.split()
    for form in (word, word.capitalize(), word.upper())
} | {"~": None, "": None}
_WHOLE = re.compile(
    r"[-+]?(0b_*[01][01_]*|0x_*[0-9a-fA-F][0-9a-fA-F_]*|0[0-7_]*|[1-9][0-9_]*)"  # YAML 1.1
)
_OCTAL = re.compile(r"[-+]?0[0-7]")
_FLOAT = re.compile(  # YAML 1.2: in 1.1, 1e-3 is text
    r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan"
)

_TAG = "tag:yaml.org,2002:"
_FITS: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (float, int),
    "bool": (bool,),
    "null": (type(None),),
}


class _Mapping(dict[str, tuple[Any, int]]):
    """A mapping whose aliases are not yet written out: by key, the value and the key's line."""


def parse_yaml(text: str, source: str) -> Layer:
    """Read YAML text, remembering the line of every key.

    Plain scalars are read as YAML 1.1 has them, with the floats of YAML 1.2 (`1e-3`) and without
    its dates and base 60, which stay text. Anchors, aliases and `<<` work; of tags, only `!!str`,
    `!!int`, `!!float`, `!!bool`, `!!null`, `!!map` and `!!seq`.

    Args:
        text: The YAML document; its top level must be a mapping (or empty).
        source: The file's name, for messages.

    Raises:
        ConfigError: On a syntax error, a key given twice or that is no word, a value that does not
            fit its tag, or a text too long, too deep or too large; with its line.
    """
    name = shown(source, limit=None)
    return _parse(text, lambda line: f"{name}:{line}")


def _parse(text: str, place: Callable[[int], str]) -> Layer:
    _check_text(text, place)
    builder = _Builder(_LOADER(text), place)
    try:
        return _written_out(builder.document(), place)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or getattr(error, "reason", "unreadable")
        raise ConfigError(
            f"{place(mark.line + 1 if mark else 1)}: not valid YAML: {shown(str(problem))}"
        ) from None
    finally:
        builder.loader.dispose()


def _check_text(text: str, place: Callable[[int], str]) -> None:
    if len(text) > MAX_CHARACTERS:
        raise ConfigError(
            f"{place(1)}: {len(text):,} characters; expected at most {MAX_CHARACTERS:,}"
        )
    if found := _UNREADABLE.search(text):
        line = text.count("\n", 0, found.start()) + 1
        raise ConfigError(
            f"{place(line)}: the character {shown(found[0])} has no place in YAML; remove it"
        )
    if text.count("%TAG") > MAX_DIRECTIVES:
        raise ConfigError(f"{place(1)}: more than {MAX_DIRECTIVES} times %TAG; remove them")


class _Builder:
    """Values from events. Its recursion is bounded by MAX_DEPTH; the events themselves are flat."""

    def __init__(self, loader: Any, place: Callable[[int], str]) -> None:
        self.loader, self.place = loader, place
        self.next: Callable[[], Any] = loader.get_event
        self.anchors: dict[str, tuple[Any, str | None]] = {}
        """The value, and the text of a scalar: what it is as a key."""
        self.nodes = 0

    def document(self) -> _Mapping:
        """The one document of a text."""
        self.next()
        if type(self.next()) is yaml.StreamEndEvent:
            return _Mapping()
        first = self.next()
        root = self.value(first, ())
        if type(root) is not _Mapping:
            self.fault(first, "expected a mapping of sections (key: value)")
        self.next()
        after = self.next()
        if type(after) is not yaml.StreamEndEvent:
            self.fault(after, "a second document begins here; a file holds one")
        return root

    def fault(self, event: Any, message: str, path: KeyPath = ()) -> NoReturn:
        where = f"{self.place(event.start_mark.line + 1)}: "
        raise ConfigError(f"{where}{dotted(path)}: {message}" if path else f"{where}{message}")

    def count(self, nodes: int, event: Any) -> None:
        self.nodes += nodes
        if self.nodes > MAX_NODES:
            self.fault(event, f"more than {MAX_NODES:,} values up to here")

    def value(self, event: Any, path: KeyPath) -> Any:
        """The value that begins with an event."""
        kind = type(event)
        self.count(1, event)
        if kind is yaml.AliasEvent:
            return self.anchored(event, path)[0]
        text = None
        if kind is yaml.ScalarEvent:
            text = event.value
            value = self.scalar(event, path)
        elif len(path) >= MAX_DEPTH:
            self.fault(event, f"nested more than {MAX_DEPTH} deep")
        elif kind is yaml.MappingStartEvent:
            self.check_tag(event, "map", path)
            value = self.mapping(path)
        else:
            self.check_tag(event, "seq", path)
            value = self.sequence(path)
        if event.anchor is not None:
            # Not before its end, so that no anchor holds its own alias.
            self.anchors[event.anchor] = value, text
        return value

    def sequence(self, path: KeyPath) -> list[Any]:
        items: list[Any] = []
        while type(event := self.next()) is not yaml.SequenceEndEvent:
            items.append(self.value(event, (*path, len(items))))
        return items

    def mapping(self, path: KeyPath) -> _Mapping:
        own, merged = _Mapping(), _Mapping()
        while type(event := self.next()) is not yaml.MappingEndEvent:
            if type(event) is yaml.ScalarEvent and event.value == "<<" and event.implicit[0]:
                merged.update(self.merged(self.next(), (*path, "<<")))
                continue
            key = self.key(event, path)
            if key in own:
                self.fault(event, "given twice; keep one", (*path, key))
            own[key] = self.value(self.next(), (*path, key)), event.start_mark.line + 1
        return _Mapping(merged | own) if merged else own

    def merged(self, event: Any, path: KeyPath) -> _Mapping:
        """What `<<` lays under a mapping: one, or several, of which the first counts most."""
        value = self.value(event, path)
        found = _Mapping()
        for part in reversed(value if type(value) is list else [value]):
            if type(part) is not _Mapping:
                self.fault(event, "<< takes a mapping, as in `<<: *name`, or a list of such", path)
            self.count(len(part), event)
            found.update(part)
        return found

    def key(self, event: Any, path: KeyPath) -> str:
        """The text of a key, as it is written: `1` and `on` are words here."""
        text: str | None = None
        if type(event) is yaml.AliasEvent:
            text = self.anchored(event, path)[1]
        elif type(event) is yaml.ScalarEvent:
            text = event.value
            if event.tag is not None or event.anchor is not None:
                value = self.scalar(event, path)
                if event.anchor is not None:
                    self.anchors[event.anchor] = value, text
        if text is None:
            self.fault(event, "a key must be a word, not a list or a mapping", path)
        if len(text) > MAX_KEY or not text.isprintable():
            said = f"a key must be a word of at most {MAX_KEY} characters, got {shown(text)}"
            self.fault(event, said, path)
        return text

    def anchored(self, event: Any, path: KeyPath) -> tuple[Any, str | None]:
        if event.anchor not in self.anchors:
            name = shown(event.anchor)
            self.fault(event, f"*{name}: no anchor &{name} that is whole before it", path)
        return self.anchors[event.anchor]

    def check_tag(self, event: Any, expected: str, path: KeyPath) -> None:
        if event.tag not in (None, "!", _TAG + expected):
            self.refuse_tag(event, path)

    def refuse_tag(self, event: Any, path: KeyPath) -> NoReturn:
        tag = shown(event.tag.replace(_TAG, "!!"))
        known = "!!str, !!int, !!float, !!bool, !!null, !!map and !!seq"
        self.fault(event, f"the tag {tag} does not fit here; {known} may be used", path)

    def scalar(self, event: Any, path: KeyPath) -> Any:
        text, tag = event.value, event.tag
        if not text.isprintable() and (found := _CONTROL.search(text)):
            self.fault(event, f"holds the character {shown(found[0])}; remove it", path)
        try:
            if tag in (None, "!"):
                return _plain(text) if event.implicit[0] else text
            name = tag.removeprefix(_TAG)
            if name == "str":
                return text
            if name not in _FITS:
                self.refuse_tag(event, path)
            value = _plain(text)
        except ValueError as error:
            self.fault(event, str(error), path)
        if type(value) not in _FITS[name]:
            self.fault(event, f"{shown(text)} is no !!{name}", path)
        return float(value) if name == "float" else value


def _plain(text: str) -> Any:
    """What a plain scalar means; ValueError for a number that is none anyone wants."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in "-+.0123456789":
        return text
    whole = _WHOLE.fullmatch(text)
    if not whole and not _FLOAT.fullmatch(text):
        return text
    if len(text) > MAX_NUMBER:
        raise ValueError(f"{shown(text)}: expected a number of at most {MAX_NUMBER} characters")
    if not whole:
        return float(text.replace(".inf", "inf").replace(".nan", "nan"))
    digits = text.replace("_", "")
    number = int(digits, 8 if _OCTAL.match(digits) else 0)
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"{shown(text)}: expected a whole number of at most 64 bits")
    return number


def _written_out(root: _Mapping, place: Callable[[int], str]) -> Layer:
    """Plain data in which every alias is a copy, with the place of each key."""
    marks: dict[KeyPath, str] = {}
    nodes = 0

    def copy(value: Any, path: KeyPath, line: int) -> Any:
        nonlocal nodes
        nodes += len(value)
        if nodes > MAX_NODES or len(path) > MAX_DEPTH:
            limit = f"{MAX_DEPTH} deep" if len(path) > MAX_DEPTH else f"{MAX_NODES:,} values"
            raise ConfigError(f"{place(line)}: more than {limit} once aliases are written out")
        if type(value) is list:
            return [
                copy(item, (*path, index), line) if type(item) in (list, _Mapping) else item
                for index, item in enumerate(value)
            ]
        tree = {}
        for key, (item, at) in value.items():
            below = (*path, key)
            marks[below] = place(at)
            tree[key] = copy(item, below, at) if type(item) in (list, _Mapping) else item
        return tree

    return Layer(copy(root, (), 1), marks)


def read_file(path: Path) -> Layer:
    """The layer of a configuration file.

    Raises:
        ConfigError: If the file cannot be read or parsed.
    """
    name = shown(str(path), limit=None)
    try:
        with path.open("rb") as file:
            # One byte too many is enough to be refused; a device has no end.
            data = file.read(MAX_CHARACTERS + 1)
        text = data.decode("utf-8") if len(data) <= MAX_CHARACTERS else None
    except FileNotFoundError:
        raise ConfigError(
            f"{name}: no such configuration file; bnlab configs lists those that come with it"
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{name}: cannot be read as a configuration: {error}") from None
    if text is None:
        raise ConfigError(f"{name}: longer than a configuration can be, {MAX_CHARACTERS:,} bytes")
    return parse_yaml(text, str(path))


STUDY_KEYS = frozenset({"arms", "factors", "presets", "tune"})
"""Keys of a study file, of which a configuration has none."""


def refuse_study(layer: Layer, path: Path) -> None:
    """Tell a study that is given for a configuration.

    Raises:
        ConfigError: With the command that reads it.
    """
    if STUDY_KEYS & layer.tree.keys():
        raise ConfigError(
            f"{shown(str(path), limit=None)}: a study of many runs, not a configuration of one; "
            f"bnlab study plan shows it, bnlab layers its networks"
        )


def parse_override(assignment: str, flag: str = "--set") -> Layer:
    """The layer of one `a.b=value`; the value is a YAML scalar, or a list or mapping in flow style.

    Raises:
        ConfigError: If there is no `=`, no key, or the value is not YAML.
    """
    key, equals, text = assignment.partition("=")
    key = key.strip()
    path: KeyPath = tuple(key.split("."))
    mark = shown(f"{flag} {assignment}")
    if not equals or not all(path):
        raise ConfigError(f"{mark}: expected KEY=VALUE, as in model.norm.name=none")
    inner = _parse(f"{json.dumps(key, ensure_ascii=False)}: {text}", lambda _: mark)
    if list(inner.tree) != [key]:
        raise ConfigError(f"{mark}: expected one value; give --set once for each key")
    value = inner.tree[key]
    marks: dict[KeyPath, str] = {path[:end]: mark for end in range(1, len(path) + 1)}
    marks.update({(*path, *below[1:]): mark for below in inner.marks})
    for part in reversed(path):
        value = {part: value}
    return Layer(value, marks)


class _Dumper(yaml.SafeDumper):
    """PyYAML's, but text that `parse_yaml` would take for a number, as `1e3`, gets its quotes."""


_Dumper.add_implicit_resolver(
    f"{_TAG}float", re.compile(f"(?:{_FLOAT.pattern})$"), [*"+-.0123456789"]
)


def render_yaml(tree: Mapping[str, Any]) -> str:
    """Plain data as YAML text that `parse_yaml` reads back as it was."""
    return yaml.dump(dict(tree), Dumper=_Dumper, sort_keys=False, default_flow_style=None)
