"""A run directory: the only place that knows its file names, writes them safely, reads them back.

Nothing here imports torch. A file that exists is whole: all but metrics.jsonl are written beside
and renamed, and a metrics line that a crash cut off is recognized. `summary.json` is written last,
so its presence means that the run is finished.
"""

import errno
import fcntl
import hashlib
import json
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from bnlab.errors import BnlabError, RefusedError

SCHEMA_VERSION = 1

REFERENCE = "reference"
"""Folder of the runs folder for records that came with bnlab."""

Status = Literal["running", "done", "diverged", "failed", "preempted"]


class LockedError(RefusedError):
    """Another living process is training the run."""


class StorageError(BnlabError):
    """The disk is full, read-only or otherwise will not take a file."""


@dataclass(frozen=True)
class RunDir:
    """The files of one run.

    Attributes:
        root: `runs/<study or name>/<arm>-<hash8>/s<seed>`.
    """

    root: Path

    @property
    def config(self) -> Path:
        """The resolved configuration; loads as `--config`."""
        return self.root / "config.yaml"

    @property
    def run(self) -> Path:
        """Status, attempts and provenance."""
        return self.root / "run.json"

    @property
    def metrics(self) -> Path:
        """The canonical record, one line an epoch."""
        return self.root / "metrics.jsonl"

    @property
    def tensorboard(self) -> Path:
        """Event files, derived from the metrics."""
        return self.root / "tensorboard"

    @property
    def checkpoint(self) -> Path:
        """The state to resume from."""
        return self.root / "checkpoints" / "last.pt"

    @property
    def summary(self) -> Path:
        """The result; written last."""
        return self.root / "summary.json"

    @property
    def finished(self) -> bool:
        """Whether the run came to its end (done or diverged)."""
        return self.summary.exists()

    @property
    def started(self) -> bool:
        """Whether some run has been here."""
        return self.config.exists()

    # ------------------------------------------------------------------------------- writing

    def create(self, config_yaml: str, packages: str, git_diff: str | None) -> None:
        """Make the directory and write what does not change during the run.

        Raises:
            StorageError: If the folder cannot be written.
        """
        with storage(self.root):
            self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        write_text(self.root / "env.txt", packages)
        if git_diff:
            write_text(self.root / "git.diff", git_diff)
        write_text(self.config, config_yaml)

    def write_run(self, data: Mapping[str, Any]) -> None:
        """Replace run.json."""
        write_text(self.run, _to_json({"schema_version": SCHEMA_VERSION, **data}, indent=2) + "\n")

    def write_summary(self, data: Mapping[str, Any]) -> None:
        """Write summary.json; the run counts as finished from here on."""
        write_text(
            self.summary, _to_json({"schema_version": SCHEMA_VERSION, **data}, indent=2) + "\n"
        )

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        """Add one line to metrics.jsonl and have it on the disk before returning."""
        with storage(self.metrics), self.metrics.open("a", encoding="utf-8") as file:
            file.write(_to_json(record) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def keep_metrics(self, epochs: int) -> None:
        """Drop what a resumed run will write again: all lines after `epochs` epochs.

        Raises:
            RefusedError: If what is left is not one line for each of these epochs.
        """
        records = self.read_metrics() if self.metrics.exists() else []
        kept = [record for record in records if record["epoch"] <= epochs]
        if [record["epoch"] for record in kept] != list(range(1, epochs + 1)):
            raise RefusedError(
                f"{self.metrics}: the checkpoint stands after epoch {epochs}, but not every epoch "
                f"up to it has one line here; delete {self.checkpoint.parent} to train this run "
                "from its start"
            )
        if records:
            write_text(self.metrics, "".join(_to_json(record) + "\n" for record in kept))

    def write_checkpoint(self, data: bytes) -> None:
        """Replace the checkpoint; a crash at any moment leaves the old or the new one whole."""
        with storage(self.checkpoint):
            self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(self.checkpoint, data + hashlib.sha256(data).digest())

    def read_checkpoint(self) -> bytes:
        """What `write_checkpoint` was given.

        Raises:
            RefusedError: If the file is damaged: its SHA-256, the last 32 bytes, does not match.
        """
        try:
            data = self.checkpoint.read_bytes()
        except OSError as error:
            raise RefusedError(f"{self.checkpoint}: unreadable: {error.strerror}") from None
        content, digest = data[:-32], data[-32:]
        if hashlib.sha256(content).digest() != digest:
            raise RefusedError(
                f"{self.checkpoint}: the checkpoint is damaged; the metrics so far are whole in "
                f"{self.metrics}; delete {self.checkpoint.parent} to train this run from its start"
            )
        return content

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for this process; the lock goes with the process, however it dies.

        Raises:
            LockedError: If another living process holds it.
            StorageError: If the folder cannot be made.
        """
        with storage(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.root, os.O_RDONLY)
        try:
            if not _try_lock(handle, fcntl.LOCK_EX, attempts=LOCK_ATTEMPTS):
                raise LockedError(f"{self.root}: another process is training this run right now")
            yield
        finally:
            os.close(handle)

    # ------------------------------------------------------------------------------- reading

    @property
    def locked(self) -> bool:
        """Whether a living process is training this run; changes nothing on the disk."""
        try:
            handle = os.open(self.root, os.O_RDONLY)
        except OSError:
            return False
        try:
            return not _try_lock(handle, fcntl.LOCK_SH, attempts=1)
        finally:
            os.close(handle)

    def read_run(self) -> dict[str, Any]:
        """run.json as plain data.

        Raises:
            BnlabError: If it is missing or not what bnlab writes.
        """
        return _read_json(self.run)

    def read_summary(self) -> dict[str, Any]:
        """summary.json as plain data; raises as `read_run`."""
        data = _read_json(self.summary)
        if data.get("status") not in {"done", "diverged"}:
            raise BnlabError(f"{self.summary}: not a summary of bnlab; delete it to train again")
        return data

    def read_config(self) -> dict[str, Any]:
        """The resolved configuration as plain data.

        Raises:
            BnlabError: If it is missing or not a mapping.
        """
        try:
            data = yaml.load(self.config.read_text(encoding="utf-8"), Loader=_YAML_LOADER)  # noqa: S506 - a safe one
        except FileNotFoundError:
            raise BnlabError(f"{self.config}: missing") from None
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise BnlabError(f"{self.config}: unreadable: {_first_line(error)}") from None
        if not isinstance(data, dict):
            raise BnlabError(f"{self.config}: expected a mapping")
        return data

    def read_metrics(self) -> list[dict[str, Any]]:
        """The whole lines of metrics.jsonl; a last line that was cut off is left out.

        Raises:
            BnlabError: If a line before the last is not a JSON object with an epoch.
        """
        records, _ = read_metrics_lines(self.metrics)
        return records


LOCK_ATTEMPTS = 5
"""`locked` holds the lock for microseconds while it looks; who really wants it tries again."""


def _try_lock(handle: int, kind: int, *, attempts: int) -> bool:
    for attempt in range(attempts):
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if attempt + 1 < attempts:
                time.sleep(0.01)
        else:
            return True
    return False


# The C loader reads a 30-line config in 1 ms instead of 8; thousands of runs are compared at once.
_YAML_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_metrics_lines(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The records of a metrics file and remarks about what was left out.

    Raises:
        BnlabError: If a line before the last is not a JSON object with an epoch.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        return [], [f"{path}: missing"]
    except (OSError, UnicodeDecodeError) as error:
        raise BnlabError(f"{path}: unreadable: {_first_line(error)}") from None
    records: list[dict[str, Any]] = []
    remarks: list[str] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        record = _metrics_record(line)
        if record is None and number == len(lines):
            remarks.append(f"{path}:{number}: cut-off last line left out")
            break
        if record is None:
            raise BnlabError(f"{path}:{number}: not a metrics record")
        records.append(record)
    return records, remarks


def _metrics_record(line: str) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("epoch"), int) else None


@dataclass(frozen=True)
class RunRecord:
    """What one run directory says, read back for comparing.

    Attributes:
        root: The run directory.
        config: The resolved configuration.
        run: run.json.
        metrics: The records of metrics.jsonl, in order.
        summary: summary.json, or None while the run is unfinished.
        remarks: What was found wrong and what was done about it.
    """

    root: Path
    config: Mapping[str, Any]
    run: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]
    summary: Mapping[str, Any] | None
    remarks: tuple[str, ...] = field(default=())

    @property
    def status(self) -> str:
        """Of run.json, or of the summary where the run is finished."""
        return str((self.summary or self.run).get("status", "unknown"))

    @property
    def seed(self) -> int:
        """The run's seed."""
        return int(self.config.get("seed", 0))


def load_record(root: Path) -> RunRecord:
    """Read one run directory.

    Raises:
        BnlabError: If it is not a run of bnlab, or of a newer schema, or a file in it is corrupt;
            the message says which and why.
    """
    run_dir = RunDir(root)
    run = run_dir.read_run()
    version = run.get("schema_version")
    if not isinstance(version, int):
        raise BnlabError(f"{run_dir.run}: no schema_version; not a run of bnlab")
    if version > SCHEMA_VERSION:
        raise BnlabError(
            f"{run_dir.run}: schema version {version} is newer than the {SCHEMA_VERSION} that this "
            "bnlab reads; upgrade bnlab"
        )
    metrics, remarks = read_metrics_lines(run_dir.metrics)
    summary = run_dir.read_summary() if run_dir.finished else None
    return RunRecord(root, run_dir.read_config(), run, metrics, summary, tuple(remarks))


def find_runs(root: Path) -> list[Path]:
    """Run directories at or below `root`, sorted; nothing inside a run is looked at."""
    found: list[Path] = []
    for folder, below, files in walk_runs(root):
        if "run.json" in files or "config.yaml" in files:
            found.append(folder)
            below.clear()
    return sorted(found)


def walk_runs(root: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """`os.walk` over a runs folder, without the records that came with bnlab.

    They lie in a folder `reference` right below it, and must not mix with the user's runs; who asks
    for that folder by name gets them. Links to folders (runs kept on another disk) are followed,
    each folder once.
    """
    seen: set[Path] = set()
    for name, below, files in os.walk(root, followlinks=True):
        folder = Path(name)
        real = folder.resolve()
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        below.sort()  # whichever of two ways to a folder comes first, it is the same every time
        if folder == root and REFERENCE in below:
            below.remove(REFERENCE)
        yield folder, below, files


# ------------------------------------------------------------------------------- safe writing


def write_text(path: Path, text: str) -> None:
    """Replace a file in one step; see `write_bytes`."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write beside, force to disk, rename: readers see the old file or the new, never a part.

    Raises:
        StorageError: If the disk is full or read-only; the old file is untouched.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.new")
    with storage(path):
        try:
            with beside.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        except OSError:
            beside.unlink(missing_ok=True)
            raise


_FREE_SPACE = "free some space, then go on with --resume auto"
_ELSEWHERE = "choose a folder that can be written with --runs-dir"
_ADVICE = {
    errno.ENOSPC: _FREE_SPACE,
    errno.EDQUOT: _FREE_SPACE,
    errno.EFBIG: "raise the file size limit, then go on with --resume auto",
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


def _to_json(data: Mapping[str, Any], indent: int | None = None) -> str:
    """JSON without NaN or infinities, which standard JSON lacks: they become null."""
    return json.dumps(_finite(data), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes)):
        return [_finite(item) for item in value]
    return value


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BnlabError(f"{path}: missing") from None
    except (OSError, ValueError) as error:
        raise BnlabError(f"{path}: unreadable: {_first_line(error)}") from None
    if not isinstance(data, dict):
        raise BnlabError(f"{path}: expected a JSON object")
    return data


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
