"""A run's network tested anew: on its own images or others, by these statistics or those."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnlab.config import Config, DatasetConfig, Layer, build_config, flatten, parse_override
from bnlab.errors import ConfigError
from bnlab.records import RunDir, RunFacts, read_config, read_facts
from bnlab.training.batches import Batches
from bnlab.training.datasets import Progress, Split, Splits, load_splits, silent
from bnlab.training.device import autocast, numerics, resolve_device, resolve_precision
from bnlab.training.models import roles
from bnlab.training.probes import (
    POPULATION_IMAGES,
    average_statistics,
    in_training,
    tracking_norms,
)
from bnlab.training.task import mixed_batches
from bnlab.training.trained import TrainedNetwork, load_network

Statistics: TypeAlias = Literal["running", "population", "batch"]
SplitName: TypeAlias = Literal["test", "val", "train"]
PrecisionName: TypeAlias = Literal["auto", "fp32", "tf32", "bf16"]

SIZES = ("train_size", "val_size", "test_size")
SETTABLE = [f"dataset.{key}" for key in ("name", "root", *SIZES, "size", "grayscale")]
"""Keys that say which images there are; the others say how they are fed."""


@dataclass(frozen=True)
class ClassScore:
    """How the images of one class were classified."""

    images: int
    correct: int

    @property
    def accuracy(self) -> float | None:
        """Fraction in [0, 1]; None without images."""
        return self.correct / self.images if self.images else None


@dataclass(frozen=True)
class Evaluation:
    """How a network classified images.

    Attributes:
        run: `<study>/<arm>/s<seed>`.
        dataset: Where the images come from.
        split: Which of them.
        statistics: By which statistics its normalizers worked.
        statistics_images: Training images behind those of `population`, else None.
        batch_size: Images a batch; with `batch` the statistics are over so many.
        loss: Mean cross-entropy in nats.
        classes: By name, in the order of the logits.
        precision: Of the products.
        device: Where it was computed.
        notes: What bears on the numbers.
    """

    run: str
    dataset: str
    split: SplitName
    statistics: Statistics
    statistics_images: int | None
    batch_size: int
    loss: float
    classes: Mapping[str, ClassScore]
    precision: str
    device: str
    notes: tuple[str, ...] = ()

    @property
    def images(self) -> int:
        """Images classified."""
        return sum(score.images for score in self.classes.values())

    @property
    def accuracy(self) -> float:
        """Fraction of them classified right."""
        return sum(score.correct for score in self.classes.values()) / self.images

    def as_data(self) -> dict[str, Any]:
        """For JSON, which has no NaN."""
        return {
            **vars(self),
            "accuracy": self.accuracy,
            "loss": self.loss if math.isfinite(self.loss) else None,
            "images": self.images,
            "classes": {
                name: {"accuracy": score.accuracy, **vars(score)}
                for name, score in self.classes.items()
            },
        }


def evaluate_run(
    run_dir: RunDir,
    *,
    sets: Sequence[str] = (),
    statistics: Statistics = "running",
    split: SplitName = "test",
    batch_size: int | None = None,
    device: str = "auto",
    precision: PrecisionName | None = None,
    trust: bool = False,
    progress: Progress = silent,
) -> Evaluation:
    """Classify images, none of them augmented, by a run's network. Nothing is written.

    Args:
        run_dir: The run.
        sets: `dataset.name=folder` and the like: other images, or more or fewer of them. They are
            normalized as the run's were. With another name, sizes that are not set are all there.
        statistics: `running` as the run left them; `population` those of up to 10,000 training
            images of the same source, averaged over batches of the training size (Wu and Johnson
            2021, arXiv:2105.07576); `batch` those of each batch tested.
        split: Which images.
        batch_size: Images a batch; by default the run's `train.eval_batch_size`, for `batch` its
            `train.batch_size`.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        precision: By default that of the run's configuration.
        trust: Run the Python file that the run recorded, where its network is made by one.
        progress: Told about downloads and decoding.

    Raises:
        ConfigError: If the images do not fit the network, or the network the statistics.
        DataError: If the images are missing, damaged or fewer than asked for.
        RefusedError: If the run has no checkpoint that fits, or is not trusted.
    """
    place = resolve_device(device)
    network = load_network(run_dir, trust=trust)
    config, facts = read_config(run_dir.files), read_facts(run_dir.files)
    settled = resolve_precision(precision or config.train.precision, place)
    train = config.train
    size = batch_size or (train.batch_size if statistics == "batch" else train.eval_batch_size)
    norms = _norms_for(statistics, run_dir, network)
    if statistics == "batch" and size == 1:
        raise ConfigError(
            "--batch-size 1: one image has no statistics of its own; use --batch-size 2 or more"
        )
    dataset = _dataset(config, sets)
    data = load_splits(dataset, progress)
    images = _images_of(data, split, network)

    def batches(split: Split) -> Batches:
        return Batches(
            split,
            network.normalize,
            batch_size=size,
            device=place,
            seed=config.seed,
            flip=False,
            crop_padding=0,
            shuffle=False,
        )

    tested, population = batches(images), None
    network.to(place)
    with numerics(settled), torch.no_grad(), autocast(settled, place):
        if statistics == "population":
            population = min(len(data.train), POPULATION_IMAGES)
            trained = mixed_batches(batches(data.train), population, train.batch_size)
            with in_training(norms):
                average_statistics(network.network, norms, trained)
        if statistics == "batch":
            with in_training(norms):
                scores = _classify(network, mixed_batches(tested, len(tested), size), place)
        else:
            scores = _classify(network, tested.epoch(0), place)
    loss, seen, right = scores
    left = len(tested) - sum(seen)
    return Evaluation(
        run=run_dir.files.path,
        dataset=dataset.name,
        split=split,
        statistics=statistics,
        statistics_images=population,
        batch_size=size,
        loss=loss,
        classes={
            name: ClassScore(*counts)
            for name, *counts in zip(data.classes, seen, right, strict=True)
        },
        precision=settled,
        device=str(place),
        notes=tuple(_notes(config, facts, dataset, data, split, left)),
    )


def _dataset(config: Config, sets: Sequence[str]) -> DatasetConfig:
    """The images of a run's configuration, with what is set over them."""
    layers = [parse_override(text) for text in sets]
    given = [key for layer in layers for key in flatten(layer.tree)]
    if others := [key for key in given if key not in SETTABLE]:
        raise ConfigError(
            f"--set {others[0]}: the network is the run's, and its images are fed as they were; "
            f"only {', '.join(SETTABLE)} can be set"
        )
    own = config.resolved()["dataset"]
    named = build_config([Layer({"dataset": own}, {}), *layers]).dataset
    if named.name != config.dataset.name:
        own = {key: value for key, value in own.items() if key not in SIZES}
        named = build_config([Layer({"dataset": own}, {}), *layers]).dataset
    idle = [f"dataset.{key}" for key in named.idle_fields()]
    if unread := [key for key in given if key in idle]:
        raise ConfigError(
            f"--set {unread[0]}: means nothing where dataset.name is {named.name}; "
            "--set dataset.name=folder reads images from a folder"
        )
    if named.image_shape != config.dataset.image_shape:
        raise ConfigError(
            f"dataset: images of {_shape(named)}, but the network takes {_shape(config.dataset)}"
        )
    return named


def _shape(dataset: DatasetConfig) -> str:
    return " x ".join(map(str, dataset.image_shape))


def _images_of(data: Splits, split: SplitName, network: TrainedNetwork) -> Split:
    if len(data.classes) != len(network.classes):
        raise ConfigError(
            f"dataset: {len(data.classes)} classes, but the network tells "
            f"{len(network.classes)} apart ({', '.join(network.classes)})"
        )
    images = {"train": data.train, "val": data.val, "test": data.test}[split]
    if images is None:
        raise ConfigError("--split val: no images are held out; --set dataset.val_size=N does it")
    return images


def _norms_for(statistics: Statistics, run_dir: RunDir, network: TrainedNetwork) -> list[nn.Module]:
    """The normalizers whose statistics these are."""
    norms = tracking_norms(network)
    if norms or statistics == "running":
        return norms
    kinds = sorted({type(norm).__name__ for norm in roles(network).norms.values()})
    told = f"{run_dir.root}: --statistics {statistics}"
    if not kinds:
        raise ConfigError(
            f"{told}: its network has no normalizer, so it makes no difference; use running"
        )
    if any(hasattr(norm, "running_mean") for norm in roles(network).norms.values()):
        raise ConfigError(
            f"{told}: its normalizers ({', '.join(kinds)}) keep their statistics in a way of their "
            "own, which is not recomputed; use running"
        )
    raise ConfigError(
        f"{told}: its normalizers ({', '.join(kinds)}) take no statistics from a batch, so it "
        "makes no difference; use running"
    )


def _classify(
    network: TrainedNetwork, batches: Iterable[tuple[Tensor, Tensor]], device: torch.device
) -> tuple[float, list[int], list[int]]:
    """Mean loss; by class, how many images there were and how many of them were told right.

    Sums are made as training makes them (`loop.Sums`), so that equal logits give equal scores.
    """
    count = len(network.classes)
    loss = torch.zeros((), dtype=torch.float64, device=device)
    seen = torch.zeros(count, dtype=torch.int64, device=device)
    right = torch.zeros_like(seen)
    for images, labels in batches:
        logits = network.network(images).float()
        loss += F.cross_entropy(logits, labels) * len(labels)
        seen += torch.bincount(labels, minlength=count)
        right += torch.bincount(labels[logits.argmax(dim=1) == labels], minlength=count)
    return loss.item() / int(seen.sum()), seen.tolist(), right.tolist()


def _notes(
    config: Config,
    facts: RunFacts,
    dataset: DatasetConfig,
    data: Splits,
    split: SplitName,
    left: int,
) -> Iterator[str]:
    if data.note:
        yield data.note
    if facts.status != "done":
        yield f"the run is {facts.status}"
    if facts.dataset.checksum not in (None, data.checksum):
        yield "not the images that the run was trained and tested on"
    if data.classes != facts.dataset.classes:
        yield f"the run's classes were called {', '.join(facts.dataset.classes)}, in this order"
    if split == "val" and dataset.val_size > config.dataset.val_size:
        yield f"the run held out {config.dataset.val_size} images only: it may have trained on some"
    if config.train.evaluate_in_train_mode or config.dataset.augment_test:
        yield "the run measured otherwise: in training mode, or on augmented images"
    if left:
        yield f"{left} image left out: alone in its batch it has no statistics"
