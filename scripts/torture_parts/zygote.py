"""The command line in processes that are forked, not started: torch is imported once.

Each is a process of its own, in a session of its own, with its own streams, folder and end; only
what the interpreter does before `main` and after it is left out.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HEAVY = (
    "bnlab.analysis.listing",
    "bnlab.cli.console",
    "bnlab.report.audit",
    "bnlab.report.events",
    "bnlab.report.page",
    "bnlab.report.plots.canvas",
    "bnlab.report.sections",
    "bnlab.report.terminal",
    "bnlab.study.cells",
    "bnlab.study.images",
    "bnlab.study.run",
    "bnlab.training.experiment",
    "matplotlib.figure",
    "scipy.stats",
    "torch",
)


def environment() -> dict[str, str]:
    """Of every process: this checkout's bnlab, and one thread."""
    scripts = Path(__file__).resolve().parents[1]
    paths = [str(scripts.parent), str(scripts), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "OMP_NUM_THREADS": "1",
        "NO_COLOR": "1",
        "COLUMNS": "120",
    }


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: Exit code; negative for a signal.
        out, err: What it wrote.
        seconds: How long it took.
        mebibytes: The most memory it had.
        late: Whether it was killed for its time.
    """

    code: int
    out: str
    err: str
    seconds: float
    mebibytes: float
    late: bool

    def __str__(self) -> str:
        """For a failure's line."""
        end = "was killed for its time" if self.late else f"ended with {self.code}"
        return f"{end}: {self.err[-1500:].strip() or self.out[-300:].strip()!r}"


class Zygote:
    """Starts commands.

    Args:
        folder: For their streams.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._numbers = 0
        self._server = subprocess.Popen(
            [sys.executable, "-m", "torture_parts.zygote"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**environment(), "BNLAB_CACHE": str(folder / "cache")},
        )

    def start(
        self,
        words: Sequence[str],
        cwd: Path,
        *,
        faults: Mapping[str, Any] | None = None,
        env: Mapping[str, str] | None = None,
        limits: Mapping[str, int] | None = None,
        uid: int = 0,
        clock: float = 0.0,
    ) -> "Command":
        """Start a command of bnlab.

        Args:
            words: Its command line.
            cwd: Where.
            faults: For `faults.install`.
            env: Further variables.
            limits: As RLIMIT_FSIZE, in bytes.
            uid: Whose process it is; 0 for whose it is anyway.
            clock: Seconds by which its clock is wrong.
        """
        self._numbers += 1
        streams = {name: str(self._folder / f"{self._numbers}.{name}") for name in ("out", "err")}
        job: dict[str, Any] = {
            "words": list(words),
            "cwd": str(cwd),
            "faults": faults,
            "env": dict(env or {}),
        }
        job |= {"limits": dict(limits or {}), "uid": uid, "clock": clock}
        pid = self.ask({**job, **streams})["pid"]
        return Command(self, int(pid), Path(streams["out"]), Path(streams["err"]))

    def run(self, words: Sequence[str], cwd: Path, seconds: float = 60.0, **more: Any) -> Ended:
        """Start one and wait for its end."""
        return self.start(words, cwd, **more).wait(seconds)

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """A request to the server, and its answer."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        answer: dict[str, Any] = json.loads(self._server.stdout.readline())
        return answer

    def close(self) -> None:
        """End it."""
        self._server.communicate()


@dataclass
class Command:
    """A command under way; its process leads a group of its own."""

    zygote: Zygote
    pid: int
    out: Path
    err: Path

    def kill(self, number: int, *, group: bool = False) -> None:
        """Send it a signal."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number) if group else os.kill(self.pid, number)

    def wait(self, seconds: float) -> Ended:
        """Wait for its end, and kill it when that is not soon enough."""
        answer = self.zygote.ask({"wait": self.pid, "seconds": seconds})
        out, err = (path.read_text(errors="replace") for path in (self.out, self.err))
        self.out.unlink()
        self.err.unlink()
        took, mebibytes = answer["took"], answer["mebibytes"]
        return Ended(answer["code"], out, err, took, mebibytes, answer["late"])


# ------------------------------------------------------------------------ in the server


def serve() -> None:
    """Fork for each command, and tell how it ended."""
    for name in HEAVY:
        __import__(name)
    began: dict[int, float] = {}
    while line := sys.stdin.readline():
        request = json.loads(line)
        if "wait" in request:
            answer = _wait(request["wait"], began.pop(request["wait"]), request["seconds"])
        else:
            pid = os.fork()
            if not pid:
                _live(request)
            began[pid] = time.monotonic()
            answer = {"pid": pid}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _wait(pid: int, began: float, seconds: float) -> dict[str, Any]:
    late = False
    while True:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            break
        if time.monotonic() - began > seconds:
            late = True
            os.killpg(pid, signal.SIGKILL)
        time.sleep(0.005)
    return {
        "code": os.waitstatus_to_exitcode(status),
        "took": time.monotonic() - began,
        "mebibytes": usage.ru_maxrss / 1024,
        "late": late,
    }


def _live(job: Mapping[str, Any]) -> None:
    """The whole life of a command's process."""
    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # until `main` has its own
        os.chdir(job["cwd"])
        os.environ.update(job["env"])
        streams = [os.open(os.devnull, os.O_RDONLY)]
        streams += [os.open(job[name], os.O_WRONLY | os.O_CREAT, 0o644) for name in ("out", "err")]
        for number, handle in enumerate(streams):
            os.dup2(handle, number)
            os.close(handle)
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", closefd=False, buffering=1)  # noqa: SIM115
        sys.argv = ["bnlab", *job["words"]]
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for name, limit in job["limits"].items():
            resource.setrlimit(getattr(resource, name), (limit, limit))
        if job["uid"]:
            os.setgid(job["uid"])
            os.setuid(job["uid"])
        if job["clock"]:
            true = time.time
            time.time = lambda: true() + job["clock"]
        if job["faults"]:
            from torture_parts import faults

            faults.install(**job["faults"])
        from bnlab import cli

        cli.main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - the interpreter would print it too
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()
