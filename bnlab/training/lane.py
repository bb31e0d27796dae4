"""Several runs of one process on one GPU: where each works, and what only one may do at a time.

A *lane* is a thread with a CUDA stream of its own, kept from run to run. A step that has been
captured is replayed in any lane at any time. All else is done by one lane at a time (`alone`), for
a capture bears nothing beside it: cuDNN's autotuning synchronizes the device, which invalidates a
capture in any other stream, and the destruction of a graph changes the state of generators that
another capture uses.
"""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Self

import torch

MOST_LANES = 24
"""Of a process. torch hands out 32 streams in rotation: one more, and two lanes would share one,
where a capture of one would record the work of the other."""


class Turns:
    """A lock that threads get in the order in which they asked; its holder may ask again."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._waiting = deque[tuple[int, threading.Lock]]()
        self._holder: int | None = None
        self._depth = 0

    def __enter__(self) -> Self:
        me = threading.get_ident()
        if self._holder != me:
            with self._mutex:
                free = self._holder is None
                if free:
                    self._holder = me
                else:
                    turn = threading.Lock()
                    turn.acquire()
                    self._waiting.append((me, turn))
            if not free:
                turn.acquire()  # released by who held it, and by then ours
        self._depth += 1
        return self

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth:
            return
        with self._mutex:
            self._holder = None
            if self._waiting:
                self._holder, turn = self._waiting.popleft()
                turn.release()


_turns = Turns()


def alone(device: torch.device) -> AbstractContextManager[Any]:
    """While one lane does what is no replay, no other does; a CPU needs no such thing."""
    return _turns if device.type == "cuda" else nullcontext()


def wait_for(device: torch.device) -> None:
    """Wait until the device has done this lane's work, letting others go on."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()


_streams: dict[torch.device, list[torch.cuda.Stream]] = {}
"""Streams that no lane has at present."""


@contextmanager
def lane(device: torch.device) -> Iterator[None]:
    """Let this thread's work on a GPU go to a stream of its own; within a lane, that one's."""
    if device.type != "cuda" or _in_lane(device):
        yield
        return
    with _turns:
        idle = _streams.setdefault(device, [])
        stream = idle.pop() if idle else torch.cuda.Stream(device)
    try:
        with torch.cuda.device(device), torch.cuda.stream(stream):
            yield
    finally:
        with _turns:
            idle.append(stream)


def _in_lane(device: torch.device) -> bool:
    return torch.cuda.current_stream(device) != torch.cuda.default_stream(device)
