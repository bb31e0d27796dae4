"""Storage that fails, in the process that asks for it: every operation below a folder is counted.

What Python does to the disk goes through a few functions, which are replaced here; bnlab knows
nothing of it. What libraries write on their own in C++ (torch's files of decoded images) is not
seen, only the names that it is given.
"""

import builtins
import errno
import io
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

WAYS = ("kill before", "kill after", "kill within", "full", "broken")
"""`kill within` a write that is half done; `full`: no space from here on; `broken`: once."""

TAKES_SPACE = {"open", "write", "mkdir", "fsync"}


def install(below: str, log: str, at: int = -1, way: str = "") -> None:
    """Fail at operation number `at`, counted from 0, on paths below a folder.

    Args:
        below: The folder.
        log: Gets a line for each operation: its kind and the file's name.
        at: Which fails; -1 for none.
        way: One of `WAYS`.
    """
    fault = _Fault(below, os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), at, way)
    file_open = builtins.open

    class Raw(io.FileIO):
        def write(self, data: Any) -> Any:
            view = memoryview(data).cast("B")
            half = view[: len(view) // 2]
            return fault(
                "write",
                self.name,
                lambda: super(Raw, self).write(view),
                lambda: super(Raw, self).write(half),
            )

    def opened(file: Any, mode: str = "r", buffering: int = -1, *rest: Any, **more: Any) -> Any:
        writes = set(mode) & set("wax+")
        if not writes or isinstance(file, int) or not fault.watches(file):
            return file_open(file, mode, buffering, *rest, **more)
        binary = mode.replace("b", "").replace("t", "")
        raw = fault("open", file, lambda: Raw(file, binary))
        if buffering == 0:
            return raw
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, *rest, **more)

    builtins.open = io.open = opened
    for name, kind, where in (
        ("mkdir", "mkdir", 0),
        ("replace", "rename", 1),
        ("rename", "rename", 1),
        ("unlink", "unlink", 0),
        ("rmdir", "unlink", 0),
        ("fsync", "fsync", 0),
        ("symlink", "mkdir", 1),
    ):
        setattr(os, name, _counted(fault, getattr(os, name), kind, where))
    os_open = os.open

    def handle(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if not flags & (os.O_CREAT | os.O_WRONLY | os.O_RDWR) or not fault.watches(path):
            return os_open(path, flags, *rest, **more)
        number: int = fault("open", path, lambda: os_open(path, flags, *rest, **more))
        return number

    os.open = handle


def _counted(fault: "_Fault", function: Callable[..., Any], kind: str, where: int) -> Any:
    def counted(*words: Any, **more: Any) -> Any:
        path = words[where]
        if isinstance(path, int):
            path = Path(f"/proc/self/fd/{path}").readlink()
        if not fault.watches(path):
            return function(*words, **more)
        return fault(kind, path, lambda: function(*words, **more))

    return counted


class _Fault:
    """Counts, and fails when it is time."""

    def __init__(self, below: str, log: int, at: int, way: str) -> None:
        self._below, self._log, self._at, self._way = below, log, at, way
        self._count = 0

    def watches(self, path: Any) -> bool:
        return os.path.abspath(os.fsdecode(path)).startswith(self._below)  # noqa: PTH100

    def __call__(
        self,
        kind: str,
        path: Any,
        act: Callable[[], Any],
        half: Callable[[], Any] = lambda: None,
    ) -> Any:
        now, self._count = self._count, self._count + 1
        os.write(self._log, f"{kind} {Path(os.fsdecode(path)).name}\n".encode())
        here = now == self._at
        if here and self._way in ("kill before", "kill within"):
            if self._way == "kill within":
                half()
            os.kill(os.getpid(), signal.SIGKILL)
        if here and self._way == "broken":
            half()
            raise OSError(errno.EIO, os.strerror(errno.EIO), os.fsdecode(path))
        if self._way == "full" and now >= self._at and kind in TAKES_SPACE:
            half()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fsdecode(path))
        try:
            return act()
        finally:
            if here and self._way == "kill after":
                os.kill(os.getpid(), signal.SIGKILL)
