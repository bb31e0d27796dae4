import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_runs import make_run
from numpy.typing import NDArray
from typer.testing import CliRunner

from bnlab.analysis import Run, load_runs
from bnlab.analysis.audit import barring
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
    judge,
    refuse_bending,
    stored_study,
    study_file,
)
from bnlab.claims._base import SCORED_AS_GUESSES
from bnlab.claims._contrast import (
    CLAIM_ALPHA,
    NAMING,
    make_contrast,
    named_range,
)
from bnlab.claims._evidence import RunIndex, gather, load_claim_plan
from bnlab.claims._rule import settling_n
from bnlab.claims.convergence import SHORTER, octaves_saved, times
from bnlab.claims.depth import Ladder, octaves_deeper
from bnlab.claims.dropout import FITTED, TESTED, gap_at, gaps
from bnlab.claims.higher_lr import largest_stable, usable_range
from bnlab.claims.input_normalization import WAYS
from bnlab.claims.placement import OTHERS
from bnlab.claims.small_batch import STATISTICS
from bnlab.cli import app
from bnlab.config import Config
from bnlab.errors import ConfigError
from bnlab.records import RunFacts
from bnlab.report.claims import write_claims
from bnlab.study.file import Plan
from bnlab.study.load import load_plan
from bnlab.study.plan import load_shared_study
from bnlab.study.survey import survey_study

ROOT = Path(__file__).parent.parent
Array = NDArray[np.float64]

# ----------------------------------------------------------------------------- simulated evidence

Noise = Callable[[int], Array]
"""Scores of an arm: as many as a verdict counts, and so many more."""

Simulate = Callable[[Noise, float], Evidence]
LRS = np.geomspace(1e-3, 10, 9)


def arms(*names: str, better: str) -> Simulate:
    """Arms alike but for noise and one that is better by the effect."""

    def make(noise: Noise, effect: float) -> Evidence:
        best = {name: noise(0) + effect * (name == better) for name in names}
        return Evidence(best=best, same=best)

    return make


def worse_inputs(noise: Noise, effect: float) -> Evidence:
    """Raw inputs cost every arm 10 points, and that without BN as many more as the effect."""

    def cost(norm: str, way: str) -> float:
        return (way == "raw") * (0.1 + effect * (norm == "none"))

    return Evidence(
        best={f"{n}_{way}": noise(NAMING) - cost(n, way) for n in ("none", "batch") for way in WAYS}
    )


def worse_weights(noise: Noise, effect: float) -> Evidence:
    """A gain of 10 costs every arm 10 points, and that without BN as many more as the effect."""
    best = {
        arm: noise(NAMING) - (arm.endswith("gain_10")) * (0.1 + effect * arm.startswith("none"))
        for arm in CLAIMS["initialization"].arms
    }
    return Evidence(best=best)


def sooner(noise: Noise, effect: float) -> Evidence:
    """Accuracy rises by 6 points with every doubling of the budget; BN is ahead by the effect."""
    budgets = dict(zip((*SHORTER, ""), (1, 2, 3, 5, 8, 12, 20), strict=True))
    epochs = {
        f"{norm}_{b}".rstrip("_"): e for norm in ("none", "batch") for b, e in budgets.items()
    }
    best = {
        arm: noise(NAMING) - 0.4 + 0.06 * (np.log2(e) + effect * arm.startswith("batch"))
        for arm, e in epochs.items()
    }
    return Evidence(best=best, epochs=epochs)


def plateaus(noise: Noise, effect: float) -> Evidence:
    """Accuracy flat for 4 octaves around the middle and the effect longer with BN, then falling."""
    away = np.abs(np.log2(LRS / 0.1))

    def sweep(length: float) -> Array:
        falling = -0.02 * np.maximum(0, away - length / 2)
        return np.column_stack([noise(NAMING) + fall for fall in falling])

    best = {arm: noise(0) for arm in ("none", "batch")}
    curves = {"none": sweep(4), "batch": sweep(4 + effect)}
    return Evidence(best=best, same=best, sweep=curves, lrs=LRS)


def deeper(noise: Noise, effect: float) -> Evidence:
    """Training accuracy falls by 4 points with every doubling, and with BN that much later."""
    rungs = [2**k for k in range(2, 12)]
    readings = {
        f"{norm}_{depth}": {
            "train/accuracy": noise(0) + 0.04 * (3.5 + effect * (norm == "batch") - np.log2(depth))
        }
        for norm in ("none", "batch")
        for depth in rungs
    }
    best = {arm: values["train/accuracy"] for arm, values in readings.items()}
    return Evidence(best=best, readings=readings, preset="full")


SIMULATED: Mapping[str, Simulate] = {
    "accuracy": arms("none", "batch", better="batch"),
    "convergence": sooner,
    "depth": deeper,
    "dropout": arms("none", "none_dropout", "batch", "batch_dropout", better="none_dropout"),
    "fc_norm": arms("none", "conv", "fc", "both", better="both"),
    "higher_lr": plateaus,
    "initialization": worse_weights,
    "input_normalization": worse_inputs,
    "placement": arms("before", *OTHERS, better="before"),
    "small_batch": arms(
        "batch", "ghost_4", "ghost_8", "ghost_16", "ghost_32", "group", better="batch"
    ),
}


def normal(generator: np.random.Generator, n: int, sd: float) -> Noise:
    return lambda more: 0.7 + generator.normal(0, sd, n + more)


def unequal(generator: np.random.Generator, n: int, sd: float) -> Noise:
    """Every other arm three times as noisy."""
    turns = iter(range(10**6))
    return lambda more: 0.7 + generator.normal(0, sd * (1 + 2 * (next(turns) % 2)), n + more)


BROKEN = -9.0
"""The score of a run that diverged, until `with_failures` turns it into a guess."""


def diverging(generator: np.random.Generator, n: int, sd: float) -> Noise:
    """One run in twenty diverges."""
    return lambda more: np.where(
        generator.random(n + more) < 0.05, BROKEN, 0.7 + generator.normal(0, sd, n + more)
    )


def with_failures(evidence: Evidence) -> Evidence:
    """The same, with the runs that diverged told as such, and scored as guesses."""

    def found(scores: Mapping[str, Array]) -> dict[str, Array]:
        return {arm: (values < -1).astype(float) for arm, values in scores.items()}

    def guessed(scores: Mapping[str, Array]) -> dict[str, Array]:
        return {arm: np.where(values < -1, 0.1, values) for arm, values in scores.items()}

    return replace(
        evidence,
        best=guessed(evidence.best),
        same=guessed(evidence.same),
        sweep=guessed(evidence.sweep),
        diverged=found(evidence.best),
        sweep_diverged=found(evidence.sweep),
        readings={arm: guessed(tags) for arm, tags in evidence.readings.items()},
    )


def measure_one(name: str, noise: Noise, effect: float = 0.0) -> Contrast:
    """A claim's contrast, without its guard: a noisy best is no reason to leave out a study."""
    evidence = with_failures(SIMULATED[name](noise, effect))
    return replace(CLAIMS[name].contrast(evidence), guard="")


def judge_full(name: str, contrast: Contrast) -> Verdict:
    return judge(CLAIMS[name], contrast, "full")


def test_every_claim_is_simulated() -> None:
    assert set(SIMULATED) == set(CLAIMS)


def false_verdicts(name: str, studies: int, seed: int) -> int:
    """How many of so many null studies of a claim support it, or its opposite."""
    generator = np.random.default_rng(seed)
    kinds = [(normal, 0.02), (normal, 0.0005), (unequal, 0.01), (diverging, 0.01)]
    false = 0
    for study in range(studies):
        kind, sd = kinds[study % len(kinds)]
        verdict = judge_full(name, measure_one(name, kind(generator, 12, sd)))
        false += verdict.label == "SUPPORTED" or verdict.sublabel == "reversed"
    return false


def test_null_studies_of_every_claim_seldom_give_a_false_verdict() -> None:
    studies = 150
    false = sum(false_verdicts(name, studies, 20261125) for name in CLAIMS)
    tests = studies * len(CLAIMS)
    assert false <= tests * CLAIM_ALPHA + 3 * (tests * CLAIM_ALPHA) ** 0.5


LUCKY_NAMING = pytest.mark.xfail(
    reason="three seeds name an arm's best lr, and all others measure around the same luck"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=LUCKY_NAMING) if n == "higher_lr" else n for n in CLAIMS],
)
def test_null_studies_of_a_claim_at_length(name: str) -> None:
    studies = 2_000
    expected = studies * CLAIM_ALPHA
    assert false_verdicts(name, studies, 7) <= expected + 3 * expected**0.5


@pytest.mark.parametrize("name", CLAIMS)
def test_an_effect_of_twice_the_smallest_of_interest_is_found_at_the_stated_power(
    name: str,
) -> None:
    generator = np.random.default_rng(7)
    n, studies, effect = 12, 60, 2 * CLAIMS[name].smallest("full")
    # Where an effect is no accuracy, noise that leaves something to be found or missed.
    sd = {"higher_lr": 0.004, "convergence": 0.004, "depth": 0.01}.get(name, effect / 2.5)
    seen, stated, found = [], [], 0
    for _ in range(studies):
        contrast = measure_one(name, normal(generator, n, sd), effect)
        verdict = judge_full(name, contrast)
        assert verdict.power is not None
        seen.append(contrast.differences)
        stated.append(verdict.power)
        found += verdict.label == "SUPPORTED"
    assert np.mean(seen) == pytest.approx(effect, rel=0.15)
    promised = float(np.mean(stated))
    # A spread seen in twelve seeds is itself uncertain, and bends the power both ways.
    assert promised > 0.3
    assert found / studies >= promised - 0.1 - 3 * (promised * (1 - promised) / studies) ** 0.5


@pytest.mark.parametrize("name", CLAIMS)
def test_the_opposite_effect_is_called_reversed(name: str) -> None:
    noise = normal(np.random.default_rng(3), 10, 0.001)
    verdict = judge_full(name, measure_one(name, noise, -3 * CLAIMS[name].smallest("full")))
    assert (verdict.label, verdict.sublabel) == ("REFUTED", "reversed")


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


def test_a_verdict_is_that_of_limits_at_a_twentieth_of_five_percent() -> None:
    values = around(0.004, 0.002)
    contrast = make_contrast(values)
    verdict = judge_full("accuracy", contrast)
    assert verdict.interval == mean_interval(values, 0.9975)
    assert contrast.interval == mean_interval(values, 0.95)
    assert "(99.75 % limits: " in verdict.why


def test_the_smallest_effect_is_that_of_the_preset() -> None:
    contrast = make_contrast(around(0.005, 0.001))
    labels = {preset: judge(CLAIMS["accuracy"], contrast, preset) for preset in PRESETS}
    assert labels["full"].label == "SUPPORTED"
    assert (labels["quick"].label, labels["quick"].sublabel) == ("REFUTED", "real but negligible")
    assert labels["smoke"] == labels["quick"]
    assert CLAIMS["depth"].smallest("full") == CLAIMS["depth"].smallest("quick") == 1.0


def test_an_inconclusive_verdict_says_how_many_seeds_would_settle_it() -> None:
    verdict = one(around(0.001, 0.005))
    assert verdict.required_n is not None
    assert verdict.required_n > 10
    assert f"{verdict.required_n} seeds" in verdict.why
    settled = one(around(0.001, 0.005, verdict.required_n))
    assert settled.label == "REFUTED"


def test_an_effect_on_the_edge_of_interest_is_not_settled_by_any_number_of_seeds() -> None:
    assert settling_n(mean_interval(around(0.2999999, 1.0)), 0.3) is None


def test_places_of_no_practical_difference_are_called_that() -> None:
    verdict = one(around(0.0, 0.0005), "placement")
    assert (verdict.label, verdict.sublabel) == ("REFUTED", "no practical difference")
    assert one(around(0.0, 0.0005), "accuracy").sublabel == ""


def test_noise_alone_has_no_range() -> None:
    generator = np.random.default_rng(0)
    assert abs(named_range(generator.normal(0, 1, (4000, 6))).mean()) < 0.05
    known = np.tile([0.5, 0.9, 0.7], (5, 1))
    np.testing.assert_allclose(named_range(known), 0.4)


def test_the_usable_range_ends_where_accuracy_falls_by_a_point() -> None:
    lrs = np.array([1.0, 2.0, 4.0, 8.0])
    scores = np.tile([0.70, 0.80, 0.80, 0.78], (3, 1))
    found = usable_range(lrs, scores)
    # A tenth of an octave below 2, half an octave above 4.
    np.testing.assert_allclose(found.low, 0.9)
    np.testing.assert_allclose(found.high, 2.5)
    np.testing.assert_allclose(found.width, 1.6)
    assert found.open_ends == ()


def test_a_time_to_a_target_lies_between_two_budgets() -> None:
    budgets = np.array([1.0, 2.0, 8.0])
    scores = np.array([[0.4, 0.5, 0.7], [0.6, 0.7, 0.8], [0.1, 0.2, 0.3]])
    np.testing.assert_allclose(times(budgets, scores, 0.6), [2.0, -np.inf, np.inf])


def test_a_target_that_the_budgets_do_not_bracket_gives_no_verdict() -> None:
    evidence = sooner(normal(np.random.default_rng(0), 10, 0.001), 0.0)
    assert CLAIMS["convergence"].measure(evidence).guard == ""
    late = np.concatenate([np.full(NAMING, 0.7), np.full(10, 0.5)])
    contrast = CLAIMS["convergence"].measure(
        replace(evidence, best={**evidence.best, "none": late, "batch": late})
    )
    assert "none (10 of 10 never), batch (10 of 10 never)" in contrast.guard


def test_a_time_beyond_the_budgets_is_a_bound_and_not_the_last_budget() -> None:
    budgets, never, at_once = np.array([1.0, 2.0, 8.0]), np.inf, -np.inf
    none = np.array([2.5, never, 2.5, never, at_once, 2.5])
    batch = np.array([0.5, 0.5, at_once, at_once, 0.5, never])
    low, high = octaves_saved(none, batch, budgets)
    np.testing.assert_allclose(low, [2.0, 2.5, 2.5, 3.0, at_once, at_once])
    np.testing.assert_allclose(high, [2.0, never, never, never, -0.5, -0.5])


def test_a_target_that_many_runs_without_bn_miss_still_gives_a_verdict() -> None:
    evidence = sooner(normal(np.random.default_rng(0), 10, 0.001), 1.0)
    late = evidence.best["none"].copy()
    late[NAMING + 2 :] = 0.3
    missing = {**evidence.best, "none": late, "none_b6": late}
    contrast = CLAIMS["convergence"].measure(replace(evidence, best=missing))
    assert contrast.guard == ""
    assert contrast.test == "sign test"
    assert contrast.effect.estimate > 1.0
    assert any("none (8 of 10 never)" in remark for remark in contrast.remarks)
    from bnlab.report.plots.claims import draw_effect

    (axes,) = draw_effect(CLAIMS["convergence"], contrast, contrast.interval, 0.32).axes
    seeds = {line.get_marker(): len(line.get_path()) for line in axes.lines if line.get_alpha()}
    assert seeds == {"o": 2, ">": 8, "<": 0}


def test_a_usable_range_that_reaches_the_end_of_the_grid_gives_no_verdict() -> None:
    flat = np.full((10, 3), 0.8) + around(0, 0.001)[:, None]
    best = {"none": flat[:, 0], "batch": flat[:, 0]}
    sweep = {"none": flat, "batch": flat}
    lrs = np.array([0.01, 0.1, 1.0])
    contrast = CLAIMS["higher_lr"].measure(Evidence(best, best, sweep, lrs))
    assert "none (low), none (high), batch (low), batch (high)" in contrast.guard


def test_a_best_lr_at_the_edge_of_the_grid_gives_no_verdict(tmp_path: Path) -> None:
    make_study(tmp_path, "quick", gain=0.03, edge="batch")
    found = finding(tmp_path)
    assert found.verdict.label == "NOT TESTED"
    assert "the best lr lies at the edge of the grid in batch (" in found.verdict.why
    assert [one.check.code for one in barring(found.audit)] == ["A06"]


# -------------------------------------------------------------------------------- files and studies


def test_a_claim_is_its_two_files() -> None:
    files = (ROOT / "bnlab" / "claims").glob("[!_]*.py")
    studies = (ROOT / "configs" / "claims").glob("*.yaml")
    assert {path.stem for path in files} == {path.stem for path in studies} == set(CLAIMS)
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
    return Run(Path(), "", "", "", config.seed, config.hash, {}, "done", {}, {}, facts)


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
    texts = (claim.statement, claim.definition, claim.formula, claim.protocol, claim.reason)
    for text in (
        *texts,
        *claim.sources,
        "99.75 % limits",
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

    The best lr is in the middle of the grid; that of the arm `edge` is the smallest.
    """
    trained = plan_of(name, preset, *overrides)
    middle = next(iter(trained.grids.values())).points[
        len(next(iter(trained.grids.values())).points) // 2
    ]
    generator = np.random.default_rng(0)
    for (stage, arm, point), config in trained.configs.items():
        best = next(iter(trained.grids.values())).points[0] if arm == edge else middle
        if stage == "final" and point not in (middle, best):
            continue
        there = {int(root.name[1:]) for root in (runs / study).glob(f"*-{config.hash[:8]}/s*")}
        for seed in set(trained.seeds(stage)) - there:
            accuracy = 0.6 + gain * (arm == "batch") - 0.1 * (point != best)
            noise = float(generator.normal(0, 0.002))
            made = {**config.resolved(), "name": study}
            status = "diverged" if (arm, seed) == diverged else "done"
            reached = accuracy + noise
            make_run(runs, seed=seed, arm=arm, accuracy=reached, config=made, status=status)


def finding(runs: Path, name: str = "accuracy") -> Finding:
    found, _ = find_findings(runs)
    return next(one for one in found if one.claim.name == name)


def test_runs_count_whichever_study_they_were_trained_for(tmp_path: Path) -> None:
    make_study(tmp_path, "quick", gain=0.03)
    found = finding(tmp_path)
    assert found.verdict.label == "SUPPORTED"
    assert found.contrast is not None
    assert found.contrast.interval.estimate == pytest.approx(0.03, abs=0.003)
    assert found.gathered.evidence is not None
    assert found.gathered.evidence.chosen == {"none": 0.1, "batch": 0.1}
    assert "preset quick" in found.gathered.scope
    assert "10,000 training images" in found.gathered.scope
    others = [one for one in find_findings(tmp_path)[0] if one.claim.name != "accuracy"]
    assert {one.verdict.label for one in others} == {"NOT TESTED"}
    assert all("bnlab claims run" in one.command for one in others)


def test_a_verdict_does_not_depend_on_the_company_that_its_runs_keep(tmp_path: Path) -> None:
    make_study(tmp_path / "alone", "quick", gain=0.011)
    shutil.copytree(tmp_path / "alone", tmp_path / "company")
    for name in ("fc_norm", "placement", "dropout", "small_batch"):
        make_study(tmp_path / "company", "quick", gain=0.02, name=name)
    alone, company = finding(tmp_path / "alone"), finding(tmp_path / "company")
    assert finding(tmp_path / "alone", "dropout").contrast is None
    assert finding(tmp_path / "company", "dropout").verdict.interval is not None
    assert alone.verdict.interval is not None
    assert alone.verdict == company.verdict


def store_overrides(runs: Path, overrides: Sequence[str]) -> None:
    stored = runs / stored_study("accuracy", "quick")
    stored.parent.mkdir(exist_ok=True)
    stored.write_text(f"overrides: [{', '.join(overrides)}]\n")


def test_images_of_a_folder_count_once_the_claim_was_run_on_them(tmp_path: Path) -> None:
    make_study(tmp_path, "quick", gain=0.03, overrides=["dataset.name=folder"])
    assert finding(tmp_path).verdict.label == "NOT TESTED"
    store_overrides(tmp_path, ["dataset.name=folder", "dataset.root=images"])
    found = finding(tmp_path)
    assert found.verdict.label == "SUPPORTED"
    assert "folder" in found.gathered.scope


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


def test_smoke_and_synthetic_images_never_give_a_verdict(tmp_path: Path) -> None:
    make_study(tmp_path / "smoke", "smoke", gain=0.3)
    assert finding(tmp_path / "smoke").verdict.label == "NOT TESTED"
    make_study(tmp_path / "quick", "quick", gain=0.3, overrides=["dataset.name=synthetic"])
    store_overrides(tmp_path / "quick", ["dataset.name=synthetic"])
    verdict = finding(tmp_path / "quick").verdict
    assert (verdict.label, verdict.why) == ("NOT TESTED", "synthetic images, drawn by bnlab")


def test_arms_that_follow_are_trained_at_their_leader_s_best(tmp_path: Path) -> None:
    trained = plan_of("initialization", "smoke")
    best = {
        "none": next(iter(trained.grids.values())).points[0],
        "batch": next(iter(trained.grids.values())).points[1],
    }
    for (stage, arm, point), config in trained.configs.items():
        leader = trained.spec.follow.get(arm, arm)
        wanted = arm in best if stage == "tune" else point == best[leader]
        for seed in trained.seeds(stage) if wanted else ():
            made = {**config.resolved(), "name": SHARED}
            accuracy = 0.5 + 0.1 * (point == best[leader])
            make_run(tmp_path, seed=seed, arm=arm, accuracy=accuracy, config=made)
    found = finding(tmp_path, "initialization").gathered
    assert found.preset == "smoke"
    assert found.finished == found.total == len(found.runs)
    assert found.evidence is not None
    lrs = {arm: float(dict(point)["optim.lr"]) for arm, point in best.items()}
    assert found.evidence.chosen["none_gain_10"] == lrs["none"]
    assert found.evidence.chosen["batch_normal_small"] == lrs["batch"]
    file, stored = study_file("initialization"), stored_study("initialization", "smoke")
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


def test_a_diverged_run_is_set_apart_and_scored_as_a_guess_beside(tmp_path: Path) -> None:
    make_study(tmp_path, "quick", gain=0.03, diverged=("batch", 3))
    found = finding(tmp_path)
    evidence, contrast = found.gathered.evidence, found.contrast
    assert evidence is not None
    assert contrast is not None
    assert evidence.best["batch"][3] == 0.1
    assert {arm: list(np.flatnonzero(v)) for arm, v in evidence.diverged.items()} == {
        "none": [],
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


def test_mixed_precision_gives_no_verdict(tmp_path: Path) -> None:
    make_study(tmp_path, "quick", gain=0.03)
    path = next((tmp_path / "elsewhere").glob("batch-*/s3")) / "run.json"
    path.write_text(path.read_text().replace('"fp32"', '"bf16"'))
    verdict = finding(tmp_path).verdict
    assert verdict.label == "NOT TESTED"
    assert verdict.why == "precision: bf16 (1 run), fp32 (47 runs)"


def test_verdicts_are_the_same_bytes_every_time_and_everywhere(tmp_path: Path) -> None:
    make_study(tmp_path / "runs", "quick", gain=0.002)
    shutil.copytree(tmp_path / "runs", tmp_path / "copy" / "runs")
    for place in ("runs", "copy/runs"):
        found, _ = find_findings(tmp_path / place)
        # The command names the folder, which is another one.
        bare = [replace(one, command="") for one in found]
        write_claims(bare, tmp_path / "out" / place)
    files = sorted(path.name for path in (tmp_path / "out" / "runs").iterdir())
    plots = ["accuracy-effect.svg", "accuracy-lr.svg"]
    assert files == [*plots, "claims.html", "claims.json", "claims.md"]
    for name in files:
        one, other = (tmp_path / "out" / p / name for p in ("runs", "copy/runs"))
        assert one.read_bytes() == other.read_bytes()


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
    for name in CLAIMS:
        assert name in listed.stdout
        assert f"bnlab claims run {name} --preset quick" in " ".join(listed.stdout.split())
    data = json.loads(runner.invoke(app, ["claims", "--runs-dir", str(tmp_path), "--json"]).stdout)
    assert data == as_data(find_findings(tmp_path)[0])
    assert {one["verdict"] for one in data["claims"]} == {"NOT TESTED"}


def test_a_dry_run_trains_nothing(tmp_path: Path) -> None:
    command = ["claims", "run", "accuracy", "fc_norm", "--preset", "full", "--dry-run"]
    shown = CliRunner().invoke(app, [*command, "--runs-dir", str(tmp_path / "runs")])
    assert shown.exit_code == 0
    assert "runs left" in shown.stdout
    told = CliRunner().invoke(app, [*command, "--json", "--runs-dir", str(tmp_path / "runs")])
    assert set(json.loads(told.stdout)) == {"accuracy", "fc_norm"}
    assert not (tmp_path / "runs").exists()


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
    assert {f"{name}-chart" for name in ("depth", "convergence", "small_batch")} <= drawn
    dropout = next(one for one in findings if one.claim.name == "dropout").contrast
    small_batch = next(one for one in findings if one.claim.name == "small_batch").contrast
    assert dropout is not None
    assert small_batch is not None
    assert any("gap at one training loss" in d.name for d in dropout.details)
    assert any("statistics as trained" in d.name for d in small_batch.details)
    runs, _ = load_runs([tmp_path])
    assert len(runs) == len({(run.hash, run.seed) for run in runs})
    assert {run.study for run in runs} == {SHARED}
    assert load_claim_plan("accuracy", "smoke", tmp_path).spec.name == SHARED


# --------------------------------------------------------------------- what single claims measure


def ladder(*trained: Sequence[int]) -> Ladder:
    """Which of 4, 8, 16 convolutions train, seed by seed."""
    depths = np.array([4.0, 8.0, 16.0])
    return Ladder(depths, np.array([[float(d in one) for d in depths] for one in trained]))


def test_depth_is_counted_in_octaves_and_bounded_where_the_ladder_ends() -> None:
    none = ladder((4,), (4, 8), (), (4, 8, 16), ())
    batch = ladder((4, 8), (4, 8, 16), (4, 8), (4, 8, 16), ())
    low, high = octaves_deeper(none, batch)
    np.testing.assert_array_equal(low, [1, 1, 1, -np.inf, -np.inf])
    np.testing.assert_array_equal(high, [1, np.inf, np.inf, np.inf, np.inf])


def test_a_ladder_that_shows_no_limit_gives_no_verdict() -> None:
    names = [f"{norm}_{depth}" for norm in ("none", "batch") for depth in (4, 8)]
    deep = {arm: {"train/accuracy": np.full(10, 0.9)} for arm in names}
    evidence = Evidence(dict.fromkeys(names, np.full(10, 0.9)), readings=deep, preset="full")
    contrast = CLAIMS["depth"].measure(evidence)
    assert "no limit" in contrast.guard
    deep["none_8"] = {"train/accuracy": np.full(10, 0.1)}
    contrast = CLAIMS["depth"].measure(evidence)
    assert contrast.guard == ""
    verdict = judge_full("depth", contrast)
    assert verdict.label == "SUPPORTED"
    assert verdict.interval is not None
    assert (verdict.interval.low, verdict.interval.high) == (1.0, np.inf)


def test_a_failing_network_whose_lr_lies_at_the_edge_gives_no_verdict() -> None:
    names = [f"{norm}_{depth}" for norm in ("none", "batch") for depth in (4, 8)]
    found = {arm: {"train/accuracy": np.full(10, 0.1 if arm == "none_8" else 0.9)} for arm in names}
    scores = {arm: values["train/accuracy"] for arm, values in found.items()}
    evidence = Evidence(
        scores,
        readings=found,
        sweep={"none_8": np.array([[0.2, 0.1, 0.1]])},
        lrs=np.array([0.01, 0.1, 1.0]),
        chosen={"none_8": 0.01},
        preset="full",
    )
    assert "none_8 (0.01)" in CLAIMS["depth"].measure(evidence).guard
    hopeless = replace(evidence, sweep={"none_8": np.full((1, 3), 0.1)})
    assert CLAIMS["depth"].measure(hopeless).guard == ""


def test_a_generalization_gap_is_taken_at_one_training_loss() -> None:
    fitted, tested = np.array([2.0, 1.0, 0.5]), np.array([2.1, 1.3, 1.2])
    assert gap_at(fitted, tested, 1.0) == pytest.approx(0.3)
    assert gap_at(fitted, tested, 0.75) == pytest.approx(1.25 - 0.75)
    assert np.isnan(gap_at(fitted, tested, 0.4))
    assert np.isnan(gap_at(fitted, tested, 3.0))
    start = np.log(10)
    assert gap_at(np.array([1.0]), np.array([1.0]), (start + 1) / 2) == pytest.approx(0)
    curves = {
        "none": {FITTED: np.array([[2.0, 1.5]]), TESTED: np.array([[2.0, 1.7]])},
        "batch": {FITTED: np.array([[1.5, 0.9]]), TESTED: np.array([[1.6, 1.4]])},
    }
    found = gaps(Evidence({}, curves=curves), ("none", "batch"))
    np.testing.assert_allclose([found["none"][0], found["batch"][0]], [0.2, 0.1])
    curves["none"][FITTED][0, 1] = np.nan
    assert gaps(Evidence({}, curves=curves), ("none", "batch")) == {}


def test_the_largest_stable_lr_is_the_last_before_too_many_runs_diverge() -> None:
    lrs = np.array([0.1, 1.0, 10.0])
    assert largest_stable(lrs, np.zeros((5, 3))) == 10
    assert largest_stable(lrs, np.array([[0, 0, 1]] * 5, float)) == 1
    assert largest_stable(lrs, np.array([[0, 0, 1]] + [[0, 0, 0]] * 4, float)) == 10
    # One stable rate beyond an unstable one does not count.
    assert largest_stable(lrs, np.array([[0, 1, 0]] * 5, float)) == 0.1
    assert largest_stable(lrs, np.ones((5, 3))) is None


def test_what_small_batches_cost_splits_into_training_and_testing() -> None:
    evidence = SIMULATED["small_batch"](lambda more: 0.7 + around(0, 0.001, 10 + more), 0.02)
    readings = {
        arm: {tag: scores - 0.01 * place for place, tag in enumerate(STATISTICS.values())}
        for arm, scores in evidence.best.items()
    }
    readings["ghost_8"] = dict.fromkeys(STATISTICS.values(), evidence.best["ghost_8"])
    evidence = replace(evidence, readings=readings)
    contrast = CLAIMS["small_batch"].measure(evidence)
    means = {d.name: d.interval.estimate for d in contrast.details}
    assert means["of the headline, with statistics as trained"] == pytest.approx(0.0, abs=1e-9)
    changed = means["of the headline, from the change to running statistics"]
    assert changed == pytest.approx(0.02)
    assert any("batch tested by statistics: running 72.00 %" in r for r in contrast.remarks)


def test_the_range_over_inputs_is_that_at_one_lr_and_the_tuned_one_stands_beside() -> None:
    untuned = worse_inputs(normal(np.random.default_rng(0), 10, 0.001), 0.2)
    tuned = worse_inputs(normal(np.random.default_rng(0), 10, 0.001), 0.05)
    measure = CLAIMS["input_normalization"].measure
    both = measure(replace(tuned, same=untuned.best))
    assert both.interval == measure(untuned).interval
    (beside,) = [d for d in both.details if "best lr" in d.name]
    assert beside.interval == measure(tuned).interval


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
