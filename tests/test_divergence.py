import math
from pathlib import Path

import pytest
from made_runs import make_run
from raw import raw_summary

from bnlab.analysis import load_runs
from bnlab.records import RunDir, has_diverged, read_facts, read_summary
from bnlab.study.survey import Result


@pytest.mark.parametrize(
    ("final", "diverged"),
    [
        ({"train/loss": 2.29, "train/accuracy": 0.121}, False),
        ({"train/loss": 2.29, "train/accuracy": 0.12}, True),
        ({"train/loss": 0.1, "train/accuracy": None}, True),
        ({"train/loss": None, "train/accuracy": 0.9}, True),
        ({"train/loss": math.inf, "train/accuracy": 0.9}, True),
        ({"train/accuracy": 0.9, "test/loss": math.nan}, True),
        ({"train/accuracy": 0.9, "probe/eval_loss/train": None}, False),
        ({"test/accuracy": 0.1}, False),
    ],
)
def test_a_run_diverged_if_a_loss_is_not_finite_or_it_learned_nothing(
    final: dict[str, float | None], *, diverged: bool
) -> None:
    assert has_diverged(final, 10) is diverged


def test_chance_depends_on_the_classes() -> None:
    assert has_diverged({"train/accuracy": 0.29}, 4)
    assert not has_diverged({"train/accuracy": 0.29}, 10)


def restate(run_dir: RunDir, status: str) -> None:
    """Change what a record says of how training ended."""
    for path in (run_dir.run, run_dir.summary):
        path.write_text(path.read_text().replace('"status": "done"', f'"status": "{status}"'))


def test_recorded_runs_are_judged_by_their_values_whatever_their_status(tmp_path: Path) -> None:
    learned = make_run(tmp_path, seed=0, accuracy=0.3)
    nothing = make_run(tmp_path, seed=1, accuracy=0.09)
    restate(learned, "diverged")
    assert raw_summary(learned)["status"] == "diverged"
    assert raw_summary(nothing)["status"] == "done"
    runs, _ = load_runs([tmp_path])
    assert [run.diverged for run in runs] == [False, True]
    results = [Result(read_summary(one.files), read_facts(one.files)) for one in (learned, nothing)]
    assert [result.diverged for result in results] == [False, True]
    assert results[0].score("test/accuracy") == pytest.approx(0.3)
    assert results[1].score("test/accuracy") == 0.1
