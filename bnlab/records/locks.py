"""Locks that go with the process that holds them, however it dies; on POSIX and on Windows.

There are two kinds, and the folder decides which (`kind_of`):

- `flock` on a regular file, which goes with its process at once. It excludes all who use the folder
  on a local disk, and on network file systems that tell the server of it.
- A lease (`leases`), where flock fails, or holds on this machine only, or where nobody can say. It
  lapses a minute after its holder's death on another machine, on this one at once.

Machines that use one folder need not agree. Who locks by flock names itself in the file, then looks
for leases, and takes one as well if there ever was one; who has taken a lease then looks into that
file. So one of two sees the other, if not both, and who sees the other gives way. Only one case
needs a person: where whoever held by flock alone died, and all that is left are machines that
cannot see flock, the message names the file to delete.

`BNLAB_LOCKS` overrides the choice: `flock`, `lease`, or `lease:SECONDS` with the time after which
it lapses. Looking whether somebody holds a lock writes nothing. Files of a lock stay: to delete
them would let two processes lock two files of one name.
"""

import errno
import functools
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from bnlab.errors import ConfigError, RefusedError, shown
from bnlab.records import leases

ATTEMPTS = 5
"""`is_locked` holds the lock for microseconds while it looks; who really wants it tries again."""

Kind = Literal["flock", "lease"]

Watching: TypeAlias = Callable[[str, int, int], None]
"""Told what is waited for, and how many seconds of how many; may raise to end the waiting."""

_NO_FLOCK = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
_LOCAL_BY_OPTION = {
    "nfs": {"nolock", "local_lock=all", "local_lock=flock"},
    "nfs4": {"nolock", "local_lock=all", "local_lock=flock"},
    "lustre": {"localflock"},
    "cifs": {"nobrl", "nolock"},
    "smb3": {"nobrl", "nolock"},
    "ocfs2": {"localflocks"},
    "gfs2": {"localflocks"},
}
"""Options of file systems that keep flock to this machine."""
_UNKNOWN = {"fuse", "9p", "virtiofs", "beegfs", "afs", "vboxsf"}
"""File systems that keep it so unless their server is set up otherwise, which a mount hides."""


class LockedError(RefusedError):
    """Another living process holds the lock."""


class LockLostError(LockedError):
    """This process was taken for dead, and another holds the lock now."""


@dataclass(frozen=True)
class Hold:
    """A lock that is held."""

    path: Path
    lease: leases.Lease | None

    def refuse_if_lost(self) -> None:
        """Look whether this process still holds it; flock is never lost.

        Raises:
            LockLostError: If it does not.
            OSError: If that cannot be seen.
        """
        if self.lease is not None and self.lease.lost:
            raise LockLostError(
                f"{self.path.parent}: {self.lease.taker} has taken this run over, because this "
                f"process gave no sign of life for {self.lease.owner.seconds:g} s (it was "
                "suspended, or could not reach the folder); it writes nothing more here"
            )


@contextmanager
def hold_lock(path: Path, watching: Watching = lambda *_: None) -> Iterator[Hold]:
    """Hold a lock.

    A lease of which this process does not know whether it is kept alive is watched until it is.

    Args:
        path: Its file; the folder is there.
        watching: Told of that.

    Raises:
        LockedError: If another living process has it.
        ConfigError: If `BNLAB_LOCKS` has another value.
        OSError: If a file cannot be opened for writing.
    """
    _watch(path, watching)
    kind, seconds = kind_of(path.parent)
    with ExitStack() as stack:
        handle = _flock(path, stack) if kind == "flock" else None
        if handle is not None:
            stack.callback(_name, handle, b"")
            _name(handle, leases.as_line(leases.me(seconds)))
        lease = None
        if handle is None or leases.standing(path) is not None:
            lease = leases.take(path, seconds)
            if lease is None:
                raise _locked(path, None)
            stack.callback(lease.release)
            if handle is not None:
                _name(handle, leases.as_line(lease.owner))
            elif other := _by_flock(path):
                raise _locked(path, other, unseen=True)
        yield Hold(path, lease)


def is_locked(path: Path) -> bool:
    """Whether a living process holds the lock, as far as can be seen; changes nothing on the disk.

    A lease of another machine counts as held until this process has seen it lapse; see `is_free`.
    """
    try:
        if not leases.is_free(path, leases.standing(path)):
            return True
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        if kind_of(path.parent)[0] == "flock":
            return not _try_lock(handle, exclusive=False, attempts=1)
    except OSError as error:
        if error.errno not in _NO_FLOCK:
            raise
    finally:
        os.close(handle)
    return _by_flock(path) is not None


def refuse_if_locked(path: Path) -> None:
    """Look as `is_locked` does.

    Raises:
        LockedError: If a living process holds the lock; it names that process and since when.
    """
    if is_locked(path):
        lease = leases.standing(path)
        held = lease is not None and not leases.is_free(path, lease)
        owner = lease.owner if lease is not None and held else None
        with suppress(OSError):  # what is locked cannot be read on Windows
            owner = owner or leases.owner_in(_read(path))
        raise _locked(path, owner)


def _watch(path: Path, watching: Watching) -> None:
    """Return as soon as no lease hinders, or raise as soon as one does for sure."""
    first, since = leases.standing(path), time.monotonic()
    lease = first
    while lease is not None and not leases.is_free(path, lease):
        if lease != first:
            raise _locked(path, lease.owner)
        waited = time.monotonic() - since
        what = f"watching whether {lease.owner or 'somebody'} is still training {path.parent}"
        watching(what, int(waited), int(lease.seconds))
        time.sleep(min(1.0, lease.seconds / leases.BEATS / 4))
        lease = leases.standing(path)


def _locked(path: Path, owner: leases.Owner | None, *, unseen: bool = False) -> LockedError:
    since = f", since {owner.since}" if owner and owner.since else ""
    who = f" ({shown(f'{owner}{since}')})" if owner else ""
    remedy = (
        f"; it holds flock on {path}, which this machine cannot see: if that process is gone, "
        "delete this file"
    )
    return LockedError(
        f"{path.parent}: another process{who} is training this run right now"
        f"{remedy if unseen else ''}"
    )


# -------------------------------------------------------------------------------------- kinds


def kind_of(folder: Path) -> tuple[Kind, float]:
    """How locks of a folder are held from this machine, and after how many seconds a lease lapses.

    Raises:
        ConfigError: If `BNLAB_LOCKS` is none of its values.
        OSError: If there is no such folder.
    """
    told = os.environ.get("BNLAB_LOCKS", "")
    kind, colon, seconds = told.partition(":")
    if not told:
        return _kind_on(folder.stat().st_dev), leases.SECONDS
    if kind == "flock" and not colon:
        return "flock", leases.SECONDS
    if kind == "lease" and not colon:
        return "lease", leases.SECONDS
    with suppress(ValueError):
        if kind == "lease" and 0 < float(seconds) <= leases.MOST_SECONDS:
            return "lease", float(seconds)
    raise ConfigError(
        f"BNLAB_LOCKS={shown(told)}: must be flock, lease, or lease:SECONDS with up to "
        f"{leases.MOST_SECONDS:g} seconds"
    )


@functools.cache
def _kind_on(device: int) -> Kind:
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        return "flock"
    number = f"{os.major(device)}:{os.minor(device)}"
    found = [line.split() for line in mounts.splitlines() if line.split()[2:3] == [number]]
    # After a dash come the type, the source and the options of the file system.
    tails = [fields[fields.index("-") + 1 :] for fields in found]
    return "lease" if any(local_flock(kind, options) for kind, _, options in tails) else "flock"


def local_flock(file_system: str, options: str) -> bool:
    """Whether flock may hold on this machine only, going by what Linux says of a mount."""
    family = file_system.partition(".")[0]  # fuse.sshfs
    told = _LOCAL_BY_OPTION.get(family, set())
    return family in _UNKNOWN or not told.isdisjoint(options.split(","))


# -------------------------------------------------------------------------------------- flock


def _flock(path: Path, stack: ExitStack) -> int | None:
    """The file, locked until the stack is left; None where there is no flock.

    Raises:
        LockedError: If another process has it.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    stack.callback(os.close, handle)
    try:
        if _try_lock(handle, exclusive=True, attempts=ATTEMPTS):
            return handle
    except OSError as error:
        if error.errno in _NO_FLOCK:
            return None
        raise
    owner = None
    with suppress(OSError):  # what is locked cannot be read on Windows
        owner = leases.owner_in(_read(path))
    raise _locked(path, owner)


def _name(handle: int, content: bytes) -> None:
    """Say in the locked file who holds it, for machines that cannot see flock; or nobody."""
    os.lseek(handle, 0, os.SEEK_SET)
    if not content:
        with suppress(OSError):  # the lock goes all the same
            os.ftruncate(handle, 0)
        return
    os.write(handle, content)
    os.ftruncate(handle, len(content))
    os.fsync(handle)


def _by_flock(path: Path) -> leases.Owner | None:
    """Who is named in the file, if that one has no lease and is not known to be dead."""
    content = _read(path)
    owner = leases.owner_in(content)
    if owner is None or owner.lease is not None or owner.gone:
        return None
    return owner


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


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
