"""Arms from factors: every combination of levels, its name, whom it follows, what is refused."""

from pathlib import Path

import pytest

from bnlab.config import flatten
from bnlab.errors import ConfigError
from bnlab.study.file import Plan
from bnlab.study.load import load_plan

TUNED = "set: {dataset.val_size: 10}\ntune: {optim.lr: [0.1, 1.0]}\ntune_seeds: 1\nseeds: 2\n"
FACTORS = """\
factors:
  norm:
    none: {model.norm: none}
    batch: {model.norm: batch}
  budget:
    b1: {train.epochs: 1}
    whole: {}
"""


def load(folder: Path, text: str, preset: str | None = None) -> Plan:
    file = folder / "study.yaml"
    file.write_text(text)
    return load_plan(file, preset=preset)


def fault(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(folder, text)
    return str(caught.value)


def test_every_combination_of_levels_is_an_arm_named_by_what_its_levels_change(
    tmp_path: Path,
) -> None:
    plan = load(tmp_path, FACTORS + "arms: {group: {model.norm: group}}\n" + TUNED)
    assert list(plan.spec.arms) == ["none_b1", "none", "batch_b1", "batch", "group"]
    assert plan.levels["none_b1"] == {"norm": "none", "budget": "b1"}
    assert plan.levels["batch"] == {"norm": "batch", "budget": "whole"}
    assert "group" not in plan.levels
    config = plan.configs["final", "batch_b1", (("optim.lr", 0.1),)]
    assert (config.model.norm.name, config.train.epochs) == ("batch", 1)


def test_factors_make_the_configurations_that_spelled_out_arms_make(tmp_path: Path) -> None:
    spelled = "arms:\n  none_b1: {model.norm: none, train.epochs: 1}\n  none: {model.norm: none}\n"
    spelled += "  batch_b1: {model.norm: batch, train.epochs: 1}\n  batch: {model.norm: batch}\n"
    one, other = load(tmp_path, FACTORS + TUNED), load(tmp_path, spelled + TUNED)
    assert {key: config.hash for key, config in one.configs.items()} == {
        key: config.hash for key, config in other.configs.items()
    }
    # What is kept beside the runs loads again, arm by arm.
    again = load(tmp_path, one.text)
    assert again.configs == one.configs


def test_a_level_to_follow_makes_every_arm_follow_the_one_of_that_level(tmp_path: Path) -> None:
    text = FACTORS.replace("    b1:", "    b2: {train.epochs: 2}\n    b1:")
    plan = load(tmp_path, text + TUNED + "follow: {budget: whole}\n")
    assert plan.spec.follow == {
        "none_b2": "none",
        "none_b1": "none",
        "batch_b2": "batch",
        "batch_b1": "batch",
    }
    assert plan.tuned_arms == ("none", "batch")
    chained = load(tmp_path, text + TUNED + "follow: {budget: whole, batch: none}\n")
    assert set(chained.spec.follow.values()) == {"none"}


def test_a_preset_adds_levels_and_changes_them(tmp_path: Path) -> None:
    preset = "presets:\n  more:\n    factors:\n      budget:\n        b1: {train.epochs: 3}\n"
    preset += "        b2: {train.epochs: 5}\n"
    plan = load(tmp_path, FACTORS + TUNED + preset, preset="more")
    epochs = {
        arm: plan.configs["final", arm, (("optim.lr", 0.1),)].train.epochs for arm in plan.spec.arms
    }
    assert (epochs["none_b1"], epochs["none_b2"]) == (3, 5)


def test_faults_in_factors_name_the_place(tmp_path: Path) -> None:
    said = fault(tmp_path, FACTORS + "arms: {none_b1: {}}\n" + TUNED)
    assert "study.yaml:8: arms.none_b1: is a combination of factors too; rename it" in said
    said = fault(tmp_path, FACTORS.replace("b1: {train.epochs: 1}", "b1: {}") + TUNED)
    assert "two combinations of levels are called" in said
    said = fault(tmp_path, FACTORS + TUNED + "follow: {budget: whol}\n")
    assert "follow.budget: unknown level 'whol'" in said
    assert "'whole'" in said
    said = fault(tmp_path, FACTORS.replace("epochs: 1", "epoch: 1") + TUNED)
    assert "study.yaml:6" in said
    assert "did you mean 'epochs'" in said
    assert "at least one arm" in fault(tmp_path, "seeds: 1\n")


ALTERNATIVES = """\
arms: {none: {model.norm: none}, longer: {model.norm: none, train.epochs: 3}, batch: {}}
follow: {longer: none}
alternatives: {none: {model.init.gain: [1.0, 0.3]}}
"""


def test_an_arm_may_have_alternatives_that_no_other_arm_has(tmp_path: Path) -> None:
    plan = load(tmp_path, ALTERNATIVES + TUNED + "each_seed: true\n")
    assert plan.grids["none"].values["model.init.gain"] == (1.0, 0.3)
    assert plan.grids["longer"] == plan.grids["none"]
    assert plan.grids["batch"].values == {"optim.lr": (0.1, 1.0)}
    assert plan.keys == ("model.init.gain", "optim.lr")
    config = plan.configs["final", "longer", (("model.init.gain", 0.3), ("optim.lr", 1.0))]
    assert (config.model.init.gain, config.train.epochs) == (0.3, 3)
    assert plan.grids["none"].above == {"optim.lr": (10.0, 100.0)}
    assert (
        flatten(plan.configs["final", "batch", (("optim.lr", 0.1),)].resolved())["model.init.gain"]
        == 1.0
    )


def test_a_value_for_all_arms_leaves_each_its_own_alternative(tmp_path: Path) -> None:
    plan = load(tmp_path, ALTERNATIVES + TUNED + "same: {optim.lr: 0.5}\n")
    assert plan.same is not None
    own = (("model.init.gain", 0.3), ("optim.lr", 1.0))
    point = plan.at_values("none", plan.same, own)
    assert point == (("model.init.gain", 0.3), ("optim.lr", 0.5))
    assert plan.configs["final", "none", point].optim.lr == 0.5
    # Nor do alternatives of one arm reach another.
    assert plan.at_values("batch", own, (("optim.lr", 0.1),)) == (("optim.lr", 1.0),)


def test_alternatives_are_checked_like_the_grid(tmp_path: Path) -> None:
    def said(text: str) -> str:
        return fault(tmp_path, "arms: {none: {model.norm: none}, batch: {}}\n" + TUNED + text)

    assert "unknown arm 'nono'" in said("alternatives: {nono: {model.init.gain: [1.0]}}\n")
    assert "expected a list" in said("alternatives: {none: {model.init.gain: 1.0}}\n")
    assert "given twice" in said("alternatives: {none: {model.init.gain: [1, 1.0]}}\n")
    assert "tuned in all arms" in said("alternatives: {none: {optim.lr: [1.0, 2.0]}}\n")
    assert "follows batch" in said(
        "follow: {none: batch}\nalternatives: {none: {model.init.gain: [1.0, 2.0]}}\n"
    )
    fixed = "alternatives: {none: {model.norm: [none, batch]}}\n"
    assert "arms.none: model.norm.name: is tuned" in said(fixed)
    assert "model.init.gian" in said("alternatives: {none: {model.init.gian: [1.0]}}\n")


def test_only_the_arms_listed_tune_by_seed(tmp_path: Path) -> None:
    plan = load(tmp_path, ALTERNATIVES + TUNED + "each_seed: [none]\n")
    assert {arm: plan.each(arm) for arm in plan.spec.arms} == {
        "none": True,
        "longer": True,
        "batch": False,
    }
    unknown = fault(tmp_path, ALTERNATIVES + TUNED + "each_seed: [bach]\n")
    assert "unknown arm 'bach'" in unknown
    follower = fault(tmp_path, ALTERNATIVES + TUNED + "each_seed: [longer]\n")
    assert "longer follows none; name that one" in follower
