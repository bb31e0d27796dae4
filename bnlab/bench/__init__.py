"""How fast this machine trains: bnlab beside the loop that one would write, and beside the limit.

Every contender lives in a process of its own, so that none works with another's settings. All are
warmed up, then timed in turn, one lap each, again and again: what disturbs the machine for a while
disturbs all of them. Medians count.
"""

import importlib
import multiprocessing
import platform
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from bnlab.config import Config
from bnlab.errors import BnlabError
from bnlab.records import RunDir
from bnlab.training.accelerate import hold_lr
from bnlab.training.datasets import load_splits, torchvision_datasets
from bnlab.training.device import (
    Precision,
    autocast,
    keep_freed_memory,
    numerics,
    own_stream,
    resolve_device,
    resolve_precision,
)
from bnlab.training.experiment import build_task, plain_sample
from bnlab.training.loop import Task, train_epoch, training_sums, weighted_layers
from bnlab.training.models import build_model, norm_layers
from bnlab.training.norms import calibrate
from bnlab.training.probes import PROBE_IMAGES, Sample, run_probes
from bnlab.training.provenance import environment
from bnlab.training.recorder import open_recorder

EPOCH_IMAGES = 50_000
"""Images of the epoch that the table speaks of: CIFAR-10's."""

AT_ONCE = (1, 2, 4, 8, 16)
"""Numbers of runs at once that are tried, as far as the device suits them."""

CHEAP_PROBES = ("activations", "weights")
"""Probes of at most one forward pass an epoch; `gradients` takes a backward pass as well."""

# ----------------------------------------------------------------------------------- contenders


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
        images = _PilImages(
            splits.train.images,
            splits.train.labels,
            transforms.Compose(
                [
                    transforms.RandomCrop(32, padding=config.dataset.crop_padding or None),
                    transforms.RandomHorizontalFlip(0.5 if config.dataset.flip else 0.0),
                    transforms.ToTensor(),
                    transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
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
        model = build_model(config.model, num_classes=len(splits.classes), seed=config.seed)
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
        image = importlib.import_module("PIL.Image").fromarray(self.pixels[index])
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
        task = self.task
        with (
            tempfile.TemporaryDirectory(prefix="bnlab-bench-") as folder,
            open_recorder(
                RunDir(Path(folder)), task.config, weighted_layers(task.model), epochs_done=0
            ) as recorder,
        ):
            started = time.perf_counter()
            with autocast(task.precision, task.device):
                probed = run_probes(CHEAP_PROBES, task.model, self.seen)
            record = {"epoch": 1, "step": 1, "train/loss": 1.0, **probed}
            recorder.write(record, norm_layers(task.model))
            return time.perf_counter() - started


class Threads:
    """Several runs of bnlab at once, as the executor `threads` has them.

    Args:
        contender: Its `runs` differ in their seed.
    """

    def __init__(self, contender: Contender) -> None:
        threads = max(1, torch.get_num_threads() // contender.runs)
        self.lanes = [_Lane(contender, seed, threads) for seed in range(contender.runs)]

    def __call__(self) -> Lap:
        """One epoch of every run."""
        started = time.perf_counter()
        for lane in self.lanes:
            lane.go.release()
        laps = [lane.lap() for lane in self.lanes]
        return Lap(sum(lap.images for lap in laps), time.perf_counter() - started)


class _Lane(threading.Thread):
    """One of several runs, in its thread and on its stream."""

    def __init__(self, contender: Contender, seed: int, threads: int) -> None:
        super().__init__(daemon=True)
        config = contender.config.model_copy(update={"seed": seed})
        self.contender, self.threads = replace(contender, config=config), threads
        self.go, self.done = threading.Semaphore(0), threading.Semaphore(0)
        self.found: list[Lap | Exception] = []
        self.start()

    def run(self) -> None:
        """Do a lap whenever told to."""
        torch.set_num_threads(self.threads)
        try:
            with own_stream(resolve_device(self.contender.device)):
                task = _task(self.contender)
                while self.go.acquire():
                    self.found.append(_lap(task))
                    self.done.release()
        except Exception as error:  # noqa: BLE001 - raised in `lap`
            self.found.append(error)
            self.done.release()

    def lap(self) -> Lap:
        """The lap that was last started."""
        self.done.acquire()
        found = self.found.pop()
        if isinstance(found, Exception):
            raise found
        return found


def _task(contender: Contender) -> Task:
    device = resolve_device(contender.device)
    precision = resolve_precision(contender.config.train.precision, device)
    task = build_task(contender.config, load_splits(contender.config.dataset), device, precision)
    hold_lr(task.optimizer, device)
    return task


def _lap(task: Task) -> Lap:
    started, position = time.perf_counter(), task.position
    sums = train_epoch(task, lambda _position: False)
    sums.score(len(task.train))  # waits for the device
    position.epoch, position.step, position.sums = position.epoch + 1, 0, None
    return Lap(len(task.train), time.perf_counter() - started)


# ------------------------------------------------------------------------------------ processes


class _Process:
    """A contender in a process of its own."""

    def __init__(self, contender: Contender) -> None:
        context = multiprocessing.get_context("spawn")
        self.name = contender.name
        self.pipe, there = context.Pipe()
        # Not a daemon: those may not have the DataLoader's workers as children.
        self.process = context.Process(target=_serve, args=(there, contender))
        self.process.start()
        there.close()

    def start(self) -> None:
        self.pipe.send(True)

    def lap(self) -> Lap:
        try:
            found = self.pipe.recv()
        except EOFError:
            raise BnlabError(f"bench: {self.name}: its process died") from None
        if isinstance(found, Lap):
            return found
        raise BnlabError(f"bench: {self.name}: {found}")

    def close(self) -> None:
        self.pipe.close()
        self.process.join()


def _serve(pipe: Connection, contender: Contender) -> None:
    """Do a lap for every message, until the pipe closes."""
    try:
        precision = resolve_precision(
            contender.config.train.precision, resolve_device(contender.device)
        )
        with ExitStack() as stack:
            if contender.kind != "conventional":
                stack.enter_context(numerics(precision))
                keep_freed_memory()
            runner = build_runner(contender)
            while pipe.recv():
                pipe.send(runner())
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        return
    except Exception as error:  # noqa: BLE001 - told to the parent
        pipe.send(f"{type(error).__name__}: {error}")


class _Lanes:
    """A contender's processes: one, or `runs` for the kind `processes`."""

    def __init__(self, contender: Contender) -> None:
        count = contender.runs if contender.kind == "processes" else 1
        self.processes = [_Process(contender) for _ in range(count)]

    def __call__(self) -> Lap:
        started = time.perf_counter()
        for process in self.processes:
            process.start()
        laps = [process.lap() for process in self.processes]
        if len(laps) == 1:
            return laps[0]
        return Lap(sum(lap.images for lap in laps), time.perf_counter() - started)

    def close(self) -> None:
        for process in self.processes:
            process.close()


def race(
    contenders: Sequence[Contender],
    *,
    warm_up: int,
    repeats: int,
    start: Callable[[Contender], Any] | None = None,
    say: Callable[[str], None] = lambda _text: None,
) -> dict[str, list[Lap]]:
    """Time the contenders in turn.

    Args:
        contenders: By distinct names.
        warm_up: Laps that do not count.
        repeats: Laps that do.
        start: Makes what does a contender's laps and can be closed; by default its processes.
        say: Told how far it is.
    """
    laps: dict[str, list[Lap]] = {contender.name: [] for contender in contenders}
    running: dict[str, Any] = {}
    try:
        for contender in contenders:
            say(f"warming up {contender.name}")
            running[contender.name] = (start or _Lanes)(contender)
            # The yardstick is slow, and one lap sets up all that it has.
            for _ in range(min(warm_up, 1) if contender.kind == "conventional" else warm_up):
                running[contender.name]()
        for repeat in range(repeats):
            for name, lane in running.items():
                say(f"lap {repeat + 1} of {repeats}: {name}")
                laps[name].append(lane())
    finally:
        for lane in running.values():
            lane.close()
    return laps


# ------------------------------------------------------------------------------------- roofline


@dataclass(frozen=True)
class Work:
    """What an image costs in one training step, at the least."""

    flops: float
    """Of matrix products and convolutions, forward and backward."""
    bytes: float
    """Through memory: activations, and the image's share of the weights'."""


def work_of(config: Config, precision: Precision) -> Work:
    """Count a network's work by its layers.

    A layer's products cost the same again for each of its two gradients. Its input and output
    cross memory once forward and twice backward (value and gradient); all between two layers is
    taken as fused into them. Each fp32 parameter is read forward and backward, its gradient
    written and read, its momentum read and written, itself written: seven times.
    """
    model = build_model(config.model, seed=0).eval()
    sizes: list[tuple[int, int, int]] = []

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(layer.weight, Tensor)
        products = output.numel() * layer.weight[0].numel()
        sizes.append((products, inputs[0].numel(), output.numel()))

    for layer in model:
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.register_forward_hook(count)
    with torch.no_grad():
        calibrate(model, torch.zeros(2, 3, 32, 32))  # frozen_init refuses to run before
        model(torch.zeros(1, 3, 32, 32))
    item = 2 if precision == "bf16" else 4
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Work(
        flops=3 * 2 * sum(products for products, _, _ in sizes),
        bytes=3 * item * sum(read + written for _, read, written in sizes)
        + 7 * 4 * parameters / config.train.batch_size,
    )


@dataclass(frozen=True)
class Device:
    """What this device reaches."""

    flops_per_second: float
    bytes_per_second: float

    def images_per_second(self, work: Work) -> float:
        """The limit: products and memory traffic perfectly overlapped."""
        return 1 / max(work.flops / self.flops_per_second, work.bytes / self.bytes_per_second)


def measure_device(device: torch.device, precision: Precision, *, size: int) -> Device:
    """The best rates of large matrix products (size x size) and of copies on this device."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    left = torch.randn(size, size, device=device).to(dtype)
    product = torch.empty_like(left)
    source = torch.randn(8 * size * size, device=device)
    target = torch.empty_like(source)
    with numerics(precision):
        multiply = _fastest(lambda: torch.mm(left, left, out=product), device)
    copy = _fastest(lambda: target.copy_(source), device)
    return Device(2 * size**3 / multiply, 2 * source.nbytes / copy)


def _fastest(work: Callable[[], object], device: torch.device, *, repeats: int = 12) -> float:
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return min(times)


# ---------------------------------------------------------------------------------------- bench


@dataclass(frozen=True)
class Settings:
    """How to bench.

    Attributes:
        device: Where.
        images: Training images of a lap.
        warm_up: Laps that do not count; a captured step needs three of its own.
        repeats: Laps that do.
        at_once: Numbers of runs to try at once.
        ways: How runs go on at once: `threads` as in bnlab, `processes` to compare.
        workers: Of the conventional loop.
        matrix: Side of the matrices that measure the device.
    """

    device: str
    images: int
    warm_up: int
    repeats: int
    at_once: tuple[int, ...]
    ways: tuple[Literal["threads", "processes"], ...] = ("threads",)
    workers: int = 2
    matrix: int = 2048


def default_settings(device: torch.device, *, quick: bool) -> Settings:
    """Settings that take some minutes, or less than one if `quick`."""
    if device.type == "cuda":
        if quick:
            return Settings(str(device), 10_000, 4, 3, (1, 8), matrix=8192)
        return Settings(str(device), EPOCH_IMAGES, 4, 5, AT_ONCE, matrix=8192)
    at_once = tuple(runs for runs in AT_ONCE if runs <= 2 * torch.get_num_threads())
    if quick:
        return Settings(str(device), 512, 1, 3, at_once[:2], matrix=1024)
    return Settings(str(device), 1280, 1, 7, at_once)


def contenders_of(config: Config, settings: Settings) -> list[Contender]:
    """Everything that is raced, the conventional loop first."""
    device = resolve_device(settings.device)
    best = resolve_precision("auto", device)
    precisions: tuple[Precision, ...] = ("fp32",)
    if device.type == "cuda" and best == "bf16":
        precisions += ("tf32",)
    if best != "fp32":
        precisions += (best,)

    def contender(name: str, kind: Any, precision: str, way: str = "auto", runs: int = 1) -> Any:
        train = config.train.model_copy(update={"precision": precision, "accelerate": way})
        return Contender(
            name,
            kind,
            config.model_copy(update={"train": train}),
            settings.device,
            runs,
            settings.workers,
        )

    return [
        contender("conventional fp32", "conventional", "fp32", "eager"),
        *(contender(f"bnlab {precision}", "bnlab", precision) for precision in precisions),
        contender(f"bnlab {best}, eager", "bnlab", best, "eager"),
        contender(f"bnlab {best}, no gradient norms", "bare", best),
        contender(f"bnlab {best}, probes and recorder", "recorded", best),
        *(
            contender(f"{runs} runs at once in {way}, {best}", way, best, runs=runs)
            for way in settings.ways
            for runs in settings.at_once
        ),
    ]


def bench(
    config: Config, settings: Settings, say: Callable[[str], None] = lambda _text: None
) -> dict[str, Any]:
    """Measure, and give plain data: device, versions, settings, limits, and a row a contender.

    Args:
        config: What to train; its data set is drawn down to the settings' images.
        settings: How.
        say: Told how far it is.

    Raises:
        BnlabError: If a contender fails.
    """
    device = resolve_device(settings.device)
    update = {"train_size": settings.images, "test_size": 1000}
    config = config.model_copy(update={"dataset": config.dataset.model_copy(update=update)})
    contenders = contenders_of(config, settings)
    limits: dict[str, dict[str, float]] = {}
    for contender in contenders:
        precision = resolve_precision(contender.config.train.precision, device)
        if precision not in limits:
            say(f"measuring the device in {precision}")
            reached = measure_device(device, precision, size=settings.matrix)
            work = work_of(config, precision)
            limits[precision] = {
                **asdict(reached),
                "flops_per_image": work.flops,
                "bytes_per_image": work.bytes,
                "images_per_second": reached.images_per_second(work),
            }
    laps = race(contenders, warm_up=settings.warm_up, repeats=settings.repeats, say=say)
    return {
        "environment": environment(device),
        "device": str(device),
        "machine": platform.machine(),
        "settings": asdict(settings),
        "config": config.resolved(),
        "limits": limits,
        "rows": _rows(contenders, laps, limits),
    }


def _rows(
    contenders: Sequence[Contender],
    laps: Mapping[str, Sequence[Lap]],
    limits: Mapping[str, Mapping[str, float]],
) -> list[dict[str, Any]]:
    """The table; ratios are medians over laps of the same round."""
    device = resolve_device(contenders[0].device)
    yardstick = [_rate(lap) for lap in laps[contenders[0].name]]
    rows = []
    for contender in contenders:
        rates = [_rate(lap) for lap in laps[contender.name]]
        precision = resolve_precision(contender.config.train.precision, device)
        rate = statistics.median(rates)
        rows.append(
            {
                "name": contender.name,
                "precision": precision,
                "runs": contender.runs,
                "images_per_second": rate,
                "seconds_per_epoch": EPOCH_IMAGES / rate,
                "over_conventional": statistics.median(
                    one / other for one, other in zip(rates, yardstick, strict=True)
                ),
                "share_of_limit": rate / limits[precision]["images_per_second"],
                "laps": rates,
            }
        )
    return rows


def table_of(report: Mapping[str, Any]) -> Table:
    """The rows of `bench` for a terminal, with the machine's facts as title and caption."""
    facts, limits = report["environment"], report["limits"]
    hardware = facts["gpu"] or f"{facts['cpu']}, {facts['threads']} threads"
    table = Table(
        title=f"{hardware}; torch {facts['torch']}, Python {facts['python']}",
        caption="\n".join(
            f"limit in {precision}: {limit['images_per_second']:,.0f} images/s, from measured "
            f"{limit['flops_per_second'] / 1e9:,.0f} GFLOP/s and "
            f"{limit['bytes_per_second'] / 1e9:,.1f} GB/s for "
            f"{limit['flops_per_image'] / 1e6:,.0f} MFLOP and "
            f"{limit['bytes_per_image'] / 1e6:,.2f} MB an image"
            for precision, limit in limits.items()
        ),
    )
    table.add_column("contender")
    for heading in ("images/s", "s/epoch", "x conventional", "of limit"):
        table.add_column(heading, justify="right")
    for row in report["rows"]:
        table.add_row(
            row["name"],
            f"{row['images_per_second']:,.0f}",
            f"{row['seconds_per_epoch']:,.2f}",
            f"{row['over_conventional']:.2f}",
            f"{100 * row['share_of_limit']:.0f} %",
        )
    return table


def _rate(lap: Lap) -> float:
    """Images per second over an epoch of `EPOCH_IMAGES`."""
    return 1 / (lap.seconds / lap.images + lap.per_epoch / EPOCH_IMAGES)
