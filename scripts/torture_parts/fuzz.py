"""Configurations, studies and --set made wrong at random: a result, or a fault with its place."""

import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from bnlab.config import flatten, load_config
from torture_parts import Part, hold
from torture_parts.made import hold_clean
from torture_parts.zygote import Zygote

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SECONDS, MEBIBYTES = 10.0, 2000.0

VALUES = (
    "null",
    "true",
    "no",
    "''",
    "-1",
    "0",
    "1e400",
    ".nan",
    "-.inf",
    "9" * 30,
    "9" * 5000,
    "0x1f",
    "017",
    "1_000",
    "2001-01-01",
    "[]",
    "{}",
    "[1, [2, [3]]]",
    "{a: {b: c}}",
    "[" * 500,
    "{a: " * 500,
    "*a",
    "&a [*a]",
    "!!python/object/apply:os.system [id]",
    "!!binary aGVsbG8=",
    "!!set {a}",
    "x" * 5000,
    "\x1b[31mred",
    "批归一化",
    "\ud800",
    "|\n  text",
    "? key",
    "%TAG ! x",
    "'\\0'",
    '"\\x1b]0;t\\x07"',
    "@",
    "`",
    "[64, 128, 256, 1.5]",
    "[1000000]",
    str(list(range(2000))),
    "2147483648",
    "../../etc/passwd",
    "cifar100",
    "<<: {a: 1}",
)
LINES = ("---", "...", "\t", "? ", "- ", ": ", "<<: *x", "a: &x [*x, *x]", "%YAML 9.9", "# x", "\0")
LAUGHS = "\n".join(
    ["l0: &l0 [x, x]", *(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, 12))]
)

Mutation = Callable[[str, random.Random], str]


def another_value(text: str, draw: random.Random) -> str:
    """A line's value is another."""
    lines = text.splitlines()
    places = [place for place, line in enumerate(lines) if ":" in line]
    place = draw.choice(places or [0])
    key = lines[place].split(":")[0] if lines else "a"
    lines[place : place + 1] = [f"{key}: {draw.choice(VALUES)}"]
    return "\n".join(lines)


def another_word(text: str, draw: random.Random) -> str:
    """A word is another, from elsewhere or made up."""
    words = list(re.finditer(r"[\w.]+", text))
    if not words:
        return text
    old = draw.choice(words)
    new = draw.choice([draw.choice(words)[0], draw.choice(VALUES), old[0][:-1], old[0] + "x"])
    return text[: old.start()] + new + text[old.end() :]


def another_line(text: str, draw: random.Random) -> str:
    """A line is gone, doubled, moved or new."""
    lines = text.splitlines() or [""]
    place = draw.randrange(len(lines))
    line = lines.pop(place)
    new = draw.choice(
        ([], [line, line], [f"  {line}"], [line.lstrip()], [line, draw.choice(LINES)])
    )
    lines[place:place] = new
    return "\n".join(lines)


def another_character(text: str, draw: random.Random) -> str:
    """A character is another."""
    place = draw.randrange(len(text) or 1)
    new = chr(draw.choice((draw.randrange(128), draw.randrange(0xD800), 0x2028, 0xFEFF, 0x85)))
    return text[:place] + new + text[place + draw.randrange(2) :]


def too_much(text: str, draw: random.Random) -> str:
    """More than anybody means."""
    return text + "\n" + draw.choice((LAUGHS, "a: 1\n" * 20_000, "[" * 100_000, "x" * 1_000_001))


MUTATIONS: tuple[Mutation, ...] = (
    another_value,
    another_value,
    another_word,
    another_line,
    another_character,
)


class Fuzz(Part):
    """See above."""

    full = 2000

    def __init__(self, folder: Path, seed: int) -> None:
        super().__init__(folder, seed)
        self._zygote = Zygote(folder / "streams")
        self._keys = sorted(flatten(load_config().resolved()))

    def trial(self, number: int, draw: random.Random, folder: Path) -> str:
        """A file, or some flags."""
        if number % 3 == 2:
            return self._flags(draw, folder)
        shutil.copytree(CONFIGS, folder / "configs")
        studies = number % 3 == 1
        found = sorted(CONFIGS.rglob("*.yaml"))
        old = draw.choice([p for p in found if (p.parent.name in ("studies", "claims")) == studies])
        path = folder / "configs" / old.relative_to(CONFIGS)
        text = path.read_text(encoding="utf-8")
        for _ in range(draw.randint(1, 3)):
            text = draw.choice(MUTATIONS)(text, draw)
        if draw.random() < 0.03:
            text = too_much(text, draw)
        path.write_bytes(text.encode(errors=draw.choice(("replace", "surrogatepass"))))
        command = ["study", "plan"] if studies else draw.choice((["check"], ["check", "--print"]))
        name = str(path.relative_to(folder))
        self._hold(folder, [*command, name], path.name)
        return name

    def _flags(self, draw: random.Random, folder: Path) -> str:
        words = []
        for _ in range(draw.randint(1, 4)):
            key, value = draw.choice(self._keys), draw.choice(VALUES)
            if draw.random() < 0.2:
                key = another_character(key, draw)
            if draw.random() < 0.2:
                key = draw.choice((key.rpartition(".")[0], f"{key}.x", "", "."))
            whole = draw.choice((f"{key}={value}", f"{key}={value}", f"{key}", f"{key}=", value))
            words += [draw.choice(("--set", "-s")), whole.replace("\0", "")]
        command = draw.choice((["train", "--dry-run"], ["train", "--dry-run", "--json"]))
        self._hold(folder, [*command, *words], "")
        return " ".join(words)[:200]

    def _hold(self, folder: Path, words: list[str], place: str) -> None:
        what = f"{words}"[:500]
        ended = self._zygote.run(words, folder, SECONDS)
        hold_clean(ended, {0, 2, 5}, what)
        hold(ended.mebibytes < MEBIBYTES, f"{what}: {ended.mebibytes:.0f} MiB")
        hold(ended.code != 2 or place in ended.err, f"{what}: without its file: {ended}")
        told = (
            "--set" in ended.err or "Usage" in ended.err or re.search(r"\w+(\.\w+)*: ", ended.err)
        )
        hold(ended.code != 2 or told, f"{what}: without its key: {ended}")
        hold(len(ended.err) < 20_000, f"{what}: {len(ended.err)} characters of faults")

    def close(self) -> None:
        """End what starts commands."""
        self._zygote.close()
