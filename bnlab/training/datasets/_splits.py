"""What a source of images gives, and how it is cut into train, val and test.

The cut is the same for every seed and every arm: it depends on the images alone, never on the
run. Validation images are taken first, so that they stay the same whatever `train_size` is.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import torch
import torch.nn.functional as F

from bnlab.config import DatasetConfig
from bnlab.errors import DataError
from bnlab.training.lane import alone, wait_for

Progress: TypeAlias = Callable[[str, int, int], None]
"""Told `(what, done, total)` while something long goes on, as in `("decoding images", 500, 60000)`;
a total of 0 means that the end is not known."""

SIZE = 32
"""Height and width of images that a source draws or keeps, in pixels, whatever is asked for."""

RESIZED_AT_ONCE = 2048
"""Images; as floating-point numbers they take four times their memory."""

LUMINANCE = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in luminance (ITU-R BT.601)."""


def silent(what: str, done: int, total: int) -> None:
    """The `Progress` that tells nobody."""


@dataclass(frozen=True, eq=False)
class Split:
    """Images with their labels.

    Attributes:
        images: uint8, (N, channels, height, width), RGB or one channel.
        labels: int64, (N,), each in [0, number of classes).
    """

    images: torch.Tensor
    labels: torch.Tensor
    _copies: "dict[torch.device, Split]" = field(default_factory=dict, init=False, repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    def on(self, device: torch.device) -> "Split":
        """The same on a device, the images in channels_last memory: one copy for all who ask."""
        with alone(device):
            if device not in self._copies:
                # channels_last here too: a crop then copies runs of whole pixels (1.2 times as
                # fast).
                images = self.images.to(device).contiguous(memory_format=torch.channels_last)
                copy = Split(images, self.labels.to(device))
                wait_for(device)  # other lanes read it as well
                self._copies[device] = copy
            return self._copies[device]


@dataclass(frozen=True, eq=False)
class ImageData:
    """All images of a source.

    Both splits come mixed: an image's place says nothing about its class, so the first images of a
    class are a fair sample of it, and images measured in order do not come one class at a time.

    Attributes:
        train: Images to learn from.
        test: Images to measure on.
        classes: Class names by label.
        checksum: `checksum_of` the splits, in hex.
        note: A sentence for reports about what these images are, or "".
    """

    train: Split
    test: Split
    classes: tuple[str, ...]
    checksum: str
    note: str


@dataclass(frozen=True, eq=False)
class Splits:
    """The images of one experiment.

    Attributes:
        train: Images to learn from.
        val: Training images held out, disjoint from `train`; None for `val_size` 0.
        test: Images to measure on.
        classes: Class names by label.
        checksum: The source's checksum, in hex.
        val_indices_hash: SHA-256 of the held-out images' places in the source (int64,
            little-endian), in hex; None without `val`.
        note: A sentence for reports about what these images are, or "".
    """

    train: Split
    val: Split | None
    test: Split
    classes: tuple[str, ...]
    checksum: str
    val_indices_hash: str | None
    note: str


def shape_images(data: ImageData, shape: tuple[int, int, int]) -> ImageData:
    """The same images with (channels, height, width) of that shape.

    The checksum stays that of the source: what is made of it, the configuration says.
    """
    if data.train.images.shape[1:] == shape:
        return data
    train, test = (_shaped(split, shape) for split in (data.train, data.test))
    return replace(data, train=train, test=test)


def _shaped(split: Split, shape: tuple[int, int, int]) -> Split:
    channels, *size = shape
    images = torch.empty(len(split), *shape, dtype=torch.uint8)
    luminance = torch.tensor(LUMINANCE).view(1, 3, 1, 1)
    for start in range(0, len(split), RESIZED_AT_ONCE):
        part = split.images[start : start + RESIZED_AT_ONCE].float()
        if list(part.shape[2:]) != size:
            part = F.interpolate(part, size, mode="bilinear", antialias=True)
        if channels == 1:
            part = (part * luminance).sum(1, keepdim=True)
        images[start : start + RESIZED_AT_ONCE] = part.round().clamp(0, 255).to(torch.uint8)
    return Split(images, split.labels)


def checksum_of(train: Split, test: Split, classes: tuple[str, ...]) -> str:
    """SHA-256 over class names, images and labels, in hex."""
    digest = hashlib.sha256("\n".join(classes).encode())
    for split in (train, test):
        digest.update(f"\n{len(split)}\n".encode())
        digest.update(split.images.contiguous().numpy().data)
        digest.update(split.labels.contiguous().numpy().data)
    return digest.hexdigest()


def balanced_order(labels: torch.Tensor) -> torch.Tensor:
    """Places (N,) that take one image of each class in turn, each class in its own order.

    Every beginning of the order has equally many images of each class, give or take one, as long
    as no class runs out.
    """
    by_class = torch.argsort(labels, stable=True)
    counts = torch.bincount(labels)
    starts = counts.cumsum(0) - counts
    rank = torch.arange(len(labels)) - starts[labels[by_class]]
    return by_class[torch.argsort(rank, stable=True)]


def cut(data: ImageData, config: DatasetConfig) -> Splits:
    """Take the val, train and test images that the configuration asks for.

    Val comes first in `balanced_order`, train follows, so val does not depend on `train_size`.
    Within a split, images keep the source's order.

    Raises:
        DataError: If a size is more than there is, or too small to hold every class.
    """
    available, held_out = len(data.train), config.val_size
    wanted = config.train_size if config.train_size is not None else available - held_out
    _check_sizes(data, config)

    order = balanced_order(data.train.labels)
    val_indices = order[:held_out].sort().values
    train = _take(data.train, order[held_out : held_out + wanted])
    absent = set(range(len(data.classes))) - set(train.labels.unique().tolist())
    if absent:
        names = ", ".join(data.classes[label] for label in sorted(absent))
        raise DataError(
            f"dataset.val_size: holding out {held_out} images leaves none to train on for {names}; "
            "lower dataset.val_size"
        )
    test = balanced_order(data.test.labels)[: config.test_size]
    return Splits(
        train=train,
        val=_take(data.train, val_indices) if held_out else None,
        test=_take(data.test, test),
        classes=data.classes,
        checksum=data.checksum,
        val_indices_hash=_indices_hash(val_indices) if held_out else None,
        note=data.note,
    )


def _check_sizes(data: ImageData, config: DatasetConfig) -> None:
    num_classes = len(data.classes)
    sizes = {"train_size": config.train_size, "test_size": config.test_size}
    if config.val_size:
        sizes["val_size"] = config.val_size
    for key, size in sizes.items():
        if size is not None and size < num_classes:
            raise DataError(
                f"dataset.{key}: {size} images cannot hold each of the {num_classes} classes of "
                f"{config.name}; use at least {num_classes}"
            )
    asked = config.val_size + (config.train_size or num_classes)
    if asked > len(data.train):
        parts = f"dataset.val_size {config.val_size} and dataset.train_size {config.train_size}"
        if config.train_size is None:
            parts = f"dataset.val_size {config.val_size} and one training image a class"
        elif not config.val_size:
            parts = f"dataset.train_size {config.train_size}"
        raise DataError(
            f"{parts} ask for {asked} training images, but {config.name} has {len(data.train)}; "
            f"lower {'dataset.val_size' if config.train_size is None else 'dataset.train_size'}"
        )
    if config.test_size is not None and config.test_size > len(data.test):
        raise DataError(
            f"dataset.test_size {config.test_size} asks for more test images than "
            f"{config.name} has: {len(data.test)}; lower it, or use null for all"
        )


def _take(split: Split, indices: torch.Tensor) -> Split:
    if len(indices) == len(split):
        return split
    kept = indices.sort().values
    return Split(split.images[kept], split.labels[kept])


def _indices_hash(indices: torch.Tensor) -> str:
    return hashlib.sha256(indices.numpy().astype("<i8").tobytes()).hexdigest()
