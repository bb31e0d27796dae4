"""What a cluster says of a study's workers, for whoever looks from anywhere."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bnlab.errors import RefusedError
from bnlab.study.executors._follow import Alive
from bnlab.study.executors.slurm import ask_queue
from bnlab.study.fleet import ORDERS, WORKERS, WorkerNote, last_words, read_notes, read_orders


@dataclass(frozen=True)
class WorkerView:
    """A worker as the cluster and it itself have it.

    Attributes:
        state: The cluster's (`running`, `pending`), or else what it said last.
        where: Machine, or why it waits.
        said: What is wrong with it.
    """

    name: str
    state: str
    where: str
    said: str


def look_at_workers(folder: Path) -> list[WorkerView]:
    """The workers of a study that were started last; none where it is trained here."""
    if not (folder / WORKERS / ORDERS).exists():
        return []
    notes = read_notes(folder)
    try:
        orders = read_orders(folder)
    except RefusedError as error:
        return [WorkerView("all", "unknown", "", str(error))]
    names = list(dict.fromkeys([*orders.hired, *notes]))
    queue = ask_queue(names) if orders.executor == "slurm" else None
    return [_view(name, notes.get(name), queue, folder) for name in names]


def _view(
    name: str, note: WorkerNote | None, queue: Mapping[str, Alive] | None, folder: Path
) -> WorkerView:
    if queue is not None and name in queue:
        return WorkerView(name, queue[name].state, queue[name].where, "")
    if note is not None and (queue is None or note.state != "working"):
        return WorkerView(name, note.state, note.host, note.said)
    host = note.host if note is not None else ""
    if queue is None:
        return WorkerView(name, "unknown", host, "")
    return WorkerView(name, "gone", host, last_words(folder, name))
