import contextlib
import hashlib
import io
import logging
import os
import pickle
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bnlab.config import DatasetConfig
from bnlab.errors import ConfigError, DataError
from bnlab.training.batches import fit_normalize
from bnlab.training.datasets import DATASETS, ImageData, Split, cifar10, folder, load_splits, silent
from bnlab.training.datasets._splits import balanced_order, cut
from bnlab.training.datasets._torchvision import torchvision_datasets
from bnlab.training.datasets.cifar10 import cifar10_status, fetch_cifar10

CLASS_NAMES = tuple(f"class{label}" for label in range(10))

# ------------------------------------------------------------------------------ tiny sources


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("BNLAB_CACHE", str(folder))
    return folder


def write_folder(root: Path, *, classes: int = 3, per_class: int = 4, size: int = 32) -> Path:
    """PNGs of one color each: red tells the split, green the class, blue the image."""
    for red, split in enumerate(("train", "test")):
        for green in range(classes):
            place = root / split / f"class{green}"
            place.mkdir(parents=True)
            for blue in range(per_class):
                Image.new("RGB", (size, size), (red, green, blue)).save(place / f"{blue}.png")
    return root


def write_cifar10(root: Path, monkeypatch: pytest.MonkeyPatch, *, per_batch: int = 6) -> Path:
    """CIFAR-10's files with few images, and torchvision told of their md5."""
    source = torchvision_datasets().CIFAR10
    place = root / str(source.base_folder)
    place.mkdir(parents=True)
    generator = np.random.default_rng(0)

    def write(name: str, content: dict[str, Any]) -> str:
        data = pickle.dumps(content)
        (place / name).write_bytes(data)
        return hashlib.md5(data, usedforsecurity=False).hexdigest()

    def write_batch(name: str, first: int, count: int) -> list[str]:
        pixels = generator.integers(0, 256, (count, 3072), dtype=np.uint8)
        labels = [(first + place) % 10 for place in range(count)]
        return [name, write(name, {"data": pixels, "labels": labels})]

    train = [
        write_batch(f"data_batch_{batch + 1}", batch * per_batch, per_batch) for batch in range(5)
    ]
    meta = write("batches.meta", {"label_names": list(CLASS_NAMES)})
    monkeypatch.setattr(source, "train_list", train)
    monkeypatch.setattr(source, "test_list", [write_batch("test_batch", 0, 10)])
    monkeypatch.setattr(source, "meta", {**source.meta, "md5": meta})
    return place


def pack_cifar10(root: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """The files of `write_cifar10` as an archive that torchvision is told of; they are removed."""
    place = write_cifar10(root, monkeypatch)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        tar.add(place, arcname=place.name)
    shutil.rmtree(place)
    md5 = hashlib.md5(packed.getvalue(), usedforsecurity=False).hexdigest()
    monkeypatch.setattr(torchvision_datasets().CIFAR10, "tgz_md5", md5)
    return packed.getvalue()


def tiny_config(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DatasetConfig:
    root = tmp_path / name
    if name == "folder":
        write_folder(root)
    if name == "cifar10":
        write_cifar10(root, monkeypatch)
    if name == "synthetic":
        return DatasetConfig(name=name, train_size=20, test_size=10)
    return DatasetConfig(name=name, root=str(root))


def mixed_data(counts: list[int], test_per_class: int = 3) -> ImageData:
    """Image i of a split is filled with the value i; class c occurs counts[c] times."""

    def split(counts: list[int]) -> Split:
        labels = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])
        labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
        values = torch.arange(len(labels), dtype=torch.uint8)
        return Split(values.view(-1, 1, 1, 1).expand(-1, 3, 32, 32), labels)

    classes = tuple(f"class{label}" for label in range(len(counts)))
    return ImageData(split(counts), split([test_per_class] * len(counts)), classes, "sum", "note")


def values(split: Split | None) -> list[int]:
    return [] if split is None else split.images[:, 0, 0, 0].tolist()


# ------------------------------------------------------------------------------- every source


@pytest.mark.parametrize("name", list(DATASETS))
def test_every_source_gives_images_and_labels_of_the_promised_form(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = DATASETS[name](tiny_config(name, tmp_path, monkeypatch), silent)
    for split in (data.train, data.test):
        assert split.images.dtype == torch.uint8
        assert split.images.shape == (len(split), 3, 32, 32)
        assert split.labels.dtype == torch.int64
        assert split.labels.unique().tolist() == list(range(len(data.classes)))
    assert len(data.checksum) == 64


@pytest.mark.parametrize("name", list(DATASETS))
def test_every_source_gives_the_same_bits_again(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(name, tmp_path, monkeypatch)
    first, again = (DATASETS[name](config, silent) for _ in range(2))
    assert torch.equal(first.train.images, again.train.images)
    assert torch.equal(first.test.labels, again.test.labels)
    assert first.checksum == again.checksum
    assert first.note == again.note


@pytest.mark.parametrize("name", list(DATASETS))
def test_every_source_keeps_its_validation_images_whatever_the_train_size(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(name, tmp_path, monkeypatch)
    num_classes = 3 if name == "folder" else 10
    splits = [
        load_splits(config.model_copy(update={"val_size": num_classes, "train_size": size}))
        for size in (num_classes, 2 * num_classes)
    ]
    few, more = splits
    assert few.val is not None
    assert more.val is not None
    assert torch.equal(few.val.images, more.val.images)
    assert few.val_indices_hash == more.val_indices_hash
    assert len(few.train) == num_classes


@pytest.mark.parametrize("name", list(DATASETS))
def test_every_source_reports_progress_up_to_its_total(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, int, int]] = []
    DATASETS[name](tiny_config(name, tmp_path, monkeypatch), lambda *report: told.append(report))
    what, done, total = told[-1]
    assert what
    assert done == total > 0


@pytest.mark.parametrize("name", list(DATASETS))
def test_a_source_is_one_file(name: str) -> None:
    assert DATASETS[name].__module__ == f"bnlab.training.datasets.{name}"


def test_an_unknown_source_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"unknown dataset 'cifar'.*cifar10, folder, synthetic"):
        load_splits(DatasetConfig(name="cifar"))


def test_importing_the_sources_does_not_import_torchvision() -> None:
    program = "import sys, bnlab.training.datasets; sys.exit('torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# ------------------------------------------------------------------------------------- splits


@settings(deadline=None, max_examples=25, derandomize=True)
@given(labels=st.lists(st.integers(0, 4), min_size=1, max_size=40))
def test_balanced_order_visits_every_place_once_and_keeps_the_order_within_a_class(
    labels: list[int],
) -> None:
    order = balanced_order(torch.tensor(labels)).tolist()
    assert sorted(order) == list(range(len(labels)))
    for label in set(labels):
        places = [place for place in order if labels[place] == label]
        assert places == sorted(places)


@settings(deadline=None, max_examples=25, derandomize=True)
@given(per_class=st.integers(1, 6), num_classes=st.integers(2, 5), data=st.data())
def test_splits_are_disjoint_balanced_and_of_the_size_asked_for(
    per_class: int, num_classes: int, data: st.DataObject
) -> None:
    source = mixed_data([per_class + 2] * num_classes)
    train_size = data.draw(st.integers(num_classes, num_classes * (per_class + 1)))
    splits = cut(
        source, DatasetConfig(train_size=train_size, val_size=num_classes, test_size=num_classes)
    )
    assert splits.val is not None
    assert not set(values(splits.train)) & set(values(splits.val))
    sizes = {"train": (splits.train, train_size), "val": (splits.val, num_classes)}
    for split, size in [*sizes.values(), (splits.test, num_classes)]:
        counts = split.labels.bincount(minlength=num_classes)
        assert len(split) == size
        assert counts.max() - counts.min() <= 1


def test_validation_and_training_images_together_are_all_there_are() -> None:
    splits = cut(mixed_data([10, 10]), DatasetConfig(val_size=6))
    assert sorted(values(splits.train) + values(splits.val)) == list(range(20))


def test_validation_images_do_not_depend_on_the_train_size() -> None:
    source = mixed_data([10, 10, 10])
    splits = [cut(source, DatasetConfig(val_size=5, train_size=size)) for size in (3, 7, 25, None)]
    assert len({tuple(values(split.val)) for split in splits}) == 1
    assert len({split.val_indices_hash for split in splits}) == 1


def test_the_val_indices_hash_is_the_sha256_of_the_places_held_out() -> None:
    splits = cut(mixed_data([5, 5]), DatasetConfig(val_size=4))
    places = np.array(values(splits.val), dtype="<i8")  # an image's value is its place
    assert splits.val_indices_hash == hashlib.sha256(places.tobytes()).hexdigest()


def test_a_smaller_training_set_is_part_of_a_larger_one() -> None:
    source = mixed_data([10, 10])
    few, more = (cut(source, DatasetConfig(train_size=size)) for size in (5, 11))
    assert set(values(few.train)) < set(values(more.train))


def test_without_sizes_every_image_is_used_in_the_source_order_and_none_held_out() -> None:
    splits = cut(mixed_data([4, 6]), DatasetConfig())
    assert values(splits.train) == list(range(10))
    assert values(splits.test) == list(range(6))
    assert splits.val is None
    assert splits.val_indices_hash is None
    assert (splits.checksum, splits.note) == ("sum", "note")


def test_naming_every_image_is_the_same_as_naming_none() -> None:
    source = mixed_data([5, 5])
    named = cut(source, DatasetConfig(train_size=10, test_size=6))
    assert values(named.train) == list(range(10))
    assert values(named.test) == list(range(6))


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"train_size": 21}, ["dataset.train_size 21", "21 training images", "has 20", "lower"]),
        (
            {"train_size": 18, "val_size": 4},
            ["dataset.val_size 4", "dataset.train_size 18", "22 training images", "has 20"],
        ),
        ({"val_size": 19}, ["dataset.val_size 19", "has 20", "lower dataset.val_size"]),
        ({"test_size": 7}, ["dataset.test_size 7", "has: 6", "null for all"]),
        ({"train_size": 1}, ["dataset.train_size: 1", "2 classes", "at least 2"]),
        ({"val_size": 1}, ["dataset.val_size: 1", "at least 2"]),
        ({"test_size": 1}, ["dataset.test_size: 1", "at least 2"]),
    ],
)
def test_sizes_that_cannot_be_met_are_named_with_what_there_is(
    sizes: dict[str, int], words: list[str]
) -> None:
    with pytest.raises(DataError) as error:
        cut(mixed_data([10, 10]), DatasetConfig(**sizes))  # type: ignore[arg-type]
    assert all(word in str(error.value) for word in words), str(error.value)


def test_holding_out_the_last_image_of_a_class_is_an_error_that_names_it() -> None:
    with pytest.raises(DataError, match=r"leaves none to train on for class1; lower"):
        cut(mixed_data([20, 2]), DatasetConfig(val_size=4))


def test_normalization_does_not_depend_on_the_test_images(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "images")
    config = DatasetConfig(name="folder", root=str(root))
    before = load_splits(config)
    for file in root.glob("test/*/*.png"):
        Image.new("RGB", (32, 32), (250, 250, 250)).save(file)
    after = load_splits(config)
    assert not torch.equal(before.test.images, after.test.images)
    for name in ("minmax", "zscore"):
        one, two = (fit_normalize(name, splits.train.images) for splits in (before, after))
        assert torch.equal(one.scale, two.scale)
        assert torch.equal(one.shift, two.shift)


# ---------------------------------------------------------------------------------- synthetic


def synthetic(**sizes: int) -> ImageData:
    return DATASETS["synthetic"](DatasetConfig(name="synthetic", **sizes), silent)  # type: ignore[arg-type]


def test_a_synthetic_image_does_not_depend_on_how_many_are_drawn() -> None:
    few, many = synthetic(train_size=30, test_size=10), synthetic(train_size=270, test_size=260)
    assert torch.equal(few.train.images, many.train.images[:30])
    assert torch.equal(few.test.images, many.test.images[:10])


def test_synthetic_images_are_the_same_on_every_machine_and_in_every_release() -> None:
    checksum = synthetic(train_size=20, test_size=10).checksum
    assert checksum == "bac958a4ae5e24ada2896f35c724599bf13320f91e14271dd05a0d448957a8c0"


def test_synthetic_training_and_test_images_differ() -> None:
    data = synthetic(train_size=20, test_size=20)
    assert not torch.equal(data.train.images, data.test.images)
    assert torch.equal(data.train.labels, data.test.labels)


def test_synthetic_blocks_differ() -> None:
    images = synthetic(train_size=500, test_size=10).train.images
    assert not torch.equal(images[:250], images[250:])


def test_synthetic_draws_validation_images_on_top_of_the_training_images() -> None:
    splits = load_splits(DatasetConfig(name="synthetic", train_size=20, val_size=15, test_size=10))
    assert splits.val is not None
    assert (len(splits.train), len(splits.val), len(splits.test)) == (20, 15, 10)


def test_synthetic_says_that_it_is_not_cifar10() -> None:
    note = synthetic(train_size=10, test_size=10).note
    assert note == "synthetic images drawn by bnlab; not CIFAR-10"


def test_no_mean_color_tells_the_synthetic_class() -> None:
    data = synthetic(train_size=1000, test_size=500)
    train, test = (split.images.double().mean((2, 3)) for split in (data.train, data.test))
    centers = torch.stack([train[data.train.labels == label].mean(0) for label in range(10)])
    guesses = torch.cdist(test, centers).argmin(1)
    assert (guesses == data.test.labels).double().mean() < 0.2  # chance is 0.1


def test_the_spectrum_tells_the_synthetic_class() -> None:
    data = synthetic(train_size=1000, test_size=500)

    def spectrum(split: Split) -> torch.Tensor:
        pixels = split.images.double()
        power: torch.Tensor = (
            torch.fft.rfft2(pixels - pixels.mean((2, 3), keepdim=True)).abs().sum(1)
        )
        return power[:, :, 1:12].flatten(1).log()

    train, test = spectrum(data.train), spectrum(data.test)
    centers = torch.stack([train[data.train.labels == label].mean(0) for label in range(10)])
    guesses = torch.cdist(test, centers).argmin(1)
    assert (guesses == data.test.labels).double().mean() > 0.5  # chance is 0.1


# ------------------------------------------------------------------------------------- folder


def load_folder(root: Path, **sizes: Any) -> ImageData:
    return DATASETS["folder"](DatasetConfig(name="folder", root=str(root), **sizes), silent)


def colors(split: Split) -> set[tuple[int, ...]]:
    """(red, green, blue, label) of each image of one color."""
    pixels = split.images[:, :, 5, 5].tolist()
    return {(*pixel, label) for pixel, label in zip(pixels, split.labels.tolist(), strict=True)}


def no_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(folder, "decode", refuse)


def no_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    no_decoding(monkeypatch)
    monkeypatch.setattr(folder.Listing, "content_hash", folder.decode)


def test_a_folder_gives_each_image_the_label_of_its_class_folder(tmp_path: Path) -> None:
    data = load_folder(write_folder(tmp_path / "images", classes=3, per_class=2))
    for red, split in enumerate((data.train, data.test)):
        expected = {(red, label, blue, label) for label in range(3) for blue in range(2)}
        assert colors(split) == expected
    assert data.classes == ("class0", "class1", "class2")


def test_a_folder_is_not_given_one_class_after_the_other(tmp_path: Path) -> None:
    labels = load_folder(write_folder(tmp_path / "images", per_class=20)).train.labels
    assert labels[:20].unique().tolist() == [0, 1, 2]


def test_images_of_another_size_mode_or_format_become_rgb_of_32_by_32(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "images", classes=2, per_class=1, size=64)
    place = root / "train" / "class0"
    Image.new("L", (20, 50), 7).save(place / "gray.BMP")
    palette = Image.new("P", (32, 32), 0)
    palette.putpalette([9, 8, 7] * 256)
    palette.save(place / "palette.png", transparency=bytes(256))
    Image.new("RGBA", (32, 32), (1, 2, 3, 128)).save(place / "alpha.webp", lossless=True)
    Image.new("RGB", (32, 32), (90, 90, 90)).save(place / "photo.jpeg")
    found = colors(load_folder(root).train)
    assert {(7, 7, 7, 0), (9, 8, 7, 0), (1, 2, 3, 0), (90, 90, 90, 0), (0, 0, 0, 0)} <= found


def test_what_was_done_to_make_images_fit_is_said_once_and_stands_in_the_note(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_folder(tmp_path, classes=2, per_class=2)
    Image.new("RGB", (48, 36)).save(tmp_path / "train/class0/wide.png")
    Image.new("L", (64, 64)).save(tmp_path / "test/class1/gray.png")
    with caplog.at_level(logging.WARNING, "bnlab"):
        note = load_folder(tmp_path).note
        assert load_folder(tmp_path).note == note  # from the cache
    said = "2 of 10 images resized to 32x32, from 48x36 to 64x64; 1 of 10 images made RGB"
    assert note == f"{folder.NOTE}; {said}"
    assert caplog.messages == [f"{tmp_path}: {said}"]


def test_other_files_and_hidden_ones_are_passed_over(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "images", per_class=2)
    (root / "train" / "class0" / "Thumbs.db").write_text("no image")
    (root / "train" / "class0" / "._0.png").write_text("no image")
    (root / "train" / ".ipynb_checkpoints").mkdir()
    assert len(load_folder(root).train) == 6


def test_the_second_start_reads_no_image_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_folder(tmp_path / "images")
    first = load_folder(root)
    no_reading(monkeypatch)
    again = load_folder(root)
    assert torch.equal(first.train.images, again.train.images)
    assert torch.equal(first.train.labels, again.train.labels)
    assert torch.equal(first.test.images, again.test.images)
    assert (first.checksum, first.classes, first.note) == (
        again.checksum,
        again.classes,
        again.note,
    )


def test_a_copied_or_touched_folder_is_not_decoded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_folder(tmp_path / "images")
    first = load_folder(root)
    no_decoding(monkeypatch)
    copy = shutil.copytree(root, tmp_path / "copy")
    os.utime(root / "train" / "class0" / "0.png", (0, 0))
    assert load_folder(copy).checksum == load_folder(root).checksum == first.checksum


def test_a_changed_image_is_decoded_even_with_size_and_time_as_before(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "images")
    file = root / "train" / "class0" / "0.bmp"
    for value in (10, 20):
        Image.new("RGB", (32, 32), (value, 0, 0)).save(file)
        os.utime(file, (0, 0))
        assert (value, 0, 0, 0) in colors(load_folder(root).train)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def flip_a_pixel(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncate, flip_a_pixel, empty])
def test_a_damaged_cache_is_noticed_and_made_anew(
    damage: Callable[[Path], None],
    tmp_path: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    root = write_folder(tmp_path / "images", per_class=20)
    first = load_folder(root)
    (kept,) = cache.glob("*.pt")
    damage(kept)
    again = load_folder(root)
    assert torch.equal(first.train.images, again.train.images)
    assert "damaged; decoding the images again" in caplog.text
    no_reading(monkeypatch)
    assert load_folder(root).checksum == first.checksum


def test_a_damaged_content_note_is_made_anew(tmp_path: Path, cache: Path) -> None:
    root = write_folder(tmp_path / "images")
    first = load_folder(root)
    (note,) = cache.glob("*.content")
    note.write_text("../../nonsense")
    assert load_folder(root).checksum == first.checksum
    assert len(note.read_text()) == 64


def test_the_cache_holds_two_files_and_no_leftovers(tmp_path: Path, cache: Path) -> None:
    load_folder(write_folder(tmp_path / "images"))
    assert sorted(file.suffix for file in cache.iterdir()) == [".content", ".pt"]


def test_without_a_writable_cache_folder_images_are_read_and_the_log_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("a file where the folder should be")
    monkeypatch.setenv("BNLAB_CACHE", str(blocked))
    with caplog.at_level(logging.WARNING, "bnlab"):
        data = load_folder(write_folder(tmp_path / "images"))
    assert len(data.train) == 12
    assert [record.name for record in caplog.records] == ["bnlab"]
    assert "BNLAB_CACHE" in caplog.text


def test_the_cache_folder_is_named_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BNLAB_CACHE", "/one")
    monkeypatch.setenv("XDG_CACHE_HOME", "/two")
    assert folder.cache_folder() == Path("/one")
    monkeypatch.delenv("BNLAB_CACHE")
    assert folder.cache_folder() == Path("/two/bnlab")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert folder.cache_folder() == Path("~/.cache/bnlab").expanduser()


def remove(path: str) -> Callable[[Path], None]:
    return lambda root: shutil.rmtree(root / path)


def remove_all_but_one_class(root: Path) -> None:
    for split in ("train", "test"):
        shutil.rmtree(root / split / "class1")
        shutil.rmtree(root / split / "class2")


def empty_class(root: Path) -> None:
    for file in (root / "test" / "class1").iterdir():
        file.unlink()


def rename_class(root: Path) -> None:
    (root / "test" / "class2").rename(root / "test" / "klass")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (remove(""), ["no such folder", "train/<class>/<image>", "dataset.root", "synthetic"]),
        (remove("train"), ["no folder train/", "train/<class>/<image>"]),
        (remove("test"), ["no folder test/"]),
        (remove_all_but_one_class, ["at least two class folders", "only one, class0"]),
        (empty_class, ["test/class1", "no images", ".png"]),
        (remove("test/class2"), ["same class folders", "only in train/: class2"]),
        (rename_class, ["only in train/: class2", "only in test/: klass"]),
    ],
)
def test_a_folder_of_another_layout_is_refused_with_what_is_wrong(
    spoil: Callable[[Path], None], words: list[str], tmp_path: Path
) -> None:
    root = write_folder(tmp_path / "images")
    spoil(root)
    with pytest.raises(DataError) as error:
        load_folder(root)
    message = str(error.value)
    assert "\n" not in message
    assert str(root) in message
    assert all(word in message for word in words), message


def test_unreadable_images_are_counted_and_the_first_three_named(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "images", per_class=4)
    place = root / "train" / "class1"
    (place / "0.png").write_bytes(b"")
    (place / "1.png").write_text("not an image")
    (place / "2.png").write_bytes((place / "2.png").read_bytes()[:50])
    (place / "3.png").unlink()
    (place / "3.png").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError) as error:
        load_folder(root)
    message = str(error.value)
    assert "4 of 24 images cannot be read" in message
    assert "train/class1/0.png (not an image)" in message
    assert "train/class1/2.png" in message
    assert "3.png" not in message
    assert "and 1 more; replace or remove them" in message


def test_sixteen_bit_images_are_refused_rather_than_clipped(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "images")
    deep = np.full((32, 32), 40_000, dtype=np.uint16)
    Image.fromarray(deep).save(root / "train" / "class0" / "deep.png")
    with pytest.raises(DataError, match=r"deep\.png \(mode I;16: not 8 bits a channel\)"):
        load_folder(root)


@pytest.mark.cifar10
@pytest.mark.skipif("BNLAB_CIFAR10" not in os.environ, reason="BNLAB_CIFAR10 names no folder")
def test_real_images_start_within_two_seconds_once_cached() -> None:
    root = Path(os.environ["BNLAB_CIFAR10"])
    load_folder(root)
    begin = time.perf_counter()
    data = load_folder(root)
    assert time.perf_counter() - begin < 2
    assert (len(data.train), len(data.test), len(data.classes)) == (50_000, 10_000, 10)


# ------------------------------------------------------------------------------------- cifar10


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests talk to servers of their own on this machine."""
    monkeypatch.setenv("no_proxy", "*")


def load_cifar10(root: Path) -> ImageData:
    return DATASETS["cifar10"](DatasetConfig(root=str(root)), silent)


def test_class_folders_that_are_taken_for_cifar10_are_recognized(tmp_path: Path) -> None:
    for part in ("train", "test"):
        (tmp_path / part / "cat").mkdir(parents=True)
    with pytest.raises(DataError, match=r"holds train/ and test/.*use dataset\.name=folder"):
        load_cifar10(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"train", "test"}


@contextlib.contextmanager
def serving(
    body: bytes, monkeypatch: pytest.MonkeyPatch, *, promised: int | None = None, status: int = 200
) -> Iterator[None]:
    """A server on this machine that answers for torchvision's URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(promised or len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/cifar-10-python.tar.gz"
        monkeypatch.setattr(torchvision_datasets().CIFAR10, "url", url)
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


def test_cifar10_images_have_the_pixels_and_labels_of_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = write_cifar10(tmp_path, monkeypatch)
    data = load_cifar10(tmp_path)
    batch = pickle.loads((place / "data_batch_2").read_bytes())  # noqa: S301 (written above)
    red_then_green_then_blue = torch.from_numpy(batch["data"]).view(6, 3, 32, 32)
    assert torch.equal(data.train.images[6:12], red_then_green_then_blue)
    assert data.train.labels.tolist() == [place % 10 for place in range(30)]
    assert len(data.test) == 10
    assert data.classes == CLASS_NAMES
    assert data.note == ""


def test_cifar10_status_tells_missing_archive_ready_and_damaged_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = pack_cifar10(tmp_path / "made", monkeypatch)
    root = tmp_path / "data"
    assert cifar10_status(root).state == "missing"
    root.mkdir()
    archive = root / "cifar-10-python.tar.gz"
    archive.write_bytes(packed)
    assert cifar10_status(root).state == "archive"
    fetch_cifar10(root)
    assert cifar10_status(root).state == "ready"
    truncate(root / "cifar-10-batches-py" / "data_batch_3")
    assert cifar10_status(root).state == "damaged"


def test_an_archive_put_into_the_root_is_unpacked_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(pack_cifar10(tmp_path / "m", monkeypatch))
    assert len(load_cifar10(tmp_path).train) == 30
    names = {file.name for file in tmp_path.iterdir()}
    assert names >= {"cifar-10-batches-py", "cifar-10-python.tar.gz"}
    assert not any(name.startswith(".cifar10") for name in names)


@pytest.mark.parametrize("name", ["data_batch_3", "test_batch", "batches.meta"])
@pytest.mark.parametrize("damage", [truncate, Path.unlink])
def test_a_damaged_or_missing_file_is_named_with_how_to_mend_it(
    name: str, damage: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_cifar10(tmp_path, monkeypatch) / name
    damage(file)
    with pytest.raises(DataError) as error:
        load_cifar10(tmp_path)
    message = str(error.value)
    assert message.startswith(f"{file}: ")
    assert "delete the folder" in message
    assert "\n" not in message


def test_a_damaged_archive_is_named_with_its_md5_and_how_to_mend_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "cifar-10-python.tar.gz"
    archive.write_bytes(pack_cifar10(tmp_path / "made", monkeypatch)[:-100])
    with pytest.raises(DataError) as error:
        load_cifar10(tmp_path)
    assert str(archive) in str(error.value)
    assert torchvision_datasets().CIFAR10.tgz_md5 in str(error.value)
    assert "delete it" in str(error.value)


def test_what_is_missing_is_downloaded_with_progress_and_nothing_on_stdout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    packed = pack_cifar10(tmp_path / "made", monkeypatch)
    root, told = tmp_path / "data", list[tuple[str, int, int]]()
    with serving(packed, monkeypatch):
        fetch_cifar10(root, lambda *report: told.append(report))
    assert ("downloading CIFAR-10", len(packed), len(packed)) in told
    assert [file.name for file in root.iterdir()] == ["cifar-10-batches-py"]
    assert len(load_cifar10(root).train) == 30
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("promised", [None, 10**6])
def test_a_broken_download_leaves_nothing_behind(
    promised: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = pack_cifar10(tmp_path / "made", monkeypatch)
    root = tmp_path / "data"
    with (
        serving(packed[:-100], monkeypatch, promised=promised),
        pytest.raises(DataError, match=r"downloading it from http\S+ (brought|broke off)"),
    ):
        load_cifar10(root)
    assert list(root.iterdir()) == []


def test_a_server_that_refuses_is_an_error_that_says_what_else_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(b"", monkeypatch, status=404), pytest.raises(DataError) as error:
        load_cifar10(tmp_path / "data")
    message = str(error.value)
    assert "dataset.name=synthetic" in message
    assert "cifar-10-python.tar.gz (md5 c58f30108f718f92721af3b95e74349a)" in message
    assert str(tmp_path / "data") in message
    assert "\n" not in message
    assert not (tmp_path / "data").exists()


def test_a_server_that_never_answers_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cifar10, "CONNECT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silence:
        url = f"http://127.0.0.1:{silence.getsockname()[1]}/"
        monkeypatch.setattr(torchvision_datasets().CIFAR10, "url", url)
        begin = time.perf_counter()
        with pytest.raises(DataError, match=r"got no answer within 0\.2 s"):
            fetch_cifar10(tmp_path / "data")
        assert time.perf_counter() - begin < 2


def test_a_name_look_up_that_hangs_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = threading.Event()

    def hang(*_: object, **__: object) -> list[Any]:
        done.wait(10)
        raise socket.gaierror("released")

    monkeypatch.setattr(cifar10, "CONNECT_SECONDS", 0.2)
    monkeypatch.setattr(socket, "getaddrinfo", hang)
    try:
        with pytest.raises(DataError, match=r"got no answer within 0\.2 s"):
            fetch_cifar10(tmp_path / "data")
    finally:
        done.set()


def test_a_root_that_cannot_be_written_is_an_error_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "file"
    root.write_text("no folder")
    packed = pack_cifar10(tmp_path / "made", monkeypatch)
    with serving(packed, monkeypatch), pytest.raises(DataError, match=r"file: .*cannot be put"):
        fetch_cifar10(root)
