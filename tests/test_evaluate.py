"""A run's network tested anew, by the command and from Python."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import TINY, MakeConfig
from made_runs import make_run
from PIL import Image
from test_model_file import SOURCE
from typer.testing import CliRunner, Result

import bnlab
from bnlab.analysis import Run
from bnlab.cli import app
from bnlab.config import load_config
from bnlab.errors import ConfigError, DataError, RefusedError
from bnlab.records import RunDir, pack

SETS = ("train.epochs=1", "dataset.normalize=zscore", "probes=[statistics]")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    runs = tmp_path_factory.mktemp("runs")
    return bnlab.train(load_config((), [*TINY, *SETS]), runs, device="cpu")


@pytest.fixture
def trained(tiny_config: MakeConfig, tmp_path: Path) -> Callable[..., Run]:
    def make(*sets: str) -> Run:
        config = tiny_config("train.epochs=1", *sets)
        return bnlab.train(config, tmp_path / "runs", device="cpu")

    return make


def command(*words: object) -> Result:
    return CliRunner().invoke(app, ["evaluate", *map(str, words)])


def content(folder: Path) -> dict[Path, tuple[int, bytes]]:
    return {
        path: (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


def image_folder(root: Path, classes: int) -> Path:
    for split, each in (("train", 3), ("test", 2)):
        for name in "abcdefghijkl"[:classes]:
            (root / split / name).mkdir(parents=True)
            for number in range(each):
                shade = (20 * ord(name) % 255, 40 * number, 90)
                Image.new("RGB", (32, 32), shade).save(root / split / name / f"{number}.png")
    return root


@pytest.mark.parametrize(
    "sets",
    [
        (),
        ("dataset.normalize=per_image",),
        ("model.residual=true", "model.widths=[4, 4]"),
        ("model.name=resnet18", "model.width=2"),
        ("model.name=vgg11", "model.width=2"),
        ("train.eval_batch_size=7",),
        ("model.norm=none",),
    ],
)
def test_running_statistics_give_the_recorded_score_to_the_last_image(
    trained: Callable[..., Run], sets: tuple[str, ...]
) -> None:
    run = trained(*sets)
    found = bnlab.evaluate(run, device="cpu")
    assert found.accuracy == run.final["test/accuracy"]
    assert found.loss == run.final["test/loss"]
    assert (found.images, found.precision) == (40, "fp32")


def test_validation_images_give_the_recorded_score_too(trained: Callable[..., Run]) -> None:
    run = trained("dataset.val_size=30")
    found = bnlab.evaluate(run, split="val", device="cpu")
    assert (found.accuracy, found.images) == (run.final["val/accuracy"], 30)


def test_other_statistics_give_what_the_probe_recorded(run: Run) -> None:
    record = json.loads(RunDir(run.root).metrics.read_text().splitlines()[-1])
    population = bnlab.evaluate(run, statistics="population", device="cpu")
    assert population.accuracy == record["probe/test_accuracy/population"]
    assert population.loss == pytest.approx(record["probe/test_loss/population"], rel=1e-5)
    assert population.statistics_images == 160
    batch = bnlab.evaluate(run, statistics="batch", device="cpu")
    assert batch.accuracy == record["probe/test_accuracy/as_trained"]
    assert batch.batch_size == 32
    large = bnlab.evaluate(run, statistics="batch", batch_size=128, device="cpu")
    assert large.accuracy == record["probe/test_accuracy/batches_of_128"]
    losses = {population.loss, batch.loss, large.loss, bnlab.evaluate(run, device="cpu").loss}
    assert len(losses) == 4


def test_an_image_alone_in_its_batch_is_left_out_and_counted(run: Run) -> None:
    found = bnlab.evaluate(run, statistics="batch", batch_size=39, device="cpu")
    assert found.images == 39
    assert "1 image left out" in found.notes[-1]


def test_nothing_is_written(run: Run) -> None:
    folder = run.root.parent.parent.parent
    before = content(folder)
    for statistics in ("running", "population", "batch"):
        assert command(run.root, "--statistics", statistics).exit_code == 0
    assert content(folder) == before


def test_the_command_prints_the_score_by_class(run: Run) -> None:
    done = command(run.root, "--statistics", "batch", "--batch-size", 20, "--device", "cpu")
    assert done.exit_code == 0, done.output
    assert "40 images of synthetic, by batch statistics of 20 images each, fp32" in done.stdout
    assert len(done.stdout.splitlines()) > 10
    told = json.loads(command(run.root, "--json").stdout)
    assert told["accuracy"] == run.final["test/accuracy"]
    assert len(told["classes"]) == 10
    assert sum(one["correct"] for one in told["classes"].values()) == told["accuracy"] * 40
    assert all(one["accuracy"] == one["correct"] / 4 for one in told["classes"].values())


def test_other_images_are_classified_and_normalized_as_the_run_s(run: Run, tmp_path: Path) -> None:
    root = image_folder(tmp_path / "images", 10)
    sets = ("dataset.name=folder", f"dataset.root={root}")
    found = bnlab.evaluate(run, set=sets, device="cpu")
    assert (found.dataset, found.images) == ("folder", 20)  # the run's sizes are not theirs
    assert list(found.classes) == list("abcdefghij")
    assert any("not the images that the run was trained" in note for note in found.notes)
    assert any("classes were called" in note for note in found.notes)
    fewer = bnlab.evaluate(run, set=[*sets, "dataset.test_size=10"], device="cpu")
    assert fewer.images == 10
    network = bnlab.load_model(run)
    pixels = torch.stack(
        [
            torch.frombuffer(bytearray(Image.open(path).tobytes()), dtype=torch.uint8)
            .view(32, 32, 3)
            .permute(2, 0, 1)
            for path in sorted(root.glob("test/*/*.png"))
        ]
    )
    with torch.no_grad():
        right = network(pixels).argmax(1) == torch.arange(10).repeat_interleave(2)
    assert found.accuracy == int(right.sum()) / 20


def test_a_network_of_ones_own_is_tested_when_trusted(tmp_path: Path) -> None:
    source = tmp_path / "mine.py"
    source.write_text(SOURCE)
    config = load_config((), [*TINY[:4], *TINY[6:], f"model.file={source}:Net", "train.epochs=1"])
    run = bnlab.train(config, tmp_path / "runs", device="cpu")
    source.unlink()
    assert command(run.root).exit_code != 0
    with pytest.raises(RefusedError, match="look at it, then say that you trust"):
        bnlab.evaluate(run)
    found = bnlab.evaluate(run, trust=True, device="cpu")
    assert found.accuracy == run.final["test/accuracy"]
    bnlab.evaluate(run, trust=True, statistics="population")


def test_a_run_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    made = make_run(tmp_path / "runs", seed=0)
    with pytest.raises(RefusedError, match="archives leave behind") as refused:
        bnlab.evaluate(made.root)
    assert refused.value.exit_code == 5
    pack([tmp_path / "runs"], tmp_path / "x.tar.xz")
    with pytest.raises(RefusedError, match="archives leave behind"):
        bnlab.evaluate(tmp_path / "x.tar.xz")


def test_images_that_do_not_fit_are_named(run: Run, tmp_path: Path) -> None:
    root = image_folder(tmp_path / "images", 12)
    for sets, said in (
        (["dataset.grayscale=true"], "images of 1 x 32 x 32, but the network takes 3 x 32 x 32"),
        (["dataset.name=folder", f"dataset.root={root}"], "12 classes, but the network tells 10"),
        (["model.norm=none"], "--set model.norm.*the network is the run's"),
        (["name=x"], "--set name: the network"),
        (["dataset.normalize=half"], "fed as they were"),
        (["dataset.name=cifar11"], "cifar11"),
    ):
        with pytest.raises(ConfigError, match=said):
            bnlab.evaluate(run, set=sets)
    with pytest.raises(DataError, match="nowhere"):
        bnlab.evaluate(run, set=["dataset.name=folder", f"dataset.root={tmp_path}/nowhere"])
    with pytest.raises(
        ConfigError, match=r"dataset\.root: means nothing where dataset\.name is synth"
    ):
        bnlab.evaluate(run, set=[f"dataset.root={tmp_path}"])
    with pytest.raises(ConfigError, match=r"no images are held out; --set dataset\.val_size=N"):
        bnlab.evaluate(run, split="val")
    held = bnlab.evaluate(run, split="val", set=["dataset.val_size=20"])
    assert any("may have trained on some" in note for note in held.notes)


@pytest.mark.parametrize(
    ("norm", "said"),
    [
        ("none", "no normalizer, so it makes no difference"),
        ("group", "take no statistics from a batch, so it makes no difference"),
        ("frozen_init", "keep their statistics in a way of their own"),
    ],
)
@pytest.mark.parametrize("statistics", ["population", "batch"])
def test_statistics_that_a_network_does_not_have_are_refused(
    trained: Callable[..., Run], norm: str, said: str, statistics: str
) -> None:
    done = command(trained(f"model.norm={norm}").root, "--statistics", statistics)
    assert isinstance(done.exception, ConfigError)
    assert said in str(done.exception)


def test_one_image_has_no_statistics(run: Run) -> None:
    with pytest.raises(ConfigError, match="one image has no statistics of its own"):
        bnlab.evaluate(run, statistics="batch", batch_size=1)


def test_a_network_that_is_not_finite_is_told_without_nan(trained: Callable[..., Run]) -> None:
    run = trained("optim.lr=1e30", "model.norm=none")
    done = command(run.root, "--json")
    told = json.loads(done.stdout, parse_constant=pytest.fail)
    assert told["loss"] is None
    assert "the run is diverged" in told["notes"]
