"""A GPU without data: runs and probes on fake CUDA tensors, and a watch on what they capture.

Part of test_fake_cuda.py, in a process of its own: torch has to find the hooks of fake_cuda.cpp
when it is imported, and keeps them. A line on stdin asks for a check, a line on stdout answers.
"""

import json
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import count, zip_longest
from pathlib import Path
from typing import Any
from unittest.mock import patch

import fake_cuda_faults
import torch
from conftest import TINY
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

import bnlab
from bnlab.config import load_config
from bnlab.records import RunDir
from bnlab.training import accelerate, checkpoint
from bnlab.training import task as makers
from bnlab.training.accelerate import WARM_UP_CALLS, CapturedSteps, CaptureFailedError
from bnlab.training.datasets import load_splits
from bnlab.training.device import autocast, resolve_precision
from bnlab.training.experiment import _probe_sample
from bnlab.training.lane import lane
from bnlab.training.loop import Task, fit
from bnlab.training.probes import PROBES, run_probes

GPU = torch.device("cuda:0")
aten = torch.ops.aten


class RefusedError(RuntimeError):
    """A GPU would refuse this, or a CUDA graph would not repeat it."""


# --------------------------------------------------------------------------------- what stands in


class Stream:
    """For torch.cuda.Stream."""

    def __init__(self, _device: torch.device = GPU) -> None:
        pass

    def synchronize(self) -> None:
        WATCH.wait("Stream.synchronize")


class Graph:
    """For torch.cuda.CUDAGraph."""

    work: Callable[[], None]
    """What is captured."""

    def __init__(self) -> None:
        self.seeds = set[int]()
        """Of its generators: every stream has its own, and torch wraps a generator ever anew."""
        self.kernels: list[tuple[str, ...]] = []
        """What a replay repeats: operations, each with its numbers and addresses."""
        self._made = dict[int, str]()
        self._count = count()

    def register_generator_state(self, generator: torch.Generator) -> None:
        self.seeds.add(generator.initial_seed())

    def capture_begin(self, **_: str) -> None:
        if WATCH.stream is DEFAULT_STREAM:
            raise RefusedError("a capture in the default stream")
        WATCH.graph = self

    def capture_end(self) -> None:
        WATCH.graph = None

    def replay(self) -> None:
        """Do the work anew, and see whether that is what was captured."""
        captured, self.kernels = self.kernels, []
        self._made, self._count = {}, count()
        WATCH.graph = self
        try:
            self.work()
        finally:
            WATCH.graph = None
        for would, should in zip_longest(captured, self.kernels, fillvalue=()):
            for one, two in zip_longest(would, should):
                if one != two:
                    what = (would or should)[0]
                    raise RefusedError(f"{what} replayed would take {one}, not {two}")

    def add(self, func: Any, given: list[Any], out: list[Any]) -> None:
        """An operation of the work."""
        if is_kernel(func):
            self.kernels.append((str(func), *(self._fixed(leaf) for leaf in given)))
        old = {_address(leaf) for leaf in given if isinstance(leaf, Tensor)}
        for leaf in out:
            if isinstance(leaf, Tensor) and _address(leaf) not in old:
                self._made[_address(leaf)] = f"made {next(self._count)}"

    def _fixed(self, leaf: Any) -> str:
        if isinstance(leaf, torch.Generator):
            return f"generator {leaf.initial_seed()}"
        if not isinstance(leaf, Tensor):
            return repr(leaf)
        place = self._made.get(_address(leaf), hex(_address(leaf)))
        layout = (*leaf.shape, *leaf.stride(), leaf.storage_offset())
        return f"{leaf.dtype} {layout} {place}"


def _address(tensor: Tensor) -> int:
    """A stand-in for an address: that of the description of the memory that is not there."""
    address: int = tensor.untyped_storage()._cdata
    return address


def is_kernel(func: Any) -> bool:
    """Whether it launches."""
    return func.namespace == "aten" and not func.is_view


@contextmanager
def stream(entered: Stream) -> Iterator[None]:
    """For torch.cuda.stream."""
    before, WATCH.stream = WATCH.stream, entered
    try:
        yield
    finally:
        WATCH.stream = before


def apply(module: nn.Module, change: Callable[[Tensor], Tensor], **_: bool) -> nn.Module:
    """For Module._apply, which would put other memory into a parameter: a fake one has none."""
    for part in module.modules():
        owned: tuple[dict[str, Any], ...] = (part._parameters, part._buffers)
        for there in owned:
            for name, tensor in there.items():
                if tensor is not None:
                    new = change(tensor.detach())
                    there[name] = nn.Parameter(new) if isinstance(tensor, nn.Parameter) else new
    return module


def capture(
    work: Callable[[], None], device: torch.device, generators: Any, real: Any = accelerate.capture
) -> Any:
    """For bnlab's capture, whose graph may do the work anew."""
    replay: Any = real(work, device, generators)
    replay.__self__.work = work
    return replay


def with_data(make: Callable[..., Any]) -> Callable[..., Any]:
    """For what bnlab makes out of numbers before it goes to the GPU."""

    def made(*args: Any, **kwargs: Any) -> Any:
        with unset_fake_temporarily():
            return make(*args, **kwargs)

    return made


def stand_in() -> None:
    """Put all of it in its places."""
    cuda = {
        "is_available": lambda: True,
        "is_bf16_supported": lambda: True,
        "get_device_capability": lambda _device=None: (9, 0),
        "current_stream": lambda _device=None: WATCH.stream,
        "default_stream": lambda _device=None: DEFAULT_STREAM,
        "device": nullcontext,
        "stream": stream,
        "Stream": Stream,
        "CUDAGraph": Graph,
    }
    made = {name: with_data(vars(makers)[name]) for name in ("build_model", "fit_normalize")}
    for place, by_name in (
        (torch.cuda, cuda),
        (nn.Module, {"_apply": apply}),
        (FakeTensor, {"__deepcopy__": lambda tensor, _memo: tensor.clone()}),
        (accelerate, {"capture": capture}),
        (makers, made),
    ):
        for name, it in by_name.items():
            setattr(place, name, it)


# --------------------------------------------------------------------------------------- watching


class Fakes(FakeTensorMode):
    """Tensors without data."""

    avoid_device_init = True  # else torch asks the driver


class Watch(TorchDispatchMode):
    """Sees every operation; in a capture it refuses what a CUDA graph would not repeat."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.stream = DEFAULT_STREAM
        self.graph: Graph | None = None
        """The one that is being captured."""
        self.launches = self.waits = 0

    def wait(self, what: str) -> None:
        """The host waits for the GPU."""
        if self.graph is not None:
            raise RefusedError(f"{what} in a captured step: the host would wait for the GPU")
        self.waits += 1

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        given = tree_leaves((args, kwargs))
        out = self._run(func, args, kwargs)
        made = tree_leaves(out)
        tensors = [leaf for leaf in given + made if isinstance(leaf, Tensor)]
        if (generator := kwargs.get("generator")) is not None:
            self._check_generator(func, generator, tensors[-1])
        self.launches += is_kernel(func) and any(tensor.device == GPU for tensor in tensors)
        if self.graph is not None:
            self._check_captured(func, args, tensors)
            self.graph.add(func, given, made)
        return out

    def _run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        if func.overloadpacket in {aten._fused_sgd_, aten._fused_adam_}:  # they have no fake kernel
            lr = kwargs["lr"]
            if isinstance(lr, Tensor) and lr.dtype != torch.float32:
                raise RefusedError(f"{func} would read {lr.dtype} as fp32")
            return None
        if func is aten._pin_memory.default:
            return args[0].clone()
        if func is aten._local_scalar_dense.default and args[0].device == GPU:
            self.wait(str(func))
            return 1.0 if args[0].is_floating_point() else True
        return func(*args, **kwargs)

    def _check_generator(self, func: Any, generator: torch.Generator, drawn: Tensor) -> None:
        if generator.device != drawn.device:
            raise RefusedError(f"{func} on {drawn.device} by a generator of {generator.device}")
        if self.graph is not None and generator.initial_seed() not in self.graph.seeds:
            raise RefusedError(f"{func} in a captured step that does not know the generator")

    def _check_captured(self, func: Any, args: Any, tensors: Sequence[Tensor]) -> None:
        for tensor in tensors:
            if tensor.device != GPU:
                what = f"values {tuple(tensor.shape)} on the {tensor.device}"
                raise RefusedError(f"{func} in a captured step: {what}")
        if func.overloadpacket in {aten.index_put, aten.index_put_} and _counts(*args):
            raise RefusedError(f"{func} in a captured step: the host would count a mask")


def _counts(_values: Tensor, picks: Sequence[Tensor | None], new: Tensor, *_: bool) -> bool:
    """Whether torch counts what a mask picks; it need not where all of it gets one value."""
    return new.numel() > 1 and any(pick is not None and pick.dtype == torch.bool for pick in picks)


def watch_layout(model: nn.Module) -> None:
    """Refuse feature maps that are not in channels_last memory, in front of a layer and behind."""

    def watch(name: str, layer: nn.Module) -> None:
        def hook(_layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            for features, verb in ((inputs[0], "gets"), (output, "gives")):
                last = features.is_contiguous(memory_format=torch.channels_last)
                if features.ndim == 4 and not last:
                    raise RefusedError(f"{name} {verb} features out of channels_last")

        layer.register_forward_hook(hook)

    for name, layer in model.named_children():
        watch(name, layer)


DEFAULT_STREAM = Stream()
WATCH = Watch()


# --------------------------------------------------------------------------------------- checking


@contextmanager
def on_the_gpu(*overrides: str) -> Iterator[Callable[[], Task]]:
    """What makes a run's task on the GPU, with epochs enough to capture every size of batch."""
    config = load_config((), [*TINY, f"train.epochs={WARM_UP_CALLS + 1}", *overrides])
    data = load_splits(config.dataset)
    precision = resolve_precision(config.train.precision, GPU)

    def make() -> Task:
        task = makers.build_task(config, data, GPU, precision)
        watch_layout(task.model)
        return task

    # Autograd's thread for a device would not know the modes.
    one_thread = torch.autograd.set_multithreading_enabled(False)
    with Fakes(allow_non_fake_inputs=True), WATCH, one_thread, lane(GPU):
        yield make


def train(*overrides: str) -> dict[str, Any]:
    """Train to the end; see `finish`."""
    with on_the_gpu(*overrides) as make:
        return finish(make())


def resume(*overrides: str) -> dict[str, Any]:
    """Train to the second step of the second epoch, and from there to the end as another task."""
    with on_the_gpu(*overrides) as make:
        task, other = make(), make()
        for _ in fit(task, lambda position: (position.epoch, position.step) == (1, 2)):
            pass
        state = tree_map_only(Tensor, Tensor.cpu, checkpoint._state_of(task, {}))
        with patch.object(checkpoint, "read_checkpoint", lambda _: state):
            checkpoint.load_checkpoint(RunDir(Path(__file__).parent), other, {})
        return finish(other)


def finish(task: Task) -> dict[str, Any]:
    """Train to the end, with the configured probes after each epoch.

    Returns:
        `kernels` of each captured step, by data set and size of batch; `waits` for the GPU, by
        epoch, without those of probes.
    """
    waits = []
    sample = _probe_sample(task)
    WATCH.waits = 0
    for _ in fit(task, lambda _position: False):
        waits.append(WATCH.waits)
        with autocast(task.precision, task.device):
            run_probes(task.config.probes, task.model, sample, last=True)
        WATCH.waits = 0
    kernels: dict[str, dict[int, list[str]]] = {}
    for name, batches in {"train": task.train, **task.held_out}.items():
        _, steps = task.passes[batches]
        if isinstance(steps, CapturedSteps):
            replays: dict[int, Any] = dict(steps._replays)
            kernels[name] = {
                size: [func for func, *_ in replay.__self__.kernels]
                for size, replay in replays.items()
            }
    return {"kernels": kernels, "waits": waits}


def probe(*overrides: str) -> dict[str, int]:
    """What each probe launches."""
    launches = {}
    with on_the_gpu(*overrides) as make:
        task = make()
        sample = _probe_sample(task)
        for name in PROBES:
            WATCH.launches = 0
            with autocast(task.precision, task.device):
                run_probes([name], task.model, sample, last=True)
            launches[name] = WATCH.launches
    return launches


def spoil(name: str) -> dict[str, Any]:
    """Train with a planted fault."""
    fault = fake_cuda_faults.FAULTS[name]
    with patch.object(fault.place, fault.attribute, fault.planted):
        return train(*fault.overrides)


def told(error: Exception) -> str:
    """What went wrong, and in which function of bnlab or of a planted fault."""
    if isinstance(error, CaptureFailedError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    ours = (str(Path(bnlab.__file__).parent), fake_cuda_faults.__file__)
    frames = traceback.extract_tb(error.__traceback__)
    frame = [frame for frame in frames if frame.filename.startswith(ours)][-1]
    said = str(error).partition("\n")[0]
    return f"{Path(frame.filename).name}: {frame.name}: {type(error).__name__}: {said}"


def serve() -> None:
    """Answer every request, `[name of a check, argument, ...]`."""
    stand_in()
    checks: dict[str, Callable[..., Any]] = {
        "train": train,
        "resume": resume,
        "probe": probe,
        "spoil": spoil,
    }
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        try:
            answer = {"found": checks[name](*arguments)}
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
            answer = {"error": told(error)}
        print(json.dumps(answer), flush=True)  # noqa: T201 - to who asked
