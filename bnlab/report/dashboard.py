"""TensorBoard, started over the folder of `board` and ended with whoever started it."""

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from bnlab.errors import BnlabError
from bnlab.report.board import MEAN, Board

REFRESH_SECONDS = 5.0
"""How often new runs are looked for while the dashboard is up."""

REFRESH_SHARE = 5
"""At least so many times as long as looking takes."""

DRAWN = 40
"""TensorBoard ticks no run of more than that."""

LISTED = 20
"""Names of runs that are told at the start."""


def serve(
    roots: Sequence[Path], *, host: str, port: int, say: Callable[[str], None] = lambda _line: None
) -> None:
    """Run TensorBoard until it ends or is interrupted, taking in runs that start meanwhile.

    Args:
        roots: Folders of runs, runs, archives.
        host: Address to serve on.
        port: Port to serve on.
        say: Told the names of the runs.

    Raises:
        ConfigError: If a root does not exist.
        BnlabError: If an archive cannot be read, or TensorBoard fails (the port is taken, say).
    """
    code = 0
    # The signals outside of all else: whatever they interrupt, server and folder go.
    with (
        suppress(_EndedError),
        _ended_by_signals(),
        tempfile.TemporaryDirectory(prefix="bnlab-") as name,
    ):
        board = Board(Path(name), roots)
        names = board.show_runs()
        more = [f"and {len(names) - LISTED} more"] * (len(names) > LISTED)
        say(f"{len(names)} runs" + "".join(f"\n  {one}" for one in [*names[:LISTED], *more]))
        if len(names) > DRAWN:
            say(f"TensorBoard draws none of so many at first: filter runs by {MEAN.strip()}")
        command = [sys.executable, "-m", "tensorboard.main", "--logdir", name]
        command += ["--host", host, "--port", str(port), "--reload_interval", "5"]
        with subprocess.Popen(command) as process:
            try:
                code = _wait(process, board)
            finally:
                process.kill()  # it keeps nothing that would need saving
    if code:
        raise BnlabError(f"tensorboard ended with {code}; another --port may be free")


def _wait(process: subprocess.Popen[bytes], board: Board) -> int:
    looked = 0.0
    while True:
        began = time.monotonic()
        board.draw()  # while TensorBoard starts: there may be thousands of runs to read
        looked += time.monotonic() - began
        try:
            return process.wait(max(REFRESH_SECONDS, REFRESH_SHARE * looked))
        except subprocess.TimeoutExpired:
            began = time.monotonic()
            board.show_runs()
            looked = time.monotonic() - began


class _EndedError(BaseException):
    """A signal has come."""


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Ctrl-C, SIGTERM or a terminal that was closed raise `_EndedError`, once."""
    names = ("SIGINT", "SIGTERM", "SIGHUP")
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}

    def handle(_number: int, _frame: FrameType | None) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)  # while all is being put away
        raise _EndedError

    try:
        for number in numbers:
            signal.signal(number, handle)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
