"""Faults to plant in what runs on a GPU, one at a time; test_fake_cuda.py must find each."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from bnlab.training import batches, loop, probes
from bnlab.training.accelerate import CapturedSteps, Work
from bnlab.training.batches import Batches
from bnlab.training.loop import Sums, Task
from bnlab.training.norms import Affine, RunningAffine, _group
from bnlab.training.norms.caffe import CaffeBatchNorm
from bnlab.training.streams import Stochastic


@dataclass(frozen=True)
class Fault:
    """What takes the place of something, and what must be said of it."""

    place: Any
    attribute: str
    planted: Any
    said: str
    """A regular expression."""
    overrides: tuple[str, ...] = ()


CPU = torch.device("cpu")

REFERENCE = ("model.norm.name=batch_reference",)
DROPOUT = ("model.dropout=0.3",)

TWO_DEVICES = "found at least two devices"
ON_THE_CPU = r"in a captured step: values \(.*\) on the cpu"
REPLAYED = "replayed would take"
WAITS = "in a captured step: the host would wait"

# --------------------------------------------------------------------------- what is off the GPU


def set_plainly(norm: nn.Module, name: str, values: Tensor) -> None:
    norm.__dict__[name] = values


def times_ones(self: Affine, features: Tensor) -> Tensor:
    return features * torch.ones(features.shape[1:])


def plus_a_number(self: Affine, features: Tensor) -> Tensor:
    return features + torch.tensor(2.0)


def copy_to_the_host(self: Sums, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
    self.loss += loss.detach().cpu()


def copy_to_the_gpu(self: Sums, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
    self.loss += torch.ones(1).to(loss.device).sum()


def of_the_cpu(self: Stochastic, device: torch.device) -> torch.Generator:
    return torch.Generator()


Hold: TypeAlias = Callable[[torch.optim.Optimizer, torch.device], None]


def held(dtype: torch.dtype, device: torch.device | None = None) -> Hold:
    def hold_lr(optimizer: torch.optim.Optimizer, gpu: torch.device) -> None:
        lr = torch.tensor(0.05, dtype=dtype, device=device or gpu)
        for group in optimizer.param_groups:
            group["lr"] = lr

    return hold_lr


ELSEWHERE = {
    "running statistics that are no buffers": Fault(
        RunningAffine, "register_buffer", set_plainly, f": track: .*{TWO_DEVICES}", REFERENCE
    ),
    "a norm that makes a tensor on the CPU": Fault(
        Affine, "scale_and_shift", times_ones, f": times_ones: .*{TWO_DEVICES}", REFERENCE
    ),
    "a norm that makes a number on the CPU": Fault(
        Affine, "scale_and_shift", plus_a_number, f": plus_a_number: .*{ON_THE_CPU}", REFERENCE
    ),
    "constants of the normalization on the CPU": Fault(
        batches.Normalize, "to", lambda self, _: self, f": apply: .*{TWO_DEVICES}"
    ),
    "sums on the CPU": Fault(
        loop, "Sums", lambda model, _: Sums(model, CPU), f": add_gradients: .*{TWO_DEVICES}"
    ),
    "a loss that is copied to the host": Fault(
        Sums, "add", copy_to_the_host, f": copy_to_the_host: .*{ON_THE_CPU}"
    ),
    "a number that is copied to the GPU": Fault(
        Sums, "add", copy_to_the_gpu, f": copy_to_the_gpu: .*{ON_THE_CPU}"
    ),
    "a learning rate on the CPU": Fault(
        loop, "hold_lr", held(torch.float32, CPU), f": train_step: .*fused_sgd.*{ON_THE_CPU}"
    ),
    "a generator of the CPU": Fault(
        Stochastic, "generator", of_the_cpu, ": forward: .*bernoulli_.* a generator of cpu", DROPOUT
    ),
}

# --------------------------------------------------------------------- what makes the host wait


def read(self: Sums, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
    self.loss += loss.item() * len(labels)


def wait(self: Sums, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
    torch.cuda.current_stream(loss.device).synchronize()


def branch(self: CaffeBatchNorm) -> Tensor:
    return self.factor if self.factor == 0 else 1 / self.factor


def mirror_by_mask(images: Tensor, flips: Tensor) -> Tensor:
    return torch.cat([images[~flips], images[flips].flip(3)])


def blacken_by_mask(images: Tensor, flips: Tensor) -> Tensor:
    images[flips] = torch.zeros_like(images[0])
    return images


WAITING = {
    "a loss that is read": Fault(Sums, "add", read, f": read: .*{WAITS}"),
    "a step that waits": Fault(Sums, "add", wait, f": wait: .*{WAITS}"),
    "a branch on a tensor": Fault(
        CaffeBatchNorm,
        "_inverse_factor",
        branch,
        f": branch: .*{WAITS}",
        ("model.norm.name=caffe",),
    ),
    "images taken by a mask": Fault(
        batches, "mirror", mirror_by_mask, ": mirror_by_mask: DynamicOutputShape.*nonzero"
    ),
    "images replaced by a mask": Fault(
        batches, "mirror", blacken_by_mask, ": blacken_by_mask: .*the host would count a mask"
    ),
}

# ---------------------------------------------------------- what a graph would repeat as it was


def new_plan(self: CapturedSteps, epoch: int, step: int = 0) -> None:
    self._plan = self._batches.plan(epoch)
    self._epoch, self._step = epoch, step


def new_sums(self: Sums, state: None = None) -> None:
    self.loss = torch.zeros_like(self.loss)


def new_lr(task: Task) -> None:
    for group in task.optimizer.param_groups:
        group["lr"] = 0.05 / (1 + task.position.epoch)


def momentum_of_the_count(
    self: RunningAffine, mean: Tensor, variance: Tensor, track: Any = RunningAffine.track
) -> None:
    track(self, mean, variance)
    self.momentum /= 2


@contextmanager
def leave_copies(model: nn.Module) -> Iterator[None]:
    state = {name: value.clone() for name, value in model.state_dict().items()}
    yield
    model.load_state_dict(state, assign=True)


def without_generators(source: Batches, work: Work, *_: Any) -> CapturedSteps:
    return CapturedSteps(source, work, list)


REPEATED = {
    "an epoch's plan in another place": Fault(
        CapturedSteps, "start", new_plan, f": .*index.Tensor.*{REPLAYED}"
    ),
    "sums in another place": Fault(Sums, "start", new_sums, f": .*add_.Tensor.*{REPLAYED}"),
    "a learning rate that is a number": Fault(
        loop, "set_lr", new_lr, rf": .*fused_sgd.*{REPLAYED} 0\.05, not 0\.025"
    ),
    "a momentum that changes": Fault(
        RunningAffine, "track", momentum_of_the_count, f": .*lerp.*{REPLAYED}", REFERENCE
    ),
    "a probe that leaves copies of the parameters": Fault(
        probes, "leave_no_trace", leave_copies, f": .*{REPLAYED}", ("probes=[weights]",)
    ),
    "a generator that the graph does not know": Fault(
        loop, "build_steps", without_generators, ": forward: .*does not know the generator", DROPOUT
    ),
}

# ------------------------------------------------------------------------------------- what else

OTHERS = {
    "a learning rate in fp64": Fault(
        loop, "hold_lr", held(torch.float64), ": train_step: .*would read torch.float64 as fp32"
    ),
    "a lane without a stream": Fault(
        torch.cuda, "stream", nullcontext, ": capture: .*in the default stream"
    ),
    "a norm that leaves channels_last": Fault(
        _group,
        "laid_out_like",
        lambda _, normalized: normalized,
        "conv1_norm gives features out of channels_last",
        ("model.norm.name=group",),
    ),
}

FAULTS: Mapping[str, Fault] = {**ELSEWHERE, **WAITING, **REPEATED, **OTHERS}
