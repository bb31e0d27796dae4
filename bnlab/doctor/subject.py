"""What is examined: a network with its configuration, its weights and the images at hand."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import torch
from torch import Tensor, nn

from bnlab.config import Config
from bnlab.doctor.wiring import Wiring, is_batch_norm, wiring_of
from bnlab.errors import ConfigError, DataError
from bnlab.records import RunDir, RunFiles, read_config, read_facts
from bnlab.training.batches import Batches, Normalize, fit_normalize
from bnlab.training.datasets import Progress, Splits, load_splits, silent
from bnlab.training.datasets.cifar10 import cifar10_status
from bnlab.training.models import CLASSES, build_model
from bnlab.training.norms import calibrate
from bnlab.training.probes import Sample, inputs_of, leave_no_trace
from bnlab.training.task import mixed_batches, plain_sample
from bnlab.training.trained import load_network, model_of

IMAGES = 1024
"""Images of 32 x 32 that are measured on, of the training and of the test set each; of larger ones
as many as have as many pixels, and at least `FEWEST`."""

FEWEST = 64


@dataclass(frozen=True, eq=False)
class Subject:
    """What checks may look at.

    Attributes:
        config: All else that is known of the training.
        model: The network on the CPU, in training mode, with a checkpoint's weights if there is
            one.
        wiring: Its layers and the ways between them.
        trained: Whether its weights and statistics come from training.
        train_images: Training images in use, as far as that is known.
        sample: Images at hand; None without any.
        remarks: What could not be looked at, and why.
    """

    config: Config
    model: nn.Module
    wiring: Wiring
    trained: bool = False
    train_images: int | None = None
    sample: Sample | None = None
    remarks: tuple[str, ...] = field(default=())

    @cached_property
    def norms(self) -> Mapping[str, nn.Module]:
        """Its batch norms, by dotted name, in the order of the data where that is known."""
        found = {name: one for name, one in self.model.named_modules() if is_batch_norm(one)}
        order = {name: place for place, name in enumerate(self.wiring.kinds)}
        return dict(sorted(found.items(), key=lambda pair: order.get(pair[0], len(order))))

    @cached_property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Of what enters each batch norm, (images, channels, ...) for two images."""
        images = torch.zeros(2, *self.config.dataset.image_shape)
        with kept(self.model, evaluate=True), inputs_of(self.norms, shape_of) as found:
            self.model(images)
        return found

    @property
    def steps(self) -> int | None:
        """Optimizer steps of the whole training."""
        if self.train_images is None:
            return None
        train = self.config.train
        return train.epochs * -(-self.train_images // train.batch_size)


@contextmanager
def kept(model: nn.Module, *, evaluate: bool) -> Iterator[None]:
    """Both modes without gradients; values, modes and random streams are put back."""
    with leave_no_trace(model), torch.no_grad():
        model.train(not evaluate)
        yield


def shape_of(features: Tensor) -> tuple[int, ...]:
    """As a plain tuple."""
    return tuple(features.shape)


def subject_of_config(config: Config, *, data: bool = True, progress: Progress = silent) -> Subject:
    """A configuration's network as it is before training.

    Args:
        config: Its `model.file` is run, if it has one.
        data: Look for its images.
        progress: Told about reading them.

    Raises:
        ConfigError: If the network cannot be built, or does not fit the images.
    """
    splits = _images_at_hand(config, progress) if data else "not looked for (--no-data)"
    classes = CLASSES if isinstance(splits, str) else len(splits.classes)
    shape = config.dataset.image_shape
    model = build_model(config.model, in_shape=shape, num_classes=classes, seed=config.seed)
    trained = any(_updates(module) for module in model.modules())
    return _subject(config, model, classes, splits, trained=trained)


def subject_of_run(
    files: RunFiles, *, trust: bool = False, data: bool = True, progress: Progress = silent
) -> Subject:
    """A run's network as its checkpoint has it, or, without one, as it was before training.

    Raises:
        RefusedError: If its network is made by a file that is not trusted, or its checkpoint is
            not one of this run.
        BnlabError: If its record cannot be read.
    """
    run_dir, config = RunDir(files.root), read_config(files)
    splits = _images_at_hand(config, progress) if data else "not looked for (--no-data)"
    classes = len(read_facts(files).dataset.classes)
    if run_dir.checkpoint.exists():
        loaded = load_network(run_dir, trust=trust)
        per_image = config.dataset.normalize == "per_image"
        normalize = Normalize(loaded.scale, loaded.shift, per_image)
        return _subject(config, loaded.network, classes, splits, normalize, trained=True)
    model = build_model(
        model_of(run_dir, config, trust=trust),
        in_shape=config.dataset.image_shape,
        num_classes=classes,
        seed=config.seed,
    )
    why = f"{run_dir.checkpoint}: missing; the network is examined as it was before training"
    return _subject(config, model, classes, splits, remarks=(why,))


def _subject(
    config: Config,
    model: nn.Module,
    classes: int,
    splits: Splits | str,
    normalize: Normalize | None = None,
    *,
    trained: bool = False,
    remarks: tuple[str, ...] = (),
) -> Subject:
    model.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    shape = config.dataset.image_shape
    sample = None
    if isinstance(splits, str):
        remarks += (f"no images at hand: {splits}",)
    else:
        sample = _sample(config, splits, normalize)
    if not trained:
        drawn = torch.randn(16, *shape, generator=torch.Generator().manual_seed(0))
        calibrate(model, drawn if sample is None else sample.images)
    _check_training(model, shape, classes)
    wiring = wiring_of(model, shape)
    if wiring.why_not:
        remarks += (f"layers are taken in the order of the modules, for {wiring.why_not}",)
    return Subject(config, model, wiring, trained, _train_images(config, splits), sample, remarks)


def _check_training(model: nn.Module, in_shape: tuple[int, ...], classes: int) -> None:
    """See that it maps images to logits in training too, as all measurements need.

    Raises:
        ConfigError: If it does not.
    """
    try:
        with kept(model, evaluate=False):
            logits = model(torch.zeros(2, *in_shape))
    except Exception as error:
        raise ConfigError(
            f"in training mode the network raised {type(error).__name__}: {error}"
        ) from error
    found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if found != (2, classes):
        raise ConfigError(
            f"in training mode the network gives {found} for two images, not logits (2, {classes})"
        )


def _updates(module: nn.Module) -> int:
    tracked = getattr(module, "num_batches_tracked", None)
    return 0 if tracked is None else int(tracked)


def _images_at_hand(config: Config, progress: Progress) -> Splits | str:
    """Images that are there already, no more than are looked at; or why there are none."""
    dataset, most = config.dataset, {"train_size": 2 * IMAGES, "test_size": IMAGES}
    if dataset.name == "cifar10":
        status = cifar10_status(Path(dataset.root).expanduser())
        if status.state != "ready":  # loading would fetch them
            return status.message
    sizes = {key: getattr(dataset, key) for key in most}
    cut = {
        key: min(size or most[key], most[key])
        for key, size in sizes.items()
        if size is not None or dataset.name == "synthetic"
    }
    try:
        return load_splits(dataset.model_copy(update=cut), progress)
    except (DataError, ConfigError) as error:
        return str(error)


def _train_images(config: Config, splits: Splits | str) -> int | None:
    dataset = config.dataset
    if dataset.train_size is not None:
        return dataset.train_size
    if dataset.name == "synthetic":
        from bnlab.training.datasets.synthetic import TRAIN_SIZE

        return TRAIN_SIZE
    if not isinstance(splits, str):
        return len(splits.train)
    return 50_000 - dataset.val_size if dataset.name == "cifar10" else None


def _sample(config: Config, splits: Splits, normalize: Normalize | None) -> Sample:
    dataset = config.dataset
    normalize = normalize or fit_normalize(dataset.normalize, splits.train.images)
    train, test = (
        Batches(
            split,
            normalize,
            batch_size=config.train.batch_size,
            device=torch.device("cpu"),
            seed=config.seed,
            flip=dataset.flip and augmented,
            crop_padding=dataset.crop_padding if augmented else 0,
            shuffle=augmented,
        )
        for split, augmented in ((splits.train, True), (splits.test, False))
    )
    most = max(FEWEST, IMAGES * 32**2 // dataset.size**2)
    return Sample(
        *plain_sample(train, most // 2),
        batch_size=max(2, min(config.train.batch_size, len(train))),
        train=partial(_as_trained, train, most),
        test=partial(mixed_batches, test, most),
    )


def _as_trained(batches: Batches, most: int, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Up to so many training images, augmented as in training, in batches of at least two.

    Statistics of plain images are not those that a network has learned with.
    """
    plan = batches.plan(0)
    assert plan.order is not None
    for start in range(0, min(most, len(batches)) - 1, size):
        part = slice(start, min(start + size, most))
        yield batches.make(plan.order[part], plan.augmentation and plan.augmentation[part])
