"""A little of every part of `scripts/torture.py`, which tries to break bnlab at length."""

import sys
from pathlib import Path

import pytest
from torture import PARTS, part_of
from torture_parts import campaign
from torture_parts.storage import Storage

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, and looks into /proc")

SOME = {
    "storage": 120,
    "kills": 12,
    "fuzz": 300,
    "hostile": 60,
    "surroundings": 14,
    "crowd": 4,
    "corruption": 1500,
}
"""Trials that take a minute."""


class OfTraining(Storage):
    commands = ("train",)


def test_a_run_goes_on_whatever_the_disk_refused(tmp_path: Path) -> None:
    tally = campaign(OfTraining, tmp_path, seed=1, numbers=range(2), seconds=60)
    assert tally.failures == []
    assert tally.held


@pytest.mark.parametrize(("name", "trials"), [("fuzz", 12), ("hostile", 2)])
def test_a_little_of_the_campaign_breaks_nothing(name: str, trials: int, tmp_path: Path) -> None:
    tally = campaign(part_of(name), tmp_path, seed=1, numbers=range(trials), seconds=60)
    assert tally.failures == []
    assert tally.held


@pytest.mark.slow
@pytest.mark.parametrize("name", PARTS)
def test_a_minute_of_the_campaign_breaks_nothing(name: str, tmp_path: Path) -> None:
    tally = campaign(part_of(name), tmp_path, seed=2, numbers=range(SOME[name]), seconds=60)
    assert tally.failures == []
    assert tally.held
