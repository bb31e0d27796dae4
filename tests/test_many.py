import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import MakeConfig
from raw import raw_run
from trained_runs import assert_same_run

from bnlab.config import Config
from bnlab.errors import ConfigError, StopRequestedError
from bnlab.records import RunDir
from bnlab.training import many
from bnlab.training.experiment import RunOptions, Watcher, run_experiment
from bnlab.training.loop import Position
from bnlab.training.many import Ended, Job, fitting, run_many
from bnlab.training.signals import StopRequest

ARMS: tuple[tuple[str, ...], ...] = (
    ("model.norm.name=none",),
    ("model.norm.name=batch", "optim.lr=0.02"),
    ("model.norm.name=noisy_batch", "model.dropout=0.5"),
    ("model.norm.name=group", "train.accelerate=graph", "train.batch_size=24"),
    ("model.norm.name=ghost", "optim.name=adam", "optim.lr=0.001", "train.epochs=1"),
    ("model.norm.name=batch", "train.precision=bf16"),
)


def by_root(ended: Iterator[Ended]) -> dict[str, Ended]:
    return {end.job.root.name: end for end in ended}


def test_runs_side_by_side_leave_the_records_that_they_leave_alone(
    tmp_path: Path, tiny_config: MakeConfig
) -> None:
    configs = [tiny_config(*arm, seed=seed) for seed, arm in enumerate(ARMS)]
    for number, config in enumerate(configs):
        run_experiment(config, tmp_path / "alone" / str(number))
    jobs = [Job(config, tmp_path / "many" / str(n)) for n, config in enumerate(configs)]
    ended = by_root(run_many(jobs, at_once=4))
    assert sorted(ended) == sorted(str(n) for n in range(len(ARMS)))
    for number in range(len(ARMS)):
        end = ended[str(number)]
        assert end.error is None
        assert end.summary is not None
        assert_same_run(tmp_path / "alone" / str(number), tmp_path / "many" / str(number))


def test_a_run_that_breaks_or_diverges_touches_no_other(
    tmp_path: Path, tiny_config: MakeConfig
) -> None:
    class Broken(Watcher):
        def step(self, position: Position, steps: int) -> None:
            if position.step == 3:
                raise OSError("the cat stood on the keyboard")

    run_experiment(tiny_config(), tmp_path / "alone")
    jobs = [
        Job(tiny_config("model.norm=none", "optim.lr=1e30"), tmp_path / "diverges"),
        Job(tiny_config(), tmp_path / "breaks"),
        Job(tiny_config("train.batch_size=1"), tmp_path / "refused"),
        Job(tiny_config(), tmp_path / "sound"),
    ]
    ended = by_root(
        run_many(
            jobs,
            at_once=4,
            watcher_for=lambda job: Broken() if job.root.name == "breaks" else Watcher(),
        )
    )
    assert ended["diverges"].summary is not None
    assert ended["diverges"].summary["status"] == "diverged"
    assert isinstance(ended["breaks"].error, OSError)
    assert raw_run(RunDir(tmp_path / "breaks"))["status"] == "failed"
    assert isinstance(ended["refused"].error, ConfigError)
    assert ended["sound"].error is None
    assert_same_run(tmp_path / "alone", tmp_path / "sound")


def test_no_more_runs_go_on_at_a_time_than_asked(tmp_path: Path, tiny_config: MakeConfig) -> None:
    lock, now, most = threading.Lock(), set[Path](), [0]

    class Counts(Watcher):
        def __init__(self, root: Path) -> None:
            self.root = root

        def step(self, position: Position, steps: int) -> None:
            with lock:
                last = (position.epoch, position.step) == (1, steps)
                now.discard(self.root) if last else now.add(self.root)
                most[0] = max(most[0], len(now))

    jobs = [Job(tiny_config(seed=seed), tmp_path / str(seed)) for seed in range(5)]
    ended = list(run_many(jobs, at_once=2, watcher_for=lambda job: Counts(job.root)))
    assert len(ended) == 5
    assert 1 <= most[0] <= 2


def test_a_wish_to_stop_ends_the_runs_with_checkpoints_and_starts_no_more(
    tmp_path: Path, tiny_config: MakeConfig
) -> None:
    stop = StopRequest()

    class Stops(Watcher):
        def step(self, position: Position, steps: int) -> None:
            if position.step == 2:
                stop.name, stop.exit_code = "SIGTERM", 75

    jobs = [Job(tiny_config(seed=seed), tmp_path / str(seed)) for seed in range(4)]
    ended = list(run_many(jobs, at_once=2, watcher_for=lambda _job: Stops(), stop=stop))
    assert 1 <= len(ended) <= 2
    for end in ended:
        assert isinstance(end.error, StopRequestedError)
        assert RunDir(end.job.root).checkpoint.exists()
    resumed = [Job(job.config, job.root, RunOptions(resume="auto")) for job in jobs]
    assert all(end.summary for end in run_many(resumed, at_once=2))


def test_a_caller_that_takes_no_more_stops_the_runs_under_way(
    tmp_path: Path, tiny_config: MakeConfig
) -> None:
    jobs = [
        Job(tiny_config("train.epochs=1"), tmp_path / "short"),
        Job(tiny_config("train.epochs=500", seed=1), tmp_path / "long"),
    ]
    ended = run_many(jobs, at_once=2)
    assert next(ended).job.root.name == "short"
    ended.close()  # type: ignore[attr-defined]
    assert raw_run(RunDir(tmp_path / "long"))["status"] == "preempted"


def test_a_run_without_memory_is_done_again_alone(
    tmp_path: Path, tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[tuple[str, str]] = []

    def crowded(config: Config, root: Path, options: RunOptions, *_: Any, **__: Any) -> Any:
        tries.append((root.name, options.resume))
        if root.name == "b" and len(tries) < 4:
            raise torch.OutOfMemoryError("no room")
        return {"status": "done"}

    monkeypatch.setattr(many, "run_experiment", crowded)
    jobs = [Job(tiny_config(), tmp_path / name) for name in "abc"]
    ended = list(run_many(jobs, at_once=3))
    assert sorted(end.job.root.name for end in ended) == ["a", "b", "c"]
    assert all(end.summary for end in ended)
    assert tries[-1] == ("b", "auto")
    assert len(tries) == 4


def test_a_gpu_takes_as_many_runs_as_its_memory_holds_after_the_first(
    tmp_path: Path, tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = [1000, 700]  # the first run takes 300; 0.9 * 700 // 300 = 2 more fit
    monkeypatch.setattr(
        many._Starter, "_free_memory", lambda _self: free.pop(0) if len(free) > 1 else free[0]
    )
    alone = threading.Event()
    order: list[str] = []

    class Tells(Watcher):
        def __init__(self, name: str) -> None:
            self.name = name

        def step(self, position: Position, steps: int) -> None:
            if position.epoch == 0 and position.step == 1:
                order.append(self.name)
            if self.name == "0" and position.epoch == 0 and position.step == steps:
                assert order == ["0"]
                alone.set()

    jobs = [Job(tiny_config(seed=seed), tmp_path / str(seed)) for seed in range(3)]
    ended = list(run_many(jobs, at_once=8, watcher_for=lambda job: Tells(job.root.name)))
    assert alone.is_set()
    assert all(end.summary for end in ended)
    assert len(order) == 3


def test_runs_fit_in_nine_tenths_of_the_free_memory() -> None:
    assert fitting(1000, 300) == 3
    assert fitting(1000, 301) == 2
    assert fitting(100, 300) == 0


def test_the_number_of_threads_is_as_before(tmp_path: Path, tiny_config: MakeConfig) -> None:
    torch.set_num_threads(2)
    list(run_many([Job(tiny_config("train.epochs=1"), tmp_path / "a")], at_once=2))
    assert torch.get_num_threads() == 2
