"""What a run stands on: random streams, device, precision, threads, and a record of all of them.

Every random decision draws from a stream of its own, derived from the seed and a name. Adding a
normalizer therefore shifts no other draw: two arms that differ in the norm start from the same
weights and see the same images in the same order.
"""

import ctypes
import hashlib
import os
import platform
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import torch
from torch import nn

from bnlab.errors import ConfigError

Precision = Literal["fp32", "tf32", "bf16"]

# ------------------------------------------------------------------------------ random streams


def stream_seed(seed: int, *names: str | int) -> int:
    """The seed of one random stream, as a number in [0, 2**63).

    Args:
        seed: The run's seed.
        names: What the stream is for: `("init", "conv1.weight")`, `("order", epoch)`.
    """
    text = "\x1f".join(str(part) for part in (seed, *names))
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def stream(seed: int, *names: str | int) -> torch.Generator:
    """A CPU generator at the start of one random stream; see `stream_seed`."""
    return torch.Generator().manual_seed(stream_seed(seed, *names))


class Stochastic(nn.Module):
    """A module that draws random numbers in training, from a stream of its own.

    The stream's position is part of `state_dict`, so that a resumed run draws what the
    uninterrupted one would have drawn.
    """

    def __init__(self) -> None:
        super().__init__()
        self._seed = 0
        self._generator: torch.Generator | None = None
        self._state: torch.Tensor | None = None

    def reseed(self, seed: int) -> None:
        """Start the stream anew from `seed` (a `stream_seed`)."""
        self._seed, self._generator, self._state = seed, None, None

    def generator(self, device: torch.device) -> torch.Generator:
        """The stream as a generator of `device`, made on first use."""
        if self._generator is None or self._generator.device != device:
            self._generator = torch.Generator(device).manual_seed(self._seed)
            if self._state is not None:
                self._generator.set_state(self._state)
        return self._generator

    def get_extra_state(self) -> torch.Tensor | None:
        """Position of the stream, for `state_dict`."""
        return self._generator.get_state() if self._generator is not None else self._state

    def set_extra_state(self, state: torch.Tensor | None) -> None:
        """Go back to a position that `get_extra_state` gave."""
        self._state = None if state is None else state.cpu()
        if self._generator is None:
            return
        # The generator stays the same object: a captured step draws from it.
        if self._state is None:
            self._generator.manual_seed(self._seed)
        else:
            self._generator.set_state(self._state)


# -------------------------------------------------------------------------- device and precision


def resolve_device(name: str) -> torch.device:
    """The device for `auto`, `cpu`, `cuda` or `cuda:1`.

    Raises:
        ConfigError: If the name is not a device or the machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    kind, _, index = name.partition(":")
    if kind not in {"cpu", "cuda"} or (index and not index.isdigit()) or (kind == "cpu" and index):
        raise ConfigError(f"--device {name}: expected auto, cpu, cuda or cuda:N")
    if kind == "cpu":
        return torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        raise ConfigError(
            f"--device {name}: this machine has no CUDA device that torch {torch.__version__} "
            "can use; use --device cpu or auto"
        )
    if int(index or 0) >= count:
        raise ConfigError(f"--device {name}: this machine has {count} CUDA device(s), from cuda:0")
    return torch.device(f"cuda:{index or 0}")


def has_native_bf16(device: torch.device) -> bool:
    """Whether the hardware multiplies bf16 matrices itself (AVX-512 BF16 or AMX; Ampere and up)."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    capabilities = torch.backends.cpu.get_cpu_capability()
    return capabilities.startswith("AVX512") and bool(
        torch.ops.mkldnn._is_mkldnn_bf16_supported()  # noqa: SLF001
        and any(flag in _cpu_flags() for flag in ("avx512_bf16", "amx_bf16"))
    )


def _cpu_flags() -> frozenset[str]:
    return frozenset(_cpuinfo("flags").split())


def _cpuinfo(field: str) -> str:
    """What Linux says of the first processor under a field; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    found = next((line for line in lines if line.startswith(field)), "")
    return found.partition(":")[2].strip()


def resolve_precision(
    name: Literal["auto", "fp32", "tf32", "bf16"], device: torch.device
) -> Precision:
    """The precision that `train.precision` means on this device.

    Raises:
        ConfigError: If tf32 is asked of a device without it.
    """
    if name == "auto":
        return "bf16" if has_native_bf16(device) else "fp32"
    if name == "tf32" and (
        device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0)
    ):
        raise ConfigError(
            f"train.precision: tf32 needs a CUDA device of compute capability 8.0 or more, not "
            f"{device}; use auto, fp32 or bf16"
        )
    return name


@contextmanager
def numerics(precision: Precision, *, deterministic: bool = False) -> Iterator[None]:
    """Set torch's global matrix precision and determinism for a run, and put them back."""
    before = (
        torch.get_float32_matmul_precision(),
        torch.backends.cudnn.allow_tf32,
        torch.backends.cudnn.benchmark,
        torch.are_deterministic_algorithms_enabled(),
    )
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.benchmark = not deterministic
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    _use_deterministic_algorithms(deterministic)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
        torch.backends.cudnn.benchmark = before[2]
        _use_deterministic_algorithms(before[3])


def _use_deterministic_algorithms(wanted: bool) -> None:
    # The setter imports torch's compiler, which takes longer than a short run.
    if torch.are_deterministic_algorithms_enabled() != wanted:
        torch.use_deterministic_algorithms(wanted)


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """The context for a forward pass: bf16 products for `bf16`, nothing for the others."""
    if precision == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


_MALLOPT_TRIM_THRESHOLD, _MALLOPT_MMAP_MAX = -1, -4


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees, for as long as it lives; glibc only.

    Every step of training on a CPU asks for the same large blocks. By default glibc hands a block
    of 32 MB and more back to the system when it is freed, which then clears each page anew when it
    is wanted again: a tenth of an fp32 step.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return  # another C library
    mallopt(_MALLOPT_MMAP_MAX, 0)
    mallopt(_MALLOPT_TRIM_THRESHOLD, 2**31 - 1)


# -------------------------------------------------------------------------------------- signals

_EXIT_CODES = {signal.SIGTERM: 75, signal.SIGINT: 130}


@dataclass
class StopRequest:
    """Asked between steps whether a signal wants the run to end.

    Attributes:
        name: The signal that came, if any.
        exit_code: What the process should then exit with; 0 while none came.
    """

    name: str = ""
    exit_code: int = 0

    def __call__(self) -> bool:
        """Whether the run should end."""
        return self.exit_code != 0


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Turn SIGTERM and Ctrl-C into a wish to stop after the step; a second Ctrl-C is immediate."""
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread may set handlers
        return

    def handle(number: int, _frame: FrameType | None) -> None:
        if stop() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.name = signal.Signals(number).name
        stop.exit_code = _EXIT_CODES[signal.Signals(number)]

    before = {number: signal.signal(number, handle) for number in _EXIT_CODES}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# ----------------------------------------------------------------------------------- provenance


@dataclass(frozen=True)
class GitState:
    """The code that ran. `sha` and `diff` are None outside a git checkout."""

    sha: str | None
    dirty: bool
    diff: str | None


def git_state() -> GitState:
    """Commit and uncommitted changes of the checkout that bnlab is imported from.

    A new module that git does not know yet makes it dirty as well, though no diff shows it.
    """
    root = Path(__file__).resolve().parent

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(root), *words], capture_output=True, timeout=10, check=True
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.decode(errors="replace")

    # An installed copy may lie inside somebody else's repository: only a tracked file counts.
    if git("ls-files", "--error-unmatch", "runtime.py") is None:
        return GitState(None, False, None)
    sha, diff = git("rev-parse", "HEAD"), git("diff", "HEAD")
    unknown = git("ls-files", "--others", "--exclude-standard", "*.py")
    return GitState(sha.strip() if sha else None, bool(diff or unknown), diff)


def environment(device: torch.device) -> dict[str, Any]:
    """Versions and hardware, as plain data for run.json."""
    on_gpu = device.type == "cuda"
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if on_gpu else None,
        "cudnn": torch.backends.cudnn.version() if on_gpu else None,
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(device) if on_gpu else None,
    }


def installed_packages() -> str:
    """Every installed distribution as `name==version`, one a line, sorted."""
    found = {
        f"{dist.metadata['Name']}=={dist.version}"
        for dist in metadata.distributions()
        if dist.metadata["Name"]
    }
    return "\n".join(sorted(found, key=str.lower)) + "\n"


def _cpu_name() -> str:
    return _cpuinfo("model name") or platform.processor()
