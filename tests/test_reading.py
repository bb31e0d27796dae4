"""Whatever the text, `parse_yaml` gives a layer or a fault with its place."""

import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bnlab.config import KeyPath, Layer, parse_override, parse_yaml, read_file, reading, render_yaml
from bnlab.errors import ConfigError

CONFIGS = sorted((Path(__file__).parent.parent / "configs").rglob("*.yaml"))


def fault(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "x.yaml")
    message = str(caught.value)
    assert all(line.startswith("x.yaml:") for line in message.splitlines())
    assert message.isprintable()
    assert len(message) < 400
    return message


def value_of(text: str) -> Any:
    return parse_yaml(f"a: {text}", "x.yaml").tree["a"]


# ------------------------------------------------------------------------------------- scalars


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("5E4", 5e4),
        ("1.", 1.0),
        (".5", 0.5),
        ("08", 8.0),
        (".inf", math.inf),
        ("-.inf", -math.inf),
        ("1", 1),
        ("-12", -12),
        ("+3", 3),
        ("010", 8),
        ("-0_7", -7),
        ("00", 0),
        ("0x1F", 31),
        ("-0b1_01", -5),
        ("1_000", 1000),
        ("9223372036854775807", 2**63 - 1),
        ("-9223372036854775808", -(2**63)),
        ("yes", True),
        ("On", True),
        ("OFF", False),
        ("~", None),
        ("Null", None),
        ("", None),
        ("oN", "oN"),
        ("1:30", "1:30"),
        ("2020-13-45", "2020-13-45"),
        ("2020-01-01", "2020-01-01"),
        ("2020-01-01 99:99:99", "2020-01-01 99:99:99"),
        ("=", "="),
        ("0b_", "0b_"),
        ("0x", "0x"),
        ("1e", "1e"),
        ("-", [None]),
        ("'1'", "1"),
        ('"null"', "null"),
        ("!!str 5", "5"),
        ("!!str", ""),
        ("!!int '5'", 5),
        ("!!float 3", 3.0),
        ("!!bool 'off'", False),
        ("!!null ''", None),
        ("!!map {b: 1}", {"b": 1}),
        ("!!seq [1]", [1]),
    ],
)
def test_a_scalar_means_what_it_says(text: str, value: Any) -> None:
    found = value_of(f"\n  {text}" if text == "-" else text)
    assert (found, type(found)) == (value, type(value))


def test_not_a_number_is_a_number() -> None:
    assert math.isnan(value_of(".nan"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("!!int x", "a: x is no !!int"),
        ("!!int 1.5", "a: 1.5 is no !!int"),
        ("!!int", "a:  is no !!int"),
        ("!!float x", "a: x is no !!float"),
        ("!!float true", "a: true is no !!float"),
        ("!!bool maybe", "a: maybe is no !!bool"),
        ("!!bool 1", "a: 1 is no !!bool"),
        ("!!null x", "a: x is no !!null"),
        ("!!timestamp x", "the tag !!timestamp does not fit here"),
        ("!!timestamp 2020-01-01", "the tag !!timestamp"),
        ("!!binary x", "the tag !!binary"),
        ("!!set {b}", "the tag !!set"),
        ("!!python/object:os.system x", "the tag !!python/object:os.system"),
        ("!mine x", "the tag !mine"),
        ("!!map []", "the tag !!map"),
        ("!!map x", "the tag !!map"),
        ("!!int []", "the tag !!int"),
        ("!!seq {}", "the tag !!seq"),
        ("9223372036854775808", "a: 9223372036854775808: expected a whole number of at most 64"),
        ("-0x8000000000000001", "of at most 64 bits"),
        ("9" * 5000, "expected a number of at most 100 characters"),
        ("0x" + "f" * 100_000, "expected a number of at most 100 characters"),
        ("1_" * 5000 + "1", "expected a number of at most 100 characters"),
        ("0." + "1" * 5000, "expected a number of at most 100 characters"),
        (r'"a\0b"', r"a: holds the character \x00; remove it"),
        (r'"a\x1bb"', r"a: holds the character \x1b"),
        (r'"a\x7Fb"', r"a: holds the character \x7f"),
        ("a\0b", r"the character \x00 has no place in YAML"),
        ("\x1b[31m", r"the character \x1b has no place"),
        ("\ud800", r"the character \ud800 has no place"),
    ],
)
def test_a_scalar_that_cannot_be_is_a_fault(text: str, said: str) -> None:
    message = fault(f"b: 1\na: {text}\n")
    assert message.startswith("x.yaml:2: ")
    assert said in message


# ---------------------------------------------------------------------------------- collections


def test_keys_are_words_as_they_are_written() -> None:
    text = "1: a\non: b\nnull: c\n1e3: d\n'<<': e\n!!str f: g\n"
    assert list(parse_yaml(text, "x.yaml").tree) == ["1", "on", "null", "1e3", "<<", "f"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("b:\n  a: 1\n  'a': 2", "x.yaml:3: b.a: given twice; keep one"),
        ("b: [{a: 1, a: 2}]", "x.yaml:1: b.0.a: given twice"),
        ("[1]: 2", "x.yaml:1: a key must be a word, not a list or a mapping"),
        ("a: {? {b: c} : d}", "x.yaml:1: a: a key must be a word"),
        ("? " * 100_000, "x.yaml:1: a key must be a word"),
        ("a: &x [1]\n*x : 2", "x.yaml:2: a key must be a word"),
        ("k" * 101 + ": 1", f"a key must be a word of at most 100 characters, got {'k' * 79}…"),
        (r'"a\nb": 1', r"a key must be a word of at most 100 characters, got a\nb"),
        ("!!int x: 1", "x.yaml:1: x is no !!int"),
        ("!!binary x: 1", "the tag !!binary"),
    ],
)
def test_a_key_that_is_no_word_or_given_twice_is_a_fault(text: str, said: str) -> None:
    assert said in fault(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("just words", "x.yaml:1: expected a mapping of sections"),
        ("# first\n- 1\n", "x.yaml:2: expected a mapping"),
        ("a: 1\n---\nb: 2\n", "x.yaml:2: a second document begins here"),
        ("a: 1\nb: [\n", "x.yaml:3: not valid YAML"),
        ("a:\n\t- b", "x.yaml:2: not valid YAML"),
        ("%YAML 3.0\n---\na: 1", "x.yaml:1: not valid YAML"),
        ("%TAG !a! b\n" * 9 + "---\na: 1", "more than 8 times %TAG"),
        ("a: 1\n" + "# x\n" * 250_000, "x.yaml:1: 1,000,005 characters; expected at most"),
    ],
)
def test_what_is_not_one_mapping_is_a_fault(text: str, said: str) -> None:
    assert said in fault(text)


@pytest.mark.parametrize("text", ["", "# nothing\n", "\ufeff", "{}"])
def test_nothing_is_an_empty_layer(text: str) -> None:
    assert parse_yaml(text, "x.yaml") == Layer({}, {})


def deep(opening: str, closing: str, times: int) -> str:
    return f"a: {opening * times}1{closing * times}"


@pytest.mark.parametrize(
    "text",
    [
        deep("[", "]", 100_000),
        "a: " + "[" * 100_000,
        deep("{b: ", "}", 100_000),
        "a:\n" + "- " * 100_000,
        "[" * 100_000,
        "\n".join(" " * level + "b:" for level in range(1000)),
        deep("{<<: ", "}", 1000),
    ],
)
def test_deep_nesting_is_a_fault(text: str) -> None:
    assert "nested more than 64 deep" in fault(text)


def test_a_configuration_may_nest_to_the_bound() -> None:
    assert parse_yaml(deep("[", "]", 63), "x.yaml").tree
    assert "nested more than 64 deep" in fault(deep("[", "]", 64))


def test_aliases_that_nest_one_another_are_a_fault() -> None:
    lines = ["a0: &a0 [1]"]
    lines += [f"a{level}: &a{level} [*a{level - 1}]" for level in range(1, 2000)]
    assert "more than 64 deep once aliases are written out" in fault("\n".join(lines))


def laughs(kind: str) -> str:
    lines = [f"a0: &a0 {kind[0]}b: 1{kind[1]}"]
    for level in range(1, 40):
        nine = ", ".join(
            f"{'k' + str(n) + ': ' if kind == '{}' else ''}*a{level - 1}" for n in range(9)
        )
        lines.append(f"a{level}: &a{level} {kind[0]}{nine}{kind[1]}")
    return "\n".join(lines)


@pytest.mark.parametrize("kind", ["[]", "{}"])
def test_a_billion_laughs_are_a_fault(kind: str) -> None:
    assert "more than 10,000 values once aliases are written out" in fault(laughs(kind))


@pytest.mark.parametrize(
    "text",
    [
        "a: [" + "1, " * 300_000 + "]",
        "a: [" + "[], " * 200_000 + "]",
        "\n".join(f"k{n}: 1" for n in range(80_000)),
        "a: &a {" + ", ".join(f"k{n}: 1" for n in range(5000)) + "}\n"
        "b: {<<: [" + "*a, " * 4000 + "]}",
    ],
)
def test_no_more_values_are_read_than_the_bound(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    events = 0

    class Counting(yaml.CSafeLoader):
        def get_event(self) -> Any:
            nonlocal events
            events += 1
            return super().get_event()

    monkeypatch.setattr(reading, "_LOADER", Counting)
    assert "more than 10,000 values up to here" in fault(text)
    assert events <= 2.5 * reading.MAX_NODES


def test_as_many_values_as_the_bound_are_read() -> None:
    values = [0] * (reading.MAX_NODES - 2)
    assert parse_yaml(f"a: {values}", "x.yaml").tree == {"a": values}


# -------------------------------------------------------------------------- anchors and merges


def test_an_alias_is_a_copy_with_its_keys_places() -> None:
    layer = parse_yaml("a: &x\n  b: [1]\nc: *x\nd: &y text\n*y : e\n&z f: *z\n", "x.yaml")
    assert layer.tree == {"a": {"b": [1]}, "c": {"b": [1]}, "d": "text", "text": "e", "f": "f"}
    assert layer.tree["a"]["b"] is not layer.tree["c"]["b"]
    assert layer.marks["c",] == "x.yaml:3"
    assert layer.marks["c", "b"] == "x.yaml:2"


@pytest.mark.parametrize("text", ["a: &a [*a]", "a: &a {b: *a}", "a: *b", "a: &a {<<: *a}"])
def test_an_alias_needs_a_whole_anchor_before_it(text: str) -> None:
    assert "that is whole before it" in fault(text)


MERGES = """\
one: &one {a: 1, b: 1}
two: &two
  b: 2
  c: {d: 2}
own: {b: 3, <<: *two}
list: {<<: [*one, *two], e: 5}
twice: {<<: *one, <<: *two}
chain: {<<: {<<: *two, f: 6}}
inline: {<<: {a: 0}}
"""


def test_merges_lay_mappings_under_the_keys_beside_them() -> None:
    layer = parse_yaml(MERGES, "x.yaml")
    expected = yaml.safe_load(MERGES)
    assert layer.tree == expected
    for name, mapping in expected.items():
        assert list(layer.tree[name]) == list(mapping)
    assert layer.marks["own", "b"] == "x.yaml:5"
    assert layer.marks["own", "c"] == layer.marks["list", "c", "d"] == "x.yaml:4"
    assert layer.marks["list", "b"] == "x.yaml:1"


@pytest.mark.parametrize("text", ["<<: 1", "<<: [1]", "<<: [[]]", "<<:"])
def test_a_merge_takes_mappings_only(text: str) -> None:
    assert "<< takes a mapping" in fault(text)


# ------------------------------------------------------------------------------- files and flags


def test_a_file_without_end_is_a_fault(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(b"a" * 2_000_000)
    with pytest.raises(ConfigError, match=r"x\.yaml: longer than a configuration can be"):
        read_file(path)


def test_line_ends_and_byte_order_marks_of_other_systems_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes("\ufeffa: 1\r\nb: |\r\n  ü\r\n".encode())
    assert read_file(path) == Layer(
        {"a": 1, "b": "ü\n"}, {("a",): f"{path}:1", ("b",): f"{path}:2"}
    )


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("a.b={c: 1, c: 2}", "--set a.b={c: 1, c: 2}: a.b.c: given twice; keep one"),
        ("a=[", "--set a=[: not valid YAML"),
        ("a=" + "9" * 5000, f"--set a={'9' * 71}…: a: {'9' * 79}…: expected a number"),
        ("a=1\nb: 2", r"--set a=1\nb: 2: expected one value; give --set once for each key"),
        ("a=1\n---\nb: 2", "a second document"),
        ("a=\ud800", r"--set a=\ud800: the character \ud800 has no place"),
        ("a\0=1", r"--set a\x00=1: a key must be a word"),
        ("a.=1", "--set a.=1: expected KEY=VALUE"),
        ("a" * 2000 + "=1", "--set aaa"),
        ("a=" + "[" * 100_000, "nested more than 64 deep"),
        (".".join("a" * 1000) + "=1", "--set a.a.a"),
    ],
)
def test_a_wrong_assignment_is_one_line_that_begins_with_it(assignment: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_override(assignment)
    assert said in str(caught.value)
    assert str(caught.value).startswith("--set a")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


def test_an_assignment_to_a_merge_key_is_a_plain_key() -> None:
    assert parse_override("<<={a: 1}").tree == {"<<": {"a": 1}}


# ------------------------------------------------------------------------------------- any text


def keys_of(value: Any, path: KeyPath = ()) -> Iterator[KeyPath]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield (*path, key)
            yield from keys_of(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from keys_of(item, (*path, index))
    else:
        assert value is None or type(value) in (str, int, float, bool)


def check_anything(text: str) -> None:
    try:
        layer = parse_yaml(text, "x.yaml")
    except ConfigError as error:
        lines = str(error).splitlines()
        assert lines
        assert all(line.startswith("x.yaml:") and line.isprintable() for line in lines)
    else:
        assert set(keys_of(layer.tree)) == layer.marks.keys()
        assert all(mark.startswith("x.yaml:") for mark in layer.marks.values())
        assert parse_yaml(render_yaml(layer.tree), "y.yaml").tree == layer.tree or "nan" in text


PIECES = [
    *"[]{}:,-?&*!|>%@#'\"\\ \n\t.~=<0123456789eE_xabé\0\x1b\x85\u2028\ufeff\ud800😀",
    *("- ", ": ", "? ", "<<: ", "&a ", "*a", "!!int ", "!!timestamp ", "!x ", "---\n", "...\n"),
    *("1e400", ".nan", "0x", "0b_", "010", "2020-13-45", "1:30", "yes", "null", '"\\0"', "%TAG "),
]


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=40).map("".join))
@settings(deadline=None, max_examples=1000)
@example("a: !<tag:yaml.org,2002:int> 1")
def test_any_text_is_a_layer_or_a_fault(text: str) -> None:
    check_anything(text)


def test_any_change_of_a_configuration_is_a_layer_or_a_fault() -> None:
    texts = [*(path.read_text(encoding="utf-8") for path in CONFIGS), MERGES]
    chance = random.Random(0)
    for _ in range(3000):
        text = chance.choice(texts)
        for _ in range(chance.randint(1, 6)):
            at = chance.randint(0, len(text))
            until = at + chance.choice([0, 0, 1, 2, 5, 30])
            text = text[:at] + chance.choice([*PIECES, ""]) + text[until:]
        check_anything(text)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_both_of_pyyamls_parsers_give_the_same_layer(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = read_file(path)
    monkeypatch.setattr(reading, "_LOADER", yaml.SafeLoader)
    assert read_file(path) == fast


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["C"]))
    | st.sampled_from(["1e3", "1:30", "", "=", "<<"]),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from("abc"), inner),
)


@given(st.dictionaries(st.sampled_from(["a", "1e3", "<<", "yes", "b.c"]), values))
@settings(deadline=None, max_examples=100)
def test_what_is_rendered_reads_back_as_it_was(tree: dict[str, Any]) -> None:
    found = parse_yaml(render_yaml(tree), "x.yaml").tree
    assert repr(found) == repr(tree)
