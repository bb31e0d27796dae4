"""What commands print at 80 and at 120 columns: no line too long, no word cut in two."""

import re
import time
from pathlib import Path

import pytest
from made_runs import make_run
from typer.testing import CliRunner

from bnlab.cli import app
from bnlab.cli.console import Forecast, epoch_line
from bnlab.cli.output import wrapped
from bnlab.training.loop import Position

WIDTHS = (80, 120)
RECORD = {
    "epoch": 7,
    "train/loss": 1.23456,
    "train/accuracy": 0.4567,
    "val/loss": 1.3,
    "val/accuracy": 0.44,
    "test/loss": 1.31,
    "test/accuracy": 1.0,
    "optim/lr": 0.0333,
    "images_per_second": 12345.6,
}


@pytest.fixture(autouse=True)
def _runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for seed in range(8):
        for placement, accuracy in (("before_activation", 0.71), ("after_activation", 0.7)):
            sets = {"name": "a_study", "model.norm.placement": placement}
            make_run(Path("runs"), seed=seed, sets=sets, accuracy=accuracy + 0.001 * seed)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    ("command", "whole"),
    [
        ("study plan quick", ("before", "1000,1001", "missing")),
        ("study status on_off", ("batch", "missing")),
        ("claims explain", ("covariate_shift_gradients", "inference_statistics")),
        ("claims explain higher_lr", ("arXiv:1502.03167",)),
        ("claims explain covariate_shift", ()),
        ("claims --runs-dir none", ("covariate_shift_gradients", "SUPPORTED", "verdict", "n")),
        ("runs", ("s7", "status", "done")),
        ("show {before}/s0", ("batch-before_activation", "Provenance")),
        ("judge {after} {before}", ("diverged",)),
        ("pack runs -o packed.tar.xz", ("packed.tar.xz",)),
        ("compare", ("batch-before_activation", "batch-after_activation")),
        ("audit", ()),
        ("configs", ("seed_as_written", "presets/quick")),
        ("layers quick", ("classifier", "conv3x3")),
        ("layers placement", ("before_activation",)),
        ("data", ()),
        ("diff seed seed_fair", ("dataset.normalize:",)),
    ],
)
def test_no_line_is_too_long_and_no_name_is_cut(
    monkeypatch: pytest.MonkeyPatch, width: int, command: str, whole: tuple[str, ...]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    after, before = sorted(Path("runs/a_study").iterdir())
    words = command.format(before=before, after=after).split()
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.exception
    lines = [line.rstrip() for line in result.stdout.splitlines()]
    assert lines
    long = [line for line in lines if len(line) > width and " " in line.strip()]
    assert long == []
    for name in whole:
        assert re.search(rf"(?<![\w-]){re.escape(name)}(?![\w])", result.stdout), name


@pytest.mark.parametrize("width", WIDTHS)
def test_an_epoch_is_one_line_that_keeps_what_matters(width: int) -> None:
    line = epoch_line(RECORD, 200, left=754.0, width=width)
    assert len(line) <= width
    assert "\n" not in line
    for part in ("epoch   7/200", "45.67 %", "44.00 %", "100.00 %", "1.2346"):
        assert part in line


def test_without_a_width_nothing_is_left_out_of_an_epoch() -> None:
    line = epoch_line(RECORD, 200, left=754.0)
    for part in ("train loss 1.2346 acc 45.67 %", "lr 0.0333", "12,346 images/s", "12:34 left"):
        assert part in line


def test_a_long_line_is_broken_between_words_and_indented() -> None:
    assert wrapped("  one two three", 9) == "  one two\n    three"
    assert wrapped("a /path/that/has/no/end b", 10) == "a\n  /path/that/has/no/end\n  b"
    assert wrapped("short", 9) == "short"


def told(monkeypatch: pytest.MonkeyPatch, step_seconds: float, epochs: int) -> list[str]:
    """What is said in the first 100 steps of a run whose first step takes a minute."""
    clock = iter([60 + step_seconds * step for step in range(1, 101)])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    forecast = Forecast(epochs)
    lines = [forecast.after_step(Position(epoch=0, step=step), steps=100) for step in range(1, 101)]
    return [line for line in lines if line]


def test_a_run_tells_once_how_long_it_takes_from_its_first_steps_but_the_very_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (line,) = told(monkeypatch, step_seconds=0.36, epochs=200)
    assert len(line) <= 80
    assert line.startswith("200 epochs ahead: about 1:59:57,")  # 7 steps of 20,000 are done
    assert "(from 6 timed steps)" in line


def test_a_run_of_a_few_seconds_tells_nothing_before_it_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert told(monkeypatch, step_seconds=0.01, epochs=2) == []
