"""Doing the same work on every batch with less of everything around it; no number changes.

A GPU waits for launches when a step is small. So a step can be *captured*: its kernels, from
picking the images of a batch to updating the weights, are recorded once as a CUDA graph and then
replayed with a single launch. A graph reads and writes fixed addresses, hence what varies lives in
tensors that stay in place: the epoch's plan, the place in it, the learning rate, the sums.

Without CUDA the captured step is called plainly. Its handling of all those tensors is then the
same, and can be tested on any machine.
"""

import gc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Literal, Protocol, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bnlab.training.batches import Augmentation, Batches, EpochPlan
from bnlab.training.lane import alone
from bnlab.training.streams import Stochastic

Acceleration: TypeAlias = Literal["eager", "swap", "graph", "compile"]
"""How a run's steps are made fast: `eager` not at all, the reference; `swap` with ReLU behind
pooling; `graph` likewise and captured; `compile` by torch.compile, and captured on a GPU."""

Forward: TypeAlias = Callable[[Tensor], Tensor]
Work: TypeAlias = Callable[[Tensor, Tensor], None]
"""What is done with the images and labels of a batch."""

WARM_UP_CALLS = 3
"""Plain calls of a step before it is captured, as torch recommends: libraries choose their
algorithms and the optimizer makes its buffers in them. They train like any other step."""


def resolve_acceleration(
    name: Literal["auto", "eager", "graph", "compile"], device: torch.device
) -> Acceleration:
    """What `train.accelerate` means on this device; `auto` is the fastest that is exact."""
    if name == "auto":
        return "graph" if device.type == "cuda" else "swap"
    return name


# ------------------------------------------------------------------------------ forward pass


def build_forward(model: nn.Module, acceleration: Acceleration) -> Forward:
    """How images become logits; the modules, and so all states and hooks, stay the model's."""
    if acceleration == "compile":
        return torch.compile(model)
    # Of another module nobody knows in which order it calls its layers.
    if acceleration == "eager" or type(model) is not nn.Sequential:
        return model
    return lambda images: pool_before_relu(model, images)


def pool_before_relu(model: nn.Sequential, features: Tensor) -> Tensor:
    """The model's output, with every ReLU that a max pooling follows applied after it instead.

    ReLU is monotone, so the two commute and a ReLU touches a quarter of the values. Gradients are
    the same too: where the largest value is positive, both orders choose the first such one;
    where none is, both give zero.
    """
    layers = list(model)
    while layers:
        layer = layers.pop(0)
        if isinstance(layer, nn.ReLU) and layers and isinstance(layers[0], nn.MaxPool2d):
            features = F.relu(layers.pop(0)(features), inplace=True)
        else:
            features = layer(features)
    return features


# -------------------------------------------------------------------------------------- steps


class Steps(Protocol):
    """The batches of a data set, one piece of work a call."""

    def start(self, epoch: int, step: int = 0) -> None:
        """Go to a step of an epoch."""

    def __call__(self) -> None:
        """Work on the next batch."""


class EagerSteps:
    """The reference: make a batch, work on it.

    On a GPU lanes take turns at it, step by step.

    Args:
        batches: The data set.
        work: What to do with each batch.
    """

    def __init__(self, batches: Batches, work: Work) -> None:
        self._batches, self._work = batches, work
        self._epoch: Iterator[tuple[Tensor, Tensor]] = iter(())

    def start(self, epoch: int, step: int = 0) -> None:
        """Draw the epoch's order and augmentation."""
        self._epoch = self._batches.epoch(epoch, start_step=step)

    def __call__(self) -> None:
        """Work on the next batch."""
        with alone(self._batches.device):
            self._work(*next(self._epoch))


class CapturedSteps:
    """The same with a captured step; one capture for each size of batch.

    Args:
        batches: The data set.
        work: What to do with each batch; it may touch the host only where every batch of a size
            does the same.
        generators: Called before a capture: the generators that `work` draws from.
    """

    def __init__(
        self, batches: Batches, work: Work, generators: Callable[[], Iterable[torch.Generator]]
    ) -> None:
        self._batches, self._work, self._generators = batches, work, generators
        device = batches.device
        self._offsets = torch.arange(batches.batch_size, device=device)
        self._place = torch.zeros((), dtype=torch.int64, device=device)
        self._plan: EpochPlan | None = None
        self._drawn: tuple[int, EpochPlan] | None = None
        self._epoch = self._step = 0
        self._calls: dict[int, int] = {}
        self._replays: dict[int, Callable[[], None]] = {}

    def start(self, epoch: int, step: int = 0) -> None:
        """Bring the epoch's order and augmentation to where the captured step reads them."""
        drawn, plan = self._drawn or (epoch, self._batches.plan(epoch))
        if drawn != epoch:
            plan = self._batches.plan(epoch)
        self._drawn = None
        with alone(self._batches.device):
            if self._plan is None:
                self._plan = plan
            else:
                for there, new in zip(self._plan.tensors(), plan.tensors(), strict=True):
                    there.copy_(new)
            self._place.fill_(step * self._batches.batch_size)
        self._epoch, self._step = epoch, step

    def __call__(self) -> None:
        """Work on the next batch."""
        size = self._batches.size_of(self._step)
        self._step += 1
        if size in self._replays:
            self._replays[size]()
        else:
            self._call_or_capture(size)
        if self._step == self._batches.steps and self._batches.shuffle:
            # The device is still at work on this epoch: time to draw the next.
            self._drawn = self._epoch + 1, self._batches.plan(self._epoch + 1)

    def _call_or_capture(self, size: int) -> None:
        calls = self._calls[size] = self._calls.get(size, 0) + 1
        device = self._batches.device
        with alone(device):
            if calls <= WARM_UP_CALLS:
                self._advance(size)
                return
            replay = self._replays[size] = capture(
                lambda: self._advance(size), device, self._generators()
            )
        replay()

    def _advance(self, size: int) -> None:
        """One step; everything in it happens on the device."""
        assert self._plan is not None
        places = self._place + self._offsets[:size]
        picks = places if self._plan.order is None else self._plan.order[places]
        augmentation: Augmentation | None = None
        if self._plan.augmentation is not None:
            augmentation = self._plan.augmentation[places]
        self._work(*self._batches.make(picks, augmentation))
        self._place += size


def build_steps(
    batches: Batches, work: Work, model: nn.Module, acceleration: Acceleration
) -> Steps:
    """Steps over a data set in the given way.

    Args:
        batches: The data set.
        work: What to do with each batch.
        model: Its `Stochastic` modules are what the work may draw from.
        acceleration: How.
    """
    captured = acceleration == "graph" or (
        acceleration == "compile" and batches.device.type == "cuda"
    )
    if not captured:
        return EagerSteps(batches, work)
    return CapturedSteps(
        batches,
        work,
        lambda: [
            module.generator(batches.device)
            for module in model.modules()
            if isinstance(module, Stochastic)
        ],
    )


# ------------------------------------------------------------------------------------ capture


class CaptureFailedError(RuntimeError):
    """A step could not be captured; the process may capture nothing any more.

    torch's allocator can be left in the middle of a capture, which no call undoes.
    """


def capture(
    work: Callable[[], None], device: torch.device, generators: Iterable[torch.Generator]
) -> Callable[[], None]:
    """A call that repeats `work`: the replay of its CUDA graph; on a CPU, `work` itself.

    Capturing runs nothing. It takes place in the current lane, and replays must as well: a stream
    owns cuBLAS's scratch memory, which the graphs that were captured there share.

    Args:
        work: What to capture; it must have been called in this lane before.
        device: Where.
        generators: What `work` draws from; each replay then draws anew.

    Raises:
        CaptureFailedError: With what went wrong.
    """
    if device.type != "cuda":
        return work
    # Not torch.cuda.graph: it waits for the whole device and empties the allocator's cache.
    failure: Exception | None = None
    with alone(device), _no_collection():
        graph = torch.cuda.CUDAGraph()
        for generator in generators:
            graph.register_generator_state(generator)
        graph.capture_begin(capture_error_mode="thread_local")
        try:
            work()
        except Exception as error:  # noqa: BLE001 - whatever it is, the capture is to be ended
            failure = error
        try:
            graph.capture_end()
        except Exception as error:  # noqa: BLE001 - torch names many
            failure = failure or error
    if failure is not None:
        said = "; ".join(str(failure).splitlines())
        raise CaptureFailedError(f"{type(failure).__name__}: {said}") from failure
    return graph.replay


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep the garbage collector from destroying another graph in here."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def hold_lr(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Put the learning rate where a captured step can read it; call after loading a state.

    One tensor serves all groups. The eager step reads it there too: a float would be rounded
    differently.
    """
    # The fused CUDA kernels read fp32; on the CPU fp64 keeps every bit of the float it replaces.
    dtype = torch.float32 if device.type == "cuda" else torch.float64
    with alone(device):
        first = float(optimizer.param_groups[0]["lr"])
        lr = torch.tensor(first, dtype=dtype, device=device)
    for group in optimizer.param_groups:
        group["lr"] = lr
        if "capturable" in group:
            group["capturable"] = device.type == "cuda"
