import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_runs import make_run
from raw import raw_summary
from scipy import stats as scipy_stats

from bnlab.analysis import (
    Comparison,
    Effect,
    Options,
    compare,
    differing_factors,
    load_runs,
    make_metric,
    show_fact,
)
from bnlab.analysis.stats import paired_interval
from bnlab.errors import ConfigError, RefusedError
from bnlab.records import RunDir
from bnlab.report.blocks import Table
from bnlab.report.sections.comparison import divergence

NONE = {"model.norm.name": "none"}
AFTER = {"model.norm.placement": "after_activation"}
OFF = [0.700, 0.702, 0.698, 0.701, 0.699, 0.703, 0.697, 0.700]
ON = [0.741, 0.739, 0.742, 0.740, 0.743, 0.738, 0.744, 0.741]


def make_arm(
    root: Path, accuracies: Sequence[float], sets: dict[str, Any], first: int = 0, **more: Any
) -> None:
    for seed, accuracy in enumerate(accuracies, start=first):
        make_run(root, seed=seed, sets=sets, accuracy=accuracy, **more)


def compared(root: Path, **options: Any) -> Comparison:
    runs, remarks = load_runs([root])
    return compare(runs, Options(**options), remarks)


def only_effect(comparison: Comparison) -> Effect:
    [effect] = comparison.views[0].effects
    return effect


def record_anew(run: RunDir, records: Sequence[dict[str, Any]]) -> None:
    """Other metrics, and the summary of them."""
    run.metrics.write_text("".join(json.dumps(record) + "\n" for record in records))
    plain = {key: value for key, value in raw_summary(run).items() if "/" not in key}
    last = {key: value for key, value in records[-1].items() if "/" in key}
    run.summary.write_text(json.dumps({**plain, "epochs": records[-1]["epoch"], **last}))


def remarks_on(comparison: Comparison, part: str) -> str:
    return " | ".join(r.what for r in comparison.remarks if part in r.where)


# --------------------------------------------------------------------------------- arms and effects


def test_the_effect_is_the_paired_t_interval_of_the_accuracies(tmp_path: Path) -> None:
    make_arm(tmp_path, OFF, NONE)
    make_arm(tmp_path, ON, {})
    effect = only_effect(compared(tmp_path))
    expected = scipy_stats.ttest_rel(ON, OFF).confidence_interval()
    assert (effect.arm, effect.baseline, effect.method) == (
        "batch-before_activation",
        "none",
        "paired",
    )
    assert effect.estimate == pytest.approx(np.mean(ON) - np.mean(OFF))
    assert effect.interval is not None
    assert (effect.interval.low, effect.interval.high) == pytest.approx(tuple(expected))
    assert effect.p == 2 / 2**8
    assert effect.verdict == "higher"


def test_an_arm_s_result_is_its_mean_sd_and_t_interval(tmp_path: Path) -> None:
    make_arm(tmp_path, OFF, NONE)
    make_arm(tmp_path, ON, {})
    result = compared(tmp_path).views[0].results[0]
    interval = scipy_stats.ttest_1samp(OFF, 0).confidence_interval()
    assert result.arm == "none"
    assert result.n == 8
    assert result.sd == pytest.approx(np.std(OFF, ddof=1))
    assert result.interval is not None
    assert (result.interval.low, result.interval.high) == pytest.approx(tuple(interval))


def test_one_seed_has_neither_interval_nor_verdict(tmp_path: Path) -> None:
    make_arm(tmp_path, OFF[:1], NONE)
    make_arm(tmp_path, ON[:1], {})
    comparison = compared(tmp_path)
    effect = only_effect(comparison)
    assert effect.estimate == pytest.approx(0.041)
    assert (effect.interval, effect.p, effect.verdict) == (None, None, "no verdict")
    assert all(r.interval is None and r.sd is None for r in comparison.views[0].results)


def test_no_interval_reaches_beyond_what_can_be(tmp_path: Path) -> None:
    make_arm(tmp_path, [0.97, 0.11], NONE)
    make_arm(tmp_path, [0.11, 0.97], {})
    for run in tmp_path.rglob("metrics.jsonl"):
        records = [json.loads(line) for line in run.read_text().splitlines()]
        slow = {"seconds": 0.1 if run.parent.name == "s0" else 9.0}
        run.write_text("".join(json.dumps({**record, **slow}) + "\n" for record in records))
    found = compared(tmp_path)
    for result in found.views[0].results:
        assert result.interval is not None
        assert (result.interval.low, result.interval.high) == (0.0, 1.0)
    effect = only_effect(found).interval
    assert effect is not None
    assert (effect.low, effect.high) == (-1.0, 1.0)
    assert all(cost.interval is not None and cost.interval.low == 0 for cost in found.costs)
    for curve in found.curves:
        assert np.nanmin(curve.low) >= 0
        assert np.nanmax(curve.high) <= (1 if curve.tag.endswith("accuracy") else math.inf)


def test_five_pairs_cannot_give_a_verdict_and_six_would_do(tmp_path: Path) -> None:
    make_arm(tmp_path, OFF[:5], NONE)
    make_arm(tmp_path, ON[:5], {})
    effect = only_effect(compared(tmp_path))
    assert effect.interval is not None
    assert effect.interval.low > 0
    assert (effect.verdict, effect.verdict_n) == ("no verdict", 6)


def test_holm_adjusts_over_all_effects_of_the_table(tmp_path: Path) -> None:
    make_arm(tmp_path, OFF, NONE)
    make_arm(tmp_path, ON, {})
    make_arm(tmp_path, [0.699, 0.703, 0.7, 0.698, 0.701, 0.7, 0.702, 0.699], AFTER)
    effects = {e.arm: e for e in compared(tmp_path).views[0].effects}
    on, after = effects["batch-before_activation"], effects["batch-after_activation"]
    assert on.p == 2 / 2**8
    assert on.p_holm == pytest.approx(2 * on.p)
    assert after.p is not None
    assert after.p_holm == pytest.approx(max(after.p, 2 * on.p))
    assert (on.verdict, after.verdict) == ("higher", "undecided")
    # Two effects halve what is left of .05: 2 * 2/2^6 is too much, 2 * 2/2^7 is not.
    assert on.verdict_n == 7


def test_arms_within_the_margin_are_equivalent(tmp_path: Path) -> None:
    make_arm(tmp_path, OFF, NONE)
    make_arm(tmp_path, [a + 0.0002 * (-1) ** i for i, a in enumerate(OFF)], {})
    assert only_effect(compared(tmp_path)).verdict == "undecided"
    effect = only_effect(compared(tmp_path, margin=0.003))
    assert effect.equivalence is not None
    assert effect.equivalence.equivalent
    assert effect.verdict == "equivalent"


def test_the_baseline_is_the_arm_without_norm_or_the_one_asked_for(tmp_path: Path) -> None:
    make_arm(tmp_path, ON[:2], {})
    make_arm(tmp_path, ON[:2], AFTER)
    assert "first arm" in compared(tmp_path).baseline_reason
    make_arm(tmp_path, OFF[:2], NONE)
    assert compared(tmp_path).baseline == "none"
    chosen = compared(tmp_path, baseline="batch-after_activation")
    assert chosen.arms[0].name == chosen.baseline == "batch-after_activation"
    with pytest.raises(ConfigError, match="did you mean 'batch-after_activation'"):
        compared(tmp_path, baseline="batch-after_activatio")


def test_arms_that_their_labels_do_not_tell_apart_are_named_by_the_keys_that_differ(
    tmp_path: Path,
) -> None:
    make_arm(tmp_path, ON[:2], {})
    make_arm(tmp_path, ON[:2], {"model.dropout": 0.5})
    assert [arm.name for arm in compared(tmp_path).arms] == ["dropout=0.0", "dropout=0.5"]


def test_one_configuration_under_two_labels_of_a_study_is_two_arms(tmp_path: Path) -> None:
    make_arm(tmp_path, ON, {}, arm="a")
    make_arm(tmp_path, ON, {"name": "other"})
    assert len(compared(tmp_path).arms) == 1
    for seed, accuracy in enumerate(ON):
        run = make_run(tmp_path, seed=seed, arm="b", accuracy=accuracy)
        assert run.finished
    assert [arm.name for arm in compared(tmp_path / "made").arms] == ["a", "b"]


def test_probes_make_no_arm(tmp_path: Path) -> None:
    make_run(tmp_path, seed=0)
    make_run(tmp_path, seed=1, sets={"probes": ["activations"]})
    [arm] = compared(tmp_path).arms
    assert len(arm.runs) == 2


def test_a_field_that_only_one_side_has_is_no_factor_of_its_own() -> None:
    batch = {"norm.name": "batch", "norm.placement": "before_conv", "lr": 0.1}
    assert differing_factors(batch, {"norm.name": "none", "lr": 0.1}) == ("norm.name",)
    assert differing_factors(batch, {**batch, "lr": 0.2, "norm.placement": "both"}) == (
        "norm.placement",
        "lr",
    )


def test_arms_that_differ_in_several_factors_say_so(tmp_path: Path) -> None:
    make_arm(tmp_path, OFF, NONE)
    make_arm(tmp_path, ON, {"model.dropout": 0.5})
    assert only_effect(compared(tmp_path)).factors == ("model.norm.name", "model.dropout")


def test_a_lower_loss_is_called_lower(tmp_path: Path) -> None:
    make_arm(tmp_path, OFF, NONE)
    make_arm(tmp_path, ON, {})
    effect = only_effect(compared(tmp_path, metric="test/loss"))
    assert effect.verdict == "lower"
    assert effect.estimate == pytest.approx(2.3 * (np.mean(OFF) - np.mean(ON)))


def test_an_unknown_metric_is_an_error_that_names_a_near_one(tmp_path: Path) -> None:
    make_run(tmp_path)
    with pytest.raises(ConfigError, match="did you mean 'test/accuracy'"):
        compared(tmp_path, metric="test/acuracy")


# -------------------------------------------------------------------------------------------- audit


@pytest.mark.parametrize(
    ("longer", "named"), [(NONE, "none"), ({}, "batch-before_activation")], ids=["baseline", "arm"]
)
def test_a_dropped_seed_is_said_of_the_arm_that_has_it(
    tmp_path: Path, longer: dict[str, Any], named: str
) -> None:
    make_arm(tmp_path, OFF[1:], NONE, first=1)
    make_arm(tmp_path, ON[1:], {}, first=1)
    make_run(tmp_path, seed=0, sets=longer)
    effect = only_effect(compared(tmp_path, baseline="none"))
    assert effect.audit[1:] == (f"seed 0 of {named} has no partner and is dropped",)


def test_seeds_without_a_partner_are_dropped_by_name(tmp_path: Path) -> None:
    make_arm(tmp_path, OFF, NONE)
    make_arm(tmp_path, [*ON[2:], 0.9, 0.9], {}, first=2)
    effect = only_effect(compared(tmp_path))
    assert effect.seeds == (2, 3, 4, 5, 6, 7)
    assert effect.audit[1:] == (
        "seeds 8-9 of batch-before_activation have no partner and are dropped",
        "seeds 0-1 of none have no partner and are dropped",
    )
    assert effect.estimate == pytest.approx(np.mean(ON[2:]) - np.mean(OFF[2:]))


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"data_order_hash": "other"}, "the data order differs at seed 3"),
        ({"init_hash": "other"}, "the initial weights differ at seed 3"),
        ({"init_hash": None}, "init_hash is not recorded at seed 3"),
    ],
)
def test_runs_of_other_order_or_weights_are_compared_by_welch_and_it_is_said(
    tmp_path: Path, facts: dict[str, Any], words: str
) -> None:
    make_arm(tmp_path, OFF, NONE)
    make_arm(tmp_path, ON, {})
    make_run(tmp_path, seed=3, accuracy=ON[3], run=facts)
    effect = only_effect(compared(tmp_path))
    assert effect.method == "welch"
    assert any(words in line for line in effect.audit)
    expected = scipy_stats.ttest_ind(ON, OFF, equal_var=False).confidence_interval()
    assert effect.interval is not None
    assert (effect.interval.low, effect.interval.high) == pytest.approx(tuple(expected))
    assert effect.p == pytest.approx(2 / math.comb(16, 8))


def test_seed_sets_that_do_not_meet_are_independent_samples(tmp_path: Path) -> None:
    make_arm(tmp_path, OFF, NONE)
    make_arm(tmp_path, ON, {}, first=100)
    effect = only_effect(compared(tmp_path))
    assert (effect.method, effect.n) == ("welch", 8)
    assert effect.audit == ("not paired: 0 common seeds",)


@pytest.mark.parametrize(
    ("facts", "name"),
    [
        ({"code": {"training/loop.py": "f" * 16}}, "code"),
        ({"device": "cuda:0"}, "device"),
        ({"precision": "bf16"}, "precision"),
        ({"dataset": {"name": "cifar10", "checksum": "other"}}, "data"),
    ],
)
def test_mixed_runs_are_named_and_refused_unless_allowed(
    tmp_path: Path, facts: dict[str, Any], name: str
) -> None:
    make_arm(tmp_path, OFF[:3], NONE)
    make_arm(tmp_path, ON[:3], {}, run=facts)
    with pytest.raises(RefusedError, match=rf"(?s)\n  A0\d {name}: .*--allow-mixed") as caught:
        compared(tmp_path)
    assert caught.value.exit_code == 5
    allowed = compared(tmp_path, allow_mixed=True)
    assert [fact.name for fact in allowed.facts if fact.mixed] == [name]
    assert any("Mixed runs were allowed" in caveat for caveat in allowed.caveats)


def test_two_gpus_of_one_model_are_one_device(tmp_path: Path) -> None:
    gpu = {"environment": {"gpu": "some GPU"}}
    make_run(tmp_path, seed=0, run={"device": "cuda:0", **gpu})
    make_run(tmp_path, seed=1, run={"device": "cuda:1", **gpu})
    devices = next(fact for fact in compared(tmp_path).facts if fact.name == "device")
    assert show_fact(devices) == "cuda (some GPU) (2 runs)"


def test_a_precision_that_the_configuration_asks_for_is_a_factor_and_not_a_mixture(
    tmp_path: Path,
) -> None:
    make_arm(tmp_path, ON[:3], {"train.precision": "fp32"})
    make_arm(tmp_path, ON[:3], {"train.precision": "bf16"}, run={"precision": "bf16"})
    assert only_effect(compared(tmp_path)).factors == ("train.precision",)


def test_synthetic_images_are_always_said_not_to_be_cifar10(tmp_path: Path) -> None:
    make_run(tmp_path, sets={"dataset.name": "synthetic"})
    assert "not CIFAR-10" in compared(tmp_path).caveats[0]


# --------------------------------------------------------------------------------------- divergence


def test_a_diverged_run_counts_as_chance_and_is_not_dropped(tmp_path: Path) -> None:
    make_arm(tmp_path, OFF[:3], NONE)
    make_run(tmp_path, seed=3, sets=NONE, status="diverged")
    comparison = compared(tmp_path)
    [result] = comparison.views[0].results
    assert result.scores[3] == 0.1
    assert result.diverged == (3,)
    assert result.mean == pytest.approx((sum(OFF[:3]) + 0.1) / 4)
    assert result.survivors_mean == pytest.approx(sum(OFF[:3]) / 3)


def test_failures_and_the_pairs_that_trained_are_told_apart(tmp_path: Path) -> None:
    make_arm(tmp_path, [*OFF[:3], 0.7], NONE)
    make_arm(tmp_path, ON[:3], {})
    make_run(tmp_path, seed=3, status="diverged")
    comparison = compared(tmp_path)
    effect = only_effect(comparison)
    gains = np.subtract(ON[:3], OFF[:3])
    assert effect.method == "paired"
    assert effect.estimate == pytest.approx((gains.sum() + 0.1 - 0.7) / 4)
    assert effect.trained == paired_interval(ON[:3], OFF[:3])
    assert effect.failures_p == 1.0
    section = divergence(comparison)
    tables = [block for block in section.blocks if isinstance(block, Table)]
    assert tables[0].rows[0][1] == "1 of 4 (5 to 70 %)"
    assert tables[1].rows[0][2] == "0 of 4 (at most 49 %)"


def test_without_failures_nothing_is_set_apart(tmp_path: Path) -> None:
    make_arm(tmp_path, OFF[:3], NONE)
    make_arm(tmp_path, ON[:3], {})
    effect = only_effect(compared(tmp_path))
    assert (effect.trained, effect.failures_p) == (None, None)


def test_chance_is_one_over_the_classes_and_ln_classes_for_a_loss() -> None:
    assert make_metric("test/accuracy").chance(4) == 0.25
    assert make_metric("test/loss").chance(10) == pytest.approx(2.302585)
    assert make_metric("probe/dead/conv1").chance(10) is None


def test_a_diverged_run_never_reaches_the_target(tmp_path: Path) -> None:
    make_arm(tmp_path, [0.70, 0.70], NONE)
    make_run(tmp_path, seed=2, sets=NONE, status="diverged")
    make_run(tmp_path, seed=3, sets=NONE, status="diverged")
    [arrival] = compared(tmp_path, target=0.5).arrivals
    assert (arrival.n, arrival.reached) == (4, 2)
    assert not arrival.epochs.reached


# ---------------------------------------------------------------------------------- tuned key, time


def tuned_study(root: Path, val_size: int, **more: Any) -> None:
    """Two arms over three learning rates: `none` is best at 0.03 and batch at 0.3, by 1 pp."""
    for sets, best, level in ((NONE, 0.03, 0.70), ({}, 0.3, 0.74)):
        for lr in (0.03, 0.1, 0.3):
            fit = level - 0.01 * abs(math.log10(lr / best))
            config = {**sets, "optim.lr": lr, "dataset.val_size": val_size, **more}
            make_arm(root, [fit + 0.001, fit - 0.001, fit], config, first=100)


def test_each_arm_at_its_best_stands_beside_all_at_the_same_value(tmp_path: Path) -> None:
    tuned_study(tmp_path, val_size=1000)
    comparison = compared(tmp_path)
    best, same = comparison.views
    assert (best.key, same.key) == ("best", "same")
    assert [r.setting for r in best.results] == [0.03, 0.3]
    assert [r.setting for r in same.results] == [0.03, 0.03]
    assert best.effects[0].estimate == pytest.approx(0.04)
    assert same.effects[0].estimate == pytest.approx(0.03)
    assert "the best lr was chosen on val/accuracy" in best.notes
    assert [(r.best, r.edge) for r in comparison.responses] == [(0.03, "low"), (0.3, "high")]
    assert any("edge" in note for note in best.notes)


def test_a_best_value_chosen_on_the_test_set_is_called_optimistic(tmp_path: Path) -> None:
    tuned_study(tmp_path, val_size=0)
    notes = compared(tmp_path).views[0].notes
    assert any("chosen on test/accuracy" in note and "optimistic" in note for note in notes)


def test_final_runs_stand_apart_from_the_tuning_runs_that_chose_their_value(tmp_path: Path) -> None:
    tuned_study(tmp_path, val_size=1000)
    make_arm(tmp_path, OFF, {**NONE, "optim.lr": 0.03})
    make_arm(tmp_path, ON, {"optim.lr": 0.3})
    comparison = compared(tmp_path)
    best, same = comparison.views
    assert [(r.n, r.setting) for r in best.results] == [(8, 0.03), (8, 0.3)]
    assert "the best lr was chosen on val/accuracy in runs of their own" in best.notes
    assert "from tuning runs, with images held out" in same.notes
    assert best.effects[0].factors == ("model.norm.name",)
    assert [len(arm.tuning) for arm in comparison.arms] == [9, 9]


def test_tuning_runs_that_never_read_the_test_set_are_compared_on_validation_images(
    tmp_path: Path,
) -> None:
    tuned_study(tmp_path, val_size=1000, **{"train.test_every": None})
    make_arm(tmp_path, OFF, {**NONE, "optim.lr": 0.03, "train.test_every": 0})
    make_arm(tmp_path, ON, {"optim.lr": 0.3, "train.test_every": 0})
    make_run(tmp_path, seed=50, sets={"optim.lr": 0.3, "train.test_every": None})
    comparison = compared(tmp_path)
    best, same = comparison.views
    assert (best.metric.name, same.metric.name) == ("test/accuracy", "val/accuracy")
    assert same.effects[0].estimate == pytest.approx(0.03)
    assert [r.n for r in best.results] == [8, 8]
    assert "no finite test/accuracy" in remarks_on(comparison, "/s50")


def test_a_baseline_without_final_runs_is_an_error_and_never_chosen(tmp_path: Path) -> None:
    tuned_study(tmp_path, val_size=1000)
    make_arm(tmp_path, ON, {"optim.lr": 0.3})
    assert compared(tmp_path).baseline == "batch-before_activation"
    with pytest.raises(ConfigError, match="--baseline none: has tuning runs only"):
        compared(tmp_path, baseline="none")


def test_learning_rates_of_a_single_arm_are_arms_themselves(tmp_path: Path) -> None:
    make_arm(tmp_path, ON, {"optim.lr": 0.1})
    make_arm(tmp_path, OFF, {"optim.lr": 1.0})
    comparison = compared(tmp_path)
    assert [arm.name for arm in comparison.arms] == ["lr=0.1", "lr=1.0"]
    assert comparison.tuned is None


def test_arms_of_one_learning_rate_each_differ_in_two_factors(tmp_path: Path) -> None:
    make_arm(tmp_path, OFF, {**NONE, "optim.lr": 0.03})
    make_arm(tmp_path, ON, {"optim.lr": 0.3})
    assert only_effect(compared(tmp_path)).factors == ("model.norm.name", "optim.lr")


def test_the_target_is_one_point_below_the_worst_arm_in_whole_percents(tmp_path: Path) -> None:
    make_arm(tmp_path, [0.705, 0.705], NONE)
    make_arm(tmp_path, [0.74, 0.74], {})
    comparison = compared(tmp_path)
    assert (comparison.target, comparison.target_tag) == (0.69, "test/accuracy")


def test_time_to_target_is_the_median_first_epoch_and_its_seconds(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    records = [
        {"epoch": e, "seconds": 2.0, "test/accuracy": a, "images_per_second": 10.0}
        for e, a in enumerate((0.2, 0.6, 0.5, 0.7), start=1)
    ]
    record_anew(run, records)
    comparison = compared(tmp_path, target=0.55)
    [arrival] = comparison.arrivals
    assert (arrival.epochs.value, arrival.epochs.reached) == (2.0, True)
    assert arrival.seconds is not None
    assert arrival.seconds.value == 4.0
    assert comparison.costs[0].seconds_per_epoch == 2.0


def test_a_curve_is_the_mean_over_seeds_with_its_t_interval(tmp_path: Path) -> None:
    for seed, value in enumerate((0.49, 0.51)):
        run = make_run(tmp_path, seed=seed)
        record_anew(run, [{"epoch": 1, "seconds": 1, "test/accuracy": value}])
    [curve] = compared(tmp_path).curves
    expected = scipy_stats.ttest_1samp([0.49, 0.51], 0).confidence_interval()
    assert (curve.mean[0], int(curve.n[0])) == (0.5, 2)
    assert (curve.low[0], curve.high[0]) == pytest.approx(tuple(expected))


def test_a_probe_is_told_per_layer_first_and_last(tmp_path: Path) -> None:
    make_run(tmp_path, sets={"train.epochs": 3}, probes=("dead",))
    probes = {(p.quantity, p.layer): p for p in compared(tmp_path).probes}
    conv1 = probes["dead", "conv1"]
    assert (conv1.first, conv1.last) == (0.5 / 2, 0.5 / 4)
    assert conv1.interval is None


# ---------------------------------------------------------------------------------------- bad input


def test_no_runs_at_all_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="bnlab train") as caught:
        compared(tmp_path)
    assert caught.value.exit_code == 2
    with pytest.raises(ConfigError, match="no such folder of runs"):
        load_runs([tmp_path / "absent"])


def test_every_bad_run_directory_is_named_and_the_rest_compared(tmp_path: Path) -> None:
    make_arm(tmp_path, OFF[:3], NONE)
    study = tmp_path / "made"
    make_run(tmp_path, seed=10, sets=NONE, status="running")
    make_run(tmp_path, seed=11, sets=NONE, status="failed", run={"error": "OSError: full"})
    (study / "arm" / "s12").mkdir(parents=True)
    foreign = study / "arm" / "s13"
    foreign.mkdir()
    (foreign / "run.json").write_text('{"made": "by another program"}')
    torn = make_run(tmp_path, seed=14, sets=NONE)
    torn.run.write_text('{"schema_ver')
    newer = make_run(tmp_path, seed=15, sets=NONE)
    newer.run.write_text('{"schema_version": 99}')
    no_run = make_run(tmp_path, seed=16, sets=NONE)
    no_run.run.unlink()
    no_config = make_run(tmp_path, seed=17, sets=NONE)
    no_config.config.unlink()
    broken = make_run(tmp_path, seed=18, sets=NONE)
    broken.metrics.write_text('{"epoch": 1}\nnot json\n{"epoch": 3}\n')
    edited = make_run(tmp_path, seed=19, sets=NONE)
    edited.config.write_text(edited.config.read_text().replace("lr: 0.1", "lr: 0.2"))
    (study / "logs").mkdir()
    only_metrics = study / "arm" / "s20"
    only_metrics.mkdir()
    (only_metrics / "metrics.jsonl").write_text('{"epoch": 1}\n')
    half = make_run(tmp_path, seed=21, sets=NONE)
    half.summary.unlink()

    comparison = compared(tmp_path)
    [result] = comparison.views[0].results
    assert sorted(result.scores) == [0, 1, 2]
    for seed, words in {
        10: "running; left out",
        11: r"failed (OSError: full); left out",
        12: "empty folder; left out",
        13: "no schema_version; not a run of bnlab; left out",
        14: "run.json: unreadable",
        15: "schema version 99 is newer",
        16: "run.json: missing; left out",
        17: "config.yaml: missing; left out",
        18: "metrics.jsonl:2: not a metrics record: ",
        19: "config.yaml is not the one that the run was made with; left out",
        20: "neither run.json nor config.yaml",
        21: "not finished (no summary.json); left out",
    }.items():
        assert words in remarks_on(comparison, f"/s{seed}"), seed
    assert remarks_on(comparison, "logs") == ""
    assert str(tmp_path) not in str(comparison.remarks)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("dataset", [], "run.json: not what bnlab writes: dataset: input should be an object"),
        ("dataset", {"classes": 10}, "run.json: not what bnlab writes: dataset.classes: "),
        ("config_hash", None, "config.yaml is not the one"),
    ],
)
def test_a_value_of_the_wrong_kind_is_named_and_the_run_left_out(
    tmp_path: Path, key: str, value: object, words: str
) -> None:
    make_arm(tmp_path, ON[:2], {})
    make_run(tmp_path, seed=2, run={key: value})
    comparison = compared(tmp_path)
    assert words in remarks_on(comparison, "/s2")
    assert comparison.views[0].results[0].n == 2


def test_gaps_and_a_cut_off_line_are_remarked_and_the_run_is_kept(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    lines = run.metrics.read_text().splitlines()
    lines[1] = lines[1].replace('"train/loss": ', '"train/loss": NaN, "was": ')
    run.metrics.write_text("\n".join(lines) + '\n{"epoch": 6, "train/')
    comparison = compared(tmp_path)
    assert "cut-off last line left out" in remarks_on(comparison, "/s0")
    assert "not finite (train/loss)" in remarks_on(comparison, "/s0")
    loss = next(curve for curve in comparison.curves if curve.tag == "train/loss")
    assert 2.0 not in loss.epochs
    assert comparison.views[0].results[0].n == 1


def test_a_run_without_curves_counts_only_where_that_is_allowed(tmp_path: Path) -> None:
    make_run(tmp_path).metrics.unlink()
    with pytest.raises(RefusedError, match=r"A15 .*epochs 0 in metrics\.jsonl"):
        compared(tmp_path)
    comparison = compared(tmp_path, allow_mixed=True)
    assert "metrics.jsonl: missing" in remarks_on(comparison, "/s0")
    assert comparison.views[0].results[0].n == 1
    assert comparison.curves == ()


def test_a_run_that_is_there_twice_counts_once(tmp_path: Path) -> None:
    make_run(tmp_path, sets={"name": "one"})
    make_run(tmp_path, sets={"name": "two"})
    comparison = compared(tmp_path)
    assert comparison.views[0].results[0].n == 1
    assert "same arm and seed" in remarks_on(comparison, "two/")


def test_a_pattern_and_overlapping_folders_give_each_run_once(tmp_path: Path) -> None:
    make_arm(tmp_path, OFF[:2], NONE)
    runs, _ = load_runs([tmp_path / "made" / "none-*" / "s?", tmp_path])
    assert [run.seed for run in runs] == [0, 1]


def test_arms_whose_value_was_chosen_once_get_no_verdict(tmp_path: Path) -> None:
    for values, sets in ((OFF, NONE), (ON, {})):
        tuned = {**sets, "dataset.val_size": 100}
        for lr, worse in ((0.1, 0.0), (0.3, 0.02)):
            make_arm(tmp_path, [values[0] - worse] * 2, {**tuned, "optim.lr": lr}, first=1000)
        make_arm(tmp_path, values, {**sets, "optim.lr": 0.1})
    effect = only_effect(compared(tmp_path))
    assert effect.p_holm is not None
    assert effect.p_holm < 0.05
    assert effect.verdict == "no verdict"
    assert "each_seed" in effect.barred
