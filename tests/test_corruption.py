"""Whatever befalls the files of runs, reading them ends in data, a remark or a message."""

import random
import shutil
from pathlib import Path

import pytest
from torture_parts.corruption import Damaged, make_healthy, read_everything

from bnlab.claims import find_findings


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("healthy")
    make_healthy(runs)
    return runs


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
    damaged = Damaged(shutil.copytree(healthy, folder / "runs"))
    for _ in range(count):
        damaged.damage_and_read(draw)
    read_everything(damaged.runs)


def test_claims_pass_over_a_damaged_run(healthy: Path, tmp_path: Path) -> None:
    shutil.copytree(healthy, tmp_path / "runs")
    victim = next((tmp_path / "runs").rglob("run.json"))
    victim.write_text('{"schema_version": 1, "status": []}')
    findings, remarks = find_findings(tmp_path / "runs")
    assert {one.verdict.label for one in findings} == {"NOT TESTED"}
    assert any("run.json: not what bnlab writes: status" in remark.what for remark in remarks)
