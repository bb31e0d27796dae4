"""What a run computes on and how precisely: device, precision, determinism, memory."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch

from bnlab.errors import ConfigError

Precision = Literal["fp32", "tf32", "bf16"]

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
"""What cuBLAS needs to repeat itself. It is read once, so a process that has trained without
determinism could not train with it any more."""


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
    return frozenset(cpuinfo("flags").split())


def cpuinfo(field: str) -> str:
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
    torch.backends.cudnn.benchmark = (
        not deterministic and os.environ.get("BNLAB_CUDNN_BENCHMARK") != "0"
    )
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


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Let torch compute with so many CPU threads, and put their number back."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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
