"""TensorBoard's event files, written when told to and by nobody else.

TensorBoard's own writer has a thread, whose failure on a full disk is a traceback beside whatever
is said of it. Here a disk's refusal comes back to who flushes.
"""

import io
import itertools
import os
import socket
import time
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from bnlab.records.storage import storage

_NUMBERS = itertools.count()

PREFIX = "events.out.tfevents."
"""By which TensorBoard knows its files; the second in which one was begun follows."""


class EventFile:
    """One file of events; nothing is on the disk before `flush`.

    Args:
        folder: Where; made if it is not there.
        purge_step: Events of earlier files from this step on are to be forgotten.
        first: It is read before all others there, whenever they were begun. TensorBoard keeps to
            what it hears first of hyperparameters.
    """

    def __init__(self, folder: Path, purge_step: int | None = None, *, first: bool = False) -> None:
        # TensorBoard reads files in the order of their names, so a clock that has gone back since
        # the last one was begun would have it forget the new events instead of the old.
        earlier = (_begun(path) for path in folder.glob(f"{PREFIX}*"))
        self._begun = 0 if first else max(int(time.time()), *(begun + 1 for begun in earlier), 0)
        name = f"{PREFIX}{self._begun:010d}.{socket.gethostname()}.{os.getpid()}.{next(_NUMBERS)}"
        self.path = folder / name
        self._pending = io.BytesIO()
        self._add(Event(wall_time=self._now(), file_version="brain.Event:2"))
        if purge_step is not None:
            start = SessionLog(status=SessionLog.START)
            self._add(Event(wall_time=self._now(), step=purge_step, session_log=start))

    def add(self, summary: Summary, step: int = 0, wall_time: float | None = None) -> None:
        """Add what was measured after a step; the time is now unless it is given."""
        when = self._now() if wall_time is None else wall_time
        self._add(Event(wall_time=when, step=step, summary=summary))

    def _now(self) -> float:
        return max(time.time(), self._begun)

    def _add(self, event: Event) -> None:
        RecordWriter(self._pending).write(event.SerializeToString())

    def flush(self) -> None:
        """Put on the disk what was added.

        Raises:
            StorageError: If the disk takes no more; what was added is then lost.
        """
        pending, self._pending = self._pending.getvalue(), io.BytesIO()
        with storage(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.write(pending)


def _begun(path: Path) -> int:
    digits = path.name.removeprefix(PREFIX).partition(".")[0]
    return int(digits) if digits.isascii() and digits.isdigit() else 0
