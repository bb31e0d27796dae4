import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import MakeConfig
from raw import raw_run
from trained_runs import assert_same_run

from bnlab.errors import BnlabError
from bnlab.records import RunDir
from bnlab.study.executors import (
    EXECUTORS,
    Cell,
    ExecutorOptions,
    Outcome,
    StudyWatcher,
    executor_for,
    lanes,
)
from bnlab.training import lane
from bnlab.training.experiment import run_experiment
from bnlab.training.signals import StopRequest
from bnlab.training.workers import Reply, broke_the_device, ran_out_of_memory

Train = Callable[..., dict[str, Outcome]]


@pytest.fixture
def train(tmp_path: Path, tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> Train:
    """Trains runs a, b and c in lanes in which things go wrong as told."""
    monkeypatch.setattr(lanes, "HOUSE", "odd_houses:OddHouse")

    def start(
        odd: dict[str, list[str]],
        *,
        jobs: int = 2,
        epochs: int = 4,
        stop: StopRequest | None = None,
    ) -> dict[str, Outcome]:
        (tmp_path / "odd.json").write_text(json.dumps(odd))
        cells = [
            Cell(tmp_path / name, "arm", name, tiny_config(f"train.epochs={epochs}", seed=seed))
            for seed, name in enumerate("abc")
        ]
        options = ExecutorOptions(jobs, 1, "cpu", False, tmp_path / "logs")
        ended = EXECUTORS["lanes"](cells, options, stop or StopRequest(), StudyWatcher())
        return {outcome.cell.label: outcome for outcome in ended}

    return start


def tries(folder: Path, name: str) -> list[str]:
    """The processes in which a run was tried."""
    return (folder / f"{name}.tries").read_text().split()


def test_runs_in_lanes_leave_the_records_that_they_leave_alone(
    tmp_path: Path, tiny_config: MakeConfig, train: Train
) -> None:
    ended = train({}, jobs=3)
    assert {name: end.ending for name, end in ended.items()} == dict.fromkeys("abc", "done")
    assert len({tries(tmp_path, name)[0] for name in "abc"}) == 1  # one process for all
    for seed, name in enumerate("abc"):
        run_experiment(tiny_config("train.epochs=4", seed=seed), tmp_path / "alone" / name)
        assert_same_run(tmp_path / "alone" / name, tmp_path / name)


@pytest.mark.parametrize("odd", ["capture", pytest.param("die", marks=pytest.mark.slow)])
def test_what_spoils_the_process_costs_no_run(
    tmp_path: Path, tiny_config: MakeConfig, train: Train, odd: str
) -> None:
    ended = train({"b": [odd]}, jobs=3, epochs=30)
    assert {name: end.ending for name, end in ended.items()} == dict.fromkeys("abc", "done")
    assert len(set(tries(tmp_path, "b"))) == 2
    assert not list((tmp_path / "logs").glob("*"))
    run_experiment(tiny_config("train.epochs=30", seed=1), tmp_path / "alone")
    assert_same_run(tmp_path / "alone", tmp_path / "b")


@pytest.mark.slow
def test_a_run_that_spoils_every_process_fails_alone_at_last(tmp_path: Path, train: Train) -> None:
    ended = train({"b": ["capture"] * 9}, jobs=2)
    assert {name: end.ending for name, end in ended.items()} == {
        "a": "done",
        "b": "failed",
        "c": "done",
    }
    assert "CaptureFailedError: AcceleratorError" in ended["b"].reason
    pids = tries(tmp_path, "b")
    assert len(set(pids)) == lanes.TRIES + 1
    assert pids[-1] not in tries(tmp_path, "a") + tries(tmp_path, "c")
    assert [path.name.endswith("b.log") for path in (tmp_path / "logs").iterdir()] == [True]


@pytest.mark.slow
def test_a_capture_without_memory_is_tried_again_in_a_process_of_its_own(
    tmp_path: Path, train: Train
) -> None:
    ended = train({"a": ["memory in a capture"]}, jobs=2)
    assert {end.ending for end in ended.values()} == {"done"}
    first, second = tries(tmp_path, "a")
    assert second not in {first, *tries(tmp_path, "b"), *tries(tmp_path, "c")}


def test_a_wish_to_stop_reaches_the_lanes_and_they_save(tmp_path: Path, train: Train) -> None:
    stop = StopRequest()

    def wish() -> None:
        while not (tmp_path / "a.tries").exists() or not (tmp_path / "b.tries").exists():
            time.sleep(0.01)
        time.sleep(0.3)
        stop.name, stop.exit_code = "SIGTERM", 75

    thread = threading.Thread(target=wish)
    thread.start()
    ended = train({}, jobs=2, epochs=100_000, stop=stop)
    thread.join()
    assert {name: end.ending for name, end in ended.items()} == {"a": "stopped", "b": "stopped"}
    for name in "ab":
        assert raw_run(RunDir(tmp_path / name))["status"] == "preempted"
        assert RunDir(tmp_path / name).checkpoint.exists()


def test_a_process_that_cannot_start_ends_the_study_with_its_reason(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "HOUSE", "odd_houses:no_house")
    with pytest.raises(BnlabError, match=r"ended at once: .*libcuda"):
        train({})


def test_a_process_that_is_killed_before_it_has_begun_is_replaced(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "HOUSE", "odd_houses:LateHouse")
    ended = train({})
    assert {name: end.ending for name, end in ended.items()} == dict.fromkeys("abc", "done")


def test_lanes_are_the_default_on_a_gpu_and_processes_on_a_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert executor_for("cpu") == "processes"
    monkeypatch.setattr("bnlab.training.device.resolve_device", torch.device)
    assert executor_for("cuda:0") == "lanes"


@pytest.mark.parametrize(
    ("error", "memory", "broke"),
    [
        ("OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", True, False),
        ("AcceleratorError: CUDA error: out of memory", True, True),
        ("RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling", True, True),
        ("RuntimeError: cuDNN error: CUDNN_STATUS_INTERNAL_ERROR", False, True),
        ("CaptureFailedError: RuntimeError: something", False, True),
        ("ConfigError: model.norm.name: no such norm", False, False),
        ("OSError: the cat stood on the keyboard", False, False),
    ],
)
def test_errors_say_whether_memory_was_short_and_whether_the_device_is_spoiled(
    error: str, memory: bool, broke: bool
) -> None:
    assert ran_out_of_memory(error) is memory
    assert broke_the_device(error) is broke
    assert Reply(error=error).out_of_memory is (memory and not broke)


# ---------------------------------------------------------------------------------- the lock


def test_lanes_get_their_turns_in_the_order_in_which_they_asked() -> None:
    turns, order = lane.Turns(), list[int]()
    threads = list[threading.Thread]()

    def take(number: int) -> None:
        with turns:
            order.append(number)

    with turns:
        for number in range(6):
            threads.append(threading.Thread(target=take, args=(number,)))
            threads[-1].start()
            while len(turns._waiting) <= number:
                time.sleep(0.001)
    for thread in threads:
        thread.join()
    assert order == list(range(6))


def test_who_holds_the_turn_may_ask_again_and_keeps_it_until_the_last_end() -> None:
    turns, inside = lane.Turns(), threading.Event()

    def take() -> None:
        with turns:
            inside.set()

    thread = threading.Thread(target=take)
    with turns:
        with turns:
            thread.start()
            while not turns._waiting:
                time.sleep(0.001)
        assert not inside.wait(0.05)
    assert inside.wait(5)
    thread.join()


def test_who_comes_back_at_once_waits_behind_those_who_have_waited() -> None:
    turns, order = lane.Turns(), list[str]()

    def greedy() -> None:
        for _ in range(50):
            with turns:
                order.append("greedy")
                time.sleep(0.001)

    def modest() -> None:
        for _ in range(5):
            with turns:
                order.append("modest")

    threads = [threading.Thread(target=one) for one in (greedy, modest)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first = order.index("modest")
    assert order[first : first + 10].count("modest") >= 4


def test_an_error_inside_gives_the_turn_back() -> None:
    turns = lane.Turns()
    with pytest.raises(OSError, match="inside"), turns:
        raise OSError("inside")
    assert turns._holder is None


@pytest.mark.parametrize("norm", [pytest.param("batch", marks=pytest.mark.slow), "noisy_batch"])
def test_while_a_lane_captures_no_other_does_anything_but_replay(
    tmp_path: Path, tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, norm: str
) -> None:
    turns = lane._turns
    states = list[str]()

    def capture(work: Callable[[], None], device: torch.device, generators: object) -> object:
        assert turns._holder == threading.get_ident()
        states.append("capture")
        time.sleep(0.01)  # for others to do what they must not
        states.append("captured")

        def replay() -> None:
            states.append("replay")
            work()

        return replay

    for module in ("accelerate", "batches", "checkpoint", "experiment", "loop", "lane"):
        monkeypatch.setattr(f"bnlab.training.{module}.alone", lambda _device: turns)
    monkeypatch.setattr("bnlab.training.datasets._splits.alone", lambda _device: turns)
    monkeypatch.setattr("bnlab.training.accelerate.capture", capture)
    enter = lane.Turns.__enter__

    def noted(self: lane.Turns) -> lane.Turns:
        entered = enter(self)
        states.append("alone")
        return entered

    monkeypatch.setattr(lane.Turns, "__enter__", noted)
    cells = [
        Cell(
            tmp_path / str(seed),
            "arm",
            str(seed),
            tiny_config(
                f"model.norm.name={norm}", "train.accelerate=graph", "train.epochs=6", seed=seed
            ),
        )
        for seed in range(4)
    ]
    options = ExecutorOptions(4, 1, "cpu", False, tmp_path / "logs")
    ended = list(EXECUTORS["threads"](cells, options, StopRequest(), StudyWatcher()))
    assert {end.ending for end in ended} <= {"done", "diverged"}
    begun = [place for place, state in enumerate(states) if state == "capture"]
    assert len(begun) >= 8
    for place in begun:
        between = states[place + 1 : states.index("captured", place)]
        assert set(between) <= {"replay"}
    for cell in cells:
        run_experiment(cell.config, tmp_path / "alone" / cell.label)
        assert_same_run(tmp_path / "alone" / cell.label, cell.root)
