"""What bnlab is built on: told in full, licensed as told, and looked up honestly."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from audit import verdict

ROOT = Path(__file__).parent.parent
TABLE = {
    name: (limits, licence)
    for name, limits, licence in re.findall(
        r"^\| ([a-z0-9]+) \| `([^`]+)` \| ([^|]+) \| [^|]+ \|$",
        (ROOT / "bnlab/docs/en/dependencies.md").read_text(encoding="utf-8"),
        flags=re.MULTILINE,
    )
}


def test_every_dependency_is_named_with_its_range() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    named = [*project["dependencies"], *extras["slurm"], *extras["ray"]]
    split = [re.fullmatch(r"([a-z0-9]+)(.*)", one) for one in named]
    assert {name: limits for name, (limits, _) in TABLE.items()} == {
        one[1]: one[2] for one in split if one
    }


@pytest.mark.parametrize("name", TABLE)
def test_a_licence_is_what_the_installed_package_says(name: str) -> None:
    try:
        about = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        if name != "ray":
            raise
        pytest.skip("ray is no part of the extra for tests")
    fields = ("License-Expression", "License", "Classifier")
    said = [text for field in fields for text in about.get_all(field) or []]
    licence = TABLE[name][1].removesuffix(" and others")
    assert any(licence in text for text in said)


def test_what_could_not_be_looked_up_is_no_good_news() -> None:
    sound = {"name": "a", "version": "1", "vulns": []}
    bad = {"name": "b", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}]}
    skipped = {"name": "c", "skip_reason": "not found"}
    assert verdict({"dependencies": [sound]}) == (0, ["no known vulnerability in 1 packages"])
    assert verdict({"dependencies": [sound, bad]}) == (4, ["b 2: CVE-1, mended in 3"])
    code, [said] = verdict({"dependencies": [sound, skipped]})
    assert code == 1
    assert "could not be asked for 1 of 2 packages" in said
    assert verdict({"dependencies": [bad, skipped]})[0] == 4
    assert verdict({"dependencies": []})[0] == 1
