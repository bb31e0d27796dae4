import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_runs import make_run
from samples import laws
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata as hparams
from typer.testing import CliRunner

import bnlab.records
from bnlab.cli import app
from bnlab.errors import ConfigError
from bnlab.records import find_run, load_record, summaries
from bnlab.records.events import EventFile
from bnlab.report.board import Board
from bnlab.report.dashboard import serve
from bnlab.report.names import name_runs


def config(seed: int = 0, lr: float = 0.1, **norm: Any) -> dict[str, Any]:
    norm = norm or {"name": "none"}
    return {"name": "x", "seed": seed, "model": {"norm": norm}, "optim": {"lr": lr}}


def arms(root: Path, seeds: int = 2) -> Path:
    for seed in range(seeds):
        make_run(root, seed=seed, sets={"model.norm.name": "none"})
        for placement in ("before_activation", "after_activation"):
            make_run(root, seed=seed, sets={"model.norm.placement": placement})
    return root


def told(configs: Mapping[Path, Mapping[str, Any]]) -> list[str]:
    return [name.run for name in name_runs(configs).values()]


def board(folder: Path, *roots: Path) -> Board:
    folder.mkdir(exist_ok=True)
    return Board(folder, roots)


def read(folder: Path) -> EventAccumulator:
    """What TensorBoard, too, makes of a run's folder."""
    return EventAccumulator(str(folder), {"scalars": 0, "tensors": 0}).Reload()


def hparams_of(events: EventAccumulator) -> tuple[list[str], str, dict[str, Any]]:
    def content(tag: str) -> bytes:
        return bytes(events.SummaryMetadata(tag).plugin_data.content)

    experiment = hparams.parse_experiment_plugin_data(content(hparams.EXPERIMENT_TAG))
    start = hparams.parse_session_start_info_plugin_data(content(hparams.SESSION_START_INFO_TAG))
    values = {key: value.string_value or value.number_value for key, value in start.hparams.items()}
    return [info.name for info in experiment.hparam_infos], start.group_name, values


# ---------------------------------------------------------------------------------------- names


def test_runs_are_named_by_what_differs_between_them_norm_and_placement_first() -> None:
    a = config(name="batch", placement="both", eps=1e-5)
    b = config(name="batch", placement="before_activation", eps=1e-5)
    assert told({Path("a"): a, Path("b"): b, Path("c"): config()}) == [
        "batch, both",
        "batch, before",
        "none",
    ]


def test_a_key_stands_in_the_names_of_those_alone_that_it_tells_apart() -> None:
    configs = [config(), config(1), config(0, 0.3, name="batch"), config(0, 1.0, name="batch")]
    assert told({Path(f"{n}"): one for n, one in enumerate(configs)}) == [
        "none, seed=0",
        "none, seed=1",
        "batch, lr=0.3",
        "batch, lr=1.0",
    ]


def test_runs_that_differ_in_nothing_are_told_apart_by_their_path() -> None:
    assert told({Path("runs/a/s0"): config(), Path("runs/b/s0"): config()}) == [
        "runs-a-s0",
        "runs-b-s0",
    ]
    alone = Path("runs/single/batch-before_activation-33488e4a/s0")
    assert told({alone: config()}) == ["single-batch-before_activation-33488e4a-s0"]
    twins = told({Path("here/runs/a/s0"): config(), Path("there/runs/a/s0"): config()})
    assert len(set(twins)) == 2


def test_a_record_from_before_a_key_is_no_arm_of_its_own() -> None:
    later = {**config(1), "dataset": {"grayscale": False}}
    assert told({Path("a"): config(), Path("b"): later}) == ["seed=0", "seed=1"]


VALUES = st.one_of(st.integers(), st.text(max_size=200), st.lists(st.integers(), max_size=60))


@laws
@given(st.lists(st.dictionaries(st.sampled_from("abcdefghij"), VALUES), min_size=1, max_size=8))
def test_names_are_unique_short_and_of_one_group_but_for_the_seed(
    models: list[dict[str, Any]],
) -> None:
    configs = {
        Path(f"runs/{number}/s{seed}"): {"model": model, "seed": seed}
        for number, model in enumerate(models)
        for seed in range(2)
    }
    names = name_runs(configs)
    assert len({name.run for name in names.values()}) == len(configs)
    assert max(len(name.run) for name in names.values()) <= 100
    for run, name in names.items():
        twin = names[run.parent / "s0"]
        assert (name.group, name.hparams) == (twin.group, twin.hparams)


# --------------------------------------------------------------------------------------- folder


def test_the_seeds_of_an_arm_are_one_group_with_what_varies_as_its_hyperparameters(
    tmp_path: Path,
) -> None:
    names = board(tmp_path / "board", arms(tmp_path / "runs")).show_runs()
    assert names[0::2] == ["batch, after, seed=0", "batch, before, seed=0", "none, seed=0"]
    both = [hparams_of(read(tmp_path / "board" / f"batch, after, seed={seed}")) for seed in (0, 1)]
    values = {"norm": "batch", "placement": "after"}
    assert both == [(["norm", "placement"], "batch, after", values)] * 2
    columns, group, values = hparams_of(read(tmp_path / "board" / "none, seed=1"))
    assert (columns, group) == (["norm", "placement"], "none")
    assert values == {"norm": "none", "placement": "-"}


def test_what_a_run_says_of_itself_does_not_count_beside_others(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs", sets={"model.norm.name": "none"})
    make_run(tmp_path / "runs", sets={"model.norm.name": "none", "optim.lr": 3.0})
    own = EventFile(run.tensorboard)
    for summary in summaries.session("alone", {"batch_size": 128}, []):
        own.add(summary)
    own.flush()
    [name, _] = board(tmp_path / "board", tmp_path / "runs").show_runs()
    columns, group, _ = hparams_of(read(tmp_path / "board" / name))
    assert (columns, group) == (["lr"], name)


def test_event_files_are_made_anew_for_records_that_have_none(tmp_path: Path) -> None:
    runs = arms(tmp_path / "runs")
    bnlab.records.pack([runs], tmp_path / "runs.tar.xz")
    for place in (runs, tmp_path / "runs.tar.xz"):
        there = board(tmp_path / place.name[::-1], place)
        assert len(there.show_runs()) == 6
        there.draw()
        events = read(tmp_path / place.name[::-1] / "none, seed=1")
        record = load_record(find_run(runs / "*" / "none*" / "s1"))
        for metric, tag in (("test/accuracy", "test/accuracy"), ("seconds", "time/seconds")):
            shown = [(event.step, event.value) for event in events.Scalars(tag)]
            kept = [(line["epoch"], pytest.approx(line[metric])) for line in record.metrics]
            assert shown == kept
        assert "custom_scalars__config__" in events.Tags()["tensors"]


def test_a_run_that_goes_on_without_event_files_is_shown_to_its_end(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs", status="running")
    there = board(tmp_path / "board", tmp_path / "runs")
    [name] = there.show_runs()
    there.draw()
    run.append_metrics({"epoch": 6, "train/loss": 0.5})
    there.draw()
    assert [e.step for e in read(tmp_path / "board" / name).Scalars("train/loss")][-2:] == [5, 6]


def test_means_follow_the_finished_runs_of_each_arm(tmp_path: Path) -> None:
    there = board(tmp_path / "board", arms(tmp_path / "runs", seeds=1))
    for _ in range(2):
        there.show_runs()
        there.draw()
    assert list((tmp_path / "board").glob("(mean)*")) == []  # of one run there is no mean
    arms(tmp_path / "runs", seeds=3)
    there.show_runs()
    there.draw()
    means = sorted(path.name for path in (tmp_path / "board").glob("(mean)*"))
    assert means == ["(mean) batch, after", "(mean) batch, before", "(mean) none"]
    single = [
        read(tmp_path / "board" / f"none, seed={seed}").Scalars("test/accuracy")[-1].value
        for seed in range(3)
    ]
    events = read(tmp_path / "board" / "(mean) none")
    assert events.Scalars("test/accuracy")[-1].value == pytest.approx(sum(single) / 3)
    low, high = (events.Scalars(tag)[-1].value for tag in summaries.band_of("test/accuracy")[1:])
    assert low <= min(single) <= max(single) <= high


def test_links_follow_the_runs_that_are_there(tmp_path: Path) -> None:
    first = make_run(tmp_path / "runs", sets={"model.norm.name": "none"})
    EventFile(first.tensorboard).flush()
    make_run(tmp_path / "runs", seed=1, sets={"model.norm.name": "none"})
    there = board(tmp_path / "board", tmp_path / "runs")
    assert there.show_runs() == ["seed=0", "seed=1"]
    [link] = [path for path in (tmp_path / "board" / "seed=0").iterdir() if path.is_symlink()]
    assert link.resolve().parent == first.tensorboard.resolve()
    make_run(tmp_path / "runs")
    names = there.show_runs()
    assert names == ["batch", "none, seed=0", "none, seed=1"]
    assert sorted(path.name for path in (tmp_path / "board").iterdir()) == names


def test_a_damaged_run_is_passed_over(tmp_path: Path) -> None:
    arms(tmp_path / "runs")
    for number, run in enumerate(sorted((tmp_path / "runs").rglob("s0"))):
        (run / ("config.yaml", "metrics.jsonl", "summary.json")[number]).write_text("{")
    there = board(tmp_path / "board", tmp_path / "runs")
    assert len(there.show_runs()) == 5  # of whatever lacks its configuration nothing is known
    there.draw()


# ----------------------------------------------------------------------------------- the server


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_takes_the_server_and_its_folder_along(tmp_path: Path, number: int) -> None:
    make_run(tmp_path / "runs")
    server = tmp_path / "tensorboard"
    server.mkdir()
    (server / "__init__.py").write_text("")
    code = "import os, time, pathlib; pathlib.Path('pid').write_text(str(os.getpid())); "
    (server / "main.py").write_text(f"{code}time.sleep(60)\n")
    # The server alone looks into this folder: bnlab itself draws events by the true tensorboard.
    command = "import sys; sys.path.pop(0); from bnlab.cli import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", command, "tensorboard", "runs"],
        cwd=tmp_path,  # where `python -m tensorboard.main` looks first
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stderr=subprocess.PIPE,
    ) as process:
        pid, deadline = tmp_path / "pid", time.monotonic() + 60
        while not (pid.exists() and pid.read_text()) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, b"Traceback" in errors) == (0, False)
    assert list(tmp_path.glob("bnlab-*")) == []
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_the_dashboard_is_for_this_machine_alone_unless_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []

    class Popen:
        def __init__(self, command: list[str]) -> None:
            started.append(command)

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def wait(self, _seconds: float) -> int:
            return 0

        def kill(self) -> None:
            pass

    monkeypatch.setattr(subprocess, "Popen", Popen)
    for more in ([], ["--host", "0.0.0.0"]):  # noqa: S104 - as somebody may ask for
        CliRunner().invoke(app, ["tensorboard", str(tmp_path), *more], catch_exceptions=False)
    hosts = [command[command.index("--host") + 1] for command in started]
    assert hosts == ["localhost", "0.0.0.0"]  # noqa: S104
    assert not any("--bind_all" in command for command in started)


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        serve([tmp_path / "absent"], host="localhost", port=1)
