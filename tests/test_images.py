"""Where images lie is no part of a configuration's hash, so who reuses a run looks at them."""

from pathlib import Path

import pytest
import yaml
from conftest import TINY
from PIL import Image
from typer.testing import CliRunner

from bnlab.cli import app
from bnlab.config import DatasetConfig
from bnlab.errors import RefusedError
from bnlab.study.plan import load_study
from bnlab.study.run import StudyOptions, run_study
from bnlab.training.datasets import load_splits
from bnlab.training.resume import checksum_at_hand

SETTINGS = [text for text in TINY if not text.startswith(("name=", "dataset."))]


def draw_images(root: Path, shade: int) -> Path:
    for split, count in (("train", 40), ("test", 10)):
        for label in range(2):
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True)
            for place in range(count):
                Image.new("RGB", (32, 32), (shade, 200 * label, place)).save(
                    folder / f"{place}.png"
                )
    return root


@pytest.fixture
def two_folders(tmp_path: Path) -> tuple[Path, Path]:
    return draw_images(tmp_path / "one", 0), draw_images(tmp_path / "two", 99)


def train(images: Path, runs: Path, *words: str) -> list[str]:
    sets = [*SETTINGS, "name=tiny", "dataset.name=folder", f"dataset.root={images}"]
    flags = [word for text in sets for word in ("--set", text)]
    return ["train", *flags, "--runs-dir", str(runs), "--device", "cpu", *words]


def test_a_finished_run_is_skipped_only_with_its_own_images(
    two_folders: tuple[Path, Path], tmp_path: Path
) -> None:
    one, two = two_folders
    assert CliRunner().invoke(app, train(one, tmp_path / "runs")).exit_code in (0, 3)
    skipped = CliRunner().invoke(app, train(one, tmp_path / "runs", "--if-exists", "skip"))
    assert skipped.exit_code in (0, 3)
    refused = CliRunner().invoke(app, train(two, tmp_path / "runs", "--if-exists", "skip"))
    assert isinstance(refused.exception, RefusedError)
    for root in two_folders:
        checksum = load_splits(DatasetConfig(name="folder", root=str(root))).checksum
        assert checksum[:8] in str(refused.exception)


def test_a_study_refuses_finished_runs_of_other_images_and_leaves_all_as_it_was(
    two_folders: tuple[Path, Path], tmp_path: Path
) -> None:
    def run(images: Path, seeds: int) -> None:
        settings = {key: yaml.safe_load(v) for key, _, v in (t.partition("=") for t in SETTINGS)}
        study = {
            "name": "tiny",
            "set": {**settings, "dataset.name": "folder", "dataset.root": str(images)},
            "arms": {"batch": {"model.norm.name": "batch"}},
            "seeds": seeds,
        }
        file = tmp_path / "tiny.yaml"
        file.write_text(yaml.safe_dump(study))
        runs = tmp_path / "runs"
        options = StudyOptions(executor="inline", device="cpu")
        finished = run_study(load_study(file, runs_dir=runs), runs, options)
        assert finished.failures == {}

    run(two_folders[0], 1)
    before = sorted((tmp_path / "runs").rglob("*"))
    with pytest.raises(RefusedError, match=r"other images than those in .*two"):
        run(two_folders[1], 2)
    assert sorted((tmp_path / "runs").rglob("*")) == before
    run(two_folders[0], 2)


def test_images_that_follow_from_the_configuration_are_not_drawn_to_be_compared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bnlab.training.resume.DATASETS", {})
    assert checksum_at_hand(DatasetConfig(name="synthetic")) is None
