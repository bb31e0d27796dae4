"""Cutting runs short and holding them against each other."""

import os
import signal
from pathlib import Path
from typing import Any

import torch
from raw import raw_metrics

from bnlab.records import RunDir
from bnlab.training.checkpoint import read_checkpoint
from bnlab.training.experiment import Watcher
from bnlab.training.loop import Position

TIMINGS = {"seconds", "images_per_second"}


def curves(root: Path) -> list[dict[str, Any]]:
    """The metrics without the times, which no two runs share."""
    return [
        {key: value for key, value in record.items() if key not in TIMINGS}
        for record in raw_metrics(RunDir(root))
    ]


def weights(root: Path) -> dict[str, torch.Tensor]:
    model: dict[str, torch.Tensor] = read_checkpoint(RunDir(root))["model"]
    return model


def assert_same_run(one: Path, two: Path) -> None:
    assert curves(one) == curves(two)
    left, right = weights(one), weights(two)
    assert left.keys() == right.keys()
    for name, value in left.items():
        bits = [None if side is None else side.numpy().tobytes() for side in (value, right[name])]
        assert bits[0] == bits[1], name  # as bits: NaN is not equal to itself


class StopAt(Watcher):
    """Sends this process a signal when training has come to an epoch and step."""

    def __init__(self, epoch: int, step: int, number: int = signal.SIGTERM) -> None:
        self.place, self.number = (epoch, step), number

    def step(self, position: Position, steps: int) -> None:
        if (position.epoch, position.step) == self.place:
            os.kill(os.getpid(), self.number)
