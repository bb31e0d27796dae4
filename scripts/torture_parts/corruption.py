"""Damaged run directories: reading them ends in data, a remark or a message."""

import json
import random
from collections.abc import Callable
from pathlib import Path

from made_runs import make_run

from bnlab.analysis import Options, compare, load_runs
from bnlab.analysis.listing import list_runs, sort_runs
from bnlab.errors import BnlabError
from bnlab.report import to_json
from torture_parts import Part, hold

FILES = ("config.yaml", "run.json", "metrics.jsonl", "summary.json")

VALUES: tuple[object, ...] = (
    None,
    True,
    "",
    "NaN",
    -1,
    2**63,
    10**400,
    1e308,
    [],
    {},
    [[1]],
    {"a": 1},
    "x" * 5000,
    "\x00",
    "\ud800",
)


def flip_a_bit(data: bytes, draw: random.Random) -> bytes:
    """As a disk may."""
    place = draw.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << draw.randrange(8)]) + data[place + 1 :]


def cut_off(data: bytes, draw: random.Random) -> bytes:
    """As a kill may."""
    return data[: draw.randrange(len(data))]


def take_out(data: bytes, draw: random.Random) -> bytes:
    """A stretch is missing."""
    one, two = sorted(draw.randrange(len(data)) for _ in range(2))
    return data[:one] + data[two:]


def repeat(data: bytes, draw: random.Random) -> bytes:
    """A stretch is there twice, or missing."""
    one, two = sorted(draw.randrange(len(data)) for _ in range(2))
    return data[:two] + data[one:]


def scribble(data: bytes, draw: random.Random) -> bytes:
    """Bytes that do not belong there."""
    place = draw.randrange(len(data))
    return data[:place] + draw.randbytes(draw.randrange(1, 40)) + data[place:]


def change_a_value(data: bytes, draw: random.Random) -> bytes:
    """A value of a JSON object, at any depth, becomes one of another kind."""
    lines = data.decode().splitlines()
    if not lines[0].startswith("{"):
        return data.replace(b": ", b": !!float ", 1) if draw.random() < 0.5 else b"- " + data
    whole = lines[0] == "{"
    tree = json.loads(data if whole else lines[-1])
    inner = tree
    while True:
        key = draw.choice(list(inner))
        if not isinstance(inner[key], dict) or not inner[key] or draw.random() < 0.3:
            break
        inner = inner[key]
    inner[key] = draw.choice(VALUES)
    text = json.dumps(tree)
    return (text if whole else "\n".join([*lines[:-1], text])).encode()


DAMAGES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    flip_a_bit,
    cut_off,
    take_out,
    repeat,
    scribble,
    change_a_value,
    change_a_value,
    lambda _data, _draw: b"[" * 100_000,
    lambda _data, _draw: b'{"a":' * 100_000,
    lambda _data, _draw: b"",
)


def make_healthy(runs: Path) -> None:
    """Four runs in two arms."""
    for seed in range(2):
        make_run(runs, seed=seed, sets={"model.norm.name": "none", "train.epochs": 2})
        make_run(runs, seed=seed, sets={"train.epochs": 2})


def read_everything(runs: Path) -> None:
    """List and compare."""
    found, remarks = load_runs([runs])
    comparison = compare(found, Options(allow_mixed=True), remarks)
    json.loads(to_json(comparison))
    sort_runs(list_runs([runs]), "optim.lr")


class Damaged:
    """Runs of which one is damaged and healed again.

    Args:
        runs: Where they lie.
    """

    def __init__(self, runs: Path) -> None:
        self.runs = runs
        self._victim = next(path.parent for path in sorted(runs.rglob("run.json")))
        self._whole = {name: (self._victim / name).read_bytes() for name in FILES}

    def damage_and_read(self, draw: random.Random) -> None:
        """Damage a file, or two at once; read; put it right."""
        for name in draw.sample(FILES, draw.choice((1, 1, 1, 2))):
            (self._victim / name).write_bytes(draw.choice(DAMAGES)(self._whole[name], draw))
        try:
            read_everything(self.runs)
        except BnlabError as error:
            hold(str(error), "a message that says nothing")
        for name, content in self._whole.items():
            (self._victim / name).write_bytes(content)


class Corruption(Part):
    """See above."""

    full = 20_000

    def __init__(self, folder: Path, seed: int) -> None:
        super().__init__(folder, seed)
        make_healthy(folder / "runs")
        self._damaged = Damaged(folder / "runs")

    def trial(self, number: int, draw: random.Random, folder: Path) -> str:
        """One damage."""
        self._damaged.damage_and_read(draw)
        return "a damage"
