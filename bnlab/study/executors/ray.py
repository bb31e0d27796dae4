"""Workers as tasks of Ray: each holds its share of a cluster and pulls cells until none is left.

What Ray counts (cores, fractions of a GPU) keeps workers apart and limits none of them. A worker
that dies is started again by Ray; until then its cells are free for the others. The workers end
with this process, their runs checkpointed.
"""

import logging
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bnlab.errors import BnlabError, ConfigError, StopRequestedError, did_you_mean, shown
from bnlab.study.executors import EXECUTORS, Cell, ExecutorOptions, Outcome, StudyWatcher
from bnlab.study.executors._follow import Alive, follow
from bnlab.study.fleet import Fleet, last_words, read_notes
from bnlab.training.signals import EXIT_CODES, StoppedError, StopRequest, raise_on_signal

DEFAULTS = {"num_cpus": "1", "num_gpus": "0"}
"""What a worker asks for, in Ray's words."""

RETRIES = 3
"""How often Ray starts a worker again that has died."""

OBJECTS_BYTES = 100 * 2**20
"""Memory for what tasks hand over, in a cluster started here: they hand over two words."""

CONNECT_SECONDS = 10.0
"""For a cluster to answer at all."""

END_SECONDS = 5.0
"""For workers to see that a study is finished."""

CANCEL_SECONDS = 60.0
"""For workers to save what they are at, when this process ends before the study."""


@EXECUTORS.register("ray", facts=("hires",))
def run_on_ray(
    cells: Sequence[Cell], options: ExecutorOptions, stop: StopRequest, watcher: StudyWatcher
) -> Iterator[Outcome]:
    """Tasks train the cells; this process watches them."""
    yield from follow(cells, options, stop, watcher, lambda fleet: fleet.at_end(_tasks(fleet)))


def read_settings(assignments: Sequence[str]) -> dict[str, str]:
    """`--ray KEY=VALUE`, checked.

    Raises:
        ConfigError: For an unknown key or what is no number of cores or GPUs.
    """
    found = dict(DEFAULTS)
    for text in assignments:
        key, _, value = text.partition("=")
        place = f"--ray {shown(text)}"
        if key not in DEFAULTS:
            raise ConfigError(
                f"{place}: unknown setting {shown(repr(key))}{did_you_mean(key, DEFAULTS)}"
            )
        try:
            number = float(value)
        except ValueError:
            number = -1.0
        whole = number == int(number) if 0 <= number < 1e6 else False
        if not (whole or (key == "num_gpus" and 0 < number < 1)) or (
            key == "num_cpus" and not number
        ):
            allowed = "a number from 1" if key == "num_cpus" else "a number, or a part of one GPU"
            raise ConfigError(f"{place}: expected {allowed}")
        found[key] = value
    return found


def refuse_without_ray() -> None:
    """Say early what is not installed.

    Raises:
        BnlabError: Naming it.
    """
    if find_spec("ray") is None:
        raise BnlabError("--executor ray needs Ray: pip install 'bnlab[ray]'")


@contextmanager
def _tasks(fleet: Fleet) -> Iterator["Tasks"]:
    """A connection to a cluster, or a cluster, that ends with all workers."""
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing of a study is sent anywhere
    address = fleet.hiring.settings["address"]
    _refuse_deaf(address)
    local = {"object_store_memory": OBJECTS_BYTES, "include_dashboard": False}
    handlers = _handlers()
    try:
        ray.init(
            address=address or "local",
            namespace="bnlab",
            log_to_driver=False,
            logging_level=logging.ERROR,
            **({} if address else local),
        )
    except Exception as error:  # whatever Ray's parts raise
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise _no_cluster(address, said[0]) from error
    finally:
        _put_back(handlers)  # Ray has one of its own for SIGTERM, which saves nothing
    tasks = Tasks(fleet)
    try:
        yield tasks
    finally:
        tasks.end()
        ray.shutdown()
        _put_back(handlers)


def _refuse_deaf(address: str) -> None:
    """Ray itself would try for two minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
        except (OSError, OverflowError) as error:
            raise _no_cluster(address, str(error)) from error


def _no_cluster(address: str, why: str) -> BnlabError:
    return BnlabError(
        f"--executor ray: no cluster at {address or 'this machine'}: {why}; give another "
        "--ray-address or RAY_ADDRESS, or neither to start one here; one that wants a token needs "
        "RAY_AUTH_MODE=token here, too"
    )


def _handlers() -> dict[int, Any]:
    return {number: signal.getsignal(number) for number in EXIT_CODES}


def _put_back(handlers: Mapping[int, Any]) -> None:
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            signal.signal(number, handler)


class Tasks:
    """Starts workers as tasks and asks Ray about them."""

    detaches = False

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._references = dict[str, Any]()
        self._words = dict[str, str]()

    def hire(self, count: int) -> list[str]:
        """Ask for so many.

        Raises:
            BnlabError: If the cluster is too small for one, and is all that there is.
        """
        import ray

        settings = self._fleet.hiring.settings
        cores, gpus = float(settings["num_cpus"]), float(settings["num_gpus"])
        there = ray.cluster_resources()
        if not settings["address"] and (there.get("CPU", 0) < cores or there.get("GPU", 0) < gpus):
            raise BnlabError(
                f"--executor ray: this machine has {there.get('CPU', 0):g} cores and "
                f"{there.get('GPU', 0):g} GPUs for Ray; a worker asks for {cores:g} and {gpus:g}"
            )
        task = ray.remote(_work).options(num_cpus=cores, num_gpus=gpus, max_retries=RETRIES)
        token, mark = self._fleet.orders.token, uuid.uuid4().hex[:6]
        names = [f"ray-{mark}-{number}" for number in range(count)]
        for name in names:
            reference = task.remote(str(self._fleet.folder), token, name, int(cores))
            self._references[name] = reference
        return names

    def alive(self, names: Sequence[str]) -> Mapping[str, Alive]:
        """Those whose task has not ended; one that Ray starts again has not."""
        import ray

        waiting = {self._references[name]: name for name in names if name in self._references}
        ended, _ = (
            ray.wait(list(waiting), num_returns=len(waiting), timeout=0) if waiting else ([], [])
        )
        for reference in ended:
            name = waiting.pop(reference)
            self._words[name] = _words(reference)
            del self._references[name]
        notes = read_notes(self._fleet.folder)
        return {
            name: Alive("running", notes[name].host) if name in notes else Alive("pending")
            for name in waiting.values()
        }

    def cancel(self, names: Sequence[str]) -> None:
        """Let them stop: in each, Ray raises what Ctrl-C would."""
        import ray

        for name in names:
            if name in self._references:
                ray.cancel(self._references[name], force=False)

    def end(self) -> None:
        """Let all of them stop, and wait for it."""
        if not self._gone_within(END_SECONDS):
            self.cancel(list(self._references))
            self._gone_within(CANCEL_SECONDS)

    def _gone_within(self, seconds: float) -> bool:
        until = time.monotonic() + seconds
        while alive := self.alive(list(self._references)):
            if time.monotonic() > until:
                break
            time.sleep(0.2)
        return not alive

    def last_words(self, name: str) -> str:
        """What it said, or else how Ray says that it ended."""
        return last_words(self._fleet.folder, name) or self._words.get(name, "")

    def advice(self, names: Sequence[str]) -> str:
        """They end with this process."""
        raise NotImplementedError


def _words(reference: Any) -> str:
    import ray

    try:
        return str(ray.get(reference))
    except Exception as error:  # noqa: BLE001 - a crash, or what a foreign installation raises
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        said = lines[-1] if lines else type(error).__name__
        lacks = "No module named 'bnlab" in said
        return f"{said}: install bnlab on all machines of the cluster" if lacks else said


# ---------------------------------------------------------------------------- in a task


def _work(folder: str, token: str, name: str, cores: int) -> str:
    """A worker; gives what was wrong, in one line."""
    from bnlab.study.worker import work

    handlers = _handlers()
    raise_on_signal()
    try:
        work(Path(folder), token, name, cores)
    except StopRequestedError:
        return "stopped"
    except (BnlabError, StoppedError) as error:
        return str(error)
    finally:
        _put_back(handlers)
    return ""
