"""SIGTERM and Ctrl-C as a wish that is asked for between steps."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

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


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Turn SIGTERM and Ctrl-C into a wish to stop after the step; a second Ctrl-C is immediate."""
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread may set handlers
        return

    def handle(number: int, _frame: FrameType | None) -> None:
        if stop() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.name = signal.Signals(number).name
        stop.exit_code = EXIT_CODES[signal.Signals(number)]

    before = {number: signal.signal(number, handle) for number in EXIT_CODES}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
