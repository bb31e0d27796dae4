import json
from pathlib import Path
from typing import Any

import pytest
from made_runs import make_run
from raw import raw_metrics, raw_summary
from typer.testing import CliRunner

from bnlab.analysis import Options, compare, load_runs
from bnlab.analysis.audit import CHECKS, GROUPS, Audited, Subject, Use, audit, audit_as_data
from bnlab.cli import app
from bnlab.errors import RefusedError

NONE = {"model.norm.name": "none"}
USES: tuple[Use, ...] = ("comparison", "claim")
CODE = {"training/loop.py": "a" * 16, "training/norms/none.py": "b" * 16}


def audited(runs: Path, use: Use = "claim", **subject: Any) -> dict[str, Audited]:
    found = audit(Subject(use, load_runs([runs])[0], **subject))
    return {one.check.code: one for one in found}


def test_every_check_has_its_own_code_and_says_why() -> None:
    codes = [check.code for check in CHECKS]
    assert codes == sorted(set(codes))
    assert all(check.title and check.why.endswith(".") for check in CHECKS)


def test_without_runs_nothing_applies() -> None:
    assert {one.group for one in audit(Subject("claim", []))} == {"not applicable"}


def test_files_that_two_runs_share_must_have_one_fingerprint(tmp_path: Path) -> None:
    make_run(tmp_path, seed=0, sets=NONE, run={"code": CODE})
    other = {"training/loop.py": "a" * 16, "training/norms/batch.py": "c" * 16}
    make_run(tmp_path, seed=0, run={"code": other})
    assert audited(tmp_path)["A01"].group == "passed"
    make_run(tmp_path, seed=1, run={"code": {**other, "training/loop.py": "d" * 16}})
    found = audited(tmp_path)["A01"]
    assert found.group == "bars a verdict"
    assert found.said == (f"training/loop.py: {'a' * 16} (2 runs), {'d' * 16} (1 run)",)


def test_runs_without_fingerprints_are_told_and_do_not_mix_with_others(tmp_path: Path) -> None:
    make_run(tmp_path, seed=0)
    make_run(tmp_path, seed=1)
    found = audited(tmp_path)
    assert (found["A01"].group, found["A13"].group) == ("passed", "told")
    make_run(tmp_path, seed=2, run={"code": CODE})
    found = audited(tmp_path)
    assert found["A01"].said == ("code: not recorded (2 runs), recorded (1 run)",)
    assert found["A01"].group == "bars a verdict"


@pytest.mark.parametrize("fact", ["init_hash", "data_order_hash"])
def test_pairs_that_their_hashes_deny_bar_a_claim_and_are_told_of_a_comparison(
    tmp_path: Path, fact: str
) -> None:
    make_run(tmp_path, seed=0)
    make_run(tmp_path, seed=0, sets=NONE)
    assert audited(tmp_path)["A05"].group == "passed"
    make_run(tmp_path, seed=0, sets={"optim.lr": 0.2}, run={fact: "another"})
    assert audited(tmp_path)["A05"].group == "bars a verdict"
    assert audited(tmp_path, "comparison")["A05"].group == "told"
    assert fact in audited(tmp_path)["A05"].said[0]


def test_runs_that_start_otherwise_by_configuration_are_no_broken_pairs(tmp_path: Path) -> None:
    make_run(tmp_path, seed=0)
    make_run(tmp_path, seed=0, sets={"model.widths": [8, 16, 32]})
    make_run(tmp_path, seed=0, sets={"train.epochs": 9})
    make_run(tmp_path, seed=1)
    assert audited(tmp_path)["A05"].group == "passed"


def test_a_hash_that_was_not_recorded_pairs_nothing(tmp_path: Path) -> None:
    make_run(tmp_path, seed=0)
    make_run(tmp_path, seed=0, sets=NONE, run={"init_hash": None})
    assert audited(tmp_path)["A05"].said == ("init_hash is not recorded in every run",)


def test_devices_bar_a_comparison_and_are_told_of_a_claim(tmp_path: Path) -> None:
    make_run(tmp_path, seed=0)
    make_run(tmp_path, seed=1, run={"device": "cuda:0", "environment": {"gpu": "some GPU"}})
    assert audited(tmp_path, "comparison")["A04"].group == "bars a verdict"
    assert audited(tmp_path, "claim")["A04"].group == "told"


def test_synthetic_images_bar_a_claim_only(tmp_path: Path) -> None:
    make_run(tmp_path, sets={"dataset.name": "synthetic"})
    assert audited(tmp_path, "claim")["A09"].group == "bars a verdict"
    assert audited(tmp_path, "comparison")["A09"].group == "told"


def test_few_seeds_and_several_factors_are_found_in_effects(tmp_path: Path) -> None:
    make_run(tmp_path)
    found = audited(tmp_path, seeds={"a": (3, 6), "b": (6, 6)}, factors={"a": ("x", "y"), "b": "x"})
    assert found["A07"].said == ("a: 3 seeds; a verdict needs 6",)
    assert found["A08"].said == ("a: differs in 2 keys: x, y",)
    assert audited(tmp_path)["A07"].group == "not applicable"


def test_a_shared_device_is_told_and_so_is_ignorance_of_it(tmp_path: Path) -> None:
    make_run(tmp_path, seed=0, run={"runs_at_once": 1})
    assert audited(tmp_path)["A11"].group == "passed"
    make_run(tmp_path, seed=1, run={"runs_at_once": 4})
    make_run(tmp_path, seed=2)
    assert audited(tmp_path)["A11"].said == (
        "1 of 3 runs shared their device with others",
        "1 of 3 runs did not record whether they shared their device",
    )


def test_one_run_with_two_results_bars_every_verdict(tmp_path: Path) -> None:
    make_run(tmp_path, seed=0, accuracy=0.6)
    make_run(tmp_path, seed=0, accuracy=0.6, sets={"name": "again"})
    assert audited(tmp_path)["A12"].group == "passed"
    make_run(tmp_path, seed=0, accuracy=0.7, sets={"name": "third"})
    assert audited(tmp_path)["A12"].group == "bars a verdict"
    assert "third" in audited(tmp_path)["A12"].said[0]


@pytest.mark.parametrize("status", ["done", "diverged"])
@pytest.mark.parametrize("key", ["epochs", "train/loss", "test/loss", "test/accuracy"])
def test_a_summary_that_says_otherwise_than_the_metrics_bars_every_verdict(
    tmp_path: Path, status: str, key: str
) -> None:
    make_run(tmp_path, seed=0)
    run = make_run(tmp_path, seed=1, status=status)
    assert {audited(tmp_path, use)["A15"].group for use in USES} == {"passed"}
    summary = raw_summary(run)
    planted = 1 if key == "epochs" else 0.91
    run.summary.write_text(json.dumps({**summary, key: planted}))
    assert {audited(tmp_path, use)["A15"].group for use in USES} == {"bars a verdict"}
    recorded = "no number" if summary[key] is None else summary[key]
    assert audited(tmp_path)["A15"].said == (
        f"{run.files.path}: {key} {recorded} in metrics.jsonl, {planted} in summary.json",
    )


@pytest.mark.parametrize("kept", [0, 3])
def test_lines_lost_from_the_metrics_of_a_finished_run_bar_every_verdict(
    tmp_path: Path, kept: int
) -> None:
    run = make_run(tmp_path)
    lines = run.metrics.read_text().splitlines(keepends=True)
    run.metrics.write_text("".join(lines[:kept]))
    [said] = audited(tmp_path)["A15"].said
    assert f"epochs {kept} in metrics.jsonl, 5 in summary.json" in said
    assert f"test/accuracy {'' if kept else 'no number '}" in said
    assert {audited(tmp_path, use)["A15"].group for use in USES} == {"bars a verdict"}


def test_what_one_of_the_files_alone_holds_is_no_contradiction(tmp_path: Path) -> None:
    run = make_run(tmp_path, sets={"train.test_every": None})
    lines = raw_metrics(run)
    lines[-1]["probe/at_the_end"] = 0.5
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in [*lines[:2], *lines[1:]]))
    summary = raw_summary(run)
    del summary["epochs"], summary["train/loss"]
    run.summary.write_text(json.dumps({**summary, "newer/score": 0.5, "train_seconds": 1.0}))
    assert audited(tmp_path)["A15"].group == "passed"


def test_a_comparison_refuses_runs_whose_files_contradict_each_other(tmp_path: Path) -> None:
    for seed in (0, 1):
        make_run(tmp_path, seed=seed, sets=NONE)
        run = make_run(tmp_path, seed=seed)
    run.summary.write_text(json.dumps({**raw_summary(run), "test/accuracy": 0.91}))
    runs, _ = load_runs([tmp_path])
    with pytest.raises(RefusedError, match="hold files that contradict each other:\n  A15 made/"):
        compare(runs, Options())
    allowed = compare(runs, Options(allow_mixed=True))
    assert any("0.91 in summary.json" in caveat for caveat in allowed.caveats)


def test_a_comparison_holds_its_audit(tmp_path: Path) -> None:
    for seed in (0, 1, 2):
        make_run(tmp_path, seed=seed, sets=NONE)
        make_run(tmp_path, seed=seed)
    found = {one.check.code: one for one in compare(load_runs([tmp_path])[0], Options()).audit}
    assert found["A07"].group == "bars a verdict"
    assert found["A08"].group == "passed"


def test_the_command_shows_what_the_program_gets(tmp_path: Path) -> None:
    for seed in (0, 1):
        make_run(tmp_path / "runs", seed=seed)
    data = json.loads(CliRunner().invoke(app, ["audit", str(tmp_path / "runs"), "--json"]).stdout)
    assert data["runs"] == 2
    subject = compare(load_runs([tmp_path / "runs"])[0], Options()).audit
    assert data["checks"] == audit_as_data(subject)
    shown = CliRunner().invoke(app, ["audit", str(tmp_path / "runs")])
    assert shown.exit_code == 0
    for one in subject:
        assert one.check.code in shown.stdout
    told = [group for group in GROUPS if f"{group[0].upper()}{group[1:]}:" in shown.stdout]
    assert told == [group for group in GROUPS if any(one.group == group for one in subject)]


def test_strict_fails_where_something_bars_a_verdict(tmp_path: Path) -> None:
    for seed in (0, 1):
        make_run(tmp_path, seed=seed, sets=NONE)
        make_run(tmp_path, seed=seed)
    assert CliRunner().invoke(app, ["audit", str(tmp_path), "--strict"]).exit_code == 4
