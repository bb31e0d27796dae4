import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import TINY
from raw import raw_metrics, raw_run, raw_summary, roots_of
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bnlab.errors import BnlabError, ConfigError, RefusedError
from bnlab.records import RunDir, RunFiles, Summary, leases, read_summary, summaries
from bnlab.study.estimate import estimate_left
from bnlab.study.executors import (
    EXECUTORS,
    Cell,
    ExecutorOptions,
    Outcome,
    StudyWatcher,
    share_cores,
)
from bnlab.study.plan import Study, load_study
from bnlab.study.render import (
    render_estimate,
    render_plan,
    results,
    study_as_data,
)
from bnlab.study.run import (
    Finished,
    StudyOptions,
    raise_failures,
    run_study,
)
from bnlab.study.survey import Survey, survey_study
from bnlab.training.signals import StopRequest

INLINE = StudyOptions(executor="inline", device="cpu")
SETTINGS = [text for text in TINY if not text.startswith(("name=", "optim.lr="))]
STUDIES = Path(__file__).parent.parent / "configs" / "studies"

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a study of two arms; keyword arguments replace its keys, None takes one away."""

    def make(**changes: Any) -> Path:
        settings: dict[str, Any] = {}
        for text in SETTINGS:
            key, _, value = text.partition("=")
            settings[key] = yaml.safe_load(value)
        study: dict[str, Any] = {
            "name": "tiny",
            "set": {**settings, "dataset.val_size": 40, "train.epochs": 1},
            "arms": {"none": {"model.norm": "none"}, "batch": {"model.norm.name": "batch"}},
            "tune": {"optim.lr": [0.01, 0.05]},
            "tune_seeds": 1,
            "seeds": 2,
        }
        for key, value in changes.items():
            if isinstance(value, dict) and key == "set":
                study[key] = {**study[key], **value}
            elif value is None:
                study.pop(key, None)
            else:
                study[key] = value
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump(study, sort_keys=False))
        return path

    return make


PLAIN: Mapping[str, Any] = {"tune": None, "tune_seeds": None}
"""Makes the study one without tuning."""


def load(file: Path, *overrides: str, name: str | None = None) -> Study:
    return load_study(file, overrides, runs_dir=file.parent / "runs", name=name)


def survey(file: Path) -> Survey:
    return survey_study(load(file), file.parent / "runs")


def run(file: Path, *overrides: str, force: bool = False) -> Finished:
    options = StudyOptions(executor="inline", device="cpu", force=force)
    return run_study(load(file, *overrides), file.parent / "runs", options)


def cells(found: Survey) -> list[Cell]:
    return [cell for cell, _ in found.cells.values()]


def everything(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fake(cell: Cell, metrics: Mapping[str, float] | None = None, *, status: str = "done") -> None:
    """Leave what a finished run of the cell would leave, as far as a study reads it."""
    run_dir = RunDir(cell.root)
    run_dir.create(cell.config.to_yaml(), "", None)
    run_dir.write_run(
        {
            "status": status,
            "config_hash": cell.config.hash,
            "dataset": {
                "name": "synthetic",
                "classes": list("abcde"),
                "train_images": 160,
                "val_images": 0,
            },
        }
    )
    run_dir.write_summary(
        {
            "status": status,
            "epochs": cell.config.train.epochs,
            "images_per_second": 100.0,
            "wall_seconds": 12.0,
            **(metrics or {}),
            **({"train/loss": None} if status == "diverged" else {}),
        }
    )


# -------------------------------------------------------------------------------------- the plan


def test_a_study_is_arms_times_values_times_seeds_in_two_stages(write: Write) -> None:
    found = survey(write(tune={"optim.lr": [0.01, 0.05, 0.1]}, tune_seeds=2, seeds=4))
    rows = [(row.stage, row.arm, row.point, row.seeds) for row in found.rows]
    points = [(("optim.lr", lr),) for lr in (0.01, 0.05, 0.1)]
    assert rows == [
        *(("tune", arm, point, (1000, 1001)) for arm in ("none", "batch") for point in points),
        *(("final", arm, None, (0, 1, 2, 3)) for arm in ("none", "batch")),
    ]
    assert found.total == 2 * 3 * 2 + 2 * 4


def test_several_tuned_keys_make_a_product(write: Write) -> None:
    found = survey(write(tune={"optim.lr": [0.01, 0.05], "optim": {"momentum": [0, 0.5, 0.9]}}))
    tuned = {row.point for row in found.rows if row.stage == "tune"}
    assert len(tuned) == 6
    assert (("optim.lr", 0.05), ("optim.momentum", 0.5)) in tuned


def test_tuning_holds_images_out_and_never_reads_the_test_set(write: Write) -> None:
    study = load(write())
    point = (("optim.lr", 0.01),)
    tune, final = study.configs["tune", "batch", point], study.configs["final", "batch", point]
    assert (tune.dataset.val_size, tune.dataset.train_size, tune.train.test_every) == (
        40,
        160,
        None,
    )
    assert (final.dataset.val_size, final.dataset.train_size, final.train.test_every) == (0, 200, 0)


def test_the_study_may_ask_for_more_readings_of_the_test_set(write: Write) -> None:
    study = load(write(set={"train.test_every": 5}))
    point = (("optim.lr", 0.01),)
    assert study.configs["final", "none", point].train.test_every == 5
    assert study.configs["tune", "none", point].train.test_every is None


def test_without_tune_a_study_is_arms_times_seeds(write: Write) -> None:
    found = survey(write(**PLAIN, seeds=[3, 7]))
    assert [(cell.arm, cell.config.seed) for cell in cells(found)] == [
        ("none", 3),
        ("batch", 3),
        ("none", 7),
        ("batch", 7),
    ]
    assert all(cell.config.train.test_every == 1 for cell in cells(found))


def test_runs_lie_in_the_study_folder_under_the_names_of_the_arms(write: Write) -> None:
    file = write(**PLAIN, seeds=1)
    for cell in cells(survey(file)):
        folder = f"{cell.arm}-{cell.config.hash[:8]}"
        assert cell.root == file.parent / "runs" / "tiny" / folder / "s0"
    assert {row.arm for row in survey_study(load(file, name="other"), Path("r")).rows}
    assert cells(survey_study(load(file, name="other"), Path("r")))[0].root.parts[:2] == (
        "r",
        "other",
    )


def test_the_base_is_found_from_the_study_and_may_have_layers(write: Write) -> None:
    file = write(**PLAIN, base=["sub/one.yaml", {"optim.momentum": 0.5}])
    (file.parent / "sub").mkdir()
    (file.parent / "sub" / "one.yaml").write_text("optim: {momentum: 0.1, lr: 0.7}\n")
    config = cells(survey(file))[0].config
    assert (config.optim.momentum, config.optim.lr) == (0.5, 0.7)


def test_an_arm_lies_over_the_command_line_and_that_over_the_file(write: Write) -> None:
    study = load(write(**PLAIN, set={"optim.lr": 0.1}), "optim.lr=0.2")
    assert study.configs["final", "none", ()].optim.lr == 0.2
    assert study.configs["final", "none", ()].model.norm.name == "none"


def test_the_studies_that_ship_have_the_announced_number_of_runs() -> None:
    counts = {"placement": 546, "on_off": 246, "quick": 120, "resnet18": 160}
    assert sorted(path.stem for path in STUDIES.glob("*.yaml")) == sorted(counts)
    for name, total in counts.items():
        study = load_study(STUDIES / f"{name}.yaml", runs_dir=Path("runs"))
        assert survey_study(study, Path("runs")).total <= total
        assert study.spec.name == name


# ------------------------------------------------------------------------------- contradictions


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": {"none": {"optim.lr": 0.1}, "b": {}}}, r"tiny.yaml:\d+: arms.none: optim.lr: is"),
        ({"set": {"optim.lr": 0.1}}, r"set: optim\.lr: is tuned"),
        ({"seeds": [1, 2], "tune_seeds": [2, 3]}, r"tiny.yaml:\d+: tune_seeds: 2 also in"),
        ({"seeds": [1, 1]}, "seeds: 1 given twice"),
        ({"set": {"dataset.val_size": 0}}, r"tiny.yaml:\d+: tune: .*dataset.val_size is 0"),
        ({"arms": {"a": {"model.norm": "batch"}, "b": {}}}, "'a'"),
        ({"tune_seeds": None}, "tune: needs `tune_seeds`"),
        ({"tune": None}, "tune_seeds: means nothing without `tune`"),
        ({**PLAIN, "same_as": "none"}, "same_as: means nothing"),
        ({"same_as": "nome"}, "did you mean 'none'"),
        ({"same": {"optim.momentum": 0.1}}, "same: expected one value for each of optim.lr"),
        ({"same": {"optim.lr": [0.1]}}, "same: expected one value"),
        ({"tune": {"optim.lr": 0.1}}, "expected a list of values, got 0.1"),
        ({"tune": {"optim.lr": [0.1, 0.1]}}, "a value is given twice"),
        (
            {"tune": {"optim.lr": [n / 100 for n in range(1, 81)], "seed": [*range(80)]}},
            r"tiny.yaml:\d+: tune: 12,800 configurations; a study has at most 5,000",
        ),
        ({"tune": {"optim.lrr": [0.1]}}, r"tiny.yaml:\d+: optim.lrr: unknown key; did you mean"),
        ({"tune": {"optim.lr": [0.1, -1]}}, r"tiny.yaml:\d+: optim.lr: .*greater than 0"),
        ({"tune": {"model.norm.momentum": [0.1, 0.2]}}, "arms.none: .*means nothing in this arm"),
        ({"tune": {"seed": [1, 2]}}, "tune: seed: the study sets this key"),
        ({"arms": {"a": {"dataset.val_size": 9}, "b": {}}}, "val_size: the study sets this key"),
        ({"arms": {"a": {"model.norm": "bacth"}, "b": {}}}, "unknown norm 'bacth'; did you mean"),
        ({"arms": {"a": {"model.norm": False}, "b": {}}}, "the boolean false"),
        ({"arms": {"a/b": {}}}, "use letters, digits"),
        ({"arms": {}}, r"tiny.yaml:\d+: arms: expected at least one arm, here or by `factors`"),
        ({"arms": None}, "tiny.yaml: arms: expected at least one arm"),
        ({"seeds": None}, "tiny.yaml: seeds: required"),
        ({"seeds": 0}, "seeds: .*at least"),
        ({"seeds": -1}, "seeds: "),
        ({"select": "test/accuracy"}, r"tiny.yaml:\d+: select: got"),
        ({"amrs": {}}, r"tiny.yaml:\d+: amrs: unknown key; did you mean 'arms'"),
        ({"base": "none.yaml"}, r"tiny.yaml:1?\d+: base: .*no such configuration"),
        ({"base": 5}, "base: expected the path"),
        ({"budget": {"run": 5}}, "budget.run: unknown key; did you mean 'runs'"),
    ],
)
def test_a_contradiction_is_an_error_with_its_place(
    write: Write, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load(write(**changes))


def test_all_faults_are_told_at_once_and_each_once(write: Write) -> None:
    file = write(seeds=[1], tune_seeds=[1], set={"optim.lr": 3, "optim.momentun": 0})
    with pytest.raises(ConfigError) as caught:
        load(file)
    lines = str(caught.value).splitlines()
    assert len(lines) == len(set(lines)) == 2
    with pytest.raises(ConfigError, match=r"momentun.*did you mean 'momentum'") as caught:
        load(write(set={"optim.momentun": 0}))
    assert len(str(caught.value).splitlines()) == 1


def test_a_key_given_dotted_and_nested_is_an_error(write: Write) -> None:
    arms = {"a": {"model.norm.name": "none", "model": {"norm": {"name": "batch"}}}, "b": {}}
    with pytest.raises(ConfigError, match=r"model\.norm\.name: given twice"):
        load(write(arms=arms))


def test_set_cannot_touch_what_the_study_varies(write: Write) -> None:
    with pytest.raises(ConfigError, match=r"--set optim.lr=1: --set: optim.lr: is tuned"):
        load(write(), "optim.lr=1")
    with pytest.raises(ConfigError, match="has no effect, since arm 'none' fixes it"):
        load(write(), "model.norm.name=group")


# ------------------------------------------------------------------------------------ the choice


def fake_tuning(file: Path, scores: Mapping[tuple[str, float], float | None]) -> None:
    """Finish the tuning runs with these validation accuracies; None for a diverged run."""
    for row in survey(file).rows:
        if row.stage == "tune" and row.point is not None:
            score = scores[row.arm, row.point[0][1]]
            for cell in row.cells:
                if score is None:
                    fake(cell, {"val/accuracy": 0.99}, status="diverged")
                else:
                    fake(cell, {"val/accuracy": score})


LRS = (0.01, 0.05, 0.1)


@pytest.mark.parametrize(
    ("scores", "best", "edge"),
    [
        ((0.3, 0.5, 0.4), 0.05, False),
        ((0.5, 0.5, 0.4), 0.01, True),
        ((0.3, 0.4, 0.5), 0.1, True),
        ((0.21, 0.22, None), 0.05, False),
        ((0.1, None, 0.15), 0.05, False),
    ],
    ids=["middle", "tie", "edge", "diverged", "chance of five classes is 0.2"],
)
def test_the_best_value_is_that_of_the_best_mean(
    write: Write, scores: tuple[float | None, ...], best: float, edge: bool
) -> None:
    file = write(tune={"optim.lr": list(LRS)}, tune_seeds=2)
    made = {(arm, lr): s for arm in ("none", "batch") for lr, s in zip(LRS, scores, strict=True)}
    fake_tuning(file, made)
    choice = survey(file).choices["none"]
    assert choice.point == (("optim.lr", best),)
    assert tuple(choice.edges) == (("optim.lr",) if edge else ())


def test_the_smallest_loss_can_be_what_is_selected(write: Write) -> None:
    file = write(select="val/loss")
    for row in survey(file).rows:
        for cell in row.cells:
            fake(cell, {"val/loss": 1.5 if row.point == (("optim.lr", 0.05),) else 1.0})
    assert survey(file).choices["none"].point == (("optim.lr", 0.01),)


def test_an_arm_goes_on_when_its_own_tuning_is_finished(write: Write) -> None:
    file = write()
    scores = {(arm, lr): lr for arm in ("none", "batch") for lr in (0.01, 0.05)}
    fake_tuning(file, scores)
    final = [row for row in survey(file).rows if row.stage == "final"]
    assert [row.point for row in final] == [(("optim.lr", 0.05),)] * 2
    unfinished = next(row for row in survey(file).rows if row.arm == "batch").cells[0]
    RunDir(unfinished.root).summary.unlink()
    final = [row for row in survey(file).rows if row.stage == "final"]
    assert [row.point for row in final] == [(("optim.lr", 0.05),), None]


def test_arms_are_trained_at_the_same_value_beside_their_best(write: Write) -> None:
    file = write(same={"optim.lr": 0.2}, same_as="none", seeds=3)
    best = {("none", 0.01): 0.5, ("none", 0.05): 0.1, ("batch", 0.01): 0.1, ("batch", 0.05): 0.5}
    fake_tuning(file, best)
    found = survey(file)
    final = {(row.arm, row.why): row.point for row in found.rows if row.stage == "final"}
    assert final == {
        ("none", "best"): (("optim.lr", 0.01),),
        ("none", "same"): (("optim.lr", 0.2),),
        ("batch", "best"): (("optim.lr", 0.05),),
        ("batch", "same"): (("optim.lr", 0.2),),
        ("batch", "same as none"): (("optim.lr", 0.01),),
    }
    assert found.total == 4 + 5 * 3


def test_a_value_that_is_both_best_and_the_same_is_trained_once(write: Write) -> None:
    file = write(same={"optim.lr": 0.05}, same_as="none")
    fake_tuning(file, {(arm, lr): lr for arm in ("none", "batch") for lr in (0.01, 0.05)})
    found = survey(file)
    assert len(found.rows) == 4 + 5
    assert found.total == 4 + 2 * 2


# ----------------------------------------------------------------------------- states and plans


def test_a_cell_that_is_finished_while_it_is_looked_at_is_done(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(**PLAIN, seeds=1)
    by_root = {cell.root: cell for cell in cells(survey(file))}

    def finished_meanwhile(run_dir: RunDir) -> bool:
        fake(by_root[run_dir.root])
        return False

    monkeypatch.setattr(RunDir, "locked", property(finished_meanwhile))
    assert {state for _, state in survey(file).cells.values()} == {"done"}


def test_a_cell_that_another_process_finishes_after_a_survey_is_looked_at_again(
    write: Write,
) -> None:
    file = write(**PLAIN, seeds=1)
    first, *others = cells(survey(file))
    for cell in others:
        fake(cell)
    with RunDir(first.root).lock():
        found = survey(file)
        fake(first)
    assert [(cell.root, state) for cell, state in found.unfinished()] == [(first.root, "running")]


@pytest.mark.slow
def test_a_cell_whose_trainer_died_on_another_machine_is_trained_once_its_lease_has_lapsed(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BNLAB_LOCKS", "lease:3")
    file = write(**PLAIN, seeds=1)
    first, *_ = cells(survey(file))
    first.root.mkdir(parents=True)
    with monkeypatch.context() as patched:
        patched.setattr("platform.node", lambda: "elsewhere")
        patched.setattr(leases.Lease, "_beat", lambda _self: None)
        assert leases.take(first.root / "lock", 3.0) is not None
    assert survey(file).count("running") == 1
    options = StudyOptions(executor="processes", device="cpu")
    finished = run_study(load(file), file.parent / "runs", options)
    assert finished.survey.count("done", "diverged") == finished.survey.total
    assert not finished.failures


def test_a_survey_reads_a_finished_run_once_and_again_when_it_was_replaced(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(**PLAIN, seeds=2)
    made = cells(survey(file))
    for cell in made:
        fake(cell)
    read = list[Path]()

    def reading(files: RunFiles) -> Summary:
        read.append(files.root)
        return read_summary(files)

    monkeypatch.setattr("bnlab.study.survey.read_summary", reading)
    study, known = load(file), dict[Path, Any]()
    for _ in range(2):
        assert survey_study(study, file.parent / "runs", known).count("done") == len(made)
    assert sorted(read) == sorted(cell.root for cell in made)
    fake(made[0], status="diverged")
    assert survey_study(study, file.parent / "runs", known).count("diverged") == 1
    (made[1].root / "summary.json").unlink()
    assert survey_study(study, file.parent / "runs", known).count("done") == len(made) - 2


def test_planning_writes_nothing_and_counts_every_state(write: Write) -> None:
    file = write(**PLAIN, seeds=5)
    done, diverged, cut, failed, missing = (
        cell for cell in cells(survey(file)) if cell.arm == "none"
    )
    fake(done)
    fake(diverged, status="diverged")
    RunDir(cut.root).create(cut.config.to_yaml(), "", None)
    RunDir(cut.root).write_run({"status": "running"})
    RunDir(failed.root).create(failed.config.to_yaml(), "", None)
    RunDir(failed.root).write_run({"status": "failed", "error": "OSError: the cat"})
    with RunDir(missing.root.parent / "s4").lock():
        before = everything(file.parent)
        found = survey(file)
        assert everything(file.parent) == before
    before = everything(file.parent)
    row = next(row for row in found.rows if row.arm == "none")
    assert row.states == ("done", "diverged", "cut off", "failed", "running")
    assert found.reasons == {failed.root: "OSError: the cat"}
    assert survey(file).count("missing") == 6
    assert render_plan(found).splitlines()[1].split() == ["final", "none", "0-4", *"11111-"]
    estimate_left(found, file.parent / "runs")
    assert everything(file.parent) == before


def test_the_estimate_goes_by_the_same_configuration_first_then_by_speed(write: Write) -> None:
    file = write(**PLAIN, seeds=2)
    runs_dir = file.parent / "runs"
    estimate = estimate_left(survey(file), runs_dir)
    assert (estimate.runs, estimate.seconds) == (4, None)
    assert "unknown" in render_estimate(survey(file), estimate)
    fake(cells(survey(file))[0])
    estimate = estimate_left(survey(file), runs_dir)
    assert estimate.runs == 3
    # The other seed of the arm took 12 s; the other arm has 160 images an epoch at 100 a second.
    assert estimate.seconds == pytest.approx(12 + 2 * 1.6 + 3 * 5)


def test_a_plan_beyond_its_budget_is_refused_unless_forced(write: Write) -> None:
    file = write(**PLAIN, seeds=2, budget={"runs": 3})
    with pytest.raises(RefusedError, match=r"needs 4 runs, its budget is 3.*--force"):
        run(file)
    assert not (file.parent / "runs").exists()
    file = write(**PLAIN, seeds=20, budget={"hours": 0.01})
    fake(cells(survey(file))[0])
    with pytest.raises(RefusedError, match="hours, the budget is"):
        run(file)
    file = write(**PLAIN, seeds=1, budget={"runs": 1})
    assert run(file, force=True).survey.count("done", "diverged") == 2


def test_cores_are_shared_out_a_thread_a_run_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert share_cores(None, "cpu", None) == (8, 1)
    assert share_cores(2, "cpu", None) == (2, 4)
    assert share_cores(None, "cpu", 4) == (2, 4)
    assert share_cores(3, "cpu", 4) == (3, 4)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert share_cores(None, "cpu", 4) == (4, 2)


# --------------------------------------------------------------------------------------- running


def test_a_study_runs_both_stages_and_then_has_nothing_left_to_do(write: Write) -> None:
    file = write(seeds=1)
    finished = run(file)
    assert finished.failures == {}
    assert finished.survey.total == finished.survey.count("done", "diverged") == 6
    for row in finished.survey.rows:
        record = raw_summary(RunDir(row.cells[0].root))
        read = raw_run(RunDir(row.cells[0].root))
        assert ("test/accuracy" in record) == (row.stage == "final")
        assert (read["arm"], read["dataset"]["train_images"]) == (
            row.arm,
            160 if row.stage == "tune" else 200,
        )
    assert [(line["arm"], line["n"]) for line in results(finished.survey)] == [
        ("none", 1),
        ("batch", 1),
    ]
    before = everything(file.parent)
    run(file)
    assert everything(file.parent) == before


def test_a_study_draws_its_arms_in_tensorboard_and_goes_on_where_that_fails(
    write: Write, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = write(**PLAIN, seeds=2)
    finished = run(file)
    folder = finished.survey.folder / "tensorboard"
    for arm in ("none", "batch"):
        tags = EventAccumulator(str(folder / arm)).Reload().Tags()["scalars"]
        assert {"test/accuracy", *summaries.band_of("train/loss")} <= set(tags)
    runs = [raw_summary(RunDir(cell.root)) for cell in cells(finished.survey)]
    kept = [one["test/accuracy"] for one in runs if one["arm"] == "none"]
    mean = EventAccumulator(str(folder / "none")).Reload().Scalars("test/accuracy")[-1].value
    assert mean == pytest.approx(sum(kept) / 2)

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("bnlab.study.board.write_mean", fail)
    again = run_study(load(file, name="again"), file.parent / "runs", INLINE)
    assert again.survey.count("done", "diverged") == 4
    assert "the arms were not drawn" in caplog.text


@pytest.mark.parametrize("executor", ["inline", "threads"])
def test_a_run_that_fails_costs_only_itself(write: Write, executor: str) -> None:
    broken = {"dataset.name": "folder", "dataset.root": "nowhere"}
    file = write(**PLAIN, arms={"broken": broken, "whole": {}}, seeds=2)
    options = StudyOptions(executor=executor, device="cpu")
    finished = run_study(load(file), file.parent / "runs", options)
    assert finished.survey.count("done", "diverged") == 2
    assert set(finished.failures) == {"broken seed 0", "broken seed 1"}
    assert finished.survey.count("failed") == 2
    with pytest.raises(BnlabError, match=r"nowhere[^$]*bnlab study run f.yaml") as caught:
        raise_failures(finished, ["bnlab", "study", "run", "f.yaml"])
    assert caught.value.exit_code == 6


def test_a_finished_run_whose_summary_is_damaged_is_named_and_left_alone(write: Write) -> None:
    file = write(**PLAIN, seeds=1)
    run(file)
    damaged = cells(survey(file))[0].root
    (damaged / "summary.json").write_text("{")
    finished = run(file)
    assert list(finished.failures) == ["none seed 0"]
    assert f"delete {damaged}" in finished.failures["none seed 0"]


def test_the_study_is_kept_with_its_overrides_and_read_back(write: Write) -> None:
    file = write(**PLAIN, seeds=1, base={"optim": {"momentum": 0.3}})
    run(file, "train.batch_size=40")
    stored = file.parent / "runs" / "tiny" / "study.yaml"
    for other in (load(file), load(stored)):
        assert other.spec.overrides == ("train.batch_size=40",)
        assert other.configs["final", "none", ()].train.batch_size == 40
        assert other.configs["final", "none", ()].optim.momentum == 0.3
    assert load(file).remembered == ("train.batch_size=40",)
    assert load(file, "train.batch_size=40").remembered == load(stored).remembered == ()
    assert survey(file).count("missing") == 0
    kept = survey_study(load_study(stored, runs_dir=stored.parent.parent), stored.parent.parent)
    assert study_as_data(kept)["finished"] == 2


def test_a_study_may_grow_but_not_drop_runs_whose_outcome_is_known(write: Write) -> None:
    run(write(**PLAIN, seeds=1))
    said: list[str] = []
    file = write(**PLAIN, seeds=2)
    run_study(load(file), file.parent / "runs", INLINE, say=said.append)
    assert "the study has changed" in said[0]
    assert "seeds: [0] -> [0, 1]" in said[0]
    with pytest.raises(RefusedError, match=r"2 finished runs are no longer part[^$]*seeds: "):
        run(write(**PLAIN, seeds=1))


def test_an_extended_grid_keeps_what_was_trained_at_the_old_choice(write: Write) -> None:
    file = write(seeds=1)
    fake_tuning(file, {(arm, lr): lr for arm in ("none", "batch") for lr in (0.01, 0.05)})
    run(file)
    wider = write(seeds=1, tune={"optim.lr": [0.01, 0.05, 0.1]})
    scores = {(arm, lr): lr for arm in ("none", "batch") for lr in LRS}
    fake_tuning(wider, scores)
    finished = run(wider)
    assert {row.point for row in finished.survey.rows if row.stage == "final"} == {
        (("optim.lr", 0.1),)
    }
    assert len(roots_of(file.parent / "runs")) == 6 + 2 + 2


def test_a_disk_that_takes_no_folder_for_a_study_is_told_in_one_line(write: Write) -> None:
    file = write(**PLAIN, seeds=1)
    (file.parent / "runs").mkdir()
    (file.parent / "runs" / "tiny").write_text("a file where the folder should be")
    with pytest.raises(BnlabError, match=r"runs/tiny: cannot be written"):
        run_study(load(file), file.parent / "runs", StudyOptions(device="cpu"))


def test_runs_in_threads_are_the_runs_that_they_would_be_alone(write: Write) -> None:
    file = write(**PLAIN, seeds=2)
    curves = {}
    for executor in ("inline", "threads"):
        folder = file.parent / executor
        options = StudyOptions(executor=executor, device="cpu", jobs=2)
        assert run_study(load(file), folder, options).failures == {}
        curves[executor] = [
            [line["train/loss"] for line in raw_metrics(RunDir(root))] for root in roots_of(folder)
        ]
    assert len(curves["inline"]) == 4
    assert curves["inline"] == curves["threads"]


def test_an_unknown_executor_is_named(write: Write) -> None:
    file = write(**PLAIN)
    with pytest.raises(ConfigError, match="unknown executor 'processs'; did you mean"):
        run_study(load(file), file.parent / "runs", StudyOptions(executor="processs"))
    assert set(EXECUTORS) == {"processes", "inline", "threads", "lanes", "slurm", "ray"}


# ------------------------------------------------------------------------------ real processes

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}


def start(file: Path, *words: str, command: str = "run") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "bnlab.cli", "study", command, str(file), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
        env=ENVIRONMENT,
    )


def wait(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def runs_of(file: Path) -> list[str]:
    return ["--runs-dir", str(file.parent / "runs"), "--device", "cpu"]


def attempts(found: Survey) -> list[int]:
    return [len(raw_run(RunDir(cell.root))["attempts"]) for cell in cells(found)]


def until(fact: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def children_of(parent: int) -> list[int]:
    """The processes in which a study trains; none known without /proc."""
    try:
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    except OSError:
        return []
    return [int(p) for p in children if b"CellTrainer" in Path(f"/proc/{p}/cmdline").read_bytes()]


def test_two_processes_share_a_study_and_train_no_cell_twice(write: Write) -> None:
    file = write(seeds=1, set={"train.epochs": 3})
    both = [start(file, *runs_of(file), "--executor", "inline", "--json") for _ in range(2)]
    ends = [wait(process) for process in both]
    assert [code for code, _, _ in ends] == [0, 0], ends
    assert attempts(survey(file)) == [1] * 6
    for _, out, _ in ends:
        assert json.loads(out)["finished"] == json.loads(out)["total"] == 6


def test_a_run_is_the_same_after_others_in_a_process_as_alone(write: Write, tmp_path: Path) -> None:
    file = write(**PLAIN, arms={"a": {}}, seeds=2, set={"probes": ["gradients"]})
    children, options = set[int](), StudyOptions(jobs=1, device="cpu")

    class Watch(StudyWatcher):
        def running(self, cells: Sequence[Cell]) -> None:
            children.update(children_of(os.getpid()))

    run_study(load(file), tmp_path / "runs", options, Watch())
    if Path("/proc").exists():
        assert len(children) == 1

    def measured(root: Path) -> list[dict[str, Any]]:
        records = raw_metrics(RunDir(root))
        clocks = {"seconds", "images_per_second"}
        return [{k: v for k, v in record.items() if k not in clocks} for record in records]

    later = cells(survey(file))[1]
    jobs, threads = share_cores(1, "cpu", None)
    alone = ExecutorOptions(jobs, threads, "cpu", deterministic=False, logs=tmp_path / "logs")
    again = replace(later, root=tmp_path / "alone")
    (ended,) = EXECUTORS["processes"]([again], alone, StopRequest(), StudyWatcher())
    assert ended.ending != "failed"
    assert measured(again.root) == measured(later.root)


@pytest.mark.skipif(not Path("/proc").exists(), reason="finds child processes in /proc")
def test_when_a_process_dies_the_next_run_has_a_new_one(write: Write, tmp_path: Path) -> None:
    file = write(**PLAIN, arms={"a": {}}, seeds=3, set={"train.epochs": 2})
    endings = []

    class Watch(StudyWatcher):
        def started(self, cell: Cell) -> None:
            if cell.config.seed == 1:
                (child,) = children_of(os.getpid())
                os.kill(child, signal.SIGKILL)

        def ended(self, outcome: Outcome) -> None:
            endings.append(outcome.ending)

    run_study(load(file), tmp_path / "runs", StudyOptions(jobs=1, device="cpu"), Watch())
    assert [ending == "failed" for ending in endings] == [False, True, False]


def test_a_whole_study_through_the_command_line_with_one_broken_arm(write: Write) -> None:
    broken = {"dataset.name": "folder", "dataset.root": "nowhere"}
    arms = {"none": {"model.norm": "none"}, "broken": broken}
    file = write(arms=arms, tune={"optim.lr": [0.05]}, seeds=1)
    code, out, err = wait(start(file, *runs_of(file), "--jobs", "2"))
    assert code == 6, err
    assert "none      0.05  best  1" in out
    assert "bnlab study run" in err
    assert "nowhere" in err
    logs = file.parent / "runs" / "tiny" / "logs"
    assert [path.name[:7] for path in logs.iterdir()] == ["broken-"]
    found = survey(file)
    assert found.count("done", "diverged") == 2
    assert found.count("failed") == 1
    assert [len(row.cells) for row in found.rows if row.arm == "broken"] == [1, 0]


def test_a_study_in_which_each_seed_tunes_goes_on_wherever_it_was_killed(write: Write) -> None:
    learns = {"dataset.train_size": 400, "dataset.val_size": 100, "train.batch_size": 16}
    file = write(
        each_seed=True,
        arms={"batch": {"model.norm": "batch"}},
        tune={"optim.lr": [0.0001, 0.03]},  # goes on by 9, at which nothing is learned
        set={**learns, "train.epochs": 6},
    )
    words = [*runs_of(file), "--executor", "inline"]

    process = start(file, *words)
    until(lambda: survey(file).count("done", "diverged") >= 5)  # while seeds tune themselves
    process.kill()
    process.communicate()
    code, out, err = wait(start(file, *words, "--json"))
    assert code == 0, err
    said, found = json.loads(out), survey(file)
    assert said["finished"] == said["total"] == 3 + 3 * 2 + 2
    assert said["choices"]["batch"]["values"] == {"optim.lr": 0.03}
    assert said["choices"]["batch"]["chosen"] == [{"values": {"optim.lr": 0.03}, "seeds": [0, 1]}]
    (final,) = (row for row in found.rows if row.stage == "final")
    assert {result.facts.dataset.val_images for result in final.results.values()} == {0}


def long_study(write: Write) -> Path:
    """Two runs of half a minute, if nobody stops them."""
    return write(**PLAIN, arms={"a": {}}, seeds=1, set={"train.epochs": 3000})


def begun(file: Path) -> int:
    """How often the first run of a study has been begun."""
    try:
        return attempts(survey(file))[0]
    except BnlabError:
        return 0


@pytest.mark.skipif(not Path("/proc").exists(), reason="finds child processes in /proc")
def test_a_killed_run_is_told_and_resumed_and_a_stopped_study_goes_on(write: Write) -> None:
    file = long_study(write)
    metrics = RunDir(cells(survey(file))[0].root).metrics
    process = start(file, *runs_of(file))
    until(metrics.exists)
    assert survey(file).count("running") == 1
    (child,) = children_of(process.pid)
    os.kill(child, signal.SIGKILL)
    code, _, err = wait(process)
    assert code == 6
    assert "SIGKILL" in err
    assert survey(file).count("failed") == 1

    process = start(file, *runs_of(file))
    until(lambda: begun(file) == 2)
    process.send_signal(signal.SIGTERM)
    code, _, err = wait(process)
    assert code == 75, err
    assert "the same command goes on" in err
    found = survey(file)
    assert found.count("cut off") == 1
    assert attempts(found) == [2]
    assert RunDir(cells(found)[0].root).checkpoint.exists()

    process = start(file, *runs_of(file))
    until(lambda: begun(file) == 3)
    process.kill()
    process.communicate()
    until(lambda: survey(file).count("cut off") == 1)
    assert attempts(survey(file)) == [3]
