"""Locks that go with the process that holds them, however it dies; on POSIX and on Windows.

A lock is held on a regular file opened for writing, which network file systems honor too. Looking
whether somebody holds it writes nothing. The file stays: to delete it would let two processes lock
two files of one name.
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ATTEMPTS = 5
"""`is_locked` holds the lock for microseconds while it looks; who really wants it tries again."""


@contextmanager
def hold_lock(path: Path) -> Iterator[bool]:
    """Hold a lock; gives whether it was to be had.

    Raises:
        OSError: If the file cannot be opened for writing.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        yield _try_lock(handle, exclusive=True, attempts=ATTEMPTS)
    finally:
        os.close(handle)


def is_locked(path: Path) -> bool:
    """Whether a living process holds the lock; changes nothing on the disk."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        return not _try_lock(handle, exclusive=False, attempts=1)
    finally:
        os.close(handle)


def _try_lock(handle: int, *, exclusive: bool, attempts: int) -> bool:
    for attempt in range(attempts):
        if _lock_now(handle, exclusive=exclusive):
            return True
        if attempt + 1 < attempts:
            time.sleep(0.01)
    return False


if sys.platform == "win32":

    def _lock_now(handle: int, *, exclusive: bool) -> bool:  # noqa: ARG001 - it has one kind
        import msvcrt

        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:

    def _lock_now(handle: int, *, exclusive: bool) -> bool:
        import fcntl  # not at the top: a machine that only reads may lack it

        kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
