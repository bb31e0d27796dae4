"""Work beside the main thread: a worker does one request after another and answers each.

There are two kinds. A process is apart from all others: what crashes it costs the request that it
was at. A thread shares this process's memory and, on a GPU, its one context. Requests and answers
are JSON for both, so what a worker serves need not know which kind it is in.

Nothing here imports torch, for who hands out work need not have it.
"""

import json
import os
import pkgutil
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import wait
from queue import SimpleQueue
from typing import Any, TypeAlias

from bnlab.errors import BnlabError, StopRequestedError
from bnlab.training.signals import EXIT_CODES, StopRequest, stop_on_signal

Request: TypeAlias = Mapping[str, Any]
Answer: TypeAlias = Mapping[str, Any]
"""Both as JSON has it."""

Serve: TypeAlias = Callable[[Request, StopRequest], Answer]
"""What answers a worker's requests; asks between steps whether it should stop, and does so by
raising `StopRequestedError`, all saved."""

POLL_SECONDS = 0.1
"""How long to wait for workers before looking at all else: a wish to stop, a silent death."""


@dataclass(frozen=True)
class Reply:
    """How a request ended.

    Attributes:
        answer: What was served; None if it failed or was stopped.
        error: Why it failed, in one line.
        log: All that is known of a failure; its last line says why.
        stopped: By request, all saved.
    """

    answer: Answer | None = None
    error: str = ""
    log: str = ""
    stopped: bool = False

    @property
    def out_of_memory(self) -> bool:
        """Whether it failed because a GPU had no memory left, and for no worse reason."""
        return ran_out_of_memory(self.error) and not broke_the_device(self.error)


_NO_MEMORY = ("OutOfMemoryError", "out of memory", "ALLOC_FAILED", "MemoryAllocation")
"""As torch's allocator, CUDA, and cuBLAS and cuDNN put it."""

_BROKEN = ("CaptureFailedError", "AcceleratorError", "CUDA error", "CUBLAS_", "CUDNN_")
"""Marks of errors that may spoil whatever else the process does on its GPU."""


def ran_out_of_memory(error: str) -> bool:
    """Whether an error says that a GPU had no memory left."""
    return any(mark in error for mark in _NO_MEMORY)


def broke_the_device(error: str) -> bool:
    """Whether a process that met this error should do nothing more on its GPU."""
    return any(mark in error for mark in _BROKEN)


def attempt(serve: Serve, request: Request, stop: StopRequest) -> Reply:
    """Serve a request here and now; whatever is raised becomes a reply."""
    try:
        return Reply(serve(request, stop))
    except StopRequestedError:
        return Reply(stopped=True)
    except Exception as error:  # noqa: BLE001 - whatever it is, other requests go on
        return _failed(error)


def _failed(error: BaseException) -> Reply:
    said = "; ".join(str(error).splitlines())
    if type(error) is not BnlabError:  # whose name says nothing
        said = f"{type(error).__name__}: {said}"
    if isinstance(error, BnlabError):
        return Reply(error=said, log=said)
    where = "".join(traceback.format_tb(error.__traceback__))
    traceback.clear_frames(error.__traceback__)  # they hold the request's tensors
    return Reply(error=said, log=f"{where}{said}")


def last_line(text: str) -> str:
    """What a process said last."""
    lines = text.strip().splitlines()
    return lines[-1] if lines else "it said nothing"


# ---------------------------------------------------------------------------------- workers


class Worker(ABC):
    """Does one request after another, beside this thread.

    Args:
        answers: A file descriptor from which its replies can be read, each a line of JSON.
    """

    def __init__(self, answers: int) -> None:
        self.busy = False
        self._answers = answers
        self._said = b""
        self._notes = list[dict[str, Any]]()
        os.set_blocking(answers, False)

    def begin(self, request: Request) -> None:
        """Let it start on a request; only when it is not busy."""
        self.busy = True
        self._send(json.dumps(request).encode() + b"\n")

    def look(self, seconds: float = 0.0) -> Reply | None:
        """How its request ended, if it just has; waits for that so long at the most.

        It is free for another request then, unless it is no longer alive.
        """
        if seconds > 0:
            wait([self._answers], seconds)
        alive = self.alive  # before reading: what it said last is then there
        with suppress(BlockingIOError):
            while piece := os.read(self._answers, 65536):
                self._said += piece
        *lines, self._said = self._said.split(b"\n")
        said = [json.loads(line) for line in lines]
        self._notes += [one["note"] for one in said if "note" in one]
        replies = [Reply(**one) for one in said if "note" not in one]
        if not self.busy or (alive and not replies):
            return None
        self.busy = False
        return self._complete(replies[0]) if replies else self._died()

    def notes(self) -> list[dict[str, Any]]:
        """What it has told of its request since the last call; see `tell`."""
        notes, self._notes = self._notes, []
        return notes

    def reply(self) -> Reply:
        """How its request ended, as soon as it has."""
        while (reply := self.look(POLL_SECONDS)) is None:
            pass
        return reply

    def fileno(self) -> int:
        """Readable when it is worth a look."""
        return self._answers

    @property
    @abstractmethod
    def alive(self) -> bool:
        """Whether it can take requests."""

    @abstractmethod
    def _send(self, line: bytes) -> None: ...

    def _complete(self, reply: Reply) -> Reply:
        """The reply with what the worker itself does not know of it."""
        return reply

    @abstractmethod
    def _died(self) -> Reply:
        """How the request ended that it died of."""

    @abstractmethod
    def stop(self) -> None:
        """Let it save what it is at and end that as `stopped`; it takes no request after this."""

    @abstractmethod
    def end(self) -> None:
        """Let it go: nobody waits for a reply any more."""


class ThreadWorker(Worker):
    """A worker in a thread, which lasts from request to request and has a CUDA stream of its own.

    Args:
        serve: Called in the thread; several workers may share it, if it allows that.
        device: As torch names it; work on a CUDA device goes to the thread's own stream.
        threads: torch's CPU threads there. torch keeps such a number for the whole process as
            well: put it back when all is done.
    """

    def __init__(self, serve: Serve, device: str, threads: int) -> None:
        answers, self._answer_to = os.pipe()
        super().__init__(answers)
        self._requests = SimpleQueue[bytes]()
        self._stop = StopRequest()
        self._thread = threading.Thread(target=self._run, args=(serve, device, threads))
        self._thread.daemon = True
        self._thread.start()

    def _run(self, serve: Serve, device: str, threads: int) -> None:
        import torch

        from bnlab.training.lane import lane

        torch.set_num_threads(threads)
        with lane(torch.device(device)):
            while line := self._requests.get():
                os.write(self._answer_to, _line(attempt(serve, json.loads(line), self._stop)))

    @property
    def alive(self) -> bool:
        """Whether the thread is; it outlives what its requests raise."""
        return self._thread.is_alive()

    def _died(self) -> Reply:
        return Reply(error="its thread died", log="its thread died")

    def _send(self, line: bytes) -> None:
        self._requests.put(line)

    def stop(self) -> None:
        """Tell what it serves to stop."""
        self._stop.name, self._stop.exit_code = "the caller", 75

    def end(self) -> None:
        """Stop and wait: a thread cannot be killed."""
        self.stop()
        self._requests.put(b"")
        self._thread.join()
        os.close(self._answers)
        os.close(self._answer_to)


_CHILD = "import sys; sys.path[:] = sys.argv[2:]; from bnlab.training.workers import child; child()"
"""The child sees the very code that its parent runs, whatever the working directory holds."""


class ProcessWorker(Worker):
    """A worker in a process of its own session, so that Ctrl-C is this process's to pass on.

    Its stdin stays open for as long as this process lives: when it closes, however that came about,
    the worker knows that nobody waits for it and stops, with all saved if it is at something. It
    dies of whatever it does not understand.

    Args:
        makes: Import path `module:name` of what makes, in the worker, what it serves.
        threads: CPU threads of OpenMP and MKL there.
        variables: Further variables of its environment.
    """

    def __init__(
        self, makes: str, threads: int, variables: Mapping[str, str] | None = None
    ) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `end`
        self._stderr_begin = 0
        self._stopped = False
        counts = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", _CHILD, makes, *sys.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env={**os.environ, **counts, **(variables or {})},
            bufsize=0,
            start_new_session=True,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._stdin, self._stdout = self.process.stdin, self.process.stdout
        super().__init__(self._stdout.fileno())

    @property
    def alive(self) -> bool:
        """Whether the process is."""
        return self.process.poll() is None

    def _send(self, line: bytes) -> None:
        self._stderr_begin = os.fstat(self._stderr.fileno()).st_size
        rest = memoryview(line)
        with suppress(BrokenPipeError):  # if it has died, exit code and stderr say why
            while rest:
                rest = rest[self._stdin.write(rest) or 0 :]

    def _complete(self, reply: Reply) -> Reply:
        """With what the failed request wrote to stderr."""
        return replace(reply, log=f"{self._written()}{reply.log}") if reply.error else reply

    def _died(self) -> Reply:
        code = self.process.returncode
        if code in EXIT_CODES.values() or (self._stopped and code < 0):
            return Reply(stopped=True)  # if killed, the signal came before the work had begun
        log = self._written()
        if code < 0:
            log += f"killed by {signal.Signals(-code).name}\n"
        return Reply(error=f"{last_line(log)} (exit code {code})", log=log)

    def _written(self) -> str:
        """What the request has written to stderr so far."""
        size = os.fstat(self._stderr.fileno()).st_size - self._stderr_begin
        # Not by seek and read: the process writes where this file stands.
        return os.pread(self._stderr.fileno(), size, self._stderr_begin).decode(errors="replace")

    def stop(self) -> None:
        """Send SIGTERM: it saves what it is at, then exits."""
        self._stopped = True
        self.process.terminate()

    def end(self) -> None:
        """Kill it, with all that it has started."""
        if self.alive:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for stream in (self._stdin, self._stdout, self._stderr):
            stream.close()


_answers: list[int] = []
"""In a worker process, the file descriptor to which its replies go."""


def tell(note: Mapping[str, Any]) -> None:
    """In a worker process, let who hired it know something of the request; elsewhere nothing."""
    for answers in _answers:
        os.write(answers, json.dumps({"note": note}).encode() + b"\n")


def child() -> None:
    """The whole life of a worker process: requests on stdin, for each a reply on stdout."""
    answers = os.dup(1)
    _answers.append(answers)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whatever a library may print there
    requests = SimpleQueue[bytes]()
    threading.Thread(target=_read_requests, args=(requests,), daemon=True).start()
    serve: Serve = pkgutil.resolve_name(sys.argv[1])()
    while line := requests.get():
        try:
            with stop_on_signal() as stop:
                reply = Reply(serve(json.loads(line), stop))
        except StopRequestedError as error:
            sys.exit(error.exit_code)
        except BnlabError as error:
            reply = _failed(error)
        os.write(answers, _line(reply))


def _read_requests(requests: SimpleQueue[bytes]) -> None:
    """Pass on what comes on stdin, line by line; when it closes, end this process.

    Without Python's buffer, whose lock a daemon thread may hold at exit.
    """
    rest = b""
    while piece := os.read(0, 65536):
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            requests.put(line)
    requests.put(b"")
    os.kill(os.getpid(), signal.SIGTERM)


def _line(reply: Reply) -> bytes:
    return json.dumps(asdict(reply)).encode() + b"\n"
