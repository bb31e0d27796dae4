"""Workers on other machines: what they are told, what they say, and whether they may take part.

All of it lies beside the study's runs, in `workers/`: `orders.json`, which every worker must find
there before it begins, a file that each writes about itself, and their logs.
"""

import json
import os
import platform
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from bnlab import __version__
from bnlab.config import Config
from bnlab.errors import RefusedError
from bnlab.records import storage, write_text

WORKERS = "workers"
"""Folder below that of a study."""

ORDERS = "orders.json"

T = TypeVar("T")
OnInterrupt = Literal["detach", "cancel"]


@dataclass(frozen=True)
class Hiring:
    """The workers that a user wants.

    Attributes:
        workers: So many at a time.
        settings: For whoever starts them, as the executor reads them.
        on_interrupt: What a signal to the process that watches them means for them.
    """

    workers: int
    settings: Mapping[str, str]
    on_interrupt: OnInterrupt


class Orders(BaseModel):
    """What every worker of a study is told, and what tells that it is the same study and code.

    Attributes:
        token: Made once per folder: a folder of that path on another disk has another, or none.
        bnlab: Version of whoever hires.
        code: Fingerprints of all that the study's training goes through.
        study: The study as it was run last.
        runs_dir: Folder of all runs.
        cwd: Where relative paths in configurations begin.
        jobs: Runs at once of each worker; None for as many as suit it.
        threads: CPU threads of a run on a CPU, the same everywhere, since they show in the bits.
        executor: Who started the workers.
        hired: Names of those that were started.
    """

    model_config = ConfigDict(frozen=True)

    token: str
    bnlab: str
    code: Mapping[str, str]
    study: Path
    runs_dir: Path
    cwd: Path
    device: str
    deterministic: bool
    jobs: int | None
    threads: int
    executor: str
    hired: tuple[str, ...] = ()


class WorkerNote(BaseModel):
    """What a worker says of itself.

    Attributes:
        state: `working`; `stopped` with all saved; `ended` when nothing was left to do; `refused`
            if it must not take part; `failed`.
        said: Why.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    host: str
    pid: int
    state: Literal["working", "stopped", "ended", "refused", "failed"]
    said: str = ""


class Fleet:
    """Workers of a study, and where they and who watches them meet; a context while it is watched.

    Attributes:
        folder: The study's, absolute.
        hiring: What is wanted.
        kept: What an executor keeps from one stage of the study to the next.
    """

    def __init__(self, folder: Path, hiring: Hiring) -> None:
        self.folder, self.hiring = folder, hiring
        self.kept = dict[str, Any]()
        self._end = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end.close()

    def at_end(self, context: AbstractContextManager[T]) -> T:
        """Enter a context that lasts as long as the study is watched."""
        return self._end.enter_context(context)

    @property
    def workers(self) -> Path:
        """Folder of all that concerns them."""
        return self.folder / WORKERS

    @property
    def orders(self) -> Orders:
        """What they are told.

        Raises:
            RefusedError: If that cannot be read.
        """
        return read_orders(self.folder)

    def known(self) -> list[str]:
        """Names of all workers that have been started, or have shown up here, and not long ago."""
        return list(dict.fromkeys([*self.orders.hired, *read_notes(self.folder)]))

    def note_hired(self, names: Sequence[str]) -> None:
        """Keep the names of workers, to find them again, and forget all others."""
        write_orders(self.folder, self.orders.model_copy(update={"hired": tuple(names)}))
        for name in read_notes(self.folder).keys() - set(names):
            (self.workers / f"{name}.json").unlink(missing_ok=True)


def write_orders(folder: Path, orders: Orders) -> None:
    """Put the orders where workers look for them.

    Raises:
        StorageError: If the folder takes no file.
    """
    with storage(folder / WORKERS):
        (folder / WORKERS).mkdir(parents=True, exist_ok=True)
    write_text(folder / WORKERS / ORDERS, orders.model_dump_json(indent=2) + "\n")


def read_orders(folder: Path) -> Orders:
    """The orders of a study's workers.

    Raises:
        RefusedError: If there are none, or they are another version's or damaged.
    """
    path = folder / WORKERS / ORDERS
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RefusedError(f"{path}: no workers have been asked for") from None
    except (OSError, ValueError) as error:
        raise RefusedError(f"{path}: cannot be read: {error}") from error
    if isinstance(data, dict) and data.get("bnlab") != __version__:
        raise RefusedError(
            f"{path}: written by bnlab {data.get('bnlab')}, this is bnlab {__version__}; workers "
            "and whoever hires them need the same: install it on all machines"
        )
    try:
        return Orders.model_validate(data)
    except ValidationError as error:
        raise RefusedError(f"{path}: damaged ({error.error_count()} faults); delete it") from error


def token_of(folder: Path) -> str:
    """The token of a folder; a new one if it has none yet."""
    try:
        token = json.loads((folder / WORKERS / ORDERS).read_text(encoding="utf-8"))["token"]
    except (OSError, ValueError, TypeError, KeyError):
        return uuid.uuid4().hex
    return token if isinstance(token, str) else uuid.uuid4().hex


def hired_before(folder: Path, executor: str) -> tuple[str, ...]:
    """Workers that an executor has started for a study and that may be alive still."""
    try:
        orders = read_orders(folder)
    except RefusedError:
        return ()
    return orders.hired if orders.executor == executor else ()


def refuse_other_folder(folder: Path, token: str) -> None:
    """Let no worker begin that does not see the very folder that was meant.

    Raises:
        RefusedError: If it is not, with the machine's name.
    """
    where = f"worker on {platform.node()}: {folder}"
    shared = "workers need --runs-dir on a file system that all machines share, at the same path"
    if not (folder / WORKERS / ORDERS).exists():
        raise RefusedError(f"{where}: not there, or without {WORKERS}/{ORDERS}; {shared}")
    if token_of(folder) != token:
        raise RefusedError(f"{where}: another folder than the one the study was run in; {shared}")


def code_of_all(configs: Iterable[Config]) -> dict[str, str]:
    """Fingerprints of all that the training of these goes through; loads torch."""
    from bnlab.training.fingerprint import code_of

    kinds = {(one.dataset.name, one.model.name, one.model.norm.name): one for one in configs}
    found = dict[str, str]()
    for config in kinds.values():
        found |= code_of(config)
    return found


def refuse_other_code(ordered: Mapping[str, str], here: Mapping[str, str]) -> None:
    """Let no worker take part whose numbers might be others.

    Raises:
        RefusedError: Naming the files that differ.
    """
    files = sorted(name for name in ordered.keys() | here if ordered.get(name) != here.get(name))
    if files:
        rest = f" and {len(files) - 3} more" if len(files) > 3 else ""
        raise RefusedError(
            f"worker on {platform.node()}: its code is not that of whoever hires: "
            f"{', '.join(files[:3])}{rest} differ; install the same bnlab on all machines"
        )


# ---------------------------------------------------------------------- what workers say


def write_note(folder: Path, note: WorkerNote) -> None:
    """Let a worker say how it is.

    Raises:
        StorageError: If the folder takes no file.
    """
    write_text(folder / WORKERS / f"{note.name}.json", note.model_dump_json() + "\n")


def read_notes(folder: Path) -> dict[str, WorkerNote]:
    """What the workers of a study say, by name; what cannot be read is passed over."""
    found = dict[str, WorkerNote]()
    for path in sorted((folder / WORKERS).glob("*.json")):
        try:
            note = WorkerNote.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        found[note.name] = note
    return found


def last_words(folder: Path, name: str) -> str:
    """What a worker that is gone said last: of itself, or else in its log; "" if nothing."""
    note = read_notes(folder).get(name)
    if note is not None and note.state != "working":
        return f"{note.state}: {note.said}".rstrip(": ")
    for log in sorted((folder / WORKERS).glob(f"{name}[._]*"), key=_age):
        if log.suffix in (".err", ".log") and (lines := _lines(log)):
            return lines[-1]
    return ""


def _age(path: Path) -> float:
    try:
        return -path.stat().st_mtime
    except OSError:
        return 0.0


def _lines(log: Path) -> list[str]:
    try:
        with log.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
            return file.read().decode(errors="replace").strip().splitlines()
    except OSError:
        return []
