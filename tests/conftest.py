import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bnlab.config import Config, load_config

TINY = (
    "name=tiny",
    "dataset.name=synthetic",
    "dataset.train_size=160",
    "dataset.test_size=40",
    "model.widths=[4, 8]",
    "model.hidden=[16]",
    "optim.lr=0.05",
    "train.epochs=2",
    "train.batch_size=32",
    "train.precision=fp32",
)
"""A whole experiment in a fraction of a second."""

MakeConfig = Callable[..., Config]


@pytest.fixture
def tiny_config() -> MakeConfig:
    def make(*overrides: str, **flags: Any) -> Config:
        return load_config((), [*TINY, *overrides], flags=flags)

    return make


@pytest.fixture(autouse=True)
def _one_thread_and_no_color(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("BNLAB_CACHE", str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def _the_handlers_of_signals_are_put_back() -> Iterator[None]:
    """`main` keeps its own to the end of the process."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
