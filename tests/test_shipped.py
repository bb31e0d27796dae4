"""Configurations that come with bnlab, by name."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bnlab.cli import app
from bnlab.config import list_shipped, load_config, named, shipped, shipped_as
from bnlab.errors import ConfigError
from bnlab.study.load import load_plan

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", ["seed", "seed.yaml", "configs/seed.yaml", "configs/seed"])
def test_a_shipped_configuration_is_found_by_its_name_from_anywhere(name: str) -> None:
    assert load_config([name]) == load_config([ROOT / "configs/seed.yaml"])


def test_a_file_of_ones_own_goes_first_and_a_folder_does_not(tmp_path: Path) -> None:
    (tmp_path / "seed").mkdir()
    assert load_config(["seed"]).name == "seed"
    (tmp_path / "seed_fair").write_text("name: mine\n")
    assert load_config(["seed_fair"]).name == "mine"


@pytest.mark.parametrize("name", ["../seed", "configs", "", "/seed", "quick", "claims"])
def test_what_is_no_name_of_a_configuration_is_looked_for_as_a_path_only(name: str) -> None:
    assert shipped_as(Path(name)) is None
    assert named(Path(name)) == Path(name)


def test_a_name_that_nothing_has_leads_to_the_list() -> None:
    with pytest.raises(ConfigError, match=r"seeed: no such configuration file; bnlab configs"):
        load_config(["seeed"])


def test_a_shipped_study_is_found_by_its_name_and_may_be_based_on_by_another(
    tmp_path: Path,
) -> None:
    assert load_plan(Path("quick")).text == load_plan(ROOT / "configs/studies/quick.yaml").text
    study = "name: mine\nbase: seed_fair\narms: {none: {model.norm: none}}\nseeds: 2\n"
    (tmp_path / "mine.yaml").write_text(study)
    (config,) = load_plan(tmp_path / "mine.yaml").configs.values()
    assert config.optim.schedule == load_config(["seed_fair"]).optim.schedule


def test_the_list_has_every_configuration_and_study_with_a_sentence_and_each_name_works() -> None:
    found = list(list_shipped())
    folders = ("", "presets", "studies")
    there = {path for folder in folders for path in (ROOT / "configs" / folder).glob("*.yaml")}
    assert {one.path for one in found} == there
    for one in found:
        assert shipped_as(Path(one.name), one.kind) == one.path
        assert one.about.endswith((".", "?"))
        assert len(one.about.split()) > 4
    assert shipped("nothing.yaml") is None


def test_bnlab_configs_prints_the_list() -> None:
    shown = CliRunner().invoke(app, ["configs"]).output
    listed = json.loads(CliRunner().invoke(app, ["configs", "--json"]).output)["configs"]
    assert all(one["name"] in shown for one in listed)
    assert {one["kind"] for one in listed} == {"configuration", "preset", "study"}
