"""Safe writing: a file that exists is whole, and a disk that takes no more is told in one line."""

import errno
import glob
import json
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bnlab.errors import BnlabError


class StorageError(BnlabError):
    """The disk is full, read-only or otherwise will not take a file."""


def write_text(path: Path, text: str) -> None:
    """Replace a file in one step; see `write_bytes`."""
    # The name of a file may be no UTF-8: a lone surrogate in it is written as JSON would have it.
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_bytes(path: Path, data: bytes) -> None:
    """Write beside, force to disk, rename: readers see the old file or the new, never a part.

    Raises:
        StorageError: If the disk is full or read-only; the old file is untouched.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.new")
    with storage(path):
        _clear_old(path)
        try:
            with beside.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        except OSError:
            beside.unlink(missing_ok=True)
            raise


def clear_leftovers(folder: Path) -> None:
    """Delete what kills have left of `write_bytes`; only for who alone writes in the folder."""
    for path in folder.glob(".*.new"):
        path.unlink(missing_ok=True)


DAY = 86_400.0


def _clear_old(path: Path) -> None:
    """Delete what kills left of this file where many may write, a report's folder say.

    No writing takes a day, whatever two machines' clocks differ by.
    """
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.new"):
        with suppress(OSError):  # another process was first
            if time.time() - left.stat().st_mtime > DAY:
                left.unlink()


def append_line(path: Path, line: str) -> None:
    """Add a line to a file and have it on the disk before returning.

    Raises:
        StorageError: If the disk takes no more; the file is then as before.
    """
    # Without a buffer, which would be written again as the file is closed, behind what is cut off.
    with storage(path), path.open("ab", buffering=0) as file:
        end, rest = file.seek(0, os.SEEK_END), memoryview(f"{line}\n".encode())
        try:
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        except OSError:
            file.truncate(end)
            raise


_FREE_SPACE = "free some space; a run then goes on with --resume auto"
_ELSEWHERE = "choose a folder that can be written with --runs-dir"
_ADVICE = {
    errno.ENOSPC: _FREE_SPACE,
    errno.EDQUOT: _FREE_SPACE,
    errno.EFBIG: "raise the file size limit; a run then goes on with --resume auto",
    errno.EROFS: _ELSEWHERE,
    errno.EACCES: _ELSEWHERE,
    errno.EPERM: _ELSEWHERE,
    errno.ENOTDIR: _ELSEWHERE,
    errno.EEXIST: _ELSEWHERE,
}


@contextmanager
def storage(path: Path) -> Iterator[None]:
    """Turn an operating system's refusal to write into a StorageError that says what to do."""
    try:
        yield
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0, "what was written before is whole")
        raise StorageError(
            f"{path}: cannot be written: {error.strerror or error}; {advice}"
        ) from None


def to_json(data: Mapping[str, Any], indent: int | None = None) -> str:
    r"""JSON of what standard JSON has.

    NaN and infinities become null; in a path that is no UTF-8, the other bytes become `\udc80`.
    """
    return json.dumps(_storable(data), indent=indent, allow_nan=False)


def _storable(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, str):
        return value if value.isascii() else value.encode(errors="backslashreplace").decode()
    if isinstance(value, Mapping):
        return {key: _storable(item) for key, item in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, bytes):
        return [_storable(item) for item in value]
    return value
