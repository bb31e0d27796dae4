"""A configuration as what is trained: network, optimizer and batches, ready on their device."""

from collections.abc import Iterator
from copy import deepcopy

import torch

from bnlab.config import Config
from bnlab.training.accelerate import build_forward, resolve_acceleration
from bnlab.training.batches import Batches, fit_normalize
from bnlab.training.datasets import Splits
from bnlab.training.device import Precision
from bnlab.training.loop import Task
from bnlab.training.models import build_model, check_batch, check_classes
from bnlab.training.norms import calibrate
from bnlab.training.optim import build_optimizer

CALIBRATION_IMAGES = 2048
"""Training images on which `frozen_init` measures its statistics."""


def build_task(config: Config, data: Splits, device: torch.device, precision: Precision) -> Task:
    """Network, optimizer and device-resident data of a configuration, at the start of training."""
    dataset, train = config.dataset, config.train
    normalize = fit_normalize(dataset.normalize, data.train.images)
    batches = Batches(
        data.train,
        normalize,
        batch_size=train.batch_size,
        device=device,
        seed=config.seed,
        flip=dataset.flip,
        crop_padding=dataset.crop_padding,
        shuffle=True,
        once=train.shuffle == "once",
    )
    held_out = {
        name: Batches(
            split,
            normalize,
            batch_size=train.eval_batch_size,
            device=device,
            seed=config.seed,
            flip=dataset.flip and dataset.augment_test,
            crop_padding=dataset.crop_padding if dataset.augment_test else 0,
            shuffle=False,
        )
        for name, split in (("val", data.val), ("test", data.test))
        if split is not None
    }
    model = build_model(
        config.model,
        in_shape=dataset.image_shape,
        num_classes=len(data.classes),
        seed=config.seed,
    )
    if config.model.file is not None:
        check_classes(model, dataset.image_shape, len(data.classes))
    model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    calibrate(model, plain_sample(batches, CALIBRATION_IMAGES)[0])
    acceleration = resolve_acceleration(train.accelerate, device)
    return Task(
        config=config,
        model=model,
        forward=build_forward(model, acceleration),
        optimizer=build_optimizer(model, config.optim),
        train=batches,
        held_out=held_out,
        device=device,
        precision=precision,
        acceleration=acceleration,
        num_classes=len(data.classes),
    )


def spread(wanted: int, count: int) -> torch.Tensor:
    """Up to `wanted` indices below `count`, evenly apart: data sets may be sorted by class."""
    return torch.linspace(0, count - 1, min(wanted, count)).long()


def plain_sample(batches: Batches, wanted: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Up to `wanted` images, un-augmented and normalized, and their labels, on the device."""
    return batches.make(spread(wanted, len(batches)).to(batches.device), None)


def mixed_batches(
    batches: Batches, most: int, size: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Up to so many un-augmented images in batches; data sets may be sorted by class.

    The order is the same for every run. A last batch of one image, which has no statistics of its
    own, is left out.
    """
    order = torch.randperm(len(batches), generator=torch.Generator().manual_seed(0))[:most]
    for part in order.to(batches.device).split(size):
        if len(part) > 1 or size == 1:
            yield batches.make(part, None)


def steps_ahead(
    task: Task,
) -> tuple[torch.optim.Optimizer, Iterator[tuple[torch.Tensor, torch.Tensor]]]:
    """What training would go on with: a twin of the optimizer as it stands, and the next batches.

    The twin steps the network's own parameters, with a copy of the state and at the rate of the
    last step; the batches are those of the coming epoch.
    """
    twin = build_optimizer(task.model, task.config.optim)
    twin.load_state_dict(deepcopy(task.optimizer.state_dict()))
    return twin, task.train.epoch(task.position.epoch)


def check_config(config: Config) -> None:
    """Find what can be found wrong without reading data.

    Raises:
        ConfigError: If the network cannot be built, or cannot be trained in batches of that size.
    """
    shape = config.dataset.image_shape
    build_model(config.model, in_shape=shape, seed=config.seed)
    images = config.dataset.train_size or config.train.batch_size
    check_batch(config.model, config.train.batch_size, images, in_shape=shape)


def check_batches(config: Config, data: Splits) -> None:
    """Refuse batches of one image, where statistics would have to be taken from them."""
    train, shape = config.train, config.dataset.image_shape
    check_batch(config.model, train.batch_size, len(data.train), in_shape=shape)
    if not train.evaluate_in_train_mode:
        return
    for name, split in (("val", data.val), ("test", data.test)):
        if split is not None:
            keys = ("train.eval_batch_size", f"dataset.{name}_size")
            check_batch(config.model, train.eval_batch_size, len(split), in_shape=shape, keys=keys)
