import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnlab.config import (
    ABSENT,
    LATER_KEYS,
    Config,
    ConfigSection,
    DatasetConfig,
    Layer,
    ModelConfig,
    NormConfig,
    OptimConfig,
    arm_label,
    build_config,
    build_section,
    differences,
    flatten,
    load_config,
    parse_yaml,
    resolved_hash,
    restore_config,
    sublayer,
)
from bnlab.config.described import describe_keys
from bnlab.errors import ConfigError
from bnlab.records import RunFiles, find_runs
from bnlab.registry import DATASETS, MODELS, NORMS, Registry


def make(*overrides: str, files: tuple[Path, ...] = (), **flags: Any) -> Config:
    return load_config(files, overrides, flags=flags)


def fault(*overrides: str, files: tuple[Path, ...] = ()) -> str:
    with pytest.raises(ConfigError) as caught:
        make(*overrides, files=files)
    return str(caught.value)


def write(folder: Path, text: str, name: str = "x.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_later_places_win_defaults_then_files_then_set_then_flags(tmp_path: Path) -> None:
    one = write(
        tmp_path, "seed: 1\noptim: {lr: 1, weight_decay: 1}\ntrain: {epochs: 1}\n", "1.yaml"
    )
    two = write(tmp_path, "seed: 2\noptim: {lr: 2, weight_decay: 2}\n", "2.yaml")
    config = make("optim.lr=3", "seed=3", files=(one, two), seed=4)
    assert (config.seed, config.optim.lr) == (4, 3.0)
    assert (config.optim.weight_decay, config.train.epochs) == (2.0, 1)
    assert config.optim.momentum == 0.9


def test_a_number_in_the_form_1e_3_is_a_number(tmp_path: Path) -> None:
    config = make("optim.weight_decay=5E-4", files=(write(tmp_path, "optim: {lr: 1e-3}"),))
    assert (config.optim.lr, config.optim.weight_decay) == (1e-3, 5e-4)


def test_every_fault_of_a_file_is_reported_at_once_with_its_line(tmp_path: Path) -> None:
    text = (
        "name: x\ntrain:\n  epochs: many\n  leraning_rate: 0.1\n"
        "model:\n  norm:\n    name: bacth\noptim: {lr: -1}\n"
    )
    path = write(tmp_path, text)
    lines = fault(files=(path,)).splitlines()
    assert len(lines) == 4
    assert f'{path}:3: train.epochs: expected a whole number, got "many"' in lines
    assert any(line.startswith(f"{path}:4: train.leraning_rate: unknown key") for line in lines)
    assert any(
        line.startswith(f"{path}:7: model.norm.name: unknown norm 'bacth'; did you mean 'batch'?")
        for line in lines
    )
    assert any(line.startswith(f"{path}:8: optim.lr:") for line in lines)


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("optim.momentun=0.9", "did you mean 'momentum'"),
        ("train.lr=0.1", "did you mean 'optim.lr'"),
        ("optim.schedule=cosin", "did you mean 'cosine'"),
        ("dataset.name=cifar", "did you mean 'cifar10'"),
        ("modle.dropout=0.1", "did you mean 'model'"),
        ("model.name=convnett", "did you mean 'convnet'"),
    ],
)
def test_an_unknown_key_or_name_gets_the_nearest_known_one(override: str, hint: str) -> None:
    assert hint in fault(override)
    assert f"--set {override}" in fault(override)


@pytest.mark.parametrize("word", ["off", "no", "false", "on"])
def test_a_boolean_where_a_norm_name_belongs_is_told_what_to_write(word: str) -> None:
    assert "`none` switches normalization off" in fault(f"model.norm={word}")
    assert "`none` switches normalization off" in fault(f"model.norm.name={word}")


@pytest.mark.parametrize(
    "override",
    [
        "seed=true",
        "train.epochs=0",
        "train.epochs=1.5",
        "optim.lr=.nan",
        "optim.lr=.inf",
        "dataset.flip=1",
        "model.widths=[]",
        "model.widths=[16, 0]",
        "model.widths=16",
        "model.dropout=1",
        "model.norm=[batch]",
        "model=3",
        "name='a b'",
        "optim.betas=[0.9]",
        "optim.betas=[0.9, 1.0]",
        "optim.milestones=[1.5]",
        "model.widths=[99999999999]",
        "probes=[weights, weights]",
        "x",
        "=1",
        "a..b=1",
        "optim.lr=[",
    ],
)
def test_a_value_of_the_wrong_type_or_out_of_range_is_an_error(override: str) -> None:
    assert override.split("=", maxsplit=1)[0] in fault(override)


@pytest.mark.parametrize(
    "assignment",
    [
        "dataset.train_size=9223372036854775807",
        "dataset.val_size=9223372036854775807",
        "dataset.test_size=9223372036854775807",
        "train.epochs=2147483648",
        "train.batch_size=9223372036854775807",
        "train.eval_batch_size=9223372036854775807",
        "train.test_every=9223372036854775807",
        "optim.warmup_epochs=1e308",
        "optim.lr=1e39",
        "optim.weight_decay=1e39",
        "model.init.gain=1e39",
        "model.norm.eps=1e39",
        "model.norm.groups=9223372036854775807",
        "model.norm.ghost_size=9223372036854775807",
        "model.norm.noise_mean=1e39",
        "model.norm.noise_std=1e39",
        "model.depths=[9223372036854775807, 1, 1]",
        f"model.widths={[1] * 101}",
        f"model.hidden={[1] * 101}",
        f"optim.milestones={[0.5] * 101}",
        f"name={'a' * 101}",
        f"dataset.root={'a' * 5000}",
    ],
)
def test_a_value_that_no_run_can_have_is_one_fault_that_names_its_key(assignment: str) -> None:
    key = assignment.split("=", maxsplit=1)[0]
    message = fault(assignment)
    assert f": {key}" in message
    assert " at most " in message or "less than or equal" in message
    assert "\n" not in message
    assert len(message) < 350


def test_of_very_many_faults_the_first_are_told_and_the_rest_counted() -> None:
    lines = fault(f"model.widths={['x'] * 90}").splitlines()
    assert len(lines) == 51
    assert lines[49].endswith('model.widths.49: expected a whole number, got "x"')
    assert lines[50].endswith("model.widths.50: and 40 more faults from here on")


def test_a_fault_echoes_the_beginning_of_a_long_value_and_what_cannot_be_seen_escaped() -> None:
    assert f'got "{"x" * 78}…' in fault(f"train.epochs={'x' * 5000}")
    assert r'got "a\u202eb"' in fault("optim.schedule=a\u202eb")
    assert f"unknown norm '{'x' * 78}…" in fault(f"model.norm.name={'x' * 5000}")


def test_a_key_given_twice_is_an_error_with_its_line(tmp_path: Path) -> None:
    path = write(tmp_path, "optim:\n  lr: 1\n  lr: 2\n")
    assert f"{path}:3: optim.lr: given twice" in fault(files=(path,))


def test_nesterov_without_momentum_is_an_error_unless_it_means_nothing() -> None:
    assert "nesterov" in fault("optim={nesterov: true, momentum: 0}")
    make("optim={name: adam, nesterov: true, momentum: 0}")


def test_a_wrong_entry_does_not_make_its_list_too_short_as_well() -> None:
    assert fault("model.widths=[0]").count("\n") == 0


def test_a_fault_shows_values_as_yaml_writes_them() -> None:
    assert "got null" in fault("model=")
    assert "got [1, 2]" in fault("model=[1, 2]")
    assert 'got "ünï"' in fault("name=ünï")


def test_one_set_gives_one_key() -> None:
    assert "once for each key" in fault("seed=1\nother: 2")


@pytest.mark.parametrize("text", ["[1, 2]: 3", "? {a: b}\n: 1", "a: &a [*a]", "a: &a {b: *a}"])
def test_a_key_that_is_no_word_and_an_endless_alias_are_errors(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, text)
    assert str(path) in fault(files=(path,))


@pytest.mark.parametrize("text", ["a: [", "- 1\n- 2\n", "just words", "a:\n\t- b"])
def test_a_file_that_is_not_a_mapping_is_an_error_with_its_line(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, text)
    assert fault(files=(path,)).startswith(f"{path}:")


def test_missing_and_binary_files_are_errors(tmp_path: Path) -> None:
    assert "no such configuration file" in fault(files=(tmp_path / "absent.yaml",))
    binary = tmp_path / "b.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    assert "cannot be read" in fault(files=(binary,))
    assert "cannot be read" in fault(files=(tmp_path,))


def test_an_empty_file_means_the_defaults(tmp_path: Path) -> None:
    assert make(files=(write(tmp_path, "# nothing\n"),)) == make()


def test_norm_none_is_short_for_a_mapping_in_files_and_overrides(tmp_path: Path) -> None:
    path = write(tmp_path, "model: {norm: none}")
    assert make(files=(path,)) == make("model.norm=none") == make("model.norm.name=none")
    assert make(files=(path,)).model.norm.name == "none"


def test_a_norm_in_its_short_form_is_blamed_where_it_stands_not_where_the_long_one_does(
    tmp_path: Path,
) -> None:
    below = write(tmp_path, "model:\n  norm:\n    name: batch")
    assert "--set model.norm=xyz: model.norm.name: unknown" in fault(
        "model.norm=xyz", files=(below,)
    )


def test_switching_the_norm_off_drops_the_fields_that_then_mean_nothing(tmp_path: Path) -> None:
    path = write(tmp_path, "model: {norm: {name: batch, placement: after_pool, momentum: 0.3}}")
    config = make("model.norm.name=none", files=(path,))
    assert config.resolved()["model"]["norm"].keys() >= {"name"}
    assert not {"placement", "momentum", "eps"} & config.resolved()["model"]["norm"].keys()
    assert config.hash == make("model.norm=none").hash


@pytest.mark.parametrize(
    ("idle", "context"),
    [
        ("optim.momentum=0.5", ["optim.name=adam"]),
        ("optim.betas=[0.5, 0.9]", []),
        ("optim.milestones=[0.1]", ["optim.schedule=cosine"]),
        ("model.norm.groups=4", []),
        ("model.depths=[1]", ["model.widths=[8]"]),
        ("model.norm.momentum=0.4", ["model.norm.name=group"]),
        ("dataset.root=elsewhere", ["dataset.name=synthetic"]),
        ("seed=7", []),
        ("name=other", []),
        ("dataset.root=elsewhere", []),
    ],
)
def test_what_does_not_change_the_experiment_does_not_change_the_hash(
    idle: str, context: list[str]
) -> None:
    assert make(*context, idle).hash == make(*context).hash


@pytest.mark.parametrize(
    "real", ["optim.lr=0.2", "model.norm.momentum=0.4", "dataset.val_size=5", "model.residual=true"]
)
def test_what_changes_the_experiment_changes_the_hash(real: str) -> None:
    assert make(real).hash != make().hash


def test_a_record_without_the_later_keys_means_what_it_was_made_with() -> None:
    config = make()
    resolved = config.resolved()
    for key in ("name", "depths", "residual"):
        assert f"model.{key}" in LATER_KEYS
        del resolved["model"][key]
    assert resolved_hash(resolved) == config.hash
    assert restore_config(resolved) == config


def test_depths_must_fit_the_widths() -> None:
    with pytest.raises(ConfigError, match=r"one number for each of the 3 widths"):
        make("model.depths=[1, 2]")


settings_of_a_run = st.fixed_dictionaries(
    {
        "optim.lr": st.floats(1e-8, 1e3, allow_nan=False),
        "optim.name": st.sampled_from(["sgd", "adam"]),
        "optim.schedule": st.sampled_from(["constant", "linear", "cosine", "step"]),
        "model.widths": st.lists(st.integers(1, 512), min_size=1, max_size=5),
        "model.norm.name": st.sampled_from(["none", "batch", "group"]),
        "model.norm.placement": st.sampled_from(["before_activation", "both"]),
        "model.norm.eps": st.floats(1e-12, 1.0),
        "dataset.train_size": st.none() | st.integers(1, 50_000),
        "train.precision": st.sampled_from(["auto", "fp32"]),
    }
)


@given(settings_of_a_run)
@settings(deadline=None, max_examples=40, derandomize=True)
def test_the_resolved_yaml_loads_back_to_an_equal_configuration(values: dict[str, Any]) -> None:
    overrides = [f"{key}={'null' if value is None else value}" for key, value in values.items()]
    config = make(*overrides)
    loaded = build_config([parse_yaml(config.to_yaml(), "resolved.yaml")])
    assert loaded == config
    assert (loaded.hash, loaded.resolved()) == (config.hash, config.resolved())


def test_differences_name_the_keys_and_both_values() -> None:
    found = differences(make().resolved(), make("model.norm=none", "optim.lr=1").resolved())
    assert ("optim.lr", 0.1, 1.0) in found
    assert ("model.norm.name", "batch", "none") in found
    assert ("model.norm.placement", "before_activation", ABSENT) in found
    assert differences(make().resolved(), make().resolved()) == []
    short, full = {"a": {"model.norm": "none"}}, {"a": {"model": {"norm": {"name": "none"}}}}
    assert differences(short, full) == []
    assert differences(short, {"a": {"model.norm": "batch"}}) == [
        ("a.model.norm.name", "none", "batch")
    ]


def test_flatten_joins_keys_with_dots_and_keeps_lists() -> None:
    assert flatten({"a": {"b": {"c": 1}}, "d": [1, {"e": 2}]}) == {"a.b.c": 1, "d": [1, {"e": 2}]}


def test_a_misspelt_placement_is_taken_for_the_nearest_that_is_meant() -> None:
    with pytest.raises(ConfigError, match="did you mean 'before'"):
        make("model.norm.placement=befor")


@pytest.mark.parametrize("short", ["before", "after"])
def test_before_and_after_are_short_for_those_of_the_activation(short: str) -> None:
    whole = make(f"model.norm.placement={short}_activation")
    assert make(f"model.norm.placement={short}") == whole
    assert make(f"model.norm.placement={short}").hash == whole.hash
    stored = whole.resolved()
    stored["model"]["norm"]["placement"] = short
    assert restore_config(stored).to_yaml() == whole.to_yaml()


def test_an_arm_is_labeled_by_its_norm_and_placement() -> None:
    assert arm_label(make("model.norm=none")) == "none"
    assert arm_label(make("model.norm.placement=both")) == "batch-both"


def test_a_configuration_cannot_be_changed_after_loading() -> None:
    with pytest.raises(ValueError, match="frozen"):
        make().seed = 3  # type: ignore[misc]


# ------------------------------------------------------------------------- parts of other files


def test_part_of_a_file_is_a_layer_whose_keys_may_be_dotted() -> None:
    text = "arms:\n  a:\n    optim.lr: 2\n    model:\n      norm: none\n  b: {}\n"
    layer = sublayer(parse_yaml(text, "s.yaml"), "arms", "a")
    assert layer.tree == {"optim": {"lr": 2}, "model": {"norm": "none"}}
    assert layer.marks["optim", "lr"] == layer.marks["optim",] == "s.yaml:3"
    assert layer.marks["model", "norm"] == "s.yaml:5"
    assert sublayer(parse_yaml(text, "s.yaml"), "arms", "b") == Layer({}, {})
    with pytest.raises(ConfigError, match=r"s\.yaml:3: optim\.lr: expected a number"):
        build_config([sublayer(parse_yaml(text.replace("2", "x"), "s.yaml"), "arms", "a")])


def test_dotted_keys_of_one_section_are_laid_together() -> None:
    layer = sublayer(parse_yaml("optim.lr: 1\noptim.momentum: 0\noptim: {name: sgd}", "s.yaml"))
    assert layer.tree == {"optim": {"lr": 1, "momentum": 0, "name": "sgd"}}
    with pytest.raises(ConfigError, match=r"s\.yaml:2: optim\.lr: given twice"):
        sublayer(parse_yaml("optim.lr: 1\noptim: {lr: 2}", "s.yaml"))


def test_another_schema_has_the_same_words_for_its_faults() -> None:
    class Plan(ConfigSection):
        seeds: int
        budget: float = 1.0

    layer = parse_yaml("budgte: 3", "s.yaml")
    with pytest.raises(ConfigError) as caught:
        build_section(Plan, layer)
    assert str(caught.value).splitlines() == [
        "defaults: seeds: required, but not given",
        "s.yaml:1: budgte: unknown key; did you mean 'budget'? (known: budget, seeds)",
    ]
    assert build_section(Plan, Layer({"seeds": 3}, {})) == Plan(seeds=3)


def test_a_resolved_configuration_is_restored_with_its_hash() -> None:
    config = make("model.norm=none", "model.widths=[8]", "seed=4")
    restored = restore_config(config.resolved())
    assert (restored, restored.hash) == (config, config.hash)


# ------------------------------------------------------------------------------ what is recorded

REFERENCE = Path(__file__).parents[1] / "runs" / "reference"
RECORDED = Path(__file__).with_name("recorded.tar.xz")
"""One run of each arm of the first edition's claims, kept for its configuration and its hash."""


def recorded_arms() -> list[RunFiles]:
    """One run of each arm in the reference and of those recorded before."""
    arms = {run.root.parent: run for run in find_runs([REFERENCE, RECORDED]).runs}
    return list(arms.values())


def test_a_recorded_configuration_still_resolves_to_its_recorded_hash() -> None:
    runs = recorded_arms()
    assert len(runs) > 200
    for run in runs:
        text = run.read("config.yaml").decode()
        config = build_config([parse_yaml(text, str(run.root))])
        assert config.hash == json.loads(run.read("run.json"))["config_hash"]


def test_every_norm_resolves_and_hashes_without_torch() -> None:
    program = (
        "import sys\n"
        "from bnlab.config import load_config\n"
        "from bnlab.registry import NORMS\n"
        "print(*{load_config(overrides=[f'model.norm={name}']).hash for name in NORMS})\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert len(done.stdout.split()) == len(NORMS)


@pytest.mark.parametrize(
    ("section", "kind"),
    [
        (DatasetConfig, DATASETS),
        (ModelConfig, MODELS),
        (NormConfig, NORMS),
        (OptimConfig, None),
    ],
)
def test_what_is_said_to_read_a_field_exists(
    section: type[ConfigSection], kind: Registry[object] | None
) -> None:
    for table in (section.only_with, section.never_with):
        for field, (selector, values) in table.items():
            assert {field.partition(".")[0], selector} <= section.model_fields.keys()
            for value in values:
                section.model_validate({selector: value})
                assert kind is None or value in kind


def test_the_schema_is_described_key_by_key() -> None:
    keys = {key.name: key for key in describe_keys()}
    named = set(flatten(Config().model_dump(mode="json")))
    assert named <= keys.keys() | {"model.arguments"}
    assert all(key.meaning and key.accepts for key in keys.values())
    assert keys["model.norm.momentum"].accepts == "a number above 0 up to 1"
    assert keys["dataset.train_size"].accepts == "a whole number from 1 up to 10,000,000 or null"
    assert keys["optim.betas"].accepts == "a list of 2, each a number from 0 below 1"
    assert keys["model.norm.ghost_size"].counts == "only with model.norm.name ghost"
    assert keys["train.test_every"].default == "1"
    for name in NORMS:
        assert name in keys["model.norm.name"].accepts
    for key in keys.values():  # what is said to be the default is what a file may say
        if key.default:
            load_config(overrides=[f"{key.name}={key.default}"])
