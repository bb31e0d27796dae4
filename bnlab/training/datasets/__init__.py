"""Sources of images: one file each, and one import line below.

A source is a function from `DatasetConfig` and a `Progress` to `ImageData`, registered under the
name that `dataset.name` gives it.
"""

from bnlab.config import DatasetConfig
from bnlab.training.datasets import cifar10 as cifar10
from bnlab.training.datasets import folder as folder
from bnlab.training.datasets import synthetic as synthetic
from bnlab.training.datasets.base import DATASETS, ImageData, Progress, Split, Splits, cut, silent

__all__ = ["DATASETS", "ImageData", "Progress", "Split", "Splits", "load_splits", "silent"]


def load_splits(config: DatasetConfig, progress: Progress = silent) -> Splits:
    """The images of an experiment.

    Args:
        config: Which source, and how many of its images.
        progress: Told about downloads and decoding.

    Raises:
        ConfigError: If there is no source of that name.
        DataError: If the images are missing, damaged or fewer than asked for.
    """
    return cut(DATASETS[config.name](config, progress), config)
