"""Images drawn by bnlab: no download, any number, the same everywhere and always.

Ten classes of texture: five orientations by two wavelengths, each with a tint. An image is a patch
of its class's grating seen through a soft window, over a fainter patch of another class, a smooth
background and noise. Phase, place, size, contrast and color vary from image to image, so that no
pixel and no mean color tells the class; a small convolution network reaches some 80 % from 2,000
images in three epochs. The mirror image of a texture is of the same class.
"""

import math

import torch

from bnlab.config import DatasetConfig
from bnlab.training.datasets import DATASETS
from bnlab.training.datasets._splits import SIZE, ImageData, Progress, Split, checksum_of
from bnlab.training.streams import stream

NOTE = "synthetic images drawn by bnlab; not CIFAR-10"

TRAIN_SIZE, TEST_SIZE = 10_000, 2_000
"""Images for a `train_size` or `test_size` of null."""

CLASSES = tuple(f"texture {label}" for label in range(10))
BLOCK = 250
"""Images drawn at a time from one random stream: image i is the same however many are drawn."""

# float64 throughout: the last bit of a sine differs between processors, and in float32 that would
# now and then round a pixel the other way.
PIXELS = torch.arange(SIZE, dtype=torch.float64)


@DATASETS.register("synthetic")
def load_synthetic(config: DatasetConfig, progress: Progress) -> ImageData:
    """As many images as the sizes ask for, the classes in equal numbers."""
    train_size = config.val_size + (config.train_size or TRAIN_SIZE)
    train = draw_split("train", train_size, progress)
    test = draw_split("test", config.test_size or TEST_SIZE, progress)
    return ImageData(train, test, CLASSES, checksum_of(train, test, CLASSES), NOTE)


def draw_split(name: str, count: int, progress: Progress) -> Split:
    """The first `count` images of an endless split."""
    images = torch.empty(count, 3, SIZE, SIZE, dtype=torch.uint8)
    for start in range(0, count, BLOCK):
        progress(f"drawing {name} images", start, count)
        images[start : start + BLOCK] = draw_block(name, start // BLOCK)[: count - start]
    progress(f"drawing {name} images", count, count)
    return Split(images, torch.arange(count) % len(CLASSES))


def draw_block(name: str, block: int) -> torch.Tensor:
    """Images (BLOCK, 3, 32, 32), uint8; image i shows class i modulo ten."""
    random = stream(0, "synthetic", name, block)
    labels = torch.arange(BLOCK) % len(CLASSES)
    others = (labels + torch.randint(1, len(CLASSES), (BLOCK,), generator=random)) % len(CLASSES)

    across, down = PIXELS / SIZE - 0.5, (PIXELS / SIZE - 0.5)[:, None]
    base, tilt_across, tilt_down = _uniform(random, -1, 1, 3, 3, 1, 1).unbind(1)
    images = 128 + 30 * base + 50 * tilt_across * across + 50 * tilt_down * down
    images = images + _patches(labels, _uniform(random, 45, 90, 1, 1, 1), random)
    images = images + _patches(others, _uniform(random, 18, 54, 1, 1, 1), random)
    images = images + torch.randint(-20, 21, images.shape, generator=random)
    return images.round().clamp(0, 255).to(torch.uint8)


def _patches(labels: torch.Tensor, contrast: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """One tinted grating in a Gaussian window per label: (BLOCK, 3, 32, 32), around 0."""
    angle = math.pi / 8 * (labels % 5) + _uniform(random, -0.12, 0.12)
    angle = angle * (1 - 2 * torch.randint(0, 2, (BLOCK,), generator=random))  # mirrored or not
    wavelength = torch.where(labels < 5, 4.5, 9.0) * torch.exp(_uniform(random, -0.1, 0.1))
    phase = _uniform(random, 0, 2 * math.pi)
    center_x, center_y = _uniform(random, 8, 24, 2).unbind(1)
    width = _uniform(random, 6, 12)

    # exp(i(a + b)) = exp(ia) exp(ib), for the window too: 64 terms an image instead of 1024.
    def along(frequency: torch.Tensor, center: torch.Tensor, phase: torch.Tensor) -> torch.Tensor:
        window = torch.exp(-0.5 * ((PIXELS - center[:, None]) / width[:, None]).square())
        return torch.polar(window, frequency[:, None] * PIXELS + phase[:, None])  # (BLOCK, 32)

    frequency = 2 * math.pi / wavelength
    x = along(frequency * angle.cos(), center_x, phase)
    y = along(frequency * angle.sin(), center_y, torch.zeros_like(phase))
    grating = (y[:, :, None] * x[:, None, :]).real

    hue = 0.3 * labels[:, None] + torch.arange(3) / 3
    tint = 0.5 + 0.5 * torch.cos(2 * math.pi * hue) + _uniform(random, -0.3, 0.3, 3)
    return contrast * tint[:, :, None, None] * grating[:, None]


def _uniform(random: torch.Generator, low: float, high: float, *shape: int) -> torch.Tensor:
    drawn = torch.rand(BLOCK, *shape, dtype=torch.float64, generator=random)
    return low + (high - low) * drawn
