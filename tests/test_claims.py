import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from calibrate import NULLS, is_false
from made_runs import make_run
from numpy.typing import NDArray
from samples import at_most
from typer.testing import CliRunner

from bnlab.analysis import Run, load_runs
from bnlab.analysis.stats import mean_interval
from bnlab.claims import (
    CLAIMS,
    MIN_N,
    PRESETS,
    ROOM,
    SHARED,
    Contrast,
    Evidence,
    Finding,
    Verdict,
    as_data,
    explain,
    find_findings,
    find_network,
    judge,
    not_asked,
    refuse_bending,
    stored_study,
    study_file,
)
from bnlab.claims._base import SCORED_AS_GUESSES
from bnlab.claims._calibration import ImaginedRuns, Study, World, imagine_of, imagine_study
from bnlab.claims._cells import RunIndex
from bnlab.claims._contrast import (
    CLAIM_ALPHA,
    make_contrast,
    named_range,
)
from bnlab.claims._findings import _other_networks
from bnlab.claims._gather import gather
from bnlab.claims._rule import settling_n
from bnlab.claims._studies import load_claim_plan
from bnlab.claims.convergence import octaves_saved, times
from bnlab.claims.dropout import FITTED, TESTED, gap_at, gaps
from bnlab.claims.gradients import TAG
from bnlab.claims.higher_lr import largest_stable, mean_curve, pseudo_values, usable_range
from bnlab.claims.initialization import CONTROL, TREATED
from bnlab.claims.insensitive import widest
from bnlab.cli import app
from bnlab.config import Config
from bnlab.errors import ConfigError
from bnlab.records import RunFacts, StoredStudies
from bnlab.report.claims import write_claims
from bnlab.report.plots.claims import rows_of
from bnlab.study import plan as study_plan
from bnlab.study.file import Plan
from bnlab.study.load import load_plan
from bnlab.study.pilot import pilot_scores
from bnlab.study.plan import load_shared_study
from bnlab.study.survey import survey_study

ROOT = Path(__file__).parent.parent
Array = NDArray[np.float64]

# ------------------------------------------------------------------------------ imagined studies


def imagined(name: str, world: World, studies: int, seed: int) -> list[Study]:
    """Studies of a claim, each from its pilot to its verdict."""
    generator = np.random.default_rng(seed)
    plan = plan_of(name, "quick")
    return [imagine_study(CLAIMS[name], plan, "quick", world, generator) for _ in range(studies)]


def false_verdicts(name: str, studies: int, seed: int) -> int:
    """How many null studies, so many of each kind of world, speak of an effect.

    Of a claim that an amount stays below the smallest of interest: that it is just as much.
    """
    claim = CLAIMS[name]
    truth = claim.smallest("quick") if claim.bounded else 0.0
    return sum(
        is_false(claim, study.verdict)
        for place, world in enumerate(NULLS)
        for study in imagined(name, replace(world, effect=truth), studies, seed + place)
    )


def judge_full(name: str, contrast: Contrast) -> Verdict:
    return judge(replace(CLAIMS[name], again=None), contrast, "full")


def test_null_studies_of_every_claim_seldom_give_a_false_verdict() -> None:
    studies = 1
    false = sum(false_verdicts(name, studies, 20261125) for name in CLAIMS)
    assert false <= at_most(CLAIM_ALPHA, studies * len(NULLS) * len(CLAIMS)) * studies * len(
        NULLS
    ) * len(CLAIMS)


@pytest.mark.slow
@pytest.mark.parametrize("name", CLAIMS)
def test_null_studies_of_a_claim_at_length(name: str) -> None:
    studies = 40 * len(NULLS)
    assert false_verdicts(name, 40, 7) / studies <= at_most(CLAIM_ALPHA, studies)


@pytest.mark.parametrize("name", CLAIMS)
def test_a_planted_effect_is_found_at_the_stated_power(name: str) -> None:
    claim, studies = CLAIMS[name], 20
    effect = claim.power_at("quick")
    done = imagined(name, World(effect, sd=0.004), studies, 7)
    stated = [one.verdict.power for one in done if one.verdict.power is not None]
    found = sum(one.verdict.label == "SUPPORTED" for one in done)
    promised = float(np.mean(stated))
    if not claim.bounded:
        seen = [one.contrast.interval.estimate for one in done if one.contrast is not None]
        assert np.mean(seen) == pytest.approx(effect, rel=0.25)
    # A spread seen in twelve seeds is itself uncertain, and bends the power both ways.
    assert found / studies >= promised - 0.1 - 3 * (promised * (1 - promised) / studies) ** 0.5


@pytest.mark.parametrize("name", CLAIMS)
def test_the_opposite_effect_is_refuted(name: str) -> None:
    claim = CLAIMS[name]
    effect = (3 if claim.bounded else -3) * claim.smallest("quick")
    (study,) = imagined(name, World(effect, sd=0.0002), 1, 3)
    assert study.verdict.label == "REFUTED"
    assert study.verdict.sublabel == ("" if claim.bounded else "reversed")


def test_one_run_that_diverges_does_not_hide_the_best_rate_from_all_final_seeds() -> None:
    assert pilot_scores([0.5, 0.1], [False, True], each_seed=True) == [0.5]
    assert pilot_scores([0.5, 0.1], [False, True], each_seed=False) == [0.5, 0.1]
    assert pilot_scores([0.1, 0.1], [True, True], each_seed=True) == [0.1, 0.1]


# ---------------------------------------------------------------------------------- the rules


def one(differences: Array, name: str = "accuracy") -> Verdict:
    return judge_full(name, make_contrast(differences))


def around(mean: float, sd: float, n: int = 10) -> Array:
    offsets = np.linspace(-1, 1, n)
    return np.asarray(mean + sd * offsets / offsets.std(ddof=1))


def test_there_is_room_for_every_claim_of_the_registry() -> None:
    assert len(list(CLAIMS)) <= ROOM


def test_a_verdict_needs_ten_seeds() -> None:
    assert MIN_N == 10
    assert one(around(0.1, 0.001, 10)).label == "SUPPORTED"
    verdict = one(around(0.1, 0.001, 9))
    assert verdict.label == "NOT TESTED"
    assert "9 seeds; a verdict needs 10" in verdict.why


def test_verdicts_follow_the_limits() -> None:
    assert one(around(0.01, 0.002)).label == "SUPPORTED"
    assert one(around(0.0, 0.001)) == replace(one(around(0.0, 0.001)), label="REFUTED", sublabel="")
    assert one(around(0.001, 0.0005)).sublabel == "real but negligible"
    assert one(around(-0.01, 0.002)).sublabel == "reversed"
    assert one(around(0.003, 0.01)).label == "INCONCLUSIVE"


def test_effects_without_spread_give_no_verdict() -> None:
    assert one(np.zeros(10)).label == "NOT TESTED"


def test_a_guard_forbids_every_verdict() -> None:
    contrast = make_contrast(around(0.1, 0.001), guard="the grid is too narrow")
    verdict = judge_full("accuracy", contrast)
    assert (verdict.label, verdict.why) == ("NOT TESTED", "the grid is too narrow")


def test_a_verdict_is_that_of_limits_at_its_part_of_five_percent() -> None:
    values = around(0.004, 0.002)
    contrast = make_contrast(values)
    verdict = judge_full("accuracy", contrast)
    assert verdict.interval == mean_interval(values, 0.998)
    assert contrast.interval == mean_interval(values, 0.95)
    assert "(99.8 % limits: " in verdict.why


def test_the_smallest_effect_is_that_of_the_preset() -> None:
    contrast = make_contrast(around(0.005, 0.001))
    labels = {preset: judge(CLAIMS["accuracy"], contrast, preset) for preset in PRESETS}
    assert labels["full"].label == "SUPPORTED"
    assert (labels["quick"].label, labels["quick"].sublabel) == ("REFUTED", "real but negligible")
    assert labels["smoke"] == labels["quick"]
    assert CLAIMS["depth"].smallest("full") == CLAIMS["depth"].smallest("quick") == 0.05


def test_an_inconclusive_verdict_says_how_many_seeds_would_settle_it() -> None:
    verdict = one(around(0.001, 0.005))
    assert verdict.required_n is not None
    assert verdict.required_n > 10
    assert f"{verdict.required_n} seeds" in verdict.why
    settled = one(around(0.001, 0.005, verdict.required_n))
    assert settled.label == "REFUTED"


@pytest.mark.parametrize("mean", [0.001, -0.001])
def test_an_equivalence_that_is_open_says_how_many_seeds_would_settle_it(mean: float) -> None:
    verdict = one(around(mean, 0.0015), "inference_statistics")
    assert (verdict.label, verdict.sublabel) == ("INCONCLUSIVE", "")
    assert verdict.required_n is not None
    assert f"beyond; {verdict.required_n} seeds" in verdict.why
    settled = one(around(mean, 0.0015, verdict.required_n), "inference_statistics")
    assert settled.label == "SUPPORTED"


def test_an_effect_on_the_edge_of_interest_is_not_settled_by_any_number_of_seeds() -> None:
    assert settling_n(mean_interval(around(0.2999999, 1.0)), 0.3) is None


def test_places_of_no_practical_difference_are_called_that() -> None:
    verdict = one(around(0.0, 0.0005), "placement")
    assert (verdict.label, verdict.sublabel) == ("REFUTED", "no practical difference")
    assert one(around(0.0, 0.0005), "accuracy").sublabel == ""


def test_a_time_to_a_target_lies_between_two_budgets() -> None:
    budgets = np.array([1.0, 2.0, 8.0])
    scores = np.array([[0.4, 0.5, 0.7], [0.6, 0.7, 0.8], [0.1, 0.2, 0.3]])
    np.testing.assert_allclose(times(budgets, scores, 0.6), [2.0, -np.inf, np.inf])


def test_a_time_beyond_the_budgets_is_a_bound_and_not_the_last_budget() -> None:
    budgets, never, at_once = np.array([1.0, 2.0, 8.0]), np.inf, -np.inf
    none = np.array([2.5, never, 2.5, never, at_once, 2.5])
    batch = np.array([0.5, 0.5, at_once, at_once, 0.5, never])
    low, high = octaves_saved(none, batch, budgets)
    np.testing.assert_allclose(low, [2.0, 2.5, 2.5, 3.0, at_once, at_once])
    np.testing.assert_allclose(high, [2.0, never, never, never, -0.5, -0.5])


@pytest.mark.slow
def test_a_best_lr_at_the_edge_of_the_grid_gives_no_verdict(tmp_path: Path) -> None:
    make_study(tmp_path, "quick", gain=0.03, edge="batch")
    verdict = finding(tmp_path).verdict
    assert verdict.label == "NOT TESTED"
    told = "the best learning rate of batch lies at the edge of the grid, which goes no further"
    assert verdict.why == f"{told}, so no final seeds are trained"


# -------------------------------------------------------------------------------- files and studies


def test_a_claim_is_its_two_files() -> None:
    files = (ROOT / "bnlab" / "claims").glob("[!_]*.py")
    studies = (ROOT / "configs" / "claims").glob("*.yaml")
    own = {name for name in CLAIMS if CLAIMS[name].study is None}
    assert {path.stem for path in files} == set(CLAIMS)
    assert {path.stem for path in studies} == own
    for name in CLAIMS:
        assert CLAIMS[name].name == name


def test_every_change_of_a_protocol_is_dated_and_names_claims() -> None:
    text = (ROOT / "configs" / "claims" / "CHANGES.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("- ")]
    dates = []
    for line in lines:
        date, *names = line.removeprefix("- ").partition(": ")[0].split(", ")
        dates.append(date)
        assert set(names) <= {*CLAIMS, "all"}
        assert "had been seen" in line
    assert dates == sorted(dates)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d", date) for date in dates)


def plan_of(name: str, preset: str, *overrides: str) -> Plan:
    return load_plan(study_file(name), overrides, name=SHARED, preset=preset)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", CLAIMS)
def test_every_preset_finds_exactly_its_own_runs(name: str, preset: str) -> None:
    plan = plan_of(name, preset)
    assert set(CLAIMS[name].arms) <= set(plan.spec.arms)
    assert preset == "smoke" or len(plan.spec.seeds) >= MIN_N
    index = RunIndex([as_run(config) for config in plan.configs.values()])
    for config in plan.configs.values():
        (found,) = index.runs_of(config).values()
        assert found.hash == config.hash


def as_run(config: Config) -> Run:
    """A run as it would be read back from the disk."""
    facts = RunFacts(schema_version=1, status="done")
    return Run(
        Path(), "", "", "", config.seed, config.hash, {"train.epochs": 1}, "done", {}, {}, facts
    )


def plan_on(name: str, preset: str, model: str) -> Plan:
    return load_claim_plan(name, preset, StoredStudies(Path("nowhere")), find_network(model))


@pytest.mark.parametrize(
    ("model", "preset"),
    [
        ("resnet18", "quick"),
        *(
            pytest.param(model, preset, marks=pytest.mark.slow)
            for model in ("resnet18", "vgg11")
            for preset in PRESETS
            if (model, preset) != ("resnet18", "quick")
        ),
    ],
)
@pytest.mark.parametrize("name", CLAIMS)
def test_on_another_network_a_claim_shares_no_run_with_the_documents_one(
    name: str, model: str, preset: str
) -> None:
    there = plan_on(name, preset, model)
    own = {config.hash for config in plan_of(name, preset).configs.values()}
    assert own.isdisjoint(config.hash for config in there.configs.values())
    assert {config.model.name for config in there.configs.values()} == {model}
    finals = [
        config.hash
        for (stage, arm, _), config in there.configs.items()
        if stage == "final" and arm not in there.spec.follow
    ]
    assert len(finals) == len(set(finals))


@pytest.mark.parametrize(
    ("name", "arms"),
    [("fc_norm", "arm both differs"), ("depth", "arms none_16, batch_16 differ")],
)
def test_a_claim_about_what_a_network_lacks_is_not_asked_of_it(name: str, arms: str) -> None:
    network = find_network("resnet18")
    said = not_asked(CLAIMS[name], plan_on(name, "quick", "resnet18"), network)
    assert said == f"cannot be asked of resnet18: there its {arms} in nothing from others"


def test_dropout_is_not_asked_of_a_network_without_it() -> None:
    plan = plan_on("dropout", "quick", "vgg11")
    assert "none_dropout" in not_asked(CLAIMS["dropout"], plan, find_network("vgg11"))


def test_without_a_hidden_layer_placement_is_one_comparison() -> None:
    assert list(plan_on("placement", "quick", "resnet18").spec.arms) == ["before", "after"]
    deep = plan_on("placement", "full", "resnet18").spec.arms
    assert set(deep) == {
        *("before", "after", "before_tanh", "after_tanh"),
        *("none", "after_pool", "before_conv", "both"),
    }


def test_a_network_of_ones_own_is_asked_by_its_file_and_known_by_its_text(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def Net(num_classes):\n    ...\n")
    network = find_network(f"{file}:Net")
    plan = plan_on("accuracy", "quick", f"{file}:Net")
    assert {config.model.file for config in plan.configs.values()} == {f"{file}:Net"}
    assert plan.grids["none"].unordered == ()  # it initializes itself
    assert network.label.startswith("Net-")
    file.write_text("def Net(num_classes):\n    return None\n")
    assert find_network(f"{file}:Net").label != network.label


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("resnt18", "did you mean 'resnet18'"),
        ("file", "name the file"),
        ("nowhere.py:Net", "cannot be read"),
    ],
)
def test_a_network_that_is_not_there_is_named(model: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        find_network(model)


def test_runs_on_another_network_give_verdicts_of_their_own_and_are_told_of(
    tmp_path: Path,
) -> None:
    words = ["claims", "run", "placement", "--preset", "smoke", "--model", "resnet18", "--dry-run"]
    assert CliRunner().invoke(app, [*words, "--runs-dir", str(tmp_path)]).exit_code == 0
    network = find_network("resnet18")
    plan = plan_on("placement", "smoke", "resnet18")
    runs = [
        replace(as_run(config), study=SHARED, config={"model.name": "resnet18"})
        for config in plan.configs.values()
    ]
    index = RunIndex(runs)
    assert gather(plan, "smoke", index, network).network.label == "resnet18"
    assert gather(plan_of("placement", "smoke"), "smoke", index).finished == 0
    (remark,) = _other_networks(runs, find_network(None))
    assert "bnlab claims --model resnet18" in remark.what
    assert _other_networks(runs, network) == []


def test_a_run_of_another_configuration_is_not_taken_for_it() -> None:
    config = next(iter(plan_of("accuracy", "smoke").configs.values()))
    other = config.model_copy(update={"train": config.train.model_copy(update={"epochs": 99})})
    assert RunIndex([as_run(other)]).runs_of(config) == {}


def test_only_the_place_of_the_images_may_be_set() -> None:
    refuse_bending(["dataset.name=folder", "dataset.root=images"])
    with pytest.raises(ConfigError, match="fixed beforehand"):
        refuse_bending(["train.epochs=1"])
    with pytest.raises(ConfigError, match="fixed beforehand"):
        refuse_bending(["dataset={name: folder, normalize: half}"])


def test_an_unknown_preset_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="quick"):
        load_plan(study_file("accuracy"), preset="quik")


@pytest.mark.parametrize("name", CLAIMS)
def test_explain_says_everything(name: str) -> None:
    result = CliRunner().invoke(app, ["claims", "explain", name])
    claim, words = CLAIMS[name], " ".join(result.stdout.split())
    assert explain(claim) == result.stdout.rstrip("\n")
    texts = (
        claim.against,
        claim.statement,
        claim.definition,
        claim.formula,
        claim.protocol,
        claim.reason,
    )
    for text in (
        *texts,
        *claim.sources,
        "99.8 % limits",
        "at least 10",
        "2026-11-25: Each claim is judged",
    ):
        assert " ".join(text.split()) in words
    assert any("document" in source for source in claim.sources)
    assert any("arXiv" in source for source in claim.sources)


# -------------------------------------------------------------------------------- from run folders


def make_study(
    runs: Path,
    preset: str,
    gain: float,
    study: str = "elsewhere",
    overrides: Sequence[str] = (),
    edge: str = "",
    name: str = "accuracy",
    diverged: tuple[str, int] | None = None,
) -> None:
    """The whole study of a claim, but for runs that are there already, with BN better by `gain`.

    The best lr is in the middle of the grid; that of the arm `edge` is the smallest, however far
    the grid goes.
    """
    generator = np.random.default_rng(0)

    def load() -> study_plan.Study:
        where = {"runs_dir": runs, "name": study, "preset": preset, "stored": "none.yaml"}
        return load_shared_study(study_file(name), overrides, **where)  # type: ignore[arg-type]

    while cells := survey_study(load(), runs).unfinished():
        for cell, _ in cells:
            arm, config = cell.label.split()[0], cell.config
            lrs = load_plan(study_file(name), preset=preset).grids[arm].values["optim.lr"]
            best = config.optim.lr if arm == edge else lrs[len(lrs) // 2]
            away = 0.01 * np.log(config.optim.lr) if arm == edge else 0.0
            gained = gain * (arm == "batch") - 0.1 * (config.optim.lr != best) - away
            reached = 0.6 + gained + float(generator.normal(0, 0.002))
            final = "held-out" not in cell.label and config.seed < 1000
            status = "diverged" if final and (arm, config.seed) == diverged else "done"
            made = {**config.resolved(), "name": study}
            make_run(runs, seed=config.seed, arm=arm, accuracy=reached, config=made, status=status)


def finding(runs: Path, name: str = "accuracy") -> Finding:
    found, _ = find_findings(runs)
    return next(one for one in found if one.claim.name == name)


@pytest.mark.slow
def test_runs_count_whichever_study_they_were_trained_for(tmp_path: Path) -> None:
    make_study(tmp_path, "quick", gain=0.03)
    found = finding(tmp_path)
    assert found.verdict.label == "SUPPORTED"
    assert found.contrast is not None
    assert found.contrast.interval.estimate == pytest.approx(0.03, abs=0.003)
    assert found.gathered.evidence is not None
    assert found.gathered.evidence.chosen == {
        "none": 0.1,
        "none_longer": 0.1,
        "batch": 0.1,
    }
    assert "preset quick" in found.gathered.scope
    assert "10,000 training images" in found.gathered.scope
    others = [one for one in find_findings(tmp_path)[0] if one.claim.name != "accuracy"]
    assert {one.verdict.label for one in others} == {"NOT TESTED"}
    assert all("bnlab claims run" in one.command for one in others)


@pytest.mark.slow
def test_a_verdict_does_not_depend_on_the_company_that_its_runs_keep(tmp_path: Path) -> None:
    make_study(tmp_path / "alone", "quick", gain=0.011)
    shutil.copytree(tmp_path / "alone", tmp_path / "company")
    for name in ("fc_norm", "placement", "dropout", "small_batch"):
        make_study(tmp_path / "company", "quick", gain=0.02, name=name)
    alone, company = finding(tmp_path / "alone"), finding(tmp_path / "company")
    assert finding(tmp_path / "alone", "dropout").contrast is None
    assert finding(tmp_path / "company", "dropout").contrast is not None
    assert alone.verdict.interval is not None
    assert alone.verdict == company.verdict


def store_overrides(runs: Path, overrides: Sequence[str]) -> None:
    stored = runs / stored_study("accuracy", "quick")
    stored.parent.mkdir(exist_ok=True)
    stored.write_text(f"overrides: [{', '.join(overrides)}]\n")


@pytest.mark.slow
def test_images_of_a_folder_count_once_the_claim_was_run_on_them(tmp_path: Path) -> None:
    make_study(tmp_path, "quick", gain=0.03, overrides=["dataset.name=folder"])
    assert finding(tmp_path).verdict.label == "NOT TESTED"
    store_overrides(tmp_path, ["dataset.name=folder", "dataset.root=images"])
    found = finding(tmp_path)
    assert found.verdict.label == "SUPPORTED"
    assert "folder" in found.gathered.scope


@pytest.mark.slow
def test_training_takes_those_runs_over(tmp_path: Path) -> None:
    make_study(tmp_path, "quick", gain=0.03)
    study = load_shared_study(
        study_file("accuracy"),
        (),
        runs_dir=tmp_path,
        name=SHARED,
        preset="quick",
        stored=stored_study("accuracy", "quick"),
    )
    survey = survey_study(study, tmp_path)
    assert survey.unfinished() == []
    assert survey.count("done") == survey.total == finding(tmp_path).gathered.total


@pytest.mark.slow
def test_smoke_and_synthetic_images_never_give_a_verdict(tmp_path: Path) -> None:
    make_study(tmp_path / "smoke", "smoke", gain=0.3)
    assert finding(tmp_path / "smoke").verdict.label == "NOT TESTED"
    make_study(tmp_path / "quick", "quick", gain=0.3, overrides=["dataset.name=synthetic"])
    store_overrides(tmp_path / "quick", ["dataset.name=synthetic"])
    verdict = finding(tmp_path / "quick").verdict
    assert (verdict.label, verdict.why) == ("NOT TESTED", "synthetic images, drawn by bnlab")


def test_arms_that_follow_are_trained_at_their_leader_s_best(tmp_path: Path) -> None:
    make_study(tmp_path, "smoke", gain=0.05, name="convergence")
    found = finding(tmp_path, "convergence").gathered
    assert found.preset == "smoke"
    assert found.finished == found.total == len(found.runs)
    assert found.evidence is not None
    assert found.evidence.chosen["none_b1"] == found.evidence.chosen["none"]
    assert list(found.evidence.told) == ["none", "batch"]
    file, stored = study_file("convergence"), stored_study("convergence", "smoke")
    study = load_shared_study(
        file, (), runs_dir=tmp_path, name=SHARED, preset="smoke", stored=stored
    )
    survey = survey_study(study, tmp_path)
    assert (survey.unfinished(), survey.total) == ([], found.total)


def test_one_missing_run_means_no_verdict(tmp_path: Path) -> None:
    make_study(tmp_path, "quick", gain=0.03)
    shutil.rmtree(next((tmp_path / "elsewhere").glob("none-*/s3")))
    verdict = finding(tmp_path).verdict
    assert verdict.label == "NOT TESTED"
    assert "of at least" in verdict.why


@pytest.mark.slow
def test_a_diverged_run_is_set_apart_and_scored_as_a_guess_beside(tmp_path: Path) -> None:
    make_study(tmp_path, "quick", gain=0.03, diverged=("batch", 3))
    found = finding(tmp_path)
    evidence, contrast = found.gathered.evidence, found.contrast
    assert evidence is not None
    assert contrast is not None
    assert evidence.best["batch"][3] == 0.1
    assert {arm: list(np.flatnonzero(v)) for arm, v in evidence.diverged.items()} == {
        "none": [],
        "none_longer": [],
        "batch": [3],
    }
    n = len(evidence.best["batch"])
    assert (contrast.seeds, found.n) == (n, n - 1)
    assert contrast.interval.estimate == pytest.approx(0.03, abs=0.003)
    assert contrast.details[0].name == SCORED_AS_GUESSES
    assert contrast.details[0].interval.estimate < 0
    assert f"batch 1 of {n} (" in found.verdict.why
    data = as_data([found])["claims"][0]["failures"]
    assert (data["treated"]["count"], data["control"]["count"], data["p"]) == (1, 0, 1.0)


@pytest.mark.slow
def test_mixed_precision_gives_no_verdict(tmp_path: Path) -> None:
    make_study(tmp_path, "quick", gain=0.03)
    path = next((tmp_path / "elsewhere").glob("batch-*/s3")) / "run.json"
    path.write_text(path.read_text().replace('"fp32"', '"bf16"'))
    verdict = finding(tmp_path).verdict
    assert verdict.label == "NOT TESTED"
    total = finding(tmp_path).gathered.total
    assert verdict.why == f"precision: bf16 (1 run), fp32 ({total - 1} runs)"


@pytest.mark.slow
def test_verdicts_are_the_same_bytes_every_time_and_everywhere(tmp_path: Path) -> None:
    make_study(tmp_path / "runs", "quick", gain=0.002)
    shutil.copytree(tmp_path / "runs", tmp_path / "copy" / "runs")
    for place in ("runs", "copy/runs"):
        found, _ = find_findings(tmp_path / place)
        # The command names the folder, which is another one.
        bare = [replace(one, command="") for one in found]
        write_claims(bare, (tmp_path / place).parent / "out")
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    plots = ["accuracy-effect.svg", "accuracy-lr.svg", "accuracy-runs.svg", "all-claims.svg"]
    assert files == [*plots, "claims.html", "claims.json", "claims.md"]
    for name in files:
        one, other = (tmp_path / place / "out" / name for place in ("", "copy"))
        assert one.read_bytes() == other.read_bytes()


def test_a_page_of_claims_begins_with_all_of_them_on_one_axis(tmp_path: Path) -> None:
    make_study(tmp_path / "runs", "quick", gain=0.03, diverged=("batch", 3))
    found = find_findings(tmp_path / "runs")[0]
    write_claims(found, tmp_path / "out")
    text = (tmp_path / "out" / "claims.html").read_text()
    first = text[text.index("<section") : text.index("</section>")]
    assert first.startswith('<section id="answer">')
    assert first.count("<figure>") == 1
    assert f"Of {len(CLAIMS)} claims" in first
    [tip] = re.findall(r"<title>(accuracy: .*?)</title>", first)
    assert tip.endswith("smallest of interest +1.00 pp, n 11")
    assert "multiples of its own" in first
    assert re.search("runs are missing: .*placement", first)
    assert '<td><a href="#accuracy">accuracy</a></td>' in text
    claim = text[text.index('<section id="accuracy">') :]
    claim = claim[: claim.index("</section>")]
    final = found[[*CLAIMS].index("accuracy")].gathered.final
    for arm, runs in final.items():
        for seed, run in runs.items():
            [link] = re.findall(rf'href="([^"]*)" tabindex="-1"><title>{arm}, seed {seed}: ', claim)
            assert (tmp_path / "out" / link).resolve() == run.root.resolve()
    assert "<title>batch, seed 3: 10.00 %, diverged; run " in claim
    effects = re.findall(r"<title>seed (\d+): \+[\d.]+ pp</title>", claim)
    assert sorted(map(int, effects)) == sorted({*final["batch"]} - {3})


@pytest.mark.slow
def test_claims_of_several_units_share_an_axis_by_their_smallest_effects(tmp_path: Path) -> None:
    make_study(tmp_path, "quick", gain=0.03)
    found = finding(tmp_path)
    for unit in ("pp", "octaves", "log/layer"):
        claim = replace(found.claim, unit=unit, smallest_effect=0.5, smallest_under={})
        [(_, words, _, ratios)] = rows_of(replace(found, claim=claim))
        assert unit in words
        assert ratios[1] == pytest.approx(found.contrast.interval.estimate / 0.5)  # type: ignore[union-attr]


def test_claims_open_without_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from bnlab.claims import find_findings;"
        "from bnlab.report.claims import page_sections;"
        "page_sections(find_findings(Path(sys.argv[1]))[0]); print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_the_list_names_every_claim_and_strict_ends_with_4(tmp_path: Path) -> None:
    runner = CliRunner()
    listed = runner.invoke(app, ["claims", "--runs-dir", str(tmp_path), "--strict"])
    assert listed.exit_code == 4
    assert "no verdict on runs of yours is at hand: they are bnlab's own" in listed.stdout
    for name in CLAIMS:
        assert name in listed.stdout
    assert "bnlab claims run accuracy --preset quick" in listed.stdout
    data = json.loads(runner.invoke(app, ["claims", "--runs-dir", str(tmp_path), "--json"]).stdout)
    assert data == as_data(find_findings(tmp_path)[0])
    assert {one["verdict"] for one in data["claims"]} == {"NOT TESTED"}


def test_what_the_list_shows_without_runs_is_what_its_page_says(tmp_path: Path) -> None:
    words = ["claims", "--runs-dir", str(tmp_path / "none"), "--out", str(tmp_path / "page")]
    listed = CliRunner().invoke(app, words)
    page = (tmp_path / "page" / "claims.md").read_text(encoding="utf-8").replace("\\", "")
    told = json.loads((tmp_path / "page" / "claims.json").read_text(encoding="utf-8"))["claims"]
    measured = [one for one in told if one["verdict"] != "NOT TESTED"]
    assert measured
    for one in measured:
        assert f"| {one['claim']} | {one['verdict']}" in page
        assert re.search(rf"^{one['claim']} +{one['verdict']}", listed.stdout, re.MULTILINE)
        assert all(place["place"] in page for place in one["places"])


def test_claims_without_a_verdict_of_ones_own_keep_that_of_the_release(tmp_path: Path) -> None:
    make_study(tmp_path, "quick", gain=0.03)
    (tmp_path / "broken.tar.xz").write_text("no archive\n")
    listed = CliRunner().invoke(app, ["claims", "--runs-dir", str(tmp_path)])
    assert listed.exit_code == 0, listed.output
    assert "broken.tar.xz" in listed.stderr
    reference, _, own = listed.stdout.partition("\nClaims\n")
    assert re.search(r"^placement +REFUTED", reference, re.MULTILINE)
    assert not re.search(r"^accuracy +", reference, re.MULTILINE)
    assert re.search(r"^accuracy +SUPPORTED", own, re.MULTILINE)
    named = CliRunner().invoke(app, ["claims", "placement", "--runs-dir", str(tmp_path)])
    assert re.search(r"^placement +REFUTED", named.stdout, re.MULTILINE)


def test_a_dry_run_trains_nothing(tmp_path: Path) -> None:
    command = ["claims", "run", "accuracy", "fc_norm", "--preset", "full", "--dry-run"]
    one = [word for word in command if word != "fc_norm"]
    shown = CliRunner().invoke(app, [*one, "--runs-dir", str(tmp_path / "runs")])
    assert shown.exit_code == 0
    assert "runs left" in shown.stdout
    told = CliRunner().invoke(app, [*command, "--json", "--runs-dir", str(tmp_path / "runs")])
    assert set(json.loads(told.stdout)) == {"accuracy", "fc_norm"}
    assert not (tmp_path / "runs").exists()


def test_a_plan_of_several_claims_counts_what_they_share_once(tmp_path: Path) -> None:
    place = ["--preset", "quick", "--dry-run", "--runs-dir", str(tmp_path / "runs")]
    shown = CliRunner().invoke(app, ["claims", "run", "weights", "no_decay", "caffe", *place])
    assert shown.exit_code == 0, shown.exception
    lines = [line.split() for line in shown.stdout.splitlines()]
    assert ["weights", "240", "-", "240", "-", "240", "?"] in lines
    assert ["no_decay", "240", "-", "240", "240", "-", "-"] in lines
    caffe = next(line for line in lines if line[:1] == ["caffe"])
    assert caffe[1] == caffe[3] == caffe[5]
    assert ["all", str(240 + int(caffe[1])), ">0"] in lines


@pytest.mark.slow
def test_every_claim_trains_under_smoke_shares_its_runs_and_gets_no_verdict(tmp_path: Path) -> None:
    command = ["claims", "run", *CLAIMS, "--preset", "smoke", "--json"]
    place = ["--runs-dir", str(tmp_path), "--executor", "inline"]
    result = CliRunner().invoke(app, [*command, *place])
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    assert {one["claim"] for one in data["claims"]} == set(CLAIMS)
    assert {one["verdict"] for one in data["claims"]} == {"NOT TESTED"}
    for one in data["claims"]:
        assert one["runs_finished"] == one["runs_planned"] > 0, one["claim"]
        # Every effect was measured; only the preset forbids a verdict.
        assert one["seeds"] > 1, one["claim"]
        assert "smoke" in one["why"], one["claim"]
    findings, _ = find_findings(tmp_path)
    write_claims(findings, tmp_path / "report")
    drawn = {path.stem for path in (tmp_path / "report").glob("*.svg")}
    assert {f"{name}-effect" for name in CLAIMS} <= drawn
    assert {
        f"{name}-chart" for name in ("depth", "convergence", "gradients", "small_batch")
    } <= drawn
    dropout = next(one for one in findings if one.claim.name == "dropout").contrast
    small_batch = next(one for one in findings if one.claim.name == "small_batch").contrast
    assert dropout is not None
    assert small_batch is not None
    assert any("gap that dropout closes" in d.name for d in dropout.details)
    assert any("statistics as trained" in d.name for d in small_batch.details)
    runs, _ = load_runs([tmp_path])
    assert len(runs) == len({(run.hash, run.seed) for run in runs})
    assert {run.study for run in runs} == {SHARED}
    assert load_claim_plan("accuracy", "smoke", StoredStudies(tmp_path)).spec.name == SHARED


# --------------------------------------------------------------------- what single claims measure


def test_noise_alone_has_no_range() -> None:
    generator = np.random.default_rng(0)
    scores, names = generator.normal(0, 1, (4000, 6)), generator.normal(0, 1, 6)
    assert abs(named_range(scores, names).mean()) < 0.08
    known = np.tile([0.5, 0.9, 0.7], (5, 1))
    np.testing.assert_allclose(named_range(known, known[0]), 0.4)


def test_the_usable_range_ends_where_the_mean_falls_by_the_tolerance() -> None:
    lrs, mean = np.array([1.0, 2.0, 4.0, 8.0]), np.array([0.70, 0.80, 0.80, 0.78])
    found = usable_range(lrs, mean, 0.01)
    # A tenth of an octave below 2, half an octave above 4.
    np.testing.assert_allclose([found.low, found.high, found.width], [0.9, 2.5, 1.6])
    assert found.open_ends == ()
    assert usable_range(lrs, mean).open_ends == ("high",)
    contrast = CLAIMS["higher_lr"].measure(
        Evidence(
            {"none": mean, "batch": mean, "batch_same": mean},
            sweep=dict.fromkeys(("none", "batch"), np.tile(mean, (12, 1))),
            lrs=lrs,
        )
    )
    assert "reach the upper end of the grid in none, batch" in contrast.guard


def test_the_jackknife_of_a_mean_is_the_mean() -> None:
    scores = np.random.default_rng(0).normal(0, 1, (12, 1))
    none = np.zeros_like(scores)
    values = pseudo_values(lambda mean: float(mean[0]), scores, none)
    np.testing.assert_allclose(values, scores[:, 0])


def test_a_mean_curve_is_that_of_runs_that_trained_where_most_do() -> None:
    scores, failed = np.array([[0.6, 0.1], [0.1, 0.1], [0.4, 0.7]]), np.zeros((3, 2))
    failed[1, 0] = failed[0, 1] = failed[1, 1] = 1
    np.testing.assert_allclose(mean_curve(scores, failed), [0.5, 0.3])


def test_gradients_are_followed_through_ten_steps_and_a_run_that_broke_down_is_not_drawn() -> None:
    layers = np.arange(8)
    start = {"none": -0.05, "batch": 0.16}
    paths = {
        "none": np.full((3, 10), -0.08),
        "batch": np.linspace(0.1, -0.02, 10) * np.ones((3, 1)),
    }
    paths["none"][2, 4:] = np.nan

    def recorded(log_ratios: np.ndarray) -> dict[str, np.ndarray]:
        return {f"{TAG}{k + 1}": np.exp(log_ratios * (7 - k)) for k in layers}

    at_start = {norm: np.full(3, value) for norm, value in start.items()}
    inits = ("", "_small", "_torch_default")
    evidence = Evidence(
        {f"{norm}{init}": np.zeros(3) for norm in start for init in inits},
        readings={f"{norm}{init}": recorded(at) for norm, at in at_start.items() for init in inits},
        curves={f"{norm}_steps": recorded(path) for norm, path in paths.items()},
    )
    contrast = CLAIMS["gradients"].contrast(evidence)
    again, chart = contrast.again, contrast.chart
    assert again is not None
    assert chart is not None
    found = {one.name: one.interval for one in again.details}
    assert found["nearer to 1 with BN after 1 step"].estimate == pytest.approx(0.08 - 0.1)
    assert found["nearer to 1 with BN after 10 steps"].estimate == pytest.approx(0.08 - 0.02)
    assert found["nearer to 1 with BN after 10 steps"].n == 2
    assert found["log of the factor a layer, batch, after 1 step"].estimate == pytest.approx(0.1)
    none, batch = chart.lines
    assert (len(none.values), len(batch.values)) == (2, 3)
    assert "; runs that broke down, left out: 1." in chart.caption
    assert none.x.tolist() == list(range(11))
    np.testing.assert_allclose(batch.values[0, [0, 1, 10]], [0.16, 0.1, -0.02])


def test_a_generalization_gap_is_taken_at_one_training_loss() -> None:
    fitted, tested = np.array([2.0, 1.0, 0.5]), np.array([2.1, 1.3, 1.2])
    assert gap_at(fitted, tested, 1.0) == pytest.approx(0.3)
    assert gap_at(fitted, tested, 0.75) == pytest.approx(1.25 - 0.75)
    assert np.isnan(gap_at(fitted, tested, 0.4))
    assert np.isnan(gap_at(fitted, tested, 3.0))
    # An epoch that did not read the test set is passed over.
    seldom = np.array([2.1, np.nan, 1.2])
    assert gap_at(fitted, seldom, 1.25) == pytest.approx(1.65 - 1.25)
    curves = {
        "none": {FITTED: np.array([[2.0, 1.5]]), TESTED: np.array([[2.0, 1.7]])},
        "batch": {FITTED: np.array([[1.5, 0.9]]), TESTED: np.array([[1.6, 1.4]])},
    }
    evidence = Evidence({"none": np.zeros(1), "batch": np.zeros(1)}, curves=curves)
    found = gaps(evidence, ("none", "batch"))
    np.testing.assert_allclose([found["none"][0], found["batch"][0]], [0.2, 0.1])
    curves["none"][FITTED][0, 1] = np.nan
    assert np.isnan(gaps(evidence, ("none", "batch"))["none"]).all()


def test_where_dropout_helps_nobody_the_claim_is_not_tested() -> None:
    plan, noise = plan_of("dropout", "quick"), np.random.default_rng(0)
    index = ImaginedRuns(imagine_of(CLAIMS["dropout"]), plan, World(), noise)
    evidence = gather(plan, "quick", index).evidence
    assert evidence is not None
    assert CLAIMS["dropout"].measure(evidence).guard == ""
    useless = {**evidence.best, "none_dropout": evidence.best["none"] + 0.001}
    contrast = CLAIMS["dropout"].measure(replace(evidence, best=useless))
    assert "nothing that BN could take the place of" in contrast.guard


def test_the_widest_pair_is_the_one_that_may_lie_furthest_apart() -> None:
    scores = {arm: np.linspace(0.5, 0.51, 12) for arm in TREATED}
    scores["batch_gain_2"] = scores["batch"] - 0.01 + around(0, 0.002, 12)
    scores["batch_torch_default"] = scores["batch"] - 0.009 + around(0, 0.02, 12)
    found = widest(Evidence(scores))
    np.testing.assert_allclose(found, scores["batch"] - scores["batch_torch_default"])


def test_the_widest_pair_is_found_on_the_seeds_that_measure_it() -> None:
    even = np.zeros(12)
    scores = dict.fromkeys((*TREATED, *CONTROL), even + 0.5)
    # Far apart on one seed alone, on which a run with BN diverged; one without did on another.
    scores["batch_gain_2"] = scores["batch"] - np.where(np.arange(12) == 0, 0.3, 0.0)
    scores["batch_torch_default"] = scores["batch"] - 0.01
    first, last = (np.where(np.arange(12) == seed, 1.0, 0.0) for seed in (0, 11))
    diverged = dict.fromkeys(scores, even) | {"batch_gain_2": first, "none": last}
    evidence = Evidence(scores, same=scores, diverged=diverged)
    found = widest(evidence)
    np.testing.assert_allclose(found, scores["batch"] - scores["batch_torch_default"])
    assert len(found) == 12


def test_at_one_learning_rate_for_all_the_failures_are_those_of_its_runs() -> None:
    claim = CLAIMS["input_normalization"]
    arms = {arm: np.full(15, 0.5) for arm in claim.arms}
    levels = {arm: dict(zip(("norm", "inputs"), arm.split("_", 1), strict=True)) for arm in arms}
    raw = {f"{norm}_raw": {"norm": norm, "inputs": "raw"} for norm in ("none", "batch")}
    scores = {arm: np.full(15, 0.5) for arm in (*arms, *raw)}
    tuned = {arm: np.ones(15) for arm in scores}
    at_one = {arm: np.zeros(15) for arm in scores}
    at_one["none_decimal"][14] = 1
    evidence = Evidence(
        scores, same=scores, levels={**levels, **raw}, diverged=tuned, same_diverged=at_one
    )
    contrast = claim.contrast(evidence)
    assert contrast.failures is not None
    assert contrast.failures.control.tolist() == [0] * 11 + [1]
    assert not contrast.failures.treated.any()
    assert len(contrast.differences) == 11


def test_a_claim_in_two_places_is_supported_by_both_alone() -> None:
    def said(here: float, there: float) -> tuple[str, str]:
        noise = around(0, 0.002, 12)
        best = {"after": noise, "before": 2 * noise + here}
        best |= {"after_no_fc": noise, "before_no_fc": 2 * noise + there}
        claim = CLAIMS["placement"]
        levels = {
            "before": {"place": "before", "network": "whole"},
            "after": {"place": "after", "network": "whole"},
            "before_no_fc": {"place": "before", "network": "no_fc"},
            "after_no_fc": {"place": "after", "network": "no_fc"},
        }
        verdict = judge(claim, claim.contrast(Evidence(best, levels=levels)), "quick")
        assert "with BN on the convolutions alone: " in verdict.why
        return verdict.label, verdict.sublabel

    assert said(0.05, 0.05) == ("SUPPORTED", "")
    assert said(-0.05, -0.05) == ("REFUTED", "reversed")
    assert said(-0.05, 0.001) == ("REFUTED", "")
    assert said(0.05, -0.05) == ("REFUTED", "depends on the hidden layer")
    assert said(0.05, 0.009) == ("INCONCLUSIVE", "")


def test_the_largest_stable_lr_is_the_last_before_too_many_runs_diverge() -> None:
    lrs = np.array([0.1, 1.0, 10.0])
    assert largest_stable(lrs, np.zeros((5, 3))) == 10
    assert largest_stable(lrs, np.array([[0, 0, 1]] * 5, float)) == 1
    assert largest_stable(lrs, np.array([[0, 0, 1]] + [[0, 0, 0]] * 4, float)) == 10
    # One stable rate beyond an unstable one does not count.
    assert largest_stable(lrs, np.array([[0, 1, 0]] * 5, float)) == 0.1
    assert largest_stable(lrs, np.ones((5, 3))) is None


def test_a_point_that_all_arms_share_is_part_of_the_evidence() -> None:
    plan = plan_of("input_normalization", "full")
    assert plan.same == (("optim.lr", 0.03),)
    runs = [
        replace(as_run(config), seed=seed, final={tag: 0.5 + 0.1 * (point == plan.same)})
        for (stage, _, point), config in plan.configs.items()
        for tag in (["val/accuracy"] if stage == "tune" else ["test/accuracy"])
        for seed in plan.seeds(stage)
        if stage == "tune" or point == plan.same
    ]
    found = gather(plan, "full", RunIndex(runs))
    assert found.finished == found.total == len(runs)
    assert found.evidence is not None
    assert set(found.evidence.same) == set(found.evidence.best) == set(plan.spec.arms)
    without = [run for run in runs if "test/accuracy" not in run.final]
    assert gather(plan, "full", RunIndex(without)).evidence is None


def test_arms_that_follow_another_may_be_alike(tmp_path: Path) -> None:
    study = tmp_path / "study.yaml"
    text = "arms: {a: {model.norm: none}, b: {}, c: {}}\nset: {dataset.val_size: 10}\n"
    text += "tune: {optim.lr: [0.1, 1.0]}\ntune_seeds: 1\nseeds: 1\n"
    study.write_text(f"{text}follow: {{c: a}}\n")
    assert load_plan(study).spec.follow == {"c": "a"}
    study.write_text(f"{text}follow: {{c: b}}\n")
    with pytest.raises(ConfigError, match="same configuration as arm 'b'"):
        load_plan(study)


def test_of_two_records_of_a_run_the_first_counts_and_both_are_audited() -> None:
    config = next(iter(plan_of("accuracy", "smoke").configs.values()))
    run, other = as_run(config), replace(as_run(config), final={"test/accuracy": 0.5})
    index = RunIndex([run, other])
    assert index.runs_of(config) == {run.seed: run}
    assert index.all_like([run]) == (run, other)
