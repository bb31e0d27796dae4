"""Images of other sizes and channels than CIFAR-10's, and other numbers of classes."""

from pathlib import Path

import pytest
import torch
from PIL import Image

import bnlab
from bnlab.bench.limits import cost_of
from bnlab.config import Config, load_config
from bnlab.training.datasets import load_splits
from bnlab.training.datasets._splits import ImageData, Split, shape_images
from bnlab.training.experiment import run_experiment

SIZES = {
    "convnet": ("model.widths=[4, 6]", "model.hidden=[8]"),
    "resnet18": ("model.width=2",),
    "vgg11": ("model.width=2",),
}


def config(name: str, *more: str) -> Config:
    tiny = ("dataset.name=synthetic", "dataset.train_size=64", "dataset.test_size=20")
    sets = (f"model.name={name}", *SIZES[name], *tiny, "train.epochs=2", "train.batch_size=16")
    return load_config((), [*sets, "optim.lr=0.05", *more])


def color_folders(root: Path, size: int = 20) -> Path:
    for split in ("train", "test"):
        for name, color in (("red", (255, 0, 0)), ("green", (0, 255, 0)), ("blue", (0, 0, 255))):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(4):
                Image.new("RGB", (size, size + number), color).save(folder / f"{number}.png")
    return root


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize(("size", "gray"), [(16, True), (48, False)])
def test_every_network_trains_on_other_images(
    tmp_path: Path, name: str, size: int, gray: bool
) -> None:
    chosen = config(
        name, f"dataset.size={size}", f"dataset.grayscale={gray}", "probes=[activations]"
    )
    summary = run_experiment(chosen, tmp_path)
    assert summary["epochs"] == 2
    channels = 1 if gray else 3
    images = torch.randint(0, 256, (2, channels, size, size), dtype=torch.uint8)
    assert bnlab.load_model(bnlab.load_run(tmp_path))(images).shape == (2, 10)
    assert cost_of(chosen, "fp32").flops > 0


def test_cifars_shape_changes_no_hash_and_another_does() -> None:
    plain = config("convnet").hash
    assert config("convnet", "dataset.size=32", "dataset.grayscale=false").hash == plain
    assert config("convnet", "dataset.size=64").hash != plain
    assert config("convnet", "dataset.grayscale=true").hash != plain


def test_three_classes_of_any_size_are_decoded_at_the_size_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BNLAB_CACHE", str(tmp_path / "cache"))
    root = color_folders(tmp_path / "images")
    place = ("dataset.name=folder", f"dataset.root={root}", "dataset.train_size=null")
    for size in (32, 12, 32, 12):  # the second time from the cache
        sets = ("dataset.test_size=null", f"dataset.size={size}")
        data = load_splits(config("convnet", *place, *sets).dataset)
        assert data.train.images.shape == (12, 3, size, size)
        assert data.classes == ("blue", "green", "red")
    summary = run_experiment(
        config("convnet", *place, "dataset.test_size=null", "dataset.size=12"), tmp_path / "run"
    )
    assert summary["status"] in {"done", "diverged"}
    assert bnlab.load_model(bnlab.load_run(tmp_path / "run")).classes == data.classes


def test_gray_is_the_luminance_and_resizing_keeps_a_plain_image_plain() -> None:
    colors = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255], [200, 200, 200]])
    images = colors.to(torch.uint8)[:, :, None, None].expand(4, 3, 32, 32)
    split = Split(images, torch.arange(4))
    data = ImageData(split, split, ("r", "g", "b", "w"), "sum", "")
    gray = shape_images(data, (1, 10, 10)).train.images
    assert gray.shape == (4, 1, 10, 10)
    assert gray[:, 0, 0, 0].tolist() == [76, 150, 29, 200]
    assert all(len(image.unique()) == 1 for image in gray)
    assert shape_images(data, (3, 32, 32)) is data
