"""Whatever befalls the files of runs, reading them ends in data, a remark or a message."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from made_runs import make_run

from bnlab.analysis import Options, compare, load_runs
from bnlab.analysis.listing import list_runs, sort_runs
from bnlab.claims import find_findings
from bnlab.errors import BnlabError
from bnlab.report import to_json

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
    place = draw.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << draw.randrange(8)]) + data[place + 1 :]


def cut_off(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.randrange(len(data))]


def take_out(data: bytes, draw: random.Random) -> bytes:
    one, two = sorted(draw.randrange(len(data)) for _ in range(2))
    return data[:one] + data[two:]


def repeat(data: bytes, draw: random.Random) -> bytes:
    one, two = sorted(draw.randrange(len(data)) for _ in range(2))
    return data[:two] + data[one:]


def scribble(data: bytes, draw: random.Random) -> bytes:
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


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("healthy")
    for seed in range(2):
        make_run(runs, seed=seed, sets={"model.norm.name": "none", "train.epochs": 2})
        make_run(runs, seed=seed, sets={"train.epochs": 2})
    return runs


def read_everything(runs: Path) -> None:
    found, remarks = load_runs([runs])
    comparison = compare(found, Options(allow_mixed=True), remarks)
    json.loads(to_json(comparison))
    sort_runs(list_runs([runs]), "optim.lr")


@pytest.mark.parametrize("round_", range(8))
def test_a_damaged_run_is_passed_over_and_the_rest_is_compared(
    healthy: Path, tmp_path: Path, round_: int
) -> None:
    damage_many(healthy, tmp_path, seed=round_, count=25)


@pytest.mark.slow
def test_thousands_of_damages_end_in_no_traceback(healthy: Path, tmp_path: Path) -> None:
    damage_many(healthy, tmp_path, seed=1000, count=5000)


def damage_many(healthy: Path, folder: Path, seed: int, count: int) -> None:
    draw = random.Random(seed)
    runs = folder / "runs"
    shutil.copytree(healthy, runs)
    victim = next(path.parent for path in sorted(runs.rglob("run.json")))
    whole = {name: (victim / name).read_bytes() for name in FILES}
    for _ in range(count):
        name, how = draw.choice(FILES), draw.choice(DAMAGES)
        (victim / name).write_bytes(how(whole[name], draw))
        try:
            read_everything(runs)
        except BnlabError as error:
            assert str(error)  # noqa: PT017 - a message is as good as data
        (victim / name).write_bytes(whole[name])
    read_everything(runs)


def test_claims_pass_over_a_damaged_run(healthy: Path, tmp_path: Path) -> None:
    shutil.copytree(healthy, tmp_path / "runs")
    victim = next((tmp_path / "runs").rglob("run.json"))
    victim.write_text('{"schema_version": 1, "status": []}')
    findings, remarks = find_findings(tmp_path / "runs")
    assert {one.verdict.label for one in findings} == {"NOT TESTED"}
    assert any("run.json: not what bnlab writes: status" in remark.what for remark in remarks)
