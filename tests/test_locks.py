import errno
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from bnlab.errors import ConfigError
from bnlab.records import LockedError, LockLostError, RunDir, leases, locks
from bnlab.records.locks import hold_lock, is_locked, kind_of, local_flock

SECONDS = 0.3

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals, and flock")


@pytest.fixture
def leased(monkeypatch: pytest.MonkeyPatch) -> None:
    """All locks are leases that lapse soon."""
    monkeypatch.setenv("BNLAB_LOCKS", f"lease:{SECONDS}")


@contextmanager
def other_machine(name: str = "elsewhere") -> Iterator[None]:
    """What is asked within is asked there."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(platform, "node", lambda: name)
        yield


@contextmanager
def heart_standing_still() -> Iterator[None]:
    """Leases taken within are those of a process that is paused from then on."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(leases.Lease, "_beat", lambda _self: None)
        yield


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


HOLD = """
import sys, time
from pathlib import Path
from bnlab.records.locks import LockedError, hold_lock
try:
    with hold_lock(Path(sys.argv[1])):
        print("held", flush=True)
        sys.stdin.read()
except LockedError as error:
    print("locked", error, flush=True)
"""


class Other:
    """A process that holds a lock until it is told to end."""

    def __init__(self, lock: Path, kind: str = "") -> None:
        command = [sys.executable, "-c", HOLD, str(lock)]
        environment = {**os.environ, **({"BNLAB_LOCKS": kind} if kind else {})}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        assert self.process.stdout is not None
        self.said = self.process.stdout.readline()

    def end(self, number: int = signal.SIGTERM) -> None:
        """Kill it and wait."""
        self.process.send_signal(number)
        self.process.communicate(timeout=20)


@pytest.fixture
def start() -> Iterator[Callable[..., Other]]:
    """Start others, which are killed in the end."""
    with ExitStack() as stack:

        def begin(lock: Path, kind: str = "") -> Other:
            other = Other(lock, kind)
            stack.callback(other.end, signal.SIGKILL)
            return other

        yield begin


# -------------------------------------------------------------------------------------- kinds


@pytest.mark.parametrize(
    ("file_system", "options", "local"),
    [
        ("ext4", "rw", False),
        ("nfs4", "rw,vers=4.2,hard,local_lock=none,addr=10.0.0.1", False),
        ("nfs", "rw,vers=3,nolock,local_lock=all", True),
        ("nfs", "rw,vers=3,local_lock=flock", True),
        ("nfs", "rw,vers=3,local_lock=posix", False),
        ("lustre", "rw,flock,lazystatfs", False),
        ("lustre", "rw,localflock", True),
        ("cifs", "rw,vers=3.1.1,nobrl", True),
        ("cifs", "rw,vers=3.1.1", False),
        ("fuse.sshfs", "rw,user_id=0", True),
        ("fuse", "rw", True),
        ("fuseblk", "rw", False),  # a disk of this machine
        ("9p", "rw,trans=virtio", True),
    ],
)
def test_a_mount_whose_flock_may_be_local_is_known_by_its_type_and_options(
    file_system: str, options: str, local: bool
) -> None:
    assert local_flock(file_system, options) == local


def test_the_kind_is_found_by_the_folder_and_overridden_by_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BNLAB_LOCKS", raising=False)
    for local, kind in ((True, "lease"), (False, "flock")):
        locks._kind_on.cache_clear()
        monkeypatch.setattr(locks, "local_flock", lambda *_, local=local: local)
        # A folder may lie on what mountinfo does not list by its number, as a btrfs subvolume.
        listed = f"{os.major(tmp_path.stat().st_dev)}:{os.minor(tmp_path.stat().st_dev)} " in (
            Path("/proc/self/mountinfo").read_text() if sys.platform == "linux" else ""
        )
        assert kind_of(tmp_path)[0] == (kind if listed else "flock")
    locks._kind_on.cache_clear()
    for told, found in {
        "flock": ("flock", leases.SECONDS),
        "lease": ("lease", leases.SECONDS),
        "lease:2.5": ("lease", 2.5),
    }.items():
        monkeypatch.setenv("BNLAB_LOCKS", told)
        assert kind_of(tmp_path) == found
    for told in ("none", "flock:3", "lease:", "lease:0", "lease:nan", "lease:1e9", "Lease"):
        monkeypatch.setenv("BNLAB_LOCKS", told)
        with pytest.raises(ConfigError, match=rf"BNLAB_LOCKS={told}: must be flock, lease, or"):
            kind_of(tmp_path)


def test_where_flock_excludes_there_is_one_file_and_no_thread(tmp_path: Path) -> None:
    before = threading.active_count()
    with hold_lock(tmp_path / "lock") as hold:
        assert threading.active_count() == before
        (content,) = files(tmp_path).values()
        owner = leases.owner_in(content)
        assert owner is not None
        assert (owner.pid, owner.lease) == (os.getpid(), None)
        hold.refuse_if_lost()
    assert files(tmp_path) == {"lock": b""}


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_where_flock_fails_there_is_a_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    import fcntl

    def fails(_handle: int, _operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", fails)
    with hold_lock(tmp_path / "lock") as hold:
        assert hold.lease is not None
        assert is_locked(tmp_path / "lock")
    assert not is_locked(tmp_path / "lock")


# -------------------------------------------------------------------------------------- leases


def test_a_lease_excludes_while_it_is_held_and_looking_writes_nothing(
    tmp_path: Path, leased: None
) -> None:
    lock = tmp_path / "lock"
    assert not is_locked(lock)
    assert files(tmp_path) == {}
    for number in (1, 2, 3):
        with hold_lock(lock) as hold:
            before = files(tmp_path)
            assert list(before) == [f"lock.{number}"]
            assert is_locked(lock)
            assert files(tmp_path).keys() == before.keys()
            with pytest.raises(LockedError, match=rf"another process .process {os.getpid()} on"):
                hold_lock(lock).__enter__()
            hold.refuse_if_lost()
        assert not is_locked(lock)


def test_a_lease_whose_owner_was_killed_on_this_machine_is_free_at_once(
    tmp_path: Path, start: Callable[..., Other]
) -> None:
    lock = tmp_path / "lock"
    other = start(lock, "lease:3600")
    assert other.said == "held\n"
    assert is_locked(lock)
    other.end(signal.SIGKILL)
    assert not is_locked(lock)
    with hold_lock(lock) as hold:
        assert hold.lease is not None  # flock works here, but there has been a lease


def test_a_lease_whose_owner_died_on_another_machine_lapses_after_its_time(
    tmp_path: Path, leased: None
) -> None:
    lock, told = tmp_path / "lock", []
    with other_machine(), heart_standing_still():
        leases.take(lock, SECONDS)
    assert is_locked(lock)
    began = time.monotonic()
    with hold_lock(lock, lambda *what: told.append(what)) as hold:
        assert time.monotonic() - began >= SECONDS * 0.9
        assert hold.lease is not None
        assert hold.lease.owner.lease == 2
    assert told[0][0].startswith(f"watching whether process {os.getpid()} on elsewhere is still")


def test_a_lease_is_held_as_long_as_its_heart_beats(tmp_path: Path, leased: None) -> None:
    lock = tmp_path / "lock"
    with other_machine():
        lease = leases.take(lock, SECONDS)
    assert lease is not None
    until = time.monotonic() + 3 * SECONDS
    while time.monotonic() < until:
        assert is_locked(lock)
        time.sleep(SECONDS / 20)
    lease.release()
    assert not is_locked(lock)


@pytest.mark.parametrize("shift", [-1e7, 1e7])
def test_clocks_that_differ_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leased: None, shift: float
) -> None:
    lock, true = tmp_path / "lock", time.time
    with other_machine():
        lease = leases.take(lock, SECONDS)
    assert lease is not None
    with monkeypatch.context() as patched:
        patched.setattr(time, "time", lambda: true() + shift)
        os.utime(tmp_path / "lock.1", (true() + shift, true() + shift))
        assert is_locked(lock)
        time.sleep(1.5 * SECONDS)
        assert is_locked(lock)
    lease.release()


def test_an_owner_that_was_paused_learns_that_it_lost_and_writes_nothing_more(
    tmp_path: Path, leased: None
) -> None:
    run = RunDir(tmp_path / "s0")
    with ExitStack() as stack:
        with other_machine(), heart_standing_still():
            paused = stack.enter_context(run.lock())
        paused.create("name: x\n", "", None)
        paused.append_metrics({"epoch": 1})
        with run.lock() as taker:
            taker.append_metrics({"epoch": 2})
            before = files(run.root)
            writes: list[Callable[[], Any]] = [
                lambda: paused.create("name: y\n", "", None),
                lambda: paused.append_metrics({"epoch": 2}),
                lambda: paused.keep_metrics(1),
                lambda: paused.write_checkpoint(b"old"),
                lambda: paused.write_run({"status": "running"}),
                lambda: paused.write_summary({"status": "done"}),
            ]
            for write in writes:
                with pytest.raises(LockLostError, match=r"has taken this run over, because"):
                    write()
            stack.close()  # nor as it lets go
            assert {**files(run.root), "lock.2": b""} == {**before, "lock.2": b""}
            assert run.locked
            taker.append_metrics({"epoch": 3})


def test_of_many_takers_of_a_dead_owners_lease_one_gets_it(tmp_path: Path, leased: None) -> None:
    lock = tmp_path / "lock"
    with other_machine(), heart_standing_still():
        leases.take(lock, SECONDS)
    assert is_locked(lock)
    time.sleep(SECONDS)
    taken, gate = list[leases.Lease](), threading.Barrier(8)

    def take() -> None:
        gate.wait()
        if lease := leases.take(lock, SECONDS):
            taken.append(lease)

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 1
    taken[0].release()
    assert list(files(tmp_path)) == ["lock.2"]


def test_a_taker_that_was_paused_until_its_number_was_past_takes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, make = tmp_path / "lock", leases._make

    def late(path: Path, content: bytes) -> int | None:
        monkeypatch.setattr(leases, "_make", make)
        for _ in range(2):
            lease = leases.take(lock, SECONDS)
            assert lease is not None
            lease.release()
        return make(path, content)

    monkeypatch.setattr(leases, "_make", late)
    assert leases.take(lock, SECONDS) is None
    assert list(files(tmp_path)) == ["lock.2"]


def test_without_hard_links_a_lease_is_made_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leased: None
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "no links")

    monkeypatch.setattr(os, "link", refuse)
    with hold_lock(tmp_path / "lock"):
        assert is_locked(tmp_path / "lock")
        assert leases._make(tmp_path / "lock.1", b"") is None
    assert list(files(tmp_path)) == ["lock.1"]


def test_a_link_whose_answer_was_lost_is_known_for_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leased: None
) -> None:
    link = os.link

    def lost(beside: Path, path: Path) -> None:
        link(beside, path)
        link(beside, path)  # as a client repeats it

    monkeypatch.setattr(os, "link", lost)
    with hold_lock(tmp_path / "lock") as hold:
        hold.refuse_if_lost()


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b'{"host": "x"}\n', b"\xff\xfe", b'{"pid": -1, "seconds": 1e300}\nreleasing'],
)
def test_a_lease_that_cannot_be_read_is_held_until_it_lapses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leased: None, content: bytes
) -> None:
    monkeypatch.setattr(leases, "SECONDS", SECONDS)
    (tmp_path / "lock.7").write_bytes(content)
    (tmp_path / "lock.x8").touch()
    (tmp_path / "lock.²").touch()
    assert is_locked(tmp_path / "lock")
    with hold_lock(tmp_path / "lock"):
        assert (tmp_path / "lock.8").exists()


def test_a_process_of_the_same_number_in_another_container_is_not_taken_for_dead(
    tmp_path: Path, leased: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = leases.me(SECONDS)
    assert not owner.gone
    if owner.space:
        assert owner.model_copy(update={"started": "1"}).gone
        assert not owner.model_copy(update={"started": "1", "space": "another"}).gone
        assert not owner.model_copy(update={"started": "1", "host": "another"}).gone
        monkeypatch.setattr(leases, "_started", lambda _pid: None)  # /proc hides it
        assert not owner.gone


# ----------------------------------------------------------------------- flock beside leases


def test_who_locks_by_flock_honors_a_lease(tmp_path: Path, start: Callable[..., Other]) -> None:
    lock = tmp_path / "lock"
    assert start(lock, "lease:2").said == "held\n"
    assert is_locked(lock)
    assert start(lock, "flock").said.startswith("locked")


def test_who_takes_a_lease_honors_flock_that_it_cannot_see(
    tmp_path: Path, start: Callable[..., Other], monkeypatch: pytest.MonkeyPatch, leased: None
) -> None:
    lock = tmp_path / "lock"
    other = start(lock, "flock")
    assert other.said == "held\n"
    with other_machine():
        assert is_locked(lock)
        with pytest.raises(LockedError, match=r"holds flock on .*lock, which this machine cannot"):
            hold_lock(lock).__enter__()
        other.end(signal.SIGKILL)
        assert is_locked(lock)  # from there it cannot be known
    with hold_lock(lock):  # here it can
        assert is_locked(lock)
    assert not is_locked(lock)


def test_once_there_was_a_lease_who_locks_by_flock_takes_one_too(
    tmp_path: Path, start: Callable[..., Other], monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / "lock"
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("BNLAB_LOCKS", f"lease:{SECONDS}")
        with hold_lock(lock):
            pass
    monkeypatch.setattr(leases, "SECONDS", SECONDS)
    with hold_lock(lock) as hold:
        assert hold.lease is not None
        owner = leases.owner_in(lock.read_bytes())
        assert owner is not None
        assert owner.lease == 2
    assert lock.read_bytes() == b""


# --------------------------------------------------------------------------- at length, by force

TRIALS = Path(__file__).parent / "lock_trials.py"
linux = pytest.mark.skipif(sys.platform != "linux", reason="forks, and looks into /proc")


def trials(kind: str, count: int, seed: int, work: Path, *folders: Path) -> dict[str, float]:
    """Counts of `lock_trials.py`."""
    work.mkdir()
    words = [kind, str(count), str(seed), *map(str, folders)]
    done = subprocess.run(
        [sys.executable, TRIALS, *words], cwd=work, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    counts: dict[str, float] = json.loads(done.stdout)
    return counts


@linux
@pytest.mark.parametrize(
    ("kind", "count"),
    [
        ("lease", 1),
        pytest.param("flock", 200, marks=pytest.mark.slow),
        pytest.param("lease", 200, marks=pytest.mark.slow),
        pytest.param("mixed", 200, marks=pytest.mark.slow),
    ],
)
def test_no_cell_is_trained_twice_whoever_is_killed_or_paused(
    tmp_path: Path, kind: str, count: int
) -> None:
    """200 trials take eight minutes on two cores."""
    (tmp_path / "cells").mkdir()
    counts = trials(kind, count, 1, tmp_path / "work", tmp_path / "cells")
    print(kind, counts)  # noqa: T201
    assert counts["cells"] == 6 * count
    assert counts["held_twice"] == 0
    if kind == "flock":
        assert counts["steps_again"] == 0


@linux
@pytest.mark.slow
def test_owners_that_do_not_look_whether_they_lost_are_caught(tmp_path: Path) -> None:
    (tmp_path / "cells").mkdir()
    assert trials("blind", 12, 1, tmp_path / "work", tmp_path / "cells")["held_twice"] > 0


@pytest.fixture
def two_mounts(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """One folder seen twice; flock in one view is not seen in the other, as between machines."""
    if not (shutil.which("bindfs") and os.access("/dev/fuse", os.W_OK)):
        pytest.skip("needs bindfs and /dev/fuse")
    places = tmp_path / "a", tmp_path / "b"
    with ExitStack() as stack:
        (tmp_path / "shared").mkdir()
        for place in places:
            place.mkdir()
            subprocess.run(["bindfs", "shared", place.name], cwd=tmp_path, check=True)
            stack.callback(subprocess.run, ["fusermount3", "-u", str(place)], check=False)
        yield places


@linux
@pytest.mark.slow
def test_on_a_real_file_system_whose_flock_is_local_leases_are_chosen_and_exclude(
    tmp_path: Path, two_mounts: tuple[Path, Path], start: Callable[..., Other]
) -> None:
    a, b = (place / "lock" for place in two_mounts)
    ours = start(a, "flock")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("BNLAB_LOCKS", "flock")
        with hold_lock(b):
            pass  # the danger: flock is held in both views
    ours.end()
    assert kind_of(two_mounts[0]) == ("lease", leases.SECONDS)
    other = start(a)
    assert other.said == "held\n"
    assert is_locked(b)
    assert start(b).said.startswith("locked")
    other.end(signal.SIGKILL)
    assert not is_locked(b)
    caught = trials("flock", 8, 1, tmp_path / "flock", *two_mounts)
    assert caught["held_twice"] > 0
    held = trials("lease", 50, 1, tmp_path / "lease", *two_mounts)
    assert held["cells"] == 6 * 50
    assert held["held_twice"] == 0


@linux
@pytest.mark.slow
def test_on_a_shared_folder_of_yours_no_cell_is_trained_twice(tmp_path: Path) -> None:
    """`BNLAB_SHARED=A:B`: the same folder by two mounts, of NFS for one."""
    if not (told := os.environ.get("BNLAB_SHARED")):
        pytest.skip("BNLAB_SHARED names no folder that is mounted twice, as A:B")
    below = [Path(folder) / tmp_path.name for folder in told.split(":")]
    below[0].mkdir()
    try:
        kind = kind_of(below[0])[0]
        counts = trials(kind, 50, 1, tmp_path / "work", *below)
    finally:
        shutil.rmtree(below[0])
    assert counts["held_twice"] == 0


@linux
@pytest.mark.slow
def test_a_run_that_was_taken_over_while_it_was_paused_stops_and_leaves_the_takers_record(
    tmp_path: Path,
) -> None:
    config = {
        "dataset": {"name": "synthetic", "train_size": 2000, "test_size": 200},
        "model": {"widths": [16, 32], "hidden": [32]},
        "train": {"epochs": 12},
    }
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(config))
    environment = {**os.environ, "BNLAB_LOCKS": "lease:1.5"}

    def train(runs: str) -> subprocess.Popen[str]:
        words = ["train", "-c", "x.yaml", "--resume", "auto", "--runs-dir", runs]
        return subprocess.Popen(
            [sys.executable, "-m", "bnlab", *words],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def metrics(runs: str) -> list[dict[str, float]]:
        found = list((tmp_path / runs).glob("*/*/s0/metrics.jsonl"))
        lines = found[0].read_text().splitlines() if found else []
        return [json.loads(line) for line in lines]

    first = train("runs")
    while len(metrics("runs")) < 3:
        assert first.poll() is None
        time.sleep(0.01)
    first.send_signal(signal.SIGSTOP)
    second = train("runs")
    assert second.communicate(timeout=120)[0]
    assert second.returncode in {0, 3}
    (root,) = (tmp_path / "runs").glob("*/*/s0")
    before, record = metrics("runs"), [files(root), files(root / "checkpoints")]
    first.send_signal(signal.SIGCONT)
    _, said = first.communicate(timeout=60)
    assert first.returncode == 5
    assert f"process {second.pid} on" in said
    assert "has taken this run over" in said
    assert "Traceback" not in said
    assert [files(root), files(root / "checkpoints")] == record
    alone = train("alone")
    alone.communicate(timeout=120)
    untimed = [
        {key: value for key, value in line.items() if "second" not in key}
        for line in (*before, *metrics("alone"))
    ]
    assert untimed[:12] == untimed[12:]
