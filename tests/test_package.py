"""What is given away: a wheel and a source archive that hold what they should, and work."""

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from conftest import TINY

CHECKOUT = Path(__file__).parent.parent
VERDICTS = "runs/reference/claims/claims.json"
"""What the release says of the claims, for whoever has no runs."""

SOURCES = {"bnlab", "configs", "scripts", "tests"}
BESIDE = {"CHANGELOG.md", "LICENSE", "PKG-INFO", "README.md", "constraints.txt", "pyproject.toml"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-t", "sdist"]
    subprocess.run([*command, "-d", str(folder)], cwd=CHECKOUT, check=True, capture_output=True)
    return folder


def files_of(folder: str, *suffixes: str) -> set[str]:
    found = (path for path in (CHECKOUT / folder).rglob("*") if path.suffix in suffixes)
    return {path.relative_to(CHECKOUT).as_posix() for path in found}


def test_the_wheel_holds_the_package_its_configurations_and_the_reference_verdicts_only(
    built: Path,
) -> None:
    (wheel,) = built.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    about = {name for name in names if name.split("/")[0].endswith(".dist-info")}
    package = files_of("bnlab", ".py", ".j2", ".js", ".css", ".md", ".typed")
    configs = {f"bnlab/{name}" for name in files_of("configs", ".yaml", ".md")}
    assert names - about == package | configs | {"bnlab/reference.json"}
    assert len(about) == 5  # METADATA, WHEEL, RECORD, entry points, licence


def test_the_source_archive_holds_the_sources_and_of_runs_the_verdicts_only(built: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = [name.partition("/")[2] for name in opened.getnames()]
    tops = {name.split("/")[0] for name in names}
    assert SOURCES | BESIDE <= tops <= SOURCES | BESIDE | {".gitignore", "runs"}
    assert {name for name in names if name.startswith("runs/")} == {VERDICTS}
    assert files_of("tests", ".py", ".json") <= set(names)
    if (CHECKOUT / ".git").exists():
        command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
        known = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True)
        assert set(names) - {"PKG-INFO"} <= set(known.stdout.splitlines())


def test_an_installed_wheel_trains_compares_and_judges_without_the_checkout(
    built: Path, tmp_path: Path
) -> None:
    (wheel,) = built.glob("*.whl")
    fresh = tmp_path / "venv"
    venv.create(fresh, symlinks=True)
    python = fresh / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "-q", "--no-deps", "--no-index", str(wheel)], check=True)
    # The dependencies, but no bnlab of theirs: .pth files of a folder added so are not read.
    (site,) = fresh.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    empty = tmp_path / "empty"
    empty.mkdir()
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def run(program: str, *arguments: str) -> str:
        command = [str(fresh / "bin" / program), *arguments]
        done = subprocess.run(
            command, cwd=empty, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    found = run("python", "-c", "import bnlab; print(bnlab.__file__)").strip()
    assert Path(found).is_relative_to(fresh)
    learns = [*TINY, "dataset.train_size=800", "dataset.flip=false", "train.epochs=4"]
    sets = [word for setting in learns for word in ("--set", setting)]
    assert "test accuracy" in run("bnlab", "train", *sets)
    assert "200 epochs" in run("bnlab", "configs")
    assert run("bnlab", "check", "quickstart").startswith("quickstart: valid")
    assert "120" in run("bnlab", "study", "plan", "quick")
    (summary,) = empty.glob("runs/tiny/*/s0/summary.json")
    assert json.loads(summary.read_text())["status"] == "done"
    assert "batch-before_activation" in run("bnlab", "compare", "runs")
    assert "BatchNorm" in run("bnlab", "explain", "002")
    judged = json.loads(run("bnlab", "claims", "--json"))["claims"]
    verdicts = {claim["verdict"] for claim in judged}
    assert verdicts == {"NOT TESTED"}
