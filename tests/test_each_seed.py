"""The life of a study in which every final seed tunes for itself, from made runs."""

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from made_runs import make_run

from bnlab.analysis import Comparison, Options, compare, load_runs
from bnlab.analysis.arms import make_arms
from bnlab.analysis.own_best import find_own_best
from bnlab.claims import CLAIMS, Finding, Verdict, as_data
from bnlab.claims._cells import RunIndex
from bnlab.claims._gather import Gathered, gather
from bnlab.config import Config
from bnlab.errors import ConfigError
from bnlab.report import write_report
from bnlab.report.claims import _arms as arms_table
from bnlab.study.estimate import budget_excess, estimate_left
from bnlab.study.executors import Cell
from bnlab.study.plan import Study, finished_runs, load_study
from bnlab.study.render import render_choices, render_plan, render_results, results, study_as_data
from bnlab.study.survey import Survey, survey_study

LR = "optim.lr"
THREE = {
    "none": {"model.norm": "none"},
    "batch": {"model.norm": "batch"},
    "after": {"model.norm": {"name": "batch", "placement": "after_activation"}},
}
GRID = (0.03, 0.1, 0.3)
PEAK = {"none": {0.1: 0.6}, "batch": {0.9: 0.7, 0.3: 0.65}}
"""By arm, how accurate it is at the values that suit it; 0.5 at all others."""

Score = Callable[[Config], float]


def at(lr: float) -> tuple[tuple[str, float], ...]:
    return ((LR, lr),)


def peaked(config: Config) -> float:
    """Odd seeds of `batch` do better at 0.3, though the pilot finds 0.9."""
    arm, lr = config.model.norm.name, config.optim.lr
    if arm == "batch" and config.seed < 1000 and config.seed % 2:
        return {0.3: 0.7, 0.9: 0.6}.get(lr, 0.5)
    return PEAK.get(arm, {}).get(lr, 0.5)


class Made:
    """A study file and the runs made for it."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.file, self.runs = folder / "own.yaml", folder / "runs"
        study: dict[str, Any] = {
            "set": {"dataset.val_size": 40, "train.epochs": 2},
            "arms": {"none": {"model.norm": "none"}, "batch": {"model.norm": "batch"}},
            "tune": {LR: list(GRID)},
            "tune_seeds": 2,
            "seeds": 4,
            "each_seed": True,
            **changes,
        }
        self.file.write_text(yaml.safe_dump(study, sort_keys=False))

    def load(self) -> Study:
        return load_study(self.file, runs_dir=self.runs)

    def survey(self) -> Survey:
        return survey_study(self.load(), self.runs)

    def make(self, cell: Cell, score: Score = peaked) -> None:
        accuracy, seed, config = score(cell.config), cell.config.seed, cell.config.resolved()
        made = make_run(self.runs, arm=cell.arm, accuracy=accuracy, seed=seed, config=config)
        assert made.root == cell.root

    def finish(self, *stages: str, score: Score = peaked) -> Survey:
        """Make the runs of some stages for as long as one is missing."""
        while True:
            wanted = {
                cell.root for row in self.survey().rows if row.stage in stages for cell in row.cells
            }
            left = [c for c, _ in self.survey().unfinished() if c.root in wanted]
            for cell in left:
                self.make(cell, score)
            if not left:
                return self.survey()


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., Made]:
    return lambda **changes: Made(tmp_path, **changes)


def rows_of(found: Survey, stage: str, arm: str) -> dict[Any, tuple[int, ...]]:
    return {row.point: row.seeds for row in found.rows if (row.stage, row.arm) == (stage, arm)}


# ------------------------------------------------------------------------------------ the steps


def test_the_plan_counts_a_pilot_three_runs_a_seed_and_a_final_one(
    made: Callable[..., Made],
) -> None:
    study = made(budget={"runs": 43})
    found = study.survey()
    assert found.total == 2 * (2 * 3 + 3 * 4 + 4)
    stages = [(row.stage, len(row.seeds)) for row in found.rows if row.arm == "none"]
    assert stages == [("tune", 2)] * 3 + [("each", 4)] * 3 + [("final", 4)]
    assert render_plan(found).count("each") == 6
    estimate = estimate_left(found, study.runs)
    assert estimate.runs == 44
    assert budget_excess(found, estimate) == "the study needs 44 runs, its budget is 43"


def test_the_pilot_goes_on_beyond_an_edge_until_its_best_is_inside(
    made: Callable[..., Made],
) -> None:
    found = made().finish("tune")
    assert list(rows_of(found, "tune", "none")) == [at(lr) for lr in GRID]
    assert list(rows_of(found, "tune", "batch")) == [at(lr) for lr in (*GRID, 0.9, 2.7)]
    assert {arm: choice.point for arm, choice in found.choices.items()} == {
        "none": at(0.1),
        "batch": at(0.9),
    }


def test_every_final_seed_tries_the_neighborhood_with_images_held_out(
    made: Callable[..., Made],
) -> None:
    study = made()
    found = study.finish("tune")
    assert rows_of(found, "each", "none") == dict.fromkeys(map(at, GRID), (0, 1, 2, 3))
    assert list(rows_of(found, "each", "batch")) == [at(lr) for lr in (0.3, 0.9, 2.7)]
    assert rows_of(found, "final", "batch") == {None: (0, 1, 2, 3)}
    each = next(row for row in found.rows if row.stage == "each").cells[0].config
    tune = next(row for row in found.rows if row.stage == "tune").cells[0].config
    assert each.hash == tune.hash
    assert (each.dataset.val_size, each.train.test_every, each.seed) == (40, None, 0)


def test_every_final_seed_trains_at_what_did_best_for_itself(made: Callable[..., Made]) -> None:
    found = made().finish("tune", "each", "final")
    assert rows_of(found, "final", "none") == {at(0.1): (0, 1, 2, 3)}
    assert rows_of(found, "final", "batch") == {at(0.3): (1, 3), at(0.9): (0, 2)}
    assert found.total == found.count("done") == 2 * (2 * 3 + 3 * 4 + 4) + 2 * 2
    final = [cell.config for row in found.rows if row.stage == "final" for cell in row.cells]
    assert {(c.dataset.val_size, c.train.test_every) for c in final} == {(0, 0)}


def test_a_seed_that_ties_takes_the_smaller_value(made: Callable[..., Made]) -> None:
    study = made()
    study.finish("tune")
    found = study.finish("each", score=lambda _config: 0.6)
    assert rows_of(found, "final", "none") == {at(0.03): (0, 1, 2, 3)}
    assert rows_of(found, "final", "batch") == {at(0.3): (0, 1, 2, 3)}


def test_a_seed_that_chose_among_runs_that_all_diverged_is_told(made: Callable[..., Made]) -> None:
    study = made()
    study.finish("tune")
    found = study.finish("each", score=lambda config: 0.01 if config.seed == 1 else peaked(config))
    lines = render_choices(found).splitlines()
    assert ["1 of them among runs that all diverged" in line for line in lines] == [True, True]


def test_a_seed_goes_on_as_soon_as_it_has_chosen(made: Callable[..., Made]) -> None:
    study = made()
    study.finish("tune")
    for cell in [cell for cell, _ in study.survey().unfinished() if cell.config.seed == 1]:
        study.make(cell)
    assert rows_of(study.survey(), "final", "batch") == {at(0.3): (1,), None: (0, 2, 3)}


@pytest.mark.parametrize("order", range(3))
def test_whatever_is_finished_when_it_is_killed_it_ends_with_the_same_runs(
    made: Callable[..., Made], tmp_path: Path, order: int
) -> None:
    study, shuffle = made(seeds=2), random.Random(order)
    while left := [cell for cell, _ in study.survey().unfinished()]:
        study.make(shuffle.choice(left))
    found = study.survey()
    assert rows_of(found, "final", "batch") == {at(0.3): (1,), at(0.9): (0,)}
    assert len(list(study.runs.rglob("summary.json"))) == found.total == 2 * (6 + 6 + 2) + 4


def test_a_finished_run_counts_wherever_it_was_trained(made: Callable[..., Made]) -> None:
    study = made()
    study.finish("tune", "each")
    plan = study.load()
    study.runs.rename(elsewhere := study.runs.with_name("elsewhere"))
    shared = Study(**{**vars(plan), "elsewhere": finished_runs(elsewhere)})
    found = survey_study(shared, study.runs)
    assert rows_of(found, "final", "batch") == {at(0.3): (1, 3), at(0.9): (0, 2)}
    assert [cell.config.dataset.val_size for cell, _ in found.unfinished()] == [0] * 8


# ---------------------------------------------------------------------------------- no interior


@pytest.mark.parametrize("extend", [0, 1])
def test_an_arm_that_is_still_best_at_the_edge_gets_no_final_runs_and_it_is_said(
    made: Callable[..., Made], extend: int
) -> None:
    def rising(config: Config) -> float:
        is_none = config.model.norm.name == "none"
        return peaked(config) if is_none else 0.5 + config.optim.lr / 10

    study = made(extend=extend, same_as="batch")
    found = study.finish("tune", "each", "final", score=rising)
    assert found.pilots["batch"].stuck
    assert len(rows_of(found, "tune", "batch")) == 3 + extend
    assert rows_of(found, "each", "batch") == rows_of(found, "final", "batch") == {}
    assert len(rows_of(found, "final", "none")) == 1
    assert found.unfinished() == []
    assert "batch: the pilot has its best" in render_choices(found)
    assert "optim.lr is still best at the edge: no final seeds are trained" in render_choices(found)
    assert study_as_data(found)["choices"]["batch"]["stuck"]
    assert [line["arm"] for line in results(found)] == ["none"]


def test_the_grid_goes_no_further_than_an_arm_takes_its_values(made: Callable[..., Made]) -> None:
    grid = made(tune={"optim.momentum": [0.4, 0.6]}, set={"dataset.val_size": 40, LR: 0.1})
    assert grid.load().grids["none"].above == {"optim.momentum": (0.9,)}  # then 1.35, which is none
    assert made(extend=0).load().grids["none"].whole.values == {LR: GRID}


# -------------------------------------------------------------------------- beside the own best


def test_an_arm_that_follows_another_takes_what_each_seed_chose_there(
    made: Callable[..., Made],
) -> None:
    found = made(arms=THREE, follow={"after": "batch"}).finish("tune", "each", "final")
    assert rows_of(found, "tune", "after") == rows_of(found, "each", "after") == {}
    assert rows_of(found, "final", "after") == rows_of(found, "final", "batch")
    assert {row.why for row in found.rows if row.arm == "after"} == {"own best of batch"}


def test_the_same_value_for_all_is_the_pilot_s_choice_and_says_so(
    made: Callable[..., Made],
) -> None:
    found = made(same_as="batch").finish("tune", "each", "final")
    same = [row for row in found.rows if row.why == "same as batch's pilot"]
    assert [(row.arm, row.point, row.seeds) for row in same] == [
        ("none", at(0.9), (0, 1, 2, 3)),
        ("batch", at(0.9), (0, 1, 2, 3)),
    ]
    found = made(same={LR: 0.1}).finish("tune", "each", "final")
    same = [row for row in found.rows if row.why == "same"]
    assert [(row.arm, row.point) for row in same] == [("none", at(0.1)), ("batch", at(0.1))]


def test_several_keys_make_a_neighborhood_of_all_combinations(made: Callable[..., Made]) -> None:
    def inside(config: Config) -> float:
        best = (0.1, 64 if config.seed >= 1000 else 128)
        return 0.6 if (config.optim.lr, config.train.batch_size) == best else 0.5

    study = made(tune={LR: list(GRID), "train.batch_size": [32, 64, 128]}, seeds=1, tune_seeds=1)
    assert study.survey().total == 2 * (9 + 9 + 1)
    found = study.finish("tune", "each", "final", score=inside)
    assert found.choices["none"].point == ((LR, 0.1), ("train.batch_size", 64))
    assert len(rows_of(found, "each", "none")) == 9
    assert rows_of(found, "final", "none") == {((LR, 0.1), ("train.batch_size", 128)): (0,)}
    assert found.total == 2 * (9 + 9 + 1)


# ----------------------------------------------------------------------------------- in words


def test_status_tells_the_pilot_s_best_the_neighborhood_and_how_many_chose_which(
    made: Callable[..., Made],
) -> None:
    study = made()
    assert render_choices(study.survey()) == ""
    found = study.finish("tune")
    assert render_choices(found).splitlines()[1].startswith("batch: the pilot has its best")
    assert "4 have yet to choose" in render_choices(found)
    found = study.finish("each", "final")
    assert (
        render_choices(found)
        .splitlines()[1]
        .endswith(
            "each seed tries optim.lr=0.3, optim.lr=0.9, optim.lr=2.7: "
            "2 chose optim.lr=0.3, 2 chose optim.lr=0.9"
        )
    )
    assert "0.3 (2), 0.9 (2)" in render_results(found)
    data: Mapping[str, Any] = study_as_data(found)
    chosen = [{"values": {LR: 0.3}, "seeds": [1, 3]}, {"values": {LR: 0.9}, "seeds": [0, 2]}]
    assert data["choices"]["batch"]["chosen"] == chosen
    assert data["choices"]["batch"]["neighborhood"] == [{LR: lr} for lr in (0.3, 0.9, 2.7)]
    (line,) = (line for line in data["results"] if line["arm"] == "batch")
    assert (line["values"], line["chosen"], line["n"]) == (None, chosen, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tune": {}, "tune_seeds": []}, "each_seed: means nothing without `tune`"),
        ({"each_seed": False, "extend": 1}, "extend: means nothing without `each_seed`"),
        ({"extend": 11}, "extend: .*less than or equal to 10"),
        ({"seeds": [1000]}, "tune_seeds: 1000 also in `seeds`"),
    ],
)
def test_what_does_not_fit_is_an_error(
    made: Callable[..., Made], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        made(**changes).load()


def test_the_study_is_kept_with_what_makes_it_one_of_this_kind(made: Callable[..., Made]) -> None:
    study = made(extend=0)
    kept = study.file.with_name("kept.yaml")
    kept.write_text(study.load().text)
    again = load_study(kept, runs_dir=study.runs)
    assert (again.spec.each_seed, again.spec.extend) == (True, 0)


# ------------------------------------------------------------------------- as a claim's evidence


def gathered(study: Made) -> Gathered:
    runs = load_runs([study.runs])[0] if study.runs.exists() else []
    return gather(study.load(), "quick", RunIndex(runs))


def test_claims_count_the_same_runs_as_the_study_however_far_it_is(
    made: Callable[..., Made],
) -> None:
    study = made(arms=THREE, follow={"after": "batch"}, same_as="batch", seeds=2, tune_seeds=1)
    while left := [cell for cell, _ in study.survey().unfinished()]:
        found = gathered(study)
        assert (found.finished, found.total) == (
            study.survey().count("done"),
            study.survey().total,
        )
        assert found.evidence is None
        for cell in left[:5]:
            study.make(cell)
    assert gathered(study).evidence is not None


def test_evidence_is_every_seed_at_its_own_best_learning_rate(made: Callable[..., Made]) -> None:
    study = made(same_as="batch")
    study.finish("tune", "each", "final", score=lambda config: peaked(config) + config.seed / 1e5)
    found = gathered(study)
    assert found.evidence is not None
    best = [0.7 + seed / 1e5 for seed in range(4)]  # at 0.9, 0.3, 0.9, 0.3
    assert found.evidence.best["batch"] == pytest.approx(best)
    same = [0.7, 0.60001, 0.70002, 0.60003]  # all at 0.9
    assert found.evidence.same["batch"] == pytest.approx(same)
    assert found.own_lrs("batch") == {0: 0.9, 1: 0.3, 2: 0.9, 3: 0.3}
    assert found.evidence.chosen == {"none": 0.1, "batch": 0.9}
    assert list(found.evidence.lrs) == [*GRID, 0.9, 2.7]
    assert list(np.isnan(found.evidence.sweep["none"][0])) == [False] * 3 + [True] * 2
    finding = Finding(CLAIMS["accuracy"], found, None, Verdict("NOT TESTED"), "", ())
    (arms,) = (arm for arm in as_data([finding])["claims"][0]["arms"] if arm["arm"] == "batch")
    assert (arms["lr"], arms["lrs"]) == (0.9, {0: 0.9, 1: 0.3, 2: 0.9, 3: 0.3})
    assert [row[1] for row in arms_table(finding).rows] == ["0.1 (4)", "0.3 (2), 0.9 (2)"]
    assert "each final seed tuned for itself" in found.scope


def test_an_arm_that_is_best_at_the_edge_is_no_evidence_though_nothing_is_left_to_train(
    made: Callable[..., Made],
) -> None:
    study = made(extend=0)
    assert study.finish("tune", "each", "final").unfinished() == []
    found = gathered(study)
    assert (found.finished, found.stuck, found.evidence) == (found.total, ("batch",), None)


# ------------------------------------------------------------------------------------ compared


def compared(study: Made, **options: Any) -> Comparison:
    runs, remarks = load_runs([study.runs])
    return compare(runs, Options(**options), remarks)


def test_runs_of_seeds_that_tuned_for_themselves_are_paired_whatever_their_values(
    made: Callable[..., Made],
) -> None:
    study = made()
    study.finish("tune", "each", "final", score=lambda config: peaked(config) + config.seed / 1e5)
    comparison = compared(study)
    own, *others = comparison.views
    assert (own.key, own.title) == ("each", "Each seed at its own best lr")
    assert [(r.n, r.setting) for r in own.results] == [(4, None), (4, None)]
    [effect] = own.effects
    assert (effect.method, effect.seeds) == ("paired", (0, 1, 2, 3))
    assert effect.estimate == pytest.approx(0.1)
    assert effect.factors == ("model.norm.name",)
    assert "batch, each seed at its own best lr: 2 at 0.3, 2 at 0.9" in own.notes
    assert not any("leave out" in note for note in own.notes)
    # The curves are the pilot's, whose best lies inside.
    assert [(r.best, r.edge, r.points[0].n) for r in comparison.responses] == [
        (0.1, None, 2),
        (0.9, None, 2),
    ]
    # Final runs at 0.1 are, of batch, none: at one value for all there are the held-out runs.
    assert [view.metric.name for view in others] == ["val/accuracy"]
    assert "0.1 is the best of none, the baseline, in its pilot runs" in others[0].notes
    write_report(comparison, report := study.file.parent / "report")
    text = (report / "report.md").read_text()
    assert "batch (own lr)" in text
    assert "| own |" in text


def test_a_seed_that_chose_the_baseline_s_value_does_not_stand_for_all_seeds_there(
    made: Callable[..., Made],
) -> None:
    study = made()
    study.finish("tune", "each", "final", score=peaked)
    comparison = compared(study, baseline="batch")  # best at 0.9, which only two seeds chose
    assert all(result.n != 2 for view in comparison.views for result in view.results)


def test_what_was_tuned_once_for_all_seeds_says_that_the_interval_leaves_it_out(
    made: Callable[..., Made],
) -> None:
    study = made(each_seed=False, tune={LR: [0.03, 0.1, 0.3, 0.9, 2.7]})
    study.finish("tune", "final")
    view = compared(study).views[0]
    assert view.key == "best"
    assert [result.setting for result in view.results] == [0.1, 0.9]
    assert (
        "one lr stands for all seeds: the intervals leave out that tuning might have chosen another"
    ) in view.notes


def test_an_arm_that_follows_is_compared_at_what_each_seed_of_the_other_chose(
    made: Callable[..., Made],
) -> None:
    study = made(arms=THREE, follow={"after": "batch"}, same_as="none")
    study.finish("tune", "each", "final")
    comparison = compared(study)
    assert comparison.views[0].key == "each"
    assert [result.n for result in comparison.views[0].results] == [4, 4, 4]
    assert [response.arm for response in comparison.responses] == ["none", "batch"]
    (same,) = comparison.views[1:]
    assert [(r.arm, r.setting, r.n) for r in same.results] == [("none", 0.1, 4), ("batch", 0.1, 4)]


def test_an_unfinished_study_compares_the_seeds_that_are_through(made: Callable[..., Made]) -> None:
    study = made()
    study.finish("tune", "each")
    for cell, _ in study.survey().unfinished():
        if cell.config.seed < 3:
            study.make(cell)
    assert [result.n for result in compared(study).views[0].results] == [3, 3]


def test_seeds_trained_at_another_value_than_their_own_best_did_not_tune_for_themselves(
    made: Callable[..., Made],
) -> None:
    study = made()
    study.finish("tune", "each")
    plan = study.load()
    for arm in plan.spec.arms:
        for cell in plan.cells("final", arm, at(0.3), study.runs):
            study.make(cell)
    assert compared(study).views[0].key == "best"


def test_values_without_order_are_all_neighbors_and_no_comparison_takes_them_for_numbers(
    made: Callable[..., Made],
) -> None:
    names = ["he_normal", "torch_default"]
    study = made(tune={"model.init.name": names}, set={"dataset.val_size": 40, LR: 0.1})
    study.finish("tune", "each", "final", score=lambda config: 0.5 + config.seed / 1e5)
    assert rows_of(study.survey(), "final", "none") == {
        (("model.init.name", "he_normal"),): (0, 1, 2, 3)
    }
    arms, _ = make_arms(load_runs([study.runs])[0], "model.init.name", [])
    assert all(arm.tuning for arm in arms)
    assert find_own_best(arms, "model.init.name") == {}


def test_alternatives_are_all_tried_by_each_seed_and_never_extended(
    made: Callable[..., Made],
) -> None:
    def small_start(config: Config) -> float:
        small = config.model.norm.name == "none" and config.model.init.gain == 0.3
        return 0.5 + 0.1 * (config.optim.lr == 0.1) + 0.1 * (small and config.seed != 1)

    study = made(
        alternatives={"none": {"model.init.gain": [1.0, 0.3]}}, same_as="none", each_seed=["none"]
    )
    assert study.survey().total == 2 * 6 + 6 * 4 + 4 + 2 * 3 + 4 + 4 + 4
    found = study.finish("tune", "each", "final", score=small_start)

    def point(gain: float, lr: float) -> tuple[tuple[str, float], ...]:
        return (("model.init.gain", gain), (LR, lr))

    assert len(rows_of(found, "tune", "none")) == 6
    assert found.pilots["none"].choice is not None
    assert found.pilots["none"].choice.point == point(0.3, 0.1)
    assert len(rows_of(found, "each", "none")) == 6
    assert {seed: one.point for seed, one in found.own["none"].items()} == {
        0: point(0.3, 0.1),
        1: point(1.0, 0.1),
        2: point(0.3, 0.1),
        3: point(0.3, 0.1),
    }
    # BN takes the learning rate of the arm without, and no alternative of it.
    assert rows_of(found, "final", "batch") == {at(0.1): (0, 1, 2, 3)}
    assert rows_of(found, "each", "batch") == {}
    shown = render_plan(found)
    assert "model.init.gain" in shown
    assert render_choices(found)
    assert render_results(found)
    gathered = gather(study.load(), "", RunIndex(load_runs([study.runs])[0]))
    assert gathered.finished == gathered.total == found.total
    assert gathered.evidence is not None
    assert list(gathered.evidence.same) == ["none", "batch"]
