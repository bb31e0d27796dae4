import re
import subprocess
import sys
from pathlib import Path

import pytest

from bnlab.config import build_config, flatten, load_config, parse_yaml
from bnlab.doctor import CHECKS
from bnlab.training.norms import NORMS
from bnlab.training.probes import PROBES
from bnlab.training.task import check_config

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_configuration_is_valid_and_named_after_its_file(path: Path) -> None:
    config = load_config([path])
    check_config(config)
    assert config.name == path.stem
    assert f"configs/{path.name}" in README


def test_the_readme_names_every_module() -> None:
    block = README.split("```\nbnlab/\n")[1].split("```")[0]
    named = set(re.findall(r"^  ([a-z_]+(?:\.py|/))", block, flags=re.MULTILINE))
    there = {
        path.name + ("/" if path.is_dir() else "")
        for path in (ROOT / "bnlab").iterdir()
        if not path.name.startswith("_") and (path.is_dir() or path.suffix == ".py")
    }
    assert named == there


def test_the_readme_names_every_command_and_norm() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bnlab.cli", "--help"], capture_output=True, text=True, check=True
    )
    commands = re.findall(r"^│ ([a-z]+)  ", done.stdout, flags=re.MULTILINE)
    assert "train" in commands
    for command in commands:
        assert f"bnlab {command}" in README
    for norm in NORMS:
        assert f"`{norm}`" in README


def test_the_readmes_table_of_probes_is_complete_and_says_which_are_costly() -> None:
    table = README.partition("| probe | what | cost |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| `(\w+)` \| .* \| \d+ %(, costly)?;? ?.* \|$", table, re.MULTILINE)
    facts = {name: PROBES.entry(name).facts for name in PROBES}
    assert rows == [(name, ", costly" if "costly" in facts[name] else "") for name in sorted(facts)]


def test_the_configuration_in_the_readme_is_the_default_one() -> None:
    text = re.search(r"```yaml\n(.*?)```", README, flags=re.DOTALL)
    assert text is not None
    config = build_config([parse_yaml(text[1], "README.md")])
    default = load_config(overrides=["name=seed"])
    assert flatten(config.resolved()) == flatten(default.resolved())


def test_the_faithful_and_the_defective_seed_differ_in_the_named_defects_only() -> None:
    seed = flatten(load_config([ROOT / "configs/seed.yaml"]).resolved())
    as_written = flatten(load_config([ROOT / "configs/seed_as_written.yaml"]).resolved())
    assert {key for key in seed if seed[key] != as_written[key]} == {
        "name",
        "dataset.augment_test",
        "train.evaluate_in_train_mode",
        "train.eval_batch_size",
        "train.test_every",
    }


def test_the_doctors_table_is_that_of_its_checks() -> None:
    rows = re.findall(r"^\| (BN\d+) \| (.*) \| (fault|told)(, images)? \|$", README, re.MULTILINE)
    assert rows == [
        (check.code, check.title, check.severity, ", images" * check.images) for check in CHECKS
    ]
