"""Leases: locks for folders in which flock does not exclude everybody; kept alive by a heartbeat.

The leases of a lock `x` are files `x.1`, `x.2`, ... beside it. The one with the highest number
counts: it is held until its owner writes `released` into it, or is dead. Whoever wants the lock
then makes the next one, by a hard link, which even NFS gives to one process only; so a taker need
not remove what it takes, and no two can take it. The one that counts is never deleted.

An owner is dead

- if it was on this machine, in this space of process numbers, and no process of its number and
  start is left; or
- if its heartbeat, a count in the file, has stood still for as long as the lease names, by the
  clock of the process that watches. No clock is ever compared with that of another machine.

An owner that was only paused (SIGSTOP, a suspended machine, a network that was down) finds a higher
number than its own when it looks (`Lease.lost`). It must look before each write that counts. What
cannot be had without help from the storage: an owner that is paused after looking, and goes on
after another has taken over, may end that one write.

The file system must show what was made or changed to whoever opens the file, or the folder, anew,
as NFS does unless it is mounted with `nocto`; and nobody else may make or delete these files. Then
at most one process at any time holds the lock and finds that confirmed.
"""

import functools
import os
import platform
import secrets
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import Field, ValidationError

from bnlab.records.schema import Record

SECONDS = 60.0
"""After so long without a heartbeat a lease has lapsed. Longer than NFS caches attributes."""

MOST_SECONDS = 86400.0

BEATS = 6
"""Heartbeats in that time."""

_RELEASED = b"released"
_COUNT_BYTES = 20


class Owner(Record):
    """Who holds a lock."""

    host: str
    """Name of the machine."""
    space: str
    """Boot of the machine and space of process numbers, between which numbers say nothing
    (containers often share a name); "" where the system does not tell."""
    pid: int = Field(gt=0, lt=2**31)
    started: str
    """In ticks since the boot."""
    token: str
    """Drawn anew each time."""
    seconds: float = Field(SECONDS, gt=0, le=MOST_SECONDS)
    """Without a heartbeat for so long, it is dead."""
    lease: int | None = None
    """Number of its lease; None if it is known by flock alone."""
    since: str = ""
    """When it took it, in UTC by its own clock, for people; "" in older files."""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    @property
    def gone(self) -> bool:
        """Whether it is surely dead; a process of another machine never is."""
        if not self.space or (self.host, self.space) != (platform.node(), space()):
            return False
        try:
            os.kill(self.pid, 0)  # asks whether it is there; /proc may hide others' processes
        except ProcessLookupError:
            return True
        except OSError:
            return False
        return _started(self.pid) not in (None, self.started)


def me(seconds: float, lease: int | None = None) -> Owner:
    """This process, about to hold a lock."""
    pid = os.getpid()
    return Owner(
        host=platform.node(),
        space=space(),
        pid=pid,
        started=_started(pid) or "",
        token=secrets.token_hex(8),
        seconds=seconds,
        lease=lease,
        since=datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
    )


def owner_in(content: bytes) -> Owner | None:
    """The owner that a file names; None if it names none, or not wholly yet."""
    try:
        return Owner.model_validate_json(content.partition(b"\n")[0])
    except ValidationError:
        return None


def as_line(owner: Owner) -> bytes:
    """What `owner_in` reads."""
    return owner.model_dump_json().encode() + b"\n"


@functools.cache
def space() -> str:
    """See `Owner`."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    return ""


def _started(pid: int) -> str | None:
    """Ticks from the boot to a process's start; "" for a zombie, None where it cannot be read."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()  # a process may have brackets in its name
    return "" if fields[0] in "ZX" else fields[19]


# ------------------------------------------------------------------------------ others' leases


@dataclass(frozen=True)
class Standing:
    """The lease that counts, as it was when it was read."""

    number: int
    content: bytes

    @property
    def released(self) -> bool:
        """Whether its owner gave it back."""
        return self.content.partition(b"\n")[2].startswith(_RELEASED)

    @property
    def owner(self) -> Owner | None:
        """Who holds it, where that can be read."""
        return owner_in(self.content)

    @property
    def seconds(self) -> float:
        """After so long without a heartbeat it has lapsed."""
        return self.owner.seconds if self.owner else SECONDS


_seen: dict[str, tuple[bytes, float]] = {}
"""By lock: what this process saw last that differed from what it had seen before, and when."""


def standing(lock: Path) -> Standing | None:
    """The lease of a lock that counts; None if there never was one."""
    while number := _highest(lock):
        with suppress(FileNotFoundError):  # a higher one has just replaced it
            return Standing(number, _file(lock, number).read_bytes())
    return None


def is_free(lock: Path, lease: Standing | None) -> bool:
    """Whether the next lease may be made, as far as this process has seen; writes nothing.

    A lease of another machine must be looked at for as long as it lasts before it is known that
    nobody keeps it alive; until then it counts as held.
    """
    if lease is None or lease.released or (lease.owner is not None and lease.owner.gone):
        _seen.pop(str(lock.absolute()), None)
        return True
    now = time.monotonic()
    content, since = _seen.get(str(lock.absolute()), (None, now))
    if content != lease.content:
        _seen[str(lock.absolute())] = lease.content, now
        return False
    return now - since >= lease.seconds


def _file(lock: Path, number: int) -> Path:
    return lock.with_name(f"{lock.name}.{number}")


def _numbers(lock: Path) -> list[int]:
    try:
        names = os.listdir(lock.parent)  # noqa: PTH208 - thousands of folders are looked at
    except (FileNotFoundError, NotADirectoryError):
        return []
    ends = (name.removeprefix(f"{lock.name}.") for name in names if name.startswith(lock.name))
    return [int(end) for end in ends if end.isascii() and end.isdigit()]


def _highest(lock: Path) -> int:
    return max(_numbers(lock), default=0)


# -------------------------------------------------------------------------------- one's own


class Lease:
    """A lease that this process holds, until it is released or lost; made by `take`."""

    def __init__(self, lock: Path, owner: Owner, handle: int) -> None:
        assert owner.lease is not None
        self.owner = owner
        self._lock, self._number, self._handle = lock, owner.lease, handle
        self._place = len(as_line(owner))
        self._end = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="bnlab lease", daemon=True)
        self._heart.start()

    @property
    def lost(self) -> bool:
        """Whether another process has taken over, or somebody has deleted the lease.

        Raises:
            OSError: If the folder cannot be read.
        """
        return _highest(self._lock) != self._number

    @property
    def taker(self) -> str:
        """Who has taken over."""
        lease = standing(self._lock)
        return str((lease and lease.owner) or "somebody")

    def release(self) -> None:
        """Give it back; what was lost is let be."""
        self._end.set()
        self._heart.join()
        # Its own file, whatever stands under that name by now.
        with suppress(OSError):
            self._write(_RELEASED.ljust(_COUNT_BYTES))
        os.close(self._handle)

    def _beat(self) -> None:
        count = 0
        while not self._end.wait(self.owner.seconds / BEATS):
            count += 1
            with suppress(OSError):  # of which `lost` will tell, or the next write
                self._write(b"%0*d" % (_COUNT_BYTES, count))

    def _write(self, state: bytes) -> None:
        """In place: a file renamed into place by an owner that was paused would undo a taking."""
        os.lseek(self._handle, self._place, os.SEEK_SET)
        os.write(self._handle, state)
        os.fsync(self._handle)


def take(lock: Path, seconds: float) -> Lease | None:
    """Make the next lease, if the one that counts is free and nobody is faster.

    Raises:
        OSError: If the folder cannot be written.
    """
    before = standing(lock)
    if not is_free(lock, before):
        return None
    owner = me(seconds, 1 + (before.number if before else 0))
    assert owner.lease is not None
    handle = _make(_file(lock, owner.lease), as_line(owner) + b"0" * _COUNT_BYTES)
    if handle is None:
        return None
    # This process may have been paused until the number that it has made was given, and deleted.
    if _highest(lock) > owner.lease:
        os.close(handle)
        _remove(_file(lock, owner.lease))
        return None
    for number in _numbers(lock):
        if number < owner.lease:
            _remove(_file(lock, number))
    return Lease(lock, owner, handle)


def _make(path: Path, content: bytes) -> int | None:
    """Make a whole file and open it for writing; None if there is one, or another was faster."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}.new")
    handle = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        os.write(handle, content)
        os.fsync(handle)
        made = _link(beside, path)
    except BaseException:
        os.close(handle)
        raise
    finally:
        _remove(beside)
    if made is None:  # no hard links here: what is read before it is written counts as held
        os.close(handle)
        return _make_in_place(path, content)
    if made:
        return handle
    os.close(handle)
    return None


def _link(beside: Path, path: Path) -> bool | None:
    """Whether this process made the link; None where there are none."""
    try:
        os.link(beside, path)
    except FileExistsError:
        # It may be ours: where the answer was lost on the network, the request was repeated.
        with suppress(OSError):
            return path.samefile(beside)
        return False
    except FileNotFoundError:  # the holder has cleared leftovers
        return False
    except OSError:
        return None
    return True


def _make_in_place(path: Path, content: bytes) -> int | None:
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        return None
    try:
        os.write(handle, content)
        os.fsync(handle)
    except BaseException:
        os.close(handle)
        _remove(path)
        raise
    return handle


def _remove(path: Path) -> None:
    with suppress(OSError):  # on Windows it may be open elsewhere; it counts for nothing
        path.unlink(missing_ok=True)
