"""Timing contenders in turn, one lap each, again and again."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from bnlab.bench.contenders import Contender, Lap, lap_of, request_of
from bnlab.errors import BnlabError
from bnlab.training.workers import ProcessWorker

LAPS = "bnlab.bench.contenders:Laps"


class Processes:
    """A contender's processes: one, or `runs` for the kind `processes`."""

    def __init__(self, contender: Contender) -> None:
        count = contender.runs if contender.kind == "processes" else 1
        threads = torch.get_num_threads()
        self._name = contender.name
        self._workers = [ProcessWorker(LAPS, threads) for _ in range(count)]
        self._requests = [request_of(contender)] * count

    def __call__(self) -> Lap:
        """A lap of each, at the same time."""
        try:
            return lap_of(self._workers, self._requests)
        except BnlabError as error:
            raise BnlabError(f"bench: {self._name}: {error}") from None

    def close(self) -> None:
        """Let the processes go."""
        for worker in self._workers:
            worker.end()


def race(
    contenders: Sequence[Contender],
    *,
    warm_up: int,
    repeats: int,
    start: Callable[[Contender], Any] | None = None,
    say: Callable[[str], None] = lambda _text: None,
) -> dict[str, list[Lap]]:
    """Time the contenders in turn.

    Args:
        contenders: By distinct names.
        warm_up: Laps that do not count.
        repeats: Laps that do.
        start: Makes what does a contender's laps and can be closed; by default its processes.
        say: Told how far it is.
    """
    laps: dict[str, list[Lap]] = {contender.name: [] for contender in contenders}
    running: dict[str, Any] = {}
    try:
        for contender in contenders:
            say(f"warming up {contender.name}")
            running[contender.name] = (start or Processes)(contender)
            # The yardstick is slow, and one lap sets up all that it has.
            for _ in range(min(warm_up, 1) if contender.kind == "conventional" else warm_up):
                running[contender.name]()
        for repeat in range(repeats):
            for name, lane in running.items():
                say(f"lap {repeat + 1} of {repeats}: {name}")
                laps[name].append(lane())
    finally:
        for lane in running.values():
            lane.close()
    return laps
