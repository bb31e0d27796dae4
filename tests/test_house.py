"""The floors of the package, as they are at run time."""

import pkgutil
import subprocess
import sys

import pytest

import bnlab

HEAVY = ("torch", "torchvision", "bnlab.training")


def modules_of(folder: str) -> list[str]:
    package = f"bnlab.{folder}"
    found = __import__(package, fromlist=["__path__"]).__path__
    below = pkgutil.walk_packages(found, f"{package}.")
    return [package, *(module.name for module in below if not module.name.endswith("__main__"))]


def loaded_after(modules: list[str], names: tuple[str, ...]) -> list[str]:
    code = f"import sys\nfor m in {modules!r}: __import__(m)\n"
    code += f"print(*(m for m in {names!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.parametrize("folder", ["config", "records", "analysis", "claims", "report"])
def test_a_folder_that_judges_loads_no_torch(folder: str) -> None:
    assert loaded_after(modules_of(folder), HEAVY) == []


def test_reading_runs_and_judging_them_loads_no_scipy_stats() -> None:
    assert loaded_after([*modules_of("analysis"), *modules_of("claims")], ("scipy.stats",)) == []


def test_the_command_line_loads_nothing_heavy_before_a_command_is_known() -> None:
    heavy = (*HEAVY, "scipy", "matplotlib", "numpy")
    assert loaded_after(["bnlab.cli"], heavy) == []


def test_reporting_loads_matplotlib_only_to_draw() -> None:
    modules = [name for name in modules_of("report") if ".plots." not in name]
    assert loaded_after(modules, ("matplotlib",)) == []


def test_the_package_itself_is_light() -> None:
    assert bnlab.__version__
    assert loaded_after(["bnlab"], (*HEAVY, "numpy", "pydantic")) == []
