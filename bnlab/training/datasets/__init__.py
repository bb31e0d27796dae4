"""Sources of images, a file each.

To add one: a file here with a function from `DatasetConfig` and a `Progress` to `ImageData`,
registered in `DATASETS` under the file's own stem, which is what `dataset.name` says.
"""

from collections.abc import Callable
from typing import TypeAlias

from bnlab import registry
from bnlab.config import DatasetConfig
from bnlab.training.datasets._splits import (
    SIZE,
    ImageData,
    Progress,
    Split,
    Splits,
    checksum_of,
    cut,
    shape_images,
    silent,
)
from bnlab.training.datasets._torchvision import torchvision_datasets

Source: TypeAlias = Callable[[DatasetConfig, Progress], ImageData]

DATASETS: registry.Registry[Source] = registry.DATASETS
"""Sources of images by `dataset.name`; each gives at least the images that the sizes ask for, in
color, of any one size: `load_splits` resizes what is not of `dataset.size`."""

__all__ = [
    "DATASETS",
    "SIZE",
    "ImageData",
    "Progress",
    "Source",
    "Split",
    "Splits",
    "checksum_of",
    "load_splits",
    "silent",
    "torchvision_datasets",
]


def load_splits(config: DatasetConfig, progress: Progress = silent) -> Splits:
    """The images of an experiment.

    Args:
        config: Which source, and how many of its images.
        progress: Told about downloads and decoding.

    Raises:
        ConfigError: If there is no source of that name.
        DataError: If the images are missing, damaged or fewer than asked for.
    """
    data = shape_images(DATASETS[config.name](config, progress), config.image_shape)
    return cut(data, config)
