"""Plug-ins of another package: a folder on the path with entry points, as pip leaves it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import bnlab

NORM = """
from torch import Tensor

from bnlab.config import NormConfig
from bnlab.training.norms import NORMS, Affine, align, widen


class RootMeanSquare(Affine):
    def __init__(self, channels: int, eps: float) -> None:
        super().__init__((channels,))
        self.eps = eps

    def forward(self, features: Tensor) -> Tensor:
        wide = widen(features)
        scale = (wide.square().flatten(1).mean(1) + self.eps).rsqrt()
        return self.scale_and_shift(wide * scale.view(-1, *[1] * (wide.ndim - 1)))


@NORMS.register("rms")
def rms(shape: tuple[int, ...], config: NormConfig) -> RootMeanSquare:
    return RootMeanSquare(shape[0], config.eps)
"""

DATASET = """
import torch

from bnlab.training.datasets import DATASETS, ImageData, Split, checksum_of
from bnlab.training.streams import stream


@DATASETS.register("shades")
def shades(config, progress):
    def draw(name, count):
        labels = torch.arange(count) % 2
        images = torch.randint(0, 100, (count, 3, 32, 32), generator=stream(0, "shades", name))
        images[labels == 1] += 150
        return Split(images.to(torch.uint8), labels)

    train, test, classes = draw("train", 64), draw("test", 32), ("dark", "light")
    return ImageData(train, test, classes, checksum_of(train, test, classes), "shades")
"""

MODEL = """
from torch import nn

from bnlab.training.models import MODELS, Dropout
from bnlab.training.norms import build_norm


class Stem(nn.Module):
    def __init__(self, width, config, size):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False)
        self.norm = build_norm((width, size // 2, size // 2), config.norm)
        self.act = nn.ReLU(inplace=True)

    def forward(self, images):
        return self.act(self.norm(self.conv(images)))


class Stripped(nn.Module):
    def __init__(self, config, in_shape, num_classes):
        super().__init__()
        self.stem = Stem(config.widths[0], config, in_shape[1])
        self.drop = Dropout(config.dropout)
        self.head = nn.Linear(config.widths[0], num_classes)

    def forward(self, images):
        return self.head(self.drop(self.stem(images).amax((2, 3))))


@MODELS.register("stripped")
def stripped(config, in_shape, num_classes, seed):
    return Stripped(config, in_shape, num_classes)
"""

PROBE = """
from bnlab.training.models import roles
from bnlab.training.probes import PROBES


@PROBES.register("norm_count")
def norm_count(model, sample):
    return {"probe/norm_count/all": float(len(roles(model).norms))}
"""

CLAIM = """
from pathlib import Path

from bnlab.claims import CLAIMS, Claim, make_contrast


def measure(evidence):
    return make_contrast(evidence.best["rms"] - evidence.best["none"])


CLAIMS.register("rms_helps")(
    Claim(
        name="rms_helps",
        statement="Root mean square normalization raises accuracy.",
        against="Networks that do as well without it.",
        sources=("a package of another's",),
        definition="Test accuracy with it less that without.",
        formula="accuracy(rms) - accuracy(none)",
        protocol="Two arms.",
        smallest_effect=0.005,
        reason="Half a point.",
        unit="pp",
        treated=("rms",),
        control=("none",),
        measure=measure,
        study=Path(__file__).with_name("rms_helps.yaml"),
    )
)
"""

STUDY = """
set: {dataset.name: shades, model.name: stripped, model.widths: [8], train.epochs: 2}
arms: {none: {model.norm: none}, rms: {model.norm: rms}}
presets:
  full: {seeds: 10}
  quick: {seeds: 10}
  smoke: {seeds: 2}
"""

POINTS = {
    "bnlab.norms": "rms = extras.norm",
    "bnlab.datasets": "shades = extras.dataset",
    "bnlab.models": "stripped = extras.model",
    "bnlab.probes": "norm_count = extras.probe",
    "bnlab.claims": "rms_helps = extras.claim",
}

TRAIN = [
    *("train", "--device", "cpu", "--name", "mine", "--json"),
    *("--set", "dataset.name=shades", "--set", "model.name=stripped", "--set", "model.norm=rms"),
    *("--set", "model.widths=[8]", "--set", "model.dropout=0.1", "--set", "train.epochs=4"),
    *("--set", "train.batch_size=16", "--set", "train.precision=fp32", "--set", "optim.lr=0.1"),
    *("--set", "probes=[norm_count, activations, gradients, weights]"),
]


def install(site: Path, name: str, points: dict[str, str], files: dict[str, str]) -> None:
    """Lay out a package as pip leaves it."""
    (site / name).mkdir(parents=True)
    for file, text in {"__init__.py": "", **files}.items():
        (site / name / file).write_text(text, encoding="utf-8")
    info = site / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [f"[{group}]\n{point}\n" for group, point in points.items()]
    (info / "entry_points.txt").write_text("\n".join(lines))


@pytest.fixture
def site(tmp_path: Path) -> Path:
    place = tmp_path / "site"
    files = {"norm.py": NORM, "dataset.py": DATASET, "model.py": MODEL, "probe.py": PROBE}
    install(place, "extras", POINTS, {**files, "claim.py": CLAIM, "rms_helps.yaml": STUDY})
    return place


def run(site: Path, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(site), str(Path(bnlab.__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, "-m", "bnlab.cli", *words],
        cwd=site,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return done


@pytest.fixture
def _broken(site: Path) -> None:
    points = dict.fromkeys(POINTS, "broken = broken_extras.absent")
    install(site, "broken_extras", points, {})


@pytest.mark.usefixtures("_broken")
def test_norm_dataset_model_and_probe_of_another_package_train_together(site: Path) -> None:
    summary = json.loads(run(site, *TRAIN).stdout)
    assert (summary["status"], summary["dataset"]) == ("done", "shades")
    metrics = (site / summary["run"] / "metrics.jsonl").read_text().splitlines()
    last = json.loads(metrics[-1])
    assert last["probe/norm_count/all"] == 1
    for tag in (
        "probe/grad_norm/stem.conv",
        "probe/grad_norm/head",
        "probe/activation_std/stem.conv",
        "probe/activation_grad/head",
        "probe/dead/stem.act",
        "probe/weight_norm/head",
        "probe/gamma_median/stem.norm",
    ):
        assert isinstance(last[tag], float), tag
    config = (site / summary["run"] / "config.yaml").read_text()
    assert "eps" in config  # a general field, which a norm of another package reads
    assert "groups" not in config  # one of another norm's
    assert "residual" not in config  # one of another network's


def test_a_claim_of_another_package_brings_its_study(site: Path) -> None:
    explained = run(site, "claims", "explain", "rms_helps").stdout
    assert "Root mean square normalization raises accuracy." in explained
    assert "rms_helps.yaml" in explained
    planned = run(site, "claims", "run", "rms_helps", "--preset", "smoke", "--dry-run").stdout
    assert "rms" in planned
    listed = json.loads(run(site, "claims", "--json").stdout)["claims"]
    assert [one["claim"] for one in listed][-1] == "rms_helps"


@pytest.mark.usefixtures("_broken")
def test_a_broken_package_is_told_of_and_breaks_only_what_uses_it(site: Path) -> None:
    said = run(site, *TRAIN, "--set", "model.norm=broken", code=2).stderr
    assert "norm 'broken': broken_extras (broken_extras.absent) does not load" in said
    listed = run(site, "claims", "--json")
    assert "broken_extras" in listed.stderr
    assert "broken" not in [one["claim"] for one in json.loads(listed.stdout)["claims"]]


def test_a_name_that_bnlab_has_is_refused_before_anything_is_trained(site: Path) -> None:
    install(site, "other_extras", {"bnlab.norms": "batch = other_extras.norm"}, {"norm.py": ""})
    said = run(site, "train", "--dry-run", code=2).stderr
    assert "norm 'batch' is in bnlab (bnlab.training.norms.batch) and other_extras" in said
    run(site, "train", "--dry-run", "--set", "model.norm=none")


def test_a_file_more_is_a_plug_in_more(tmp_path: Path) -> None:
    source = Path(bnlab.__file__).parent
    shutil.copytree(source, tmp_path / "bnlab", ignore=shutil.ignore_patterns("__pycache__"))
    added = NORM.replace('register("rms")', 'register("added")')
    (tmp_path / "bnlab" / "training" / "norms" / "added.py").write_text(added)
    program = (
        "import bnlab.registry as r, sys; from bnlab.config import load_config;"
        "load_config(overrides=['model.norm=added']); assert 'torch' not in sys.modules;"
        "print(r.__file__, r.NORMS['added'].__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [str(tmp_path / "bnlab" / "registry.py"), "rms"]
