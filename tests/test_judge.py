"""Is B better than A?"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from made_runs import make_run
from typer.testing import CliRunner

from bnlab.cli import app

OLD = [0.700, 0.702, 0.698, 0.701, 0.699, 0.703, 0.697, 0.700]
MORE = [0.741, 0.739, 0.742, 0.740, 0.743, 0.738, 0.744, 0.741]


def side(root: Path, accuracies: Sequence[float | None], lr: float, **more: Any) -> Path:
    """Runs of one arm; None is a run that diverged."""
    for seed, accuracy in enumerate(accuracies):
        status = "diverged" if accuracy is None else "done"
        make_run(root, seed=seed, sets={"optim.lr": lr}, accuracy=accuracy or 0.1, status=status)
    return root


def judged(a: Path, b: Path, *words: str) -> tuple[int, dict[str, Any]]:
    result = CliRunner().invoke(app, ["judge", str(a), str(b), "--json", *words])
    assert result.exit_code in {0, 10, 11}, result.exception
    return result.exit_code, json.loads(result.stdout)


@pytest.mark.parametrize(
    ("new", "words", "code", "why"),
    [
        (MORE, (), 0, "large enough"),
        ([x - 0.08 for x in MORE], (), 10, "worse"),
        ([x + 0.001 for x in OLD], (), 10, "less than the smallest effect"),
        (MORE, ("--min-effect", "5"), 10, "less than the smallest effect"),
        ([0.76, 0.70, 0.68, 0.74, 0.66, 0.75, 0.70, 0.71], (), 11, "hold both answers"),
        (MORE[:5], (), 11, "at least 6"),
        (MORE[:1], (), 11, "at least"),
        ([*MORE[:7], None], (), 11, "diverged on more seeds"),
        ([*MORE[:3], *[None] * 5], (), 10, "diverges more often"),
        ([None] * 8, (), 10, "diverges more often"),
    ],
)
def test_the_answer_is_the_exit_code(
    tmp_path: Path, new: Sequence[float | None], words: tuple[str, ...], code: int, why: str
) -> None:
    a, b = side(tmp_path / "a", OLD, 0.1), side(tmp_path / "b", new, 0.2)
    found, data = judged(a, b, *words)
    assert (found, data["exit_code"]) == (code, code)
    assert why in data["why"]
    assert data["diverged"] == {"a": 0, "b": sum(one is None for one in new)}
    assert data["paired"] or len(new) == 1


def test_a_lower_loss_is_better_and_its_least_effect_must_be_given(tmp_path: Path) -> None:
    a, b = side(tmp_path / "a", OLD, 0.1), side(tmp_path / "b", MORE, 0.2)
    refused = CliRunner().invoke(app, ["judge", str(a), str(b), "--metric", "test/loss"])
    assert "--min-effect" in str(refused.exception)
    code, data = judged(a, b, "--metric", "test/loss", "--min-effect", "0.001")
    assert (code, data["effect"] < 0) == (0, True)
    assert judged(b, a, "--metric", "test/loss", "--min-effect", "0.001")[0] == 10


def test_a_sentence_says_the_answer_with_limits_n_and_failures(tmp_path: Path) -> None:
    a, b = side(tmp_path / "a", OLD, 0.1), side(tmp_path / "b", MORE, 0.2)
    line = " ".join(CliRunner().invoke(app, ["judge", str(a), str(b)]).stdout.split())
    assert line.startswith("better: test/accuracy +4.10 pp (95 % limits +")
    assert "8 pairs; diverged: A 0 of 8, B 0 of 8" in line


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda b: side(b, OLD, 0.3), "seed 0 2 times at several values of optim.lr"),
        (lambda b: make_run(b, seed=9, sets={"optim.lr": 1.0, "train.epochs": 2}), "several conf"),
        (lambda b: make_run(b, seed=9, sets={"optim.lr": 0.2}, run={"code": {"x": "y"}}), "belong"),
    ],
)
def test_what_cannot_be_judged_is_refused(tmp_path: Path, change: Any, said: str) -> None:
    a, b = side(tmp_path / "a", OLD, 0.1), side(tmp_path / "b", MORE, 0.2)
    change(b)
    result = CliRunner().invoke(app, ["judge", str(a), str(b)])
    assert said in str(result.exception)


def test_a_run_on_both_sides_is_refused(tmp_path: Path) -> None:
    a = side(tmp_path / "a", OLD, 0.1)
    assert "in A and in B" in str(CliRunner().invoke(app, ["judge", str(a), str(a)]).exception)


def test_seeds_that_each_tuned_one_key_are_one_side(tmp_path: Path) -> None:
    a, b = side(tmp_path / "a", OLD, 0.1), side(tmp_path / "b", MORE[:4], 0.2)
    for seed, accuracy in enumerate(MORE[4:], start=4):
        make_run(b, seed=seed, sets={"optim.lr": 0.4}, accuracy=accuracy)
    code, data = judged(a, b)
    assert (code, data["n"]) == (0, 8)
