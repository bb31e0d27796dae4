"""A run directory as training writes it.

A file that exists is whole: all but metrics.jsonl are written beside and renamed, and a metrics
line that a crash cut off is recognized. `summary.json` is written last, so its presence means that
the run is finished.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bnlab.config import Config, arm_label
from bnlab.errors import RefusedError
from bnlab.records import files
from bnlab.records.files import RunFiles
from bnlab.records.finding import REFERENCE
from bnlab.records.locks import Hold, Watching, hold_lock, is_locked, refuse_if_locked
from bnlab.records.reading import epoch_of, read_metrics
from bnlab.records.schema import SCHEMA_VERSION
from bnlab.records.storage import (
    append_line,
    clear_leftovers,
    storage,
    to_json,
    write_bytes,
    write_text,
)


def run_path(runs_dir: Path, config: Config, arm: str | None = None) -> Path:
    """`<runs_dir>/<name>/<arm>-<hash8>/s<seed>`.

    Raises:
        RefusedError: If runs of that name would be hidden from every command, or lie among the
            records that came with bnlab.
    """
    if runs_dir.name == REFERENCE:
        raise RefusedError(
            f"{runs_dir}: records that came with bnlab lie in this folder, and nothing is trained "
            "into it; use another --runs-dir"
        )
    if config.name == REFERENCE:
        raise RefusedError(
            f"{runs_dir / REFERENCE}: records that came with bnlab lie in this folder, and what is "
            "in it is left out of every list; use another --name"
        )
    folder = f"{arm or arm_label(config)}-{config.hash[:8]}"
    return runs_dir / config.name / folder / f"s{config.seed}"


@dataclass(frozen=True)
class RunDir:
    """The files of one run.

    Attributes:
        root: `runs/<study or name>/<arm>-<hash8>/s<seed>`.
        hold: Its lock, if this process trains it: whoever has lost that writes nothing more.
    """

    root: Path
    hold: Hold | None = field(default=None, compare=False, repr=False)

    @property
    def files(self) -> RunFiles:
        """For reading."""
        return RunFiles(self.root)

    @property
    def config(self) -> Path:
        """The resolved configuration; loads as `--config`."""
        return self.root / files.CONFIG

    @property
    def run(self) -> Path:
        """Status, attempts and provenance."""
        return self.root / files.RUN

    @property
    def metrics(self) -> Path:
        """The canonical record, one line an epoch."""
        return self.root / files.METRICS

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
        return self.root / files.SUMMARY

    @property
    def finished(self) -> bool:
        """Whether the run came to its end (done or diverged)."""
        return self.summary.exists()

    @property
    def started(self) -> bool:
        """Whether some run has been here."""
        return self.config.exists()

    @property
    def traces(self) -> tuple[Path, ...]:
        """What training has left here; each is written after config.yaml, however a run ends."""
        places = (self.run, self.metrics, self.checkpoint, self.tensorboard)
        return tuple(place for place in places if place.exists())

    def create(
        self, config_yaml: str, packages: str, git_diff: str | None, source: str | None = None
    ) -> None:
        """Make the directory and write what does not change during the run.

        Args:
            config_yaml: The resolved configuration.
            packages: What is installed.
            git_diff: Uncommitted changes.
            source: The file that makes the network, where that is the user's.

        Raises:
            StorageError: If the folder cannot be written.
        """
        self._refuse_if_lost()
        with storage(self.root):
            self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        write_text(self.root / files.PACKAGES, packages)
        if git_diff:
            write_text(self.root / files.DIFF, git_diff)
        if source is not None:
            write_text(self.source, source)
        write_text(self.config, config_yaml)

    @property
    def source(self) -> Path:
        """The file that makes the network, as it was when the run began."""
        return self.root / files.SOURCE

    def write_run(self, data: Mapping[str, Any]) -> None:
        """Replace run.json."""
        self._refuse_if_lost()
        write_text(self.run, to_json({"schema_version": SCHEMA_VERSION, **data}, indent=2) + "\n")

    def write_summary(self, data: Mapping[str, Any]) -> None:
        """Write summary.json; the run counts as finished from here on."""
        self._refuse_if_lost()
        whole = {"schema_version": SCHEMA_VERSION, **data}
        write_text(self.summary, to_json(whole, indent=2) + "\n")

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        """Add one line to metrics.jsonl and have it on the disk before returning."""
        self._refuse_if_lost()
        append_line(self.metrics, to_json(record))

    def keep_metrics(self, epochs: int) -> None:
        """Drop what a resumed run will write again: all lines after `epochs` epochs.

        Raises:
            RefusedError: If what is left is not one line for each of these epochs.
        """
        self._refuse_if_lost()
        records = read_metrics(self.files).records if self.metrics.exists() else ()
        kept = [record for record in records if epoch_of(record) <= epochs]
        if [epoch_of(record) for record in kept] != list(range(1, epochs + 1)):
            raise RefusedError(
                f"{self.metrics}: the checkpoint stands after epoch {epochs}, but not every epoch "
                f"up to it has one line here; delete {self.checkpoint.parent} to train this run "
                "from its start"
            )
        if self.metrics.exists():  # without records too: the first line may be cut off
            write_text(self.metrics, "".join(to_json(record) + "\n" for record in kept))

    def write_checkpoint(self, data: bytes) -> None:
        """Replace the checkpoint; a crash at any moment leaves the old or the new one whole."""
        self._refuse_if_lost()
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

    @property
    def _lock(self) -> Path:
        return self.root / files.LOCK

    @contextmanager
    def lock(self, watching: Watching = lambda *_: None) -> Iterator["RunDir"]:
        """Hold the run for this process; the lock goes with the process, however it dies.

        Args:
            watching: As for `hold_lock`.

        Returns:
            The run to write to. Its `write_`, `append_` and `keep_` raise `LockLostError` when
            another process has taken the lock over.

        Raises:
            LockedError: If another living process holds it.
            StorageError: If the folder cannot be made.
        """
        with ExitStack() as stack:
            with storage(self.root):
                self.root.mkdir(parents=True, exist_ok=True)
                hold = stack.enter_context(hold_lock(self._lock, watching))
            with storage(self.root):
                for folder in (self.root, self.checkpoint.parent):
                    clear_leftovers(folder)
            yield replace(self, hold=hold)

    def _refuse_if_lost(self) -> None:
        if self.hold is not None:
            with storage(self.root):
                self.hold.refuse_if_lost()

    def refuse_if_locked(self) -> None:
        """Raise `LockedError`, naming who and since when, if a living process trains this run."""
        refuse_if_locked(self._lock)

    @property
    def locked(self) -> bool:
        """Whether a living process is training this run; changes nothing on the disk."""
        return is_locked(self._lock)
