"""What is raced: the loop that one would write, and bnlab in all its ways."""

import importlib
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from bnlab.config import Config, DatasetConfig, restore_config
from bnlab.errors import BnlabError
from bnlab.records import RunDir
from bnlab.training.accelerate import hold_lr
from bnlab.training.datasets import Splits, load_splits, torchvision_datasets
from bnlab.training.device import (
    autocast,
    keep_freed_memory,
    numerics,
    resolve_device,
    resolve_precision,
)
from bnlab.training.lane import lane
from bnlab.training.loop import Task, train_epoch, training_sums
from bnlab.training.models import build_model, roles
from bnlab.training.probes import PROBE_IMAGES, Sample, run_probes
from bnlab.training.recorder import open_recorder
from bnlab.training.signals import StopRequest
from bnlab.training.task import build_task, plain_sample
from bnlab.training.workers import Answer, Reply, Request, ThreadWorker, Worker

CHEAP_PROBES = ("activations", "weights")
"""Probes of at most one forward pass an epoch; `gradients` takes a backward pass as well."""


@dataclass(frozen=True)
class Lap:
    """One timing."""

    images: int
    seconds: float
    """For the training steps."""
    per_epoch: float = 0.0
    """Seconds for what is done once an epoch, however long it is."""


class Runner(Protocol):
    """Does one lap."""

    def __call__(self) -> Lap:
        """Train for one epoch of the bench's images."""


@dataclass(frozen=True)
class Contender:
    """One line of the table.

    Attributes:
        name: As in the table.
        kind: `conventional`, `bnlab`; `bare` is bnlab without gradient norms and `recorded` with
            probes and recorder; `threads` and `processes` are `runs` runs of bnlab at once.
        config: What to train; its precision and acceleration count.
        device: Where.
        runs: At once.
        workers: Of the conventional loop's DataLoader.
    """

    name: str
    kind: Literal["conventional", "bnlab", "bare", "recorded", "threads", "processes"]
    config: Config
    device: str
    runs: int = 1
    workers: int = 2


def build_runner(contender: Contender) -> Runner:
    """Prepare a contender in the process that is to run it."""
    if contender.kind == "conventional":
        return Conventional(contender)
    if contender.kind == "threads":
        return Threads(contender)
    return Alone(contender)


class Conventional:
    """The loop of the tutorials: DataLoader, transforms image by image, fp32, `.item()` a step.

    Args:
        contender: Its config gives network, optimizer and batch size.
    """

    def __init__(self, contender: Contender) -> None:
        torchvision_datasets()  # also makes the import below work beside any build of torch
        transforms = importlib.import_module("torchvision.transforms")
        config = contender.config
        self.device = resolve_device(contender.device)
        splits = load_splits(config.dataset)
        half = (0.5,) * config.dataset.image_shape[0]
        images = _PilImages(
            splits.train.images,
            splits.train.labels,
            transforms.Compose(
                [
                    transforms.RandomCrop(
                        config.dataset.size, padding=config.dataset.crop_padding or None
                    ),
                    transforms.RandomHorizontalFlip(0.5 if config.dataset.flip else 0.0),
                    transforms.ToTensor(),
                    transforms.Normalize(half, half),
                ]
            ),
        )
        self.loader = torch.utils.data.DataLoader(
            images,
            batch_size=config.train.batch_size,
            shuffle=True,
            num_workers=contender.workers,
            persistent_workers=contender.workers > 0,
            # Linux's default up to Python 3.13; this process was itself spawned and would spawn.
            multiprocessing_context="fork" if contender.workers > 0 else None,
            pin_memory=self.device.type == "cuda",
        )
        model = build_model(
            config.model,
            in_shape=config.dataset.image_shape,
            num_classes=len(splits.classes),
            seed=config.seed,
        )
        self.model = model.to(self.device)
        self.optimizer = torch.optim.SGD(
            model.parameters(), lr=config.optim.lr, momentum=0.9, weight_decay=5e-4
        )

    def __call__(self) -> Lap:
        """One epoch."""
        started, loss_sum, correct = time.perf_counter(), 0.0, 0
        self.model.train()
        for images, labels in self.loader:
            images, labels = images.to(self.device), labels.to(self.device)  # noqa: PLW2901
            self.optimizer.zero_grad()
            logits = self.model(images)
            loss = F.cross_entropy(logits, labels)
            loss.backward()
            self.optimizer.step()
            loss_sum += loss.item()
            correct += int((logits.argmax(dim=1) == labels).sum().item())
        return Lap(len(self.loader.dataset), time.perf_counter() - started)  # type: ignore[arg-type]


class _PilImages(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """Images as torchvision's CIFAR10 gives them: PIL, transformed one by one."""

    def __init__(self, images: Tensor, labels: Tensor, transform: Callable[[Any], Tensor]) -> None:
        self.pixels = images.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels, self.transform = labels.tolist(), transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        pixels = self.pixels[index]
        gray = pixels.shape[2] == 1
        image = importlib.import_module("PIL.Image").fromarray(pixels[:, :, 0] if gray else pixels)
        return self.transform(image), self.labels[index]


class Alone:
    """One run of bnlab.

    Args:
        contender: Of kind `bnlab`, `bare` or `recorded`, or one process of `processes`.
    """

    def __init__(self, contender: Contender) -> None:
        self.task, self.kind = _task(contender), contender.kind
        if self.kind == "bare":
            sums = training_sums(self.task)
            sums.add_gradients = lambda: None  # type: ignore[method-assign]
        if self.kind == "recorded":
            self.seen = Sample(*plain_sample(self.task.train, PROBE_IMAGES))

    def __call__(self) -> Lap:
        """One epoch."""
        lap = _lap(self.task)
        return replace(lap, per_epoch=self._record()) if self.kind == "recorded" else lap

    def _record(self) -> float:
        task, norms = self.task, roles(self.task.model).norms
        with tempfile.TemporaryDirectory(prefix="bnlab-bench-") as folder:
            run_dir = RunDir(Path(folder))
            recorder = open_recorder(run_dir, task.config, epochs_done=0)
            started = time.perf_counter()
            with autocast(task.precision, task.device):
                probed = run_probes(CHEAP_PROBES, task.model, self.seen)
            record = {"epoch": 1, "step": 1, "train/loss": 1.0, **probed}
            recorder.write(record, norms)
            return time.perf_counter() - started


class Threads:
    """Several runs of bnlab at once, in threads as the executor `threads` has them.

    Args:
        contender: Its `runs` differ in their seed.
    """

    def __init__(self, contender: Contender) -> None:
        device = str(resolve_device(contender.device))
        _images(contender.config.dataset)  # once, not in every thread
        threads = max(1, torch.get_num_threads() // contender.runs)
        self._workers, self._requests = list[Worker](), list[Request]()
        for seed in range(contender.runs):
            config = contender.config.model_copy(update={"seed": seed})
            self._workers.append(ThreadWorker(Laps(own_process=False), device, threads))
            self._requests.append(request_of(replace(contender, kind="bnlab", config=config)))

    def __call__(self) -> Lap:
        """One epoch of every run."""
        return lap_of(self._workers, self._requests)


@lru_cache(maxsize=1)
def _images(dataset: DatasetConfig) -> Splits:
    return load_splits(dataset)


def _task(contender: Contender) -> Task:
    device = resolve_device(contender.device)
    precision = resolve_precision(contender.config.train.precision, device)
    task = build_task(contender.config, _images(contender.config.dataset), device, precision)
    hold_lr(task.optimizer, device)
    return task


def _lap(task: Task) -> Lap:
    started, position = time.perf_counter(), task.position
    sums = train_epoch(task, lambda _position: False)
    sums.score(len(task.train))  # waits for the device
    position.epoch, position.step, position.sums = position.epoch + 1, 0, None
    return Lap(len(task.train), time.perf_counter() - started)


# --------------------------------------------------------------------------------- in workers


class Laps:
    """What the bench's workers serve: laps of the contender that the first request tells of.

    Args:
        own_process: Whether the process is that contender's alone, to be set up for it.
    """

    def __init__(self, *, own_process: bool = True) -> None:
        self._own_process, self._settings = own_process, ExitStack()
        self._runner: Runner | None = None

    def __call__(self, request: Request, stop: StopRequest) -> Answer:  # noqa: ARG002 - laps are short
        """One lap."""
        if self._runner is None:
            contender = Contender(**{**request, "config": restore_config(request["config"])})
            if self._own_process and contender.kind != "conventional":
                device = resolve_device(contender.device)
                precision = resolve_precision(contender.config.train.precision, device)
                self._settings.enter_context(numerics(precision))
                if contender.kind != "threads":  # whose threads have a lane each
                    self._settings.enter_context(lane(device))
                keep_freed_memory()
            self._runner = build_runner(contender)
        return asdict(self._runner())


def request_of(contender: Contender) -> Request:
    """What `Laps` is asked for a lap of the contender."""
    return {**vars(contender), "config": contender.config.resolved()}


def lap_of(workers: Sequence[Worker], requests: Sequence[Request]) -> Lap:
    """A lap of every worker, all at the same time.

    Raises:
        BnlabError: If one of them fails.
    """
    started = time.perf_counter()
    for worker, request in zip(workers, requests, strict=True):
        worker.begin(request)
    laps = [_lap_in(worker.reply()) for worker in workers]
    if len(laps) == 1:
        return laps[0]
    return Lap(sum(lap.images for lap in laps), time.perf_counter() - started)


def _lap_in(reply: Reply) -> Lap:
    if reply.answer is None:
        raise BnlabError(reply.error or "stopped")
    return Lap(**reply.answer)
