import importlib
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from bnlab import registry as registry_module
from bnlab.errors import ConfigError
from bnlab.registry import CLAIMS, DATASETS, EXECUTORS, MODELS, NORMS, PROBES, Registry

FAMILIES = (CLAIMS, DATASETS, EXECUTORS, MODELS, NORMS, PROBES)


def registry() -> Registry[int]:
    made: Registry[int] = Registry("color")
    made.register("red", facts=("warm",))(1)
    made.register("blue")(2)
    return made


def test_a_registered_plug_in_is_found_by_its_name() -> None:
    colors = registry()
    assert (colors["red"], colors["blue"]) == (1, 2)
    assert list(colors) == ["red", "blue"]
    assert len(colors) == 2
    assert "warm" in colors.entry("red").facts


def test_an_unknown_name_lists_the_known_ones_and_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown color 'bleu'; did you mean 'blue'\?.*red"):
        registry()["bleu"]


def test_a_name_is_registered_only_once() -> None:
    with pytest.raises(ValueError, match="twice"):
        registry().register("red")(3)


# ----------------------------------------------------------------------- families as folders


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.kind)
def test_each_file_of_a_family_registers_its_stem_and_nothing_else(family: Registry[Any]) -> None:
    for name in family:
        family.entry(name)
    assert family._entries.keys() == family._sources.keys()


BLUE = "from family_of_colors import COLORS\nCOLORS.register('blue')(2)\n"


@pytest.fixture
def family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A family's folder: blue and a broken red, with a part that they share."""
    folder = tmp_path / "family_of_colors"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "from bnlab.registry import Registry\n"
        "COLORS = Registry('color', 'family_of_colors', 'family.colors')\n"
    )
    (folder / "blue.py").write_text(BLUE)
    (folder / "red.py").write_text("raise RuntimeError('red is broken')\n")
    (folder / "_shade.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.startswith("family_of_colors")]:
        monkeypatch.delitem(sys.modules, name)
    return folder


def colors() -> Registry[int]:
    from family_of_colors import COLORS  # type: ignore[import-not-found]

    made: Registry[int] = COLORS
    return made


def install(monkeypatch: pytest.MonkeyPatch, *points: tuple[str, str]) -> None:
    """Entry points as if packages were installed, each a name and what it points at."""
    made = [EntryPoint(name, value, "family.colors") for name, value in points]
    monkeypatch.setattr(registry_module, "entry_points", lambda **_group: made)


def test_names_are_files_and_entry_points_of_which_none_is_imported(
    family: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, ("green", "a_package_that_is_not_there.green"))
    assert list(colors()) == ["blue", "red", "green"]
    assert len(colors()) == 3
    assert "red" in colors()
    assert not {name for name in sys.modules if name.startswith("family_of_colors.")}


def test_a_name_imports_its_own_file_alone(family: Path) -> None:
    assert colors()["blue"] == 2
    assert {name for name in sys.modules if name.startswith("family_of_colors.")} == {
        "family_of_colors.blue"
    }


def test_a_file_that_registers_another_name_is_named(family: Path) -> None:
    (family / "green.py").write_text(BLUE)
    with pytest.raises(ConfigError, match=r"'green': bnlab \(family_of_colors.green\) registers"):
        colors()["green"]


def test_a_broken_package_is_named_where_it_is_used_and_harms_nobody_else(
    family: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, ("green", "a_package_that_is_not_there.green"))
    assert colors()["blue"] == 2
    with pytest.raises(ConfigError, match=r"'green': .*a_package_that_is_not_there.*does not load"):
        colors()["green"]


@pytest.mark.parametrize("points", [["blue"], ["green", "green"]])
def test_a_name_of_two_packages_is_an_error_where_it_is_used_or_listed(
    family: Path, monkeypatch: pytest.MonkeyPatch, points: list[str]
) -> None:
    install(monkeypatch, *((name, f"other_{i}.{name}") for i, name in enumerate(points)))
    with pytest.raises(ConfigError, match=rf"'{points[0]}' is in .* and .*other_.*uninstall"):
        colors()[points[0]]
    with pytest.raises(ConfigError, match="uninstall"):
        list(colors())
    assert "blue" in colors()
    if points[0] != "blue":
        assert colors()["blue"] == 2


def test_a_plug_in_whose_file_another_thread_still_loads_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "slow_family"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from bnlab.registry import Registry\nSLOW = Registry('slow thing', 'slow_family')\n"
    )
    (package / "one.py").write_text(
        "import time\nfrom slow_family import SLOW\n\n\n@SLOW.register('one')\n"
        "def one():\n    return part()\n\n\ntime.sleep(0.3)\n\n\ndef part():\n    return 1\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    family = importlib.import_module("slow_family")

    def call() -> Any:
        return family.SLOW["one"]()

    with ThreadPoolExecutor(4) as threads:
        made = [threads.submit(call) for _ in range(4)]
        assert [one.result() for one in made] == [1] * 4
