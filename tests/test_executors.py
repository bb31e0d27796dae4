import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import MakeConfig
from raw import raw_run, raw_summary
from trained_runs import assert_same_run

from bnlab.config import Config
from bnlab.records import RunDir
from bnlab.study import cells as trainer
from bnlab.study.executors import (
    EXECUTORS,
    Cell,
    ExecutorOptions,
    Outcome,
    StudyWatcher,
    share_cores,
    threads,
)
from bnlab.study.executors.threads import fitting
from bnlab.training.datasets import load_splits
from bnlab.training.experiment import Watcher, run_experiment
from bnlab.training.loop import Position
from bnlab.training.signals import StopRequest

FINISHED = {"done", "diverged"}
"""Runs this short may well end below the mark of having learned."""

ARMS: tuple[tuple[str, ...], ...] = (
    ("model.norm.name=none",),
    ("model.norm.name=batch", "optim.lr=0.02"),
    ("model.norm.name=noisy_batch", "model.dropout=0.5"),
    ("model.norm.name=group", "train.accelerate=graph", "train.batch_size=24"),
    ("model.norm.name=ghost", "optim.name=adam", "optim.lr=0.001", "train.epochs=1"),
    ("model.norm.name=batch", "train.precision=bf16"),
)


@pytest.fixture
def execute(tmp_path: Path) -> Callable[..., Iterator[Outcome]]:
    """Lets an executor train cells."""

    def start(
        executor: str,
        cells: list[Cell],
        *,
        jobs: int,
        stop: StopRequest | None = None,
        watcher: StudyWatcher | None = None,
        threads: int = 1,
    ) -> Iterator[Outcome]:
        options = ExecutorOptions(jobs, threads, "cpu", False, tmp_path / "logs")
        return EXECUTORS[executor](cells, options, stop or StopRequest(), watcher or StudyWatcher())

    return start


Execute = Callable[..., Iterator[Outcome]]
Watch = Callable[[Callable[[Path], Watcher]], None]


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    """Has a watcher told of every run that is trained in this process, by its directory."""

    class Both(Watcher):
        def __init__(self, *inner: Watcher) -> None:
            self.inner = inner

        def step(self, position: Position, steps: int) -> None:
            for watcher in self.inner:
                watcher.step(position, steps)

        def epoch(self, config: Config, record: Any) -> None:
            for watcher in self.inner:
                watcher.epoch(config, record)

    def start(watcher_for: Callable[[Path], Watcher]) -> None:
        def run(config: Config, root: Path, options: Any, watcher: Watcher, **rest: Any) -> Any:
            return run_experiment(config, root, options, Both(watcher_for(root), watcher), **rest)

        monkeypatch.setattr(trainer, "run_experiment", run)

    return start


def cell(config: Config, root: Path) -> Cell:
    return Cell(root, "arm", root.name, config)


def by_root(outcomes: Iterator[Outcome]) -> dict[str, Outcome]:
    return {outcome.cell.root.name: outcome for outcome in outcomes}


def test_runs_side_by_side_leave_the_records_that_they_leave_alone(
    tmp_path: Path, tiny_config: MakeConfig, execute: Execute
) -> None:
    configs = [tiny_config(*arm, seed=seed) for seed, arm in enumerate(ARMS)]
    for number, config in enumerate(configs):
        run_experiment(config, tmp_path / "alone" / str(number))
    cells = [cell(config, tmp_path / "many" / str(n)) for n, config in enumerate(configs)]
    ended = by_root(execute("threads", cells, jobs=4))
    assert sorted(ended) == sorted(str(n) for n in range(len(ARMS)))
    for number in range(len(ARMS)):
        assert ended[str(number)].ending in FINISHED
        assert_same_run(tmp_path / "alone" / str(number), tmp_path / "many" / str(number))


def test_a_run_that_breaks_or_diverges_touches_no_other(
    tmp_path: Path, tiny_config: MakeConfig, execute: Execute, watch: Watch
) -> None:
    class Broken(Watcher):
        def step(self, position: Position, steps: int) -> None:
            if position.step == 3:
                raise OSError("the cat stood on the keyboard")

    run_experiment(tiny_config(), tmp_path / "alone")
    watch(lambda root: Broken() if root.name == "breaks" else Watcher())
    cells = [
        cell(tiny_config("model.norm=none", "optim.lr=1e30"), tmp_path / "diverges"),
        cell(tiny_config(), tmp_path / "breaks"),
        cell(tiny_config("train.batch_size=1"), tmp_path / "refused"),
        cell(tiny_config(), tmp_path / "sound"),
    ]
    ended = by_root(execute("threads", cells, jobs=4))
    assert ended["diverges"].ending == "diverged"
    assert raw_summary(RunDir(tmp_path / "diverges"))["status"] == "diverged"
    assert ended["breaks"].reason == "OSError: the cat stood on the keyboard"
    assert raw_run(RunDir(tmp_path / "breaks"))["status"] == "failed"
    assert ended["refused"].reason.startswith("ConfigError: ")
    assert ended["sound"].ending in FINISHED
    assert_same_run(tmp_path / "alone", tmp_path / "sound")
    logs = {path.name: path.read_text() for path in (tmp_path / "logs").iterdir()}
    assert sorted(name.rpartition("-")[2] for name in logs) == ["breaks.log", "refused.log"]
    assert any(text.endswith("OSError: the cat stood on the keyboard\n") for text in logs.values())


def test_no_more_runs_go_on_at_a_time_than_asked(
    tmp_path: Path, tiny_config: MakeConfig, execute: Execute, watch: Watch
) -> None:
    lock, now, most = threading.Lock(), set[Path](), [0]

    class Counts(Watcher):
        def __init__(self, root: Path) -> None:
            self.root = root

        def step(self, position: Position, steps: int) -> None:
            with lock:
                last = (position.epoch, position.step) == (1, steps)
                now.discard(self.root) if last else now.add(self.root)
                most[0] = max(most[0], len(now))

    watch(Counts)
    cells = [cell(tiny_config(seed=seed), tmp_path / str(seed)) for seed in range(5)]
    ended = list(execute("threads", cells, jobs=2))
    assert len(ended) == 5
    assert 1 <= most[0] <= 2


@pytest.mark.parametrize("executor", ["threads", "inline"])
def test_a_wish_to_stop_ends_the_runs_with_checkpoints_and_starts_no_more(
    tmp_path: Path, tiny_config: MakeConfig, execute: Execute, watch: Watch, executor: str
) -> None:
    stop = StopRequest()

    class Stops(Watcher):
        def step(self, position: Position, steps: int) -> None:
            if position.step == 2:
                stop.name, stop.exit_code = "SIGTERM", 75

    watch(lambda _root: Stops())
    # Long enough to be under way still when the wish reaches them.
    cells = [
        cell(tiny_config("train.epochs=500", seed=seed), tmp_path / str(seed)) for seed in range(4)
    ]
    ended = list(execute(executor, cells, jobs=2, stop=stop))
    assert 1 <= len(ended) <= 2
    for end in ended:
        assert end.ending == "stopped"
        assert RunDir(end.cell.root).checkpoint.exists()
        assert raw_run(RunDir(end.cell.root))["status"] == "preempted"


def test_stopped_runs_are_gone_on_with(
    tmp_path: Path, tiny_config: MakeConfig, execute: Execute, watch: Watch
) -> None:
    stop = StopRequest()

    class Stops(Watcher):
        def step(self, position: Position, steps: int) -> None:
            stop.name, stop.exit_code = "SIGTERM", 75

    run_experiment(tiny_config(), tmp_path / "alone")
    one = [cell(tiny_config(), tmp_path / "cut")]
    watch(lambda _root: Stops())
    assert [end.ending for end in execute("inline", one, jobs=1, stop=stop)] == ["stopped"]
    watch(lambda _root: Watcher())
    assert [end.ending for end in execute("threads", one, jobs=1)] == ["done"]
    assert_same_run(tmp_path / "alone", tmp_path / "cut")


def test_a_caller_that_takes_no_more_stops_the_runs_under_way(
    tmp_path: Path, tiny_config: MakeConfig, execute: Execute
) -> None:
    cells = [
        cell(tiny_config("train.epochs=1"), tmp_path / "short"),
        cell(tiny_config("train.epochs=500", seed=1), tmp_path / "long"),
    ]
    ended = execute("threads", cells, jobs=2)
    assert next(ended).cell.root.name == "short"
    ended.close()  # type: ignore[attr-defined]
    assert raw_run(RunDir(tmp_path / "long"))["status"] == "preempted"


def test_a_run_without_memory_is_done_again_alone(
    tmp_path: Path, tiny_config: MakeConfig, execute: Execute, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[tuple[str, str]] = []

    def crowded(_config: Config, root: Path, options: Any, *_: Any, **__: Any) -> Any:
        tries.append((root.name, options.resume))
        if root.name == "b" and len(tries) < 4:
            raise torch.OutOfMemoryError("no room")
        return {"status": "done"}

    monkeypatch.setattr(trainer, "run_experiment", crowded)
    cells = [cell(tiny_config(), tmp_path / name) for name in "abc"]
    ended = list(execute("threads", cells, jobs=3))
    assert sorted(end.cell.root.name for end in ended) == ["a", "b", "c"]
    assert all(end.ending in FINISHED for end in ended)
    assert tries[-1] == ("b", "auto")
    assert len(tries) == 4


def test_a_gpu_takes_as_many_runs_as_its_memory_holds_after_the_first(
    tmp_path: Path,
    tiny_config: MakeConfig,
    execute: Execute,
    watch: Watch,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    free = [1000, 1000, 700]  # the first run takes 300; 0.9 * 700 // 300 = 2 more fit
    monkeypatch.setattr(
        threads, "free_memory", lambda _device: free.pop(0) if len(free) > 1 else free[0]
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

    watch(lambda root: Tells(root.name))
    cells = [cell(tiny_config(seed=seed), tmp_path / str(seed)) for seed in range(3)]
    ended = list(execute("threads", cells, jobs=8))
    assert alone.is_set()
    assert all(end.ending in FINISHED for end in ended)
    assert len(order) == 3


def test_room_is_what_the_first_run_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    free = 1000
    monkeypatch.setattr(threads, "free_memory", lambda _device: free)
    room = threads.Room(torch.device("cuda:0"), 8)
    assert room() == 1
    free = 700
    room.settle()
    assert room() == 3
    free = 100  # later runs change nothing
    room.settle()
    assert room() == 3
    room.empty()
    assert room() == 1


def test_runs_that_differ_in_precision_take_turns(
    tmp_path: Path, tiny_config: MakeConfig, execute: Execute, watch: Watch
) -> None:
    lock, under_way, mixed = threading.Lock(), set[str](), [False]

    class Counts(Watcher):
        def __init__(self, root: Path) -> None:
            self.name = root.name

        def step(self, position: Position, steps: int) -> None:
            with lock:
                last = (position.epoch, position.step) == (1, steps)
                under_way.discard(self.name) if last else under_way.add(self.name)
                mixed[0] = mixed[0] or len({name[:4] for name in under_way}) > 1

    watch(Counts)
    cells = [
        cell(tiny_config(f"train.precision={name}", seed=seed), tmp_path / f"{name}{seed}")
        for seed in range(2)
        for name in ("fp32", "bf16")
    ]
    ended = list(execute("threads", cells, jobs=4))
    assert all(end.ending in FINISHED for end in ended)
    assert not mixed[0]


def test_runs_in_threads_share_one_copy_of_the_data(
    tmp_path: Path, tiny_config: MakeConfig, execute: Execute, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[Any] = []

    def load(config: Any, progress: Any) -> Any:
        loaded.append(config)
        return load_splits(config, progress)

    monkeypatch.setattr(trainer, "load_splits", load)
    cells = [
        cell(tiny_config(f"dataset.flip={flip}", seed=seed), tmp_path / f"{flip}{seed}")
        for seed in range(2)
        for flip in ("true", "false")
    ]
    assert all(end.ending in FINISHED for end in execute("threads", cells, jobs=4))
    assert len(loaded) == 2


def test_runs_fit_in_nine_tenths_of_the_free_memory() -> None:
    assert fitting(1000, 300) == 3
    assert fitting(1000, 301) == 2
    assert fitting(100, 300) == 0


@pytest.mark.parametrize("executor", ["inline", "threads", "processes"])
def test_a_run_has_the_threads_that_were_promised_and_they_are_put_back(
    tmp_path: Path, tiny_config: MakeConfig, execute: Execute, executor: str
) -> None:
    torch.set_num_threads(1)
    one = [cell(tiny_config("train.epochs=1"), tmp_path / "a")]
    (ended,) = execute(executor, one, jobs=1, threads=2)
    assert ended.ending in FINISHED
    assert raw_run(RunDir(tmp_path / "a"))["environment"]["threads"] == 2
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize(("executor", "most"), [("inline", 1), ("threads", 2), ("processes", 2)])
def test_a_record_says_how_many_runs_shared_the_device(
    tmp_path: Path, tiny_config: MakeConfig, execute: Execute, executor: str, most: int
) -> None:
    cells = [
        cell(tiny_config("train.epochs=1", seed=seed), tmp_path / str(seed)) for seed in range(2)
    ]
    list(execute(executor, cells, jobs=4))
    assert [raw_run(RunDir(one.root))["runs_at_once"] for one in cells] == [most, most]


def test_what_another_process_trains_or_has_finished_is_taken(
    tmp_path: Path, tiny_config: MakeConfig, execute: Execute
) -> None:
    cells = [cell(tiny_config("train.epochs=1"), tmp_path / name) for name in ("busy", "free")]
    with RunDir(tmp_path / "busy").lock():
        ended = by_root(execute("threads", cells, jobs=1))
    assert ended["busy"].ending == "taken"
    assert ended["free"].ending in FINISHED
    assert next(execute("inline", cells[1:], jobs=1)).ending == "taken"


def test_a_gpu_has_four_runs_at_once_or_as_many_as_there_are_cores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(
        "bnlab.training.device.resolve_device", lambda _name: torch.device("cuda:0")
    )
    for cores, shared in ((16, (4, 4)), (2, (2, 1))):
        monkeypatch.setattr("os.sched_getaffinity", lambda _pid, n=cores: set(range(n)))
        assert share_cores(None, "cuda", None) == shared


def test_a_log_that_cannot_be_deleted_ends_no_study(
    tmp_path: Path, tiny_config: MakeConfig, execute: Execute
) -> None:
    (tmp_path / "logs").write_text("no folder")
    one = [cell(tiny_config("train.epochs=1"), tmp_path / "a")]
    assert next(execute("inline", one, jobs=1)).ending in FINISHED


def test_every_file_in_the_folder_is_an_executor() -> None:
    folder = Path(threads.__file__).parent
    assert set(EXECUTORS) == {path.stem for path in folder.glob("[!_]*.py")}


def test_executors_are_known_without_torch_and_what_starts_workers() -> None:
    code = "import sys, bnlab.training.crew; from bnlab.study.executors import EXECUTORS\n"
    code += "for name in EXECUTORS: EXECUTORS[name]\n"
    code += "print({'torch', 'submitit', 'ray'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
