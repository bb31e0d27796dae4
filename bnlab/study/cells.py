"""Training the cells of a study, in whatever worker they come to."""

import threading
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from bnlab.config import Config, DatasetConfig, restore_config
from bnlab.errors import BnlabError
from bnlab.records import LockedError, RunDir
from bnlab.training.datasets import Splits, load_splits
from bnlab.training.experiment import RunOptions, Watcher, run_experiment
from bnlab.training.signals import StopRequest, unless_stopped
from bnlab.training.workers import Answer, Request


class CellTrainer:
    """Trains a cell a request, from wherever its directory stands; see `executors.request_of`.

    The answer's `ending` is `done`, `diverged`, or `taken` if another process has the cell.

    Args:
        data_sets: How many to keep in memory; None for all. Cells in a row mostly share theirs.
        settled: Called after the first epoch of each run: it holds then all that it will hold.
    """

    def __init__(
        self, data_sets: int | None = 1, settled: Callable[[], None] = lambda: None
    ) -> None:
        self._load, self._loading = lru_cache(maxsize=data_sets)(self._read), threading.Lock()
        self._stop = StopRequest()
        self._settled = settled

    def __call__(self, request: Request, stop: StopRequest) -> Answer:
        """Train it.

        Raises:
            BnlabError: As `run_experiment`, but for a cell that another process has.
        """
        root, config = Path(request["root"]), restore_config(request["config"])
        options = RunOptions(resume="auto", **request["options"])
        if RunDir(root).finished or RunDir(root).locked:
            return {"ending": "taken"}
        try:
            with self._loading:
                self._stop = stop
                data = self._load(config.dataset)
            watcher = _Settling(self._settled)
            summary = run_experiment(config, root, options, watcher, data=data, stop=stop)
        except LockedError:
            return {"ending": "taken"}
        except BnlabError:
            if RunDir(root).finished:
                return {"ending": "taken"}
            raise
        return {"ending": summary["status"]}

    def _read(self, dataset: DatasetConfig) -> Splits:
        return load_splits(dataset, unless_stopped(self._stop))


class _Settling(Watcher):
    """Tells that the first epoch is over."""

    def __init__(self, settled: Callable[[], None]) -> None:
        self._settled, self._told = settled, False

    def epoch(self, config: Config, record: Mapping[str, Any]) -> None:  # noqa: ARG002 - theirs
        """Tell it once."""
        if not self._told:
            self._told = True
            self._settled()
