"""SIGTERM and Ctrl-C: a wish that is asked for between steps, or, before and after, the end."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import FrameType

from bnlab.errors import StopRequestedError

EXIT_CODES = {signal.SIGTERM: 75, signal.SIGINT: 130}
"""What a process exits with that a signal has stopped."""


@dataclass
class StopRequest:
    """Asked between steps whether a signal wants the run to end.

    Attributes:
        name: The signal that came, if any.
        exit_code: What the process should then exit with; 0 while none came.
    """

    name: str = ""
    exit_code: int = 0

    def __call__(self) -> bool:
        """Whether the run should end."""
        return self.exit_code != 0

    def note(self, number: int) -> None:
        """A signal has come."""
        self.name = signal.Signals(number).name
        self.exit_code = EXIT_CODES[signal.Signals(number)]


class StoppedError(BaseException):
    """A signal came while nothing was under way that is worth saving.

    Not an Exception: who catches what a decoder or an import may raise must not swallow it.
    """

    def __init__(self, stop: StopRequest) -> None:
        super().__init__(f"stopped by {stop.name}")
        self.exit_code = stop.exit_code


_came = StopRequest()
"""What a handler of `raise_on_signal` was called for; Python drops what it raises in a finalizer,
and then the next `stop_on_signal` stops."""


def raise_on_signal() -> None:
    """Let SIGTERM and Ctrl-C raise `StoppedError` from now on, but within `stop_on_signal`."""

    def handle(number: int, _frame: FrameType | None) -> None:
        _came.note(number)
        raise StoppedError(_came)

    for number in EXIT_CODES:
        signal.signal(number, handle)


def exit_on_signal() -> None:
    """Let them end the process with its code: nothing is left that could catch an exception."""

    def handle(number: int, _frame: FrameType | None) -> None:
        os._exit(EXIT_CODES[signal.Signals(number)])

    for number in EXIT_CODES:
        signal.signal(number, handle)


def unless_stopped(
    stop: StopRequest, progress: Callable[[str, int, int], None] = lambda *_: None
) -> Callable[[str, int, int], None]:
    """A data set's progress that ends the loading of images as soon as it should stop.

    It raises `StopRequestedError`: nothing has been trained that a checkpoint could hold.
    """

    def tell(what: str, done: int, total: int) -> None:
        if stop():
            raise StopRequestedError(f"stopped by {stop.name} while {what}", stop.exit_code)
        progress(what, done, total)

    return tell


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Turn SIGTERM and Ctrl-C into a wish to stop after the step; a second Ctrl-C is immediate."""
    stop = replace(_came)
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread may set handlers
        return

    def handle(number: int, _frame: FrameType | None) -> None:
        if stop() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.note(number)

    before = {number: signal.signal(number, handle) for number in EXIT_CODES}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
