"""Batches of images that live on the device as uint8 and are cropped, flipped and normalized there.

Order and augmentation are drawn on the CPU, once an epoch, each from a stream of its own: they are
the same on every device, any epoch can be started at any step, and switching one augmentation off
moves neither the other's draws nor the order.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F

from bnlab.training.datasets import Split
from bnlab.training.lane import alone
from bnlab.training.streams import stream

NormalizeName = Literal["none", "half", "minmax", "zscore", "per_image", "decimal"]

# --------------------------------------------------------------------------------------- order


def epoch_order(seed: int, epoch: int, count: int) -> torch.Tensor:
    """The order (count,) in which an epoch visits the training images; int64 on the CPU."""
    return torch.randperm(count, generator=stream(seed, "order", epoch))


def data_order_hash(seed: int, epochs: int, count: int, *, once: bool = False) -> str:
    """SHA-256 over the orders of all epochs (int32, little-endian), in hex.

    Two runs with equal hashes see the same images in the same order.
    """
    digest = hashlib.sha256()
    for epoch in range(epochs):
        digest.update(epoch_order(seed, 0 if once else epoch, count).numpy().astype("<i4").data)
    return digest.hexdigest()


# --------------------------------------------------------------------------------- augmentation


@dataclass(frozen=True, eq=False)
class Augmentation:
    """How each image of an epoch is cropped and flipped, in the order it is visited.

    Attributes:
        rows: First row of the crop within the padded image; int64, (count,).
        columns: Its first column; int64, (count,).
        flips: Whether the crop is mirrored; bool, (count,).
    """

    rows: torch.Tensor
    columns: torch.Tensor
    flips: torch.Tensor

    def to(self, device: torch.device) -> "Augmentation":
        """The same draws on the device."""
        return Augmentation(*(bring(drawn, device) for drawn in vars(self).values()))

    def __getitem__(self, part: slice | torch.Tensor) -> "Augmentation":
        return Augmentation(self.rows[part], self.columns[part], self.flips[part])


def draw_augmentation(
    seed: int, epoch: int, count: int, padding: int, flip: bool, *, name: str = "augment"
) -> Augmentation:
    """Draw an epoch's crops and flips, on the CPU.

    Args:
        seed: The run's seed.
        epoch: From 0.
        count: Images in the epoch.
        padding: Offsets are uniform on 0 to 2 * padding, as in torchvision's RandomCrop.
        flip: Whether to mirror, each image with probability 1/2.
        name: The random stream.
    """
    # All three are always drawn, so that padding and flip do not shift one another's draws.
    uniform = torch.rand(3, count, dtype=torch.float64, generator=stream(seed, name, epoch))
    rows, columns = (uniform[:2] * (2 * padding + 1)).long()
    return Augmentation(rows, columns, (uniform[2] < 0.5) & flip)


def crop(
    images: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, padding: int
) -> torch.Tensor:
    """Pad with black and cut each image back to its size at an offset of its own.

    Args:
        images: (B, C, H, W).
        rows: First row kept of each padded image; (B,), each in [0, 2 * padding].
        columns: First column kept; likewise.
        padding: Pixels added on every side.

    Returns:
        (B, C, H, W), in channels_last memory.
    """
    height, width = images.shape[2:]
    padded = F.pad(images, (padding,) * 4)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # (B, C, 2p+1, 2p+1, H, W), a view
    windows = windows.permute(0, 2, 3, 4, 5, 1)
    picks = torch.arange(len(images), device=images.device)
    return windows[picks, rows, columns].permute(0, 3, 1, 2)


def mirror(images: torch.Tensor, flips: torch.Tensor) -> torch.Tensor:
    """Mirror the images (B, C, H, W) left to right where flips (B,) is true."""
    return torch.where(flips.view(-1, 1, 1, 1), images.flip(3), images)


# -------------------------------------------------------------------------------- normalization


@dataclass(frozen=True, eq=False)
class Normalize:
    """From pixel values in [0, 255] to the network's input: `pixel * scale + shift`.

    Attributes:
        scale: float32, (C, 1, 1).
        shift: float32, (C, 1, 1).
        per_image: Instead, take from each image its own mean over all its values and divide by
            their standard deviation.
    """

    scale: torch.Tensor
    shift: torch.Tensor
    per_image: bool = False

    def to(self, device: torch.device) -> "Normalize":
        """The same, with its constants on the device."""
        return Normalize(self.scale.to(device), self.shift.to(device), self.per_image)

    def apply(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, C, H, W), uint8, as float32 of the same shape and memory layout."""
        values = images.float()
        if not self.per_image:
            return values.mul_(self.scale).add_(self.shift)
        values -= values.mean(dim=(1, 2, 3), keepdim=True)
        std = values.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
        # An image of one color has no spread; the floor is tf.image.per_image_standardization's.
        return values.div_(std.clamp(min=values[0].numel() ** -0.5))


def fit_normalize(name: NormalizeName, train_images: torch.Tensor) -> Normalize:
    """The normalization called `name`, with statistics of these training images and no others.

    Args:
        name: A value of `dataset.normalize`.
        train_images: uint8, (N, C, H, W).
    """
    channels = train_images.shape[1]
    scale = torch.ones(channels, dtype=torch.float64)
    shift = torch.zeros(channels, dtype=torch.float64)
    if name == "half":
        scale, shift = scale * 2 / 255, shift - 1
    elif name == "decimal":
        scale = scale / 1000
    elif name == "minmax":
        low = train_images.amin(dim=(0, 2, 3)).double()
        high = train_images.amax(dim=(0, 2, 3)).double()
        scale = 1 / (high - low).clamp(min=1)  # a channel of one value becomes 0
        shift = -low * scale
    elif name == "zscore":
        counts = _pixel_counts(train_images).double()
        values, total = torch.arange(256, dtype=torch.float64), counts.sum(dim=1)
        mean = counts @ values / total
        var = (counts * (values - mean[:, None]).square()).sum(dim=1) / total
        # A channel of one value becomes 0; any other has a standard deviation far above this.
        scale = 1 / var.sqrt().clamp(min=1e-3)
        shift = -mean * scale
    shape = (channels, 1, 1)
    return Normalize(scale.float().view(shape), shift.float().view(shape), name == "per_image")


def _pixel_counts(images: torch.Tensor) -> torch.Tensor:
    """How often each value occurs in each channel, (C, 256): statistics from it are exact."""
    return torch.stack(
        [torch.bincount(channel.flatten(), minlength=256) for channel in images.unbind(1)]
    )


# -------------------------------------------------------------------------------------- batches


def bring(drawn: torch.Tensor, device: torch.device) -> torch.Tensor:
    """What was drawn on the CPU, on the device, which is not waited for."""
    if device.type != "cuda":
        return drawn.to(device)
    with alone(device):
        return drawn.pin_memory().to(device, non_blocking=True)


@dataclass(frozen=True, eq=False)
class EpochPlan:
    """What one epoch does, in the order it does it; all on the device.

    Attributes:
        order: Places of the images; int64, (N,). None for 0, 1, 2, ...
        augmentation: Crops and flips of the images in that order; None for none.
    """

    order: torch.Tensor | None
    augmentation: Augmentation | None

    def tensors(self) -> list[torch.Tensor]:
        """Everything drawn, in a fixed order."""
        drawn = [] if self.order is None else [self.order]
        if self.augmentation is not None:
            drawn += [self.augmentation.rows, self.augmentation.columns, self.augmentation.flips]
        return drawn


class Batches:
    """The images of a split, batch by batch.

    Args:
        split: Images and labels.
        normalize: Fitted on the training images in use.
        batch_size: Images a batch; the last one of an epoch may be smaller.
        device: Where the images live and the batches are made.
        seed: The run's seed.
        flip: Mirror half of the images, drawn anew each epoch.
        crop_padding: Pad by this many black pixels and crop back at random; 0 for no crop.
        shuffle: Visit the images in `epoch_order`; else in their own order, with augmentation (if
            any) drawn from a stream apart.
        once: Keep to the order of the first epoch; augmentation is drawn anew all the same.
        channels_last: Give images in channels_last memory.
    """

    def __init__(
        self,
        split: Split,
        normalize: Normalize,
        *,
        batch_size: int,
        device: torch.device,
        seed: int,
        flip: bool,
        crop_padding: int,
        shuffle: bool,
        once: bool = False,
        channels_last: bool = True,
    ) -> None:
        there = split.on(device)
        self.images, self.labels = there.images, there.labels
        self.device = device
        self.normalize = normalize.to(device)
        self.batch_size = batch_size
        self.seed = seed
        self.flip = flip
        self.crop_padding = crop_padding
        self.shuffle = shuffle
        self.once = once
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def steps(self) -> int:
        """Batches in an epoch, the last and perhaps smaller one included."""
        return -(-len(self) // self.batch_size)

    def size_of(self, step: int) -> int:
        """Images in a batch of an epoch."""
        return min(self.batch_size, len(self) - step * self.batch_size)

    def plan(self, epoch: int) -> EpochPlan:
        """Draw an epoch's order and augmentation and bring them to the device."""
        order = augmentation = None
        if self.shuffle:
            drawn = epoch_order(self.seed, 0 if self.once else epoch, len(self))
            order = bring(drawn, self.device)
        if self.flip or self.crop_padding:
            name = "augment" if self.shuffle else "augment_test"
            augmentation = draw_augmentation(
                self.seed, epoch, len(self), self.crop_padding, self.flip, name=name
            ).to(self.device)
        return EpochPlan(order, augmentation)

    def make(
        self, picks: torch.Tensor | slice, augmentation: Augmentation | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One batch, as a pure function of what was drawn for it (a CUDA graph can hold it).

        Args:
            picks: Places of the images; int64, (B,), or a slice.
            augmentation: Crops and flips of these images, (B,) each; None for none.

        Returns:
            Images float32 (B, 3, 32, 32) and labels int64 (B,).
        """
        images, labels = self.images[picks], self.labels[picks]
        if augmentation is not None and self.crop_padding:
            images = crop(images, augmentation.rows, augmentation.columns, self.crop_padding)
        if augmentation is not None and self.flip:
            images = mirror(images, augmentation.flips)
        images = images.contiguous(memory_format=self.memory_format)
        return self.normalize.apply(images), labels

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The batches of an epoch from `start_step` on: images float32 (B, 3, 32, 32), labels (B,).

        The device is never waited for within the epoch.
        """
        plan = self.plan(epoch)
        for step in range(start_step, self.steps):
            part = slice(step * self.batch_size, (step + 1) * self.batch_size)
            picks = part if plan.order is None else plan.order[part]
            yield self.make(picks, plan.augmentation and plan.augmentation[part])
