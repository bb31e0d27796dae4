"""Several workers that share work: the one loop that gives waiting work to free workers."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.connection import wait
from typing import Self, TypeVar

from bnlab.training.signals import StopRequest
from bnlab.training.workers import POLL_SECONDS, Reply, Request, Worker

T = TypeVar("T")


class Crew:
    """Workers that share work; a context, at whose end they are let go.

    Args:
        hire: Makes another worker.
        stop: Asked all the time; when it says so, the workers stop and nothing more is begun.
    """

    def __init__(self, hire: Callable[[], Worker], stop: StopRequest) -> None:
        self._hire, self._wish = hire, stop
        self._workers: list[Worker] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._dismiss()

    def _dismiss(self) -> None:
        for worker in self._workers:
            worker.stop()  # all, before waiting for any
        for worker in self._workers:
            worker.end()
        self._workers.clear()

    def share(
        self,
        work: Iterable[tuple[T, Request]],
        at_once: Callable[[], int],
        began: Callable[[T], None] = lambda _key: None,
        under_way: Callable[[Sequence[T]], None] = lambda _keys: None,
    ) -> Iterator[tuple[T, Reply]]:
        """Give waiting work to free workers, and yield what has ended.

        What finds no memory beside others is done once more, alone.

        Args:
            work: Requests, each with what stands for it, in the order to begin them.
            at_once: How many may be under way, as things stand.
            began: Told of each that has just been begun.
            under_way: Told often which are.
        """
        crowded_out = list[tuple[T, Request]]()
        for key, request, reply in self._share(deque(work), at_once, began, under_way):
            if reply.out_of_memory and at_once() > 1:
                crowded_out.append((key, request))
            else:
                yield key, reply
        if crowded_out:
            self._dismiss()  # an idle process keeps what memory it has
        for key, _, reply in self._share(deque(crowded_out), lambda: 1, began, under_way):
            yield key, reply

    def _share(
        self,
        waiting: deque[tuple[T, Request]],
        at_once: Callable[[], int],
        began: Callable[[T], None],
        under_way: Callable[[Sequence[T]], None],
    ) -> Iterator[tuple[T, Request, Reply]]:
        busy, told_to_stop = dict[Worker, tuple[T, Request]](), False
        while busy or (waiting and not self._wish()):
            while waiting and len(busy) < at_once() and not self._wish():
                worker, (key, request) = self._free(), waiting.popleft()
                busy[worker] = key, request
                worker.begin(request)
                began(key)
            if self._wish() and not told_to_stop:
                told_to_stop = True
                for worker in busy:
                    worker.stop()
            wait([worker.fileno() for worker in busy], POLL_SECONDS)
            for worker in list(busy):
                if (reply := worker.look()) is not None:
                    yield *busy.pop(worker), reply
            under_way([key for key, _ in busy.values()])

    def _free(self) -> Worker:
        """A worker without a request; a new one if all have theirs."""
        for worker in list(self._workers):
            if not worker.alive and not worker.busy:
                self._workers.remove(worker)
                worker.end()
        idle = [worker for worker in self._workers if not worker.busy]
        if idle:
            return idle[0]
        self._workers.append(self._hire())
        return self._workers[-1]
