import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import TINY, MakeConfig
from raw import raw_metrics, raw_run, raw_summary
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from trained_runs import StopAt, assert_same_run, curves, weights

from bnlab.config import Config
from bnlab.errors import BnlabError, ConfigError, RefusedError, StopRequestedError
from bnlab.records import RunDir, RunFiles, load_record, run_path
from bnlab.records.storage import write_text
from bnlab.training.checkpoint import packed, read_checkpoint
from bnlab.training.datasets import Splits, load_splits
from bnlab.training.experiment import RunOptions, Watcher, run_experiment
from bnlab.training.loop import Position, evaluate
from bnlab.training.pictures import count_confusions, first_batch
from bnlab.training.probes import PROBES
from bnlab.training.task import build_task, mixed_batches, spread

# ------------------------------------------------------------------------------ the record


def test_a_run_leaves_every_file_that_the_readme_names(
    tmp_path: Path, tiny_config: MakeConfig
) -> None:
    root = run_path(tmp_path, tiny_config())
    summary = run_experiment(tiny_config(), root)
    assert root.relative_to(tmp_path).parts[0] == "tiny"
    assert root.name == "s0"
    for name in ("config.yaml", "run.json", "env.txt", "metrics.jsonl", "summary.json"):
        assert (root / name).stat().st_size > 0
    assert any((root / "tensorboard").iterdir())
    assert (root / "checkpoints" / "last.pt").exists()
    assert not [path for path in root.rglob("*") if path.name.startswith(".")]

    record = load_record(RunFiles(root))
    assert record.remarks == ()
    assert record.summary is not None
    assert record.summary.scores["test/accuracy"] == record.metrics[-1]["test/accuracy"]
    assert [line["epoch"] for line in record.metrics] == [1, 2]
    assert [line["step"] for line in record.metrics] == [5, 10]
    for key in ("train/loss", "train/accuracy", "test/loss", "test/accuracy", "optim/lr"):
        assert isinstance(record.metrics[0][key], float)
    run = raw_run(RunDir(root))
    assert run["status"] == summary["status"]
    assert run["dataset"]["train_images"] == 160
    assert "not CIFAR-10" in run["dataset"]["note"]
    assert run["precision"] == "fp32"
    assert {len(run[key]) for key in ("init_hash", "data_order_hash", "config_hash")} == {64}


def test_the_stored_configuration_trains_the_same_run_again(
    tmp_path: Path, tiny_config: MakeConfig
) -> None:
    first = run_path(tmp_path / "a", tiny_config())
    run_experiment(tiny_config(), first)
    stored = yaml.safe_load((first / "config.yaml").read_text())
    again = Config.model_validate(_tuples(stored))
    assert again.hash == tiny_config().hash
    second = run_path(tmp_path / "b", again)
    run_experiment(again, second)
    assert_same_run(first, second)


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(value) if isinstance(value, list) else value


def test_arms_that_differ_in_the_norm_share_weights_and_order(
    tmp_path: Path, tiny_config: MakeConfig
) -> None:
    runs = []
    for norm in ("none", "batch", "group"):
        config = tiny_config(f"model.norm.name={norm}", "train.epochs=1")
        run_experiment(config, run_path(tmp_path, config))
        runs.append(raw_run(RunDir(run_path(tmp_path, config))))
    assert len({run["init_hash"] for run in runs}) == 1
    assert len({run["data_order_hash"] for run in runs}) == 1
    other = tiny_config("train.epochs=1", seed=1)
    run_experiment(other, run_path(tmp_path, other))
    seeded = raw_run(RunDir(run_path(tmp_path, other)))
    assert seeded["init_hash"] != runs[0]["init_hash"]
    assert seeded["data_order_hash"] != runs[0]["data_order_hash"]


def test_validation_images_are_held_out_and_their_split_is_recorded(
    tmp_path: Path, tiny_config: MakeConfig
) -> None:
    config = tiny_config("dataset.val_size=40", "dataset.train_size=120")
    root = run_path(tmp_path, config)
    run_experiment(config, root)
    run = raw_run(RunDir(root))
    assert (run["dataset"]["val_images"], run["dataset"]["train_images"]) == (40, 120)
    assert len(run["dataset"]["val_indices_hash"]) == 64
    assert all("val/accuracy" in line for line in raw_metrics(RunDir(root)))


def test_the_test_set_is_read_only_when_asked(tmp_path: Path, tiny_config: MakeConfig) -> None:
    config = tiny_config("train.test_every=0", "train.epochs=3")
    root = run_path(tmp_path, config)
    run_experiment(config, root)
    read = ["test/accuracy" in line for line in raw_metrics(RunDir(root))]
    assert read == [False, False, True]


def test_the_test_set_can_be_left_unread(tmp_path: Path, tiny_config: MakeConfig) -> None:
    config = tiny_config("train.test_every=null", "dataset.val_size=40", "dataset.train_size=120")
    root = run_path(tmp_path, config)
    summary = run_experiment(config, root)
    assert not [key for line in raw_metrics(RunDir(root)) for key in line if "test" in key]
    assert "val/accuracy" in summary
    assert "test/accuracy" not in summary


def test_probes_are_recorded_and_leave_no_trace(tmp_path: Path, tiny_config: MakeConfig) -> None:
    plain = tiny_config("model.dropout=0.3")
    probed = tiny_config("model.dropout=0.3", "probes=[activations, gradients, weights]")
    for config in (plain, probed):
        run_experiment(config, run_path(tmp_path, config))
    one, two = run_path(tmp_path, plain), run_path(tmp_path, probed)
    for left, right in zip(curves(one), curves(two), strict=True):
        assert left == {key: right[key] for key in left}
        assert "probe/dead/conv1_relu" in right.keys() - left.keys()
    for name, value in weights(one).items():
        assert value is None or torch.equal(value, weights(two)[name])


# ------------------------------------------------------------------------------ divergence


def test_a_loss_that_is_not_finite_ends_the_run_as_a_complete_diverged_record(
    tmp_path: Path, tiny_config: MakeConfig
) -> None:
    config = tiny_config("model.norm=none", "optim.lr=1e30", "train.epochs=5")
    root = run_path(tmp_path, config)
    summary = run_experiment(config, root)
    assert summary["status"] == "diverged"
    assert RunDir(root).finished
    assert summary["epochs"] < 5
    last = raw_metrics(RunDir(root))[-1]
    assert last["train/loss"] is None
    assert isinstance(last["test/accuracy"], float)


def test_a_run_that_learns_is_done(tmp_path: Path, tiny_config: MakeConfig) -> None:
    learns = ("dataset.train_size=800", "train.batch_size=16", "train.epochs=3", "optim.lr=0.03")
    config = tiny_config(*learns)
    summary = run_experiment(config, run_path(tmp_path, config))
    assert summary["status"] == "done"
    assert summary["train/accuracy"] > 0.12


def test_a_run_that_learns_nothing_counts_as_diverged(
    tmp_path: Path, tiny_config: MakeConfig
) -> None:
    config = tiny_config("optim.lr=1e-9", "model.norm=none", "model.init.name=normal_small")
    summary = run_experiment(config, run_path(tmp_path, config))
    assert summary["status"] == "diverged"
    assert summary["epochs"] == 2
    assert summary["train/accuracy"] <= 0.12


# --------------------------------------------------------------------------------- resuming


@pytest.mark.parametrize(("epoch", "step"), [(0, 2), (0, 5), (1, 1), (1, 4)])
@pytest.mark.parametrize("norm", ["batch", "noisy_batch"])
def test_a_run_stopped_inside_an_epoch_goes_on_bit_for_bit(
    tmp_path: Path, tiny_config: MakeConfig, epoch: int, step: int, norm: str
) -> None:
    config = tiny_config(f"model.norm.name={norm}", "model.dropout=0.5", "optim.schedule=linear")
    whole, cut = run_path(tmp_path / "whole", config), run_path(tmp_path / "cut", config)
    run_experiment(config, whole)
    with pytest.raises(StopRequestedError) as caught:
        run_experiment(config, cut, watcher=StopAt(epoch, step))
    assert caught.value.exit_code == 75
    assert raw_run(RunDir(cut))["status"] == "preempted"
    assert not RunDir(cut).finished
    run_experiment(config, cut, RunOptions(resume="must"))
    assert_same_run(whole, cut)
    assert len(raw_run(RunDir(cut))["attempts"]) == 2


def test_tensorboard_has_one_chart_a_probed_quantity_with_all_its_layers(
    tmp_path: Path, tiny_config: MakeConfig
) -> None:
    run_experiment(tiny_config("probes=[weights]"), tmp_path)
    [path] = (tmp_path / "tensorboard").glob("events*")
    events = EventAccumulator(str(path), {"tensors": 0})
    events.Reload()
    [first] = events.Tensors("custom_scalars__config__")
    layout = Layout.FromString(first.tensor_proto.string_val[0])
    charts = {chart.title: chart.multiline.tag[0] for c in layout.category for chart in c.chart}
    tags = events.Tags()["scalars"]
    for quantity, layers in (("weight_norm", 4), ("gamma_median", 3), ("grad_norm", 4)):
        assert len([tag for tag in tags if re.match(charts[quantity], tag)]) == layers


def test_tensorboard_shows_the_first_batch_the_confusions_and_the_arm_and_histograms_only_if_asked(
    tmp_path: Path, tiny_config: MakeConfig
) -> None:
    from tensorboard.plugins.hparams import metadata as hparams

    root = tmp_path / "batch-1f0c2a9b" / "s0"
    run_experiment(tiny_config(), root, RunOptions(histograms=False))
    events = EventAccumulator(str(root / "tensorboard"), {"tensors": 0}).Reload()
    assert events.Tags()["histograms"] == []
    assert [e.step for e in events.Images("view/augmented batch")] == [0]
    assert [e.step for e in events.Images("view/confusion matrix")] == [2]
    start = hparams.parse_session_start_info_plugin_data(
        events.SummaryMetadata(hparams.SESSION_START_INFO_TAG).plugin_data.content
    )
    assert start.group_name == "batch-1f0c2a9b"
    assert set(start.hparams) == {"norm", "placement", "model", "lr", "batch_size"}


def test_the_batch_that_is_shown_is_the_one_that_training_begins_with(
    tiny_config: MakeConfig,
) -> None:
    config = tiny_config("train.batch_size=16", "dataset.normalize=none")
    data, cpu = load_splits(config.dataset), torch.device("cpu")
    task = build_task(config, data, cpu, "fp32")
    images, _ = next(task.train.epoch(0))
    assert torch.equal(first_batch(task.train).float(), images)


def test_confusions_count_every_image_and_as_many_right_ones_as_the_evaluation(
    tiny_config: MakeConfig,
) -> None:
    config = tiny_config()
    task = build_task(config, load_splits(config.dataset), torch.device("cpu"), "fp32")
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    counts = count_confusions(task, task.held_out["test"])
    assert counts.sum() == len(task.held_out["test"])
    score = evaluate(task, task.held_out["test"])
    assert counts.trace() == round(score.accuracy * len(task.held_out["test"]))
    assert all(torch.equal(value, before[name]) for name, value in task.model.state_dict().items())


def test_what_probes_remember_and_look_ahead_at_outlives_a_stop(
    tmp_path: Path, tiny_config: MakeConfig
) -> None:
    schedule = ("optim.schedule=linear", "train.epochs=2", "model.norm.name=noisy_batch")
    config = tiny_config(f"probes=[{', '.join(PROBES)}]", *schedule)
    whole, cut = run_path(tmp_path / "whole", config), run_path(tmp_path / "cut", config)
    run_experiment(config, whole)
    for place in ((0, 2), (1, 1)):
        with pytest.raises(StopRequestedError):
            run_experiment(config, cut, RunOptions(resume="auto"), StopAt(*place))
    run_experiment(config, cut, RunOptions(resume="must"))
    assert_same_run(whole, cut)
    plain = run_path(tmp_path / "plain", config)
    run_experiment(tiny_config(*schedule), plain)
    for left, right in zip(curves(plain), curves(whole), strict=True):
        assert left == {key: right[key] for key in left}
        assert "probe/drift_sd_epoch/conv2" in right


def test_going_on_with_other_threads_or_another_torch_is_said_and_recorded(
    tmp_path: Path,
    tiny_config: MakeConfig,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root, here = tmp_path / "run", {"threads": 1, "torch": torch.__version__}
    for place in ((0, 2), (1, 2)):
        with pytest.raises(StopRequestedError):
            run_experiment(tiny_config(), root, RunOptions(resume="auto"), StopAt(*place))
    assert caplog.messages == []
    torch.set_num_threads(2)
    monkeypatch.setattr(torch, "__version__", "9.9")
    run_experiment(tiny_config(), root, RunOptions(resume="auto"))
    [said] = caplog.messages
    assert "CPU threads: 1 -> 2" in said
    assert f"torch: {here['torch']} -> 9.9" in said
    attempts = raw_run(RunDir(root))["attempts"]
    assert [{key: one[key] for key in here} for one in attempts] == [
        here,
        here,
        {"threads": 2, "torch": "9.9"},
    ]


def test_ctrl_c_writes_a_checkpoint_and_exits_with_130(
    tmp_path: Path, tiny_config: MakeConfig
) -> None:
    root = run_path(tmp_path, tiny_config())
    with pytest.raises(StopRequestedError) as caught:
        run_experiment(tiny_config(), root, watcher=StopAt(1, 2, signal.SIGINT))
    assert caught.value.exit_code == 130
    assert RunDir(root).checkpoint.exists()


def test_a_second_ctrl_c_ends_at_once_and_does_not_count_as_a_failure(
    tmp_path: Path, tiny_config: MakeConfig
) -> None:
    class Impatient(StopAt):
        def step(self, position: Position, steps: int) -> None:
            super().step(position, steps)
            super().step(position, steps)

    root = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run_experiment(tiny_config(), root, watcher=Impatient(1, 2, signal.SIGINT))
    assert raw_run(RunDir(root))["status"] == "preempted"
    assert run_experiment(tiny_config(), root, RunOptions(resume="must"))["epochs"] == 2


def test_tensorboard_shows_each_epoch_once_after_a_resume(
    tmp_path: Path, tiny_config: MakeConfig
) -> None:
    config = tiny_config("train.epochs=4")
    root = run_path(tmp_path, config)
    with pytest.raises(StopRequestedError):
        run_experiment(config, root, watcher=StopAt(2, 3))
    # As after kill -9: epochs are recorded that no checkpoint covers.
    RunDir(root).checkpoint.unlink()
    run_experiment(config, root, RunOptions(resume="auto"))
    events = EventAccumulator(str(RunDir(root).tensorboard), size_guidance={"scalars": 0})
    events.Reload()
    for tag in ("train/loss", "test/accuracy", "train/lr", "time/images_per_second"):
        assert [event.step for event in events.Scalars(tag)] == [1, 2, 3, 4]
    drawn = {f"within the norms/conv1_norm/{name}" for name in ("weight", "bias")}
    assert drawn <= set(events.Tags()["histograms"])
    recorded = [line["test/accuracy"] for line in raw_metrics(RunDir(root))]
    shown = [event.value for event in events.Scalars("test/accuracy")]
    assert shown == pytest.approx(recorded)
    assert len(list(tmp_path.rglob("events.out.tfevents.*"))) == 2


KILL_CODE = """
import sys
from pathlib import Path
from bnlab.records import run_path
from bnlab.training import experiment
from bnlab.config import load_config
experiment.CHECKPOINT_SECONDS = 0.0
import torch; torch.set_num_threads(1)
config = load_config((), sys.argv[2:])
experiment.run_experiment(
    config, run_path(Path(sys.argv[1]), config), experiment.RunOptions(resume="auto")
)
"""


def test_a_killed_run_continues_to_the_same_bits_whenever_it_was_killed(
    tmp_path: Path, tiny_config: MakeConfig
) -> None:
    overrides = [*TINY, "train.epochs=30", "model.dropout=0.2"]
    config = tiny_config("train.epochs=30", "model.dropout=0.2")
    whole, cut = run_path(tmp_path / "whole", config), run_path(tmp_path / "cut", config)
    run_experiment(config, whole)
    kills = 0
    for seen in (1, 7, 16):
        command = [sys.executable, "-c", KILL_CODE, str(tmp_path / "cut"), *overrides]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            deadline = time.monotonic() + 60
            while process.poll() is None and time.monotonic() < deadline:
                if (cut / "metrics.jsonl").exists() and len(curves(cut)) >= seen:
                    process.kill()
                    kills += 1
                    break
                time.sleep(0.001)
    assert kills >= 2
    run_experiment(config, cut, RunOptions(resume="auto"))
    assert_same_run(whole, cut)


# ---------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "overrides", [("train.epochs=3",), ("train.epochs=3", "optim.lr=1e30", "model.norm=none")]
)
def test_a_run_killed_after_its_last_epoch_only_writes_its_summary_on_resuming(
    tmp_path: Path,
    tiny_config: MakeConfig,
    monkeypatch: pytest.MonkeyPatch,
    overrides: tuple[str, ...],
) -> None:
    config = tiny_config(*overrides)
    whole = run_experiment(config, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(RunDir, "write_summary", _die)
        with pytest.raises(KilledError):
            run_experiment(config, tmp_path / "killed")
    summary = run_experiment(config, tmp_path / "killed", RunOptions(resume="must"))
    assert (summary["status"], summary["epochs"]) == (whole["status"], whole["epochs"])
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


class KilledError(Exception):
    pass


def _die(*_: object) -> None:
    raise KilledError


def test_the_time_spent_before_a_kill_is_part_of_the_wall_time(
    tmp_path: Path, tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bnlab.training.experiment.CHECKPOINT_SECONDS", 0.0)

    class DieAfterTwo(Watcher):
        def epoch(self, config: Config, record: Any) -> None:
            if record["epoch"] == 2:
                raise KilledError

    config, root = tiny_config("train.epochs=3"), tmp_path / "run"
    with pytest.raises(KilledError):
        run_experiment(config, root, watcher=DieAfterTwo())
    summary = run_experiment(config, root, RunOptions(resume="must"))
    assert summary["wall_seconds"] > summary["train_seconds"]


def test_a_finished_run_is_never_overwritten(tmp_path: Path, tiny_config: MakeConfig) -> None:
    root = run_path(tmp_path, tiny_config())
    run_experiment(tiny_config(), root)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    for resume in ("never", "auto", "must"):
        with pytest.raises(RefusedError, match="finished"):
            run_experiment(tiny_config(), root, RunOptions(resume=resume))
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


def test_an_unfinished_run_is_refused_without_resume(
    tmp_path: Path, tiny_config: MakeConfig
) -> None:
    root = run_path(tmp_path, tiny_config())
    with pytest.raises(StopRequestedError):
        run_experiment(tiny_config(), root, watcher=StopAt(0, 3))
    with pytest.raises(RefusedError, match="--resume auto"):
        run_experiment(tiny_config(), root)


@pytest.mark.parametrize("resume", ["never", "auto", "must"])
def test_what_is_left_of_a_run_without_its_configuration_is_not_overwritten(
    tmp_path: Path, tiny_config: MakeConfig, resume: Any
) -> None:
    root = run_path(tmp_path, tiny_config())
    with pytest.raises(StopRequestedError):
        run_experiment(tiny_config(), root, watcher=StopAt(1, 2))
    RunDir(root).config.unlink()
    RunDir(root).checkpoint.unlink()
    metrics = RunDir(root).metrics.read_bytes()
    with pytest.raises(RefusedError, match=r"metrics\.jsonl.* config\.yaml is lost"):
        run_experiment(tiny_config(), root, RunOptions(resume=resume))
    assert RunDir(root).metrics.read_bytes() == metrics


def test_a_run_killed_before_its_configuration_was_written_may_begin_again(
    tmp_path: Path, tiny_config: MakeConfig
) -> None:
    root = run_path(tmp_path, tiny_config())
    (root / "checkpoints").mkdir(parents=True)
    for name in ("env.txt", "git.diff", "lock"):
        (root / name).write_text("")
    assert run_experiment(tiny_config(), root)["epochs"] == 2


def test_resuming_with_another_configuration_names_the_keys_that_differ(
    tmp_path: Path, tiny_config: MakeConfig
) -> None:
    root = run_path(tmp_path, tiny_config())
    with pytest.raises(StopRequestedError):
        run_experiment(tiny_config(), root, watcher=StopAt(0, 3))
    other = tiny_config("optim.lr=0.2")
    with pytest.raises(RefusedError, match=r"optim\.lr: 0\.05 -> 0\.2"):
        run_experiment(other, root, RunOptions(resume="auto"))
    with pytest.raises(RefusedError, match=r"optim\.lr: 0\.05 -> 0\.2"):
        run_experiment(other, run_path(tmp_path, other), RunOptions(resume="must"))


def test_resuming_with_other_images_is_refused(
    tmp_path: Path, tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "run"
    with pytest.raises(StopRequestedError):
        run_experiment(tiny_config(), root, watcher=StopAt(1, 2))

    def other(*args: Any) -> Splits:
        return replace(load_splits(*args), checksum="0" * 64)

    monkeypatch.setattr("bnlab.training.experiment.load_splits", other)
    with pytest.raises(RefusedError, match="other images than those in"):
        run_experiment(tiny_config(), root, RunOptions(resume="auto"))


@pytest.mark.parametrize("lines", [[], [1], [2], [1, 1, 2]])
def test_a_record_with_missing_or_doubled_epochs_is_not_resumed(
    tmp_path: Path, tiny_config: MakeConfig, lines: list[int]
) -> None:
    config, root = tiny_config("train.epochs=3"), tmp_path / "run"
    with pytest.raises(StopRequestedError):
        run_experiment(config, root, watcher=StopAt(2, 1))
    metrics = RunDir(root).metrics
    whole = metrics.read_text().splitlines(keepends=True)
    metrics.write_text("".join(whole[line - 1] for line in lines))
    with pytest.raises(RefusedError, match="not every epoch"):
        run_experiment(config, root, RunOptions(resume="auto"))
    metrics.write_text("".join(whole))
    assert run_experiment(config, root, RunOptions(resume="auto"))["epochs"] == 3


def test_a_checkpoint_of_another_network_is_refused(
    tmp_path: Path, tiny_config: MakeConfig
) -> None:
    root = tmp_path / "run"
    with pytest.raises(StopRequestedError):
        run_experiment(tiny_config(), root, watcher=StopAt(1, 2))
    state = read_checkpoint(RunDir(root))
    RunDir(root).write_checkpoint(packed({**state, "model": {"other": torch.zeros(1)}}))
    with pytest.raises(RefusedError, match="does not fit"):
        run_experiment(tiny_config(), root, RunOptions(resume="auto"))


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("position", {"epoch": -1}),
        ("position", {"epoch": 99}),
        ("position", {"epoch": 2}),
        ("position", {"step": 6}),
        ("position", {"outcome": "won"}),
        ("position", {"sums": {"loss": 1}}),
        ("position", {"__class__": "x"}),
        ("position", None),
        ("memory", {"layer_inputs/conv2": 1}),
        ("memory", None),
        ("wall_seconds", "long"),
        ("config_hash", None),
        ("config_hash", torch.zeros(2)),
        ("seed", torch.zeros(2)),
        ("precision", torch.zeros(2)),
        ("optimizer", {"state": {0: {"momentum_buffer": torch.zeros(2)}}}),
        ("optimizer", {"param_groups": [{"params": []}]}),
        ("model", [1]),
    ],
)
def test_a_checkpoint_that_somebody_has_changed_is_refused_in_words(
    tmp_path: Path, tiny_config: MakeConfig, part: str, changes: Any
) -> None:
    root = tmp_path / "run"
    with pytest.raises(StopRequestedError):
        run_experiment(tiny_config(), root, watcher=StopAt(1, 2))
    state = read_checkpoint(RunDir(root))
    changed = {**state[part], **changes} if isinstance(changes, dict) else changes
    RunDir(root).write_checkpoint(packed({**state, part: changed}))
    with pytest.raises(RefusedError, match=r"does not fit|another run|was trained in"):
        run_experiment(tiny_config(), root, RunOptions(resume="auto"))


def test_a_checkpoint_that_is_a_program_is_refused_and_not_run(
    tmp_path: Path, tiny_config: MakeConfig
) -> None:
    class Program:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "ran"),)

    root = tmp_path / "run"
    with pytest.raises(StopRequestedError):
        run_experiment(tiny_config(), root, watcher=StopAt(1, 2))
    state = read_checkpoint(RunDir(root))
    RunDir(root).write_checkpoint(packed({**state, "wall_seconds": Program()}))
    with pytest.raises(RefusedError, match="not a checkpoint"):
        run_experiment(tiny_config(), root, RunOptions(resume="auto"))
    assert not (tmp_path / "ran").exists()


def test_resume_must_demands_a_run(tmp_path: Path, tiny_config: MakeConfig) -> None:
    with pytest.raises(RefusedError, match="no run here"):
        run_experiment(tiny_config(), run_path(tmp_path, tiny_config()), RunOptions(resume="must"))
    assert not any(tmp_path.rglob("run.json"))


def test_a_damaged_checkpoint_is_refused_and_nothing_is_lost(
    tmp_path: Path, tiny_config: MakeConfig
) -> None:
    root = run_path(tmp_path, tiny_config())
    with pytest.raises(StopRequestedError):
        run_experiment(tiny_config(), root, watcher=StopAt(1, 3))
    path = RunDir(root).checkpoint
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    before = (root / "metrics.jsonl").read_text()
    with pytest.raises(RefusedError, match="damaged"):
        run_experiment(tiny_config(), root, RunOptions(resume="auto"))
    assert (root / "metrics.jsonl").read_text() == before


def test_resuming_in_another_precision_is_refused(tmp_path: Path, tiny_config: MakeConfig) -> None:
    root = run_path(tmp_path, tiny_config())
    with pytest.raises(StopRequestedError):
        run_experiment(tiny_config(), root, watcher=StopAt(1, 3))
    state = read_checkpoint(RunDir(root))
    from bnlab.training.checkpoint import packed

    RunDir(root).write_checkpoint(packed({**state, "precision": "bf16"}))
    with pytest.raises(RefusedError, match="was trained in bf16"):
        run_experiment(tiny_config(), root, RunOptions(resume="auto"))


def test_a_batch_of_one_image_is_refused_before_anything_is_written(
    tmp_path: Path, tiny_config: MakeConfig
) -> None:
    for override in ("train.batch_size=1", "dataset.train_size=161"):
        config = tiny_config(override)
        with pytest.raises(ConfigError, match=r"batch_size"):
            run_experiment(config, run_path(tmp_path, config))
    assert not any(tmp_path.rglob("s0"))


def test_measuring_one_image_in_train_mode_is_refused_before_anything_is_written(
    tmp_path: Path, tiny_config: MakeConfig
) -> None:
    overrides = ("train.evaluate_in_train_mode=true", "train.eval_batch_size=39")
    with pytest.raises(ConfigError, match=r"train\.eval_batch_size: 39: .*dataset\.test_size=40"):
        run_experiment(tiny_config(*overrides), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_cuda_without_a_cuda_device_is_refused(tmp_path: Path, tiny_config: MakeConfig) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(ConfigError, match="no CUDA device"):
        run_experiment(tiny_config(), run_path(tmp_path, tiny_config()), RunOptions(device="cuda"))


def test_a_failure_is_marked_in_the_record_and_can_be_resumed(
    tmp_path: Path, tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = run_path(tmp_path, tiny_config())

    class Broken(Watcher):
        def epoch(self, config: Config, record: Any) -> None:
            raise OSError("the cat stood on the keyboard")

    with pytest.raises(OSError, match="cat"):
        run_experiment(tiny_config(), root, watcher=Broken())
    run = json.loads((root / "run.json").read_text())
    assert run["status"] == "failed"
    assert "cat" in run["error"]
    run_experiment(tiny_config(), root, RunOptions(resume="auto"))
    assert RunDir(root).finished
    assert "error" not in raw_run(RunDir(root))


def test_a_full_disk_stops_the_run_with_its_checkpoint_whole(
    tmp_path: Path, tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bnlab.training.experiment.CHECKPOINT_SECONDS", 0.0)
    whole, cut = run_path(tmp_path / "whole", tiny_config()), run_path(tmp_path, tiny_config())
    run_experiment(tiny_config(), whole)

    class FillsUp(Watcher):
        def epoch(self, config: Config, record: Any) -> None:
            def full(_descriptor: int) -> None:
                raise OSError(28, "No space left on device")

            monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(BnlabError, match="free some space"):
        run_experiment(tiny_config(), cut, watcher=FillsUp())
    monkeypatch.undo()
    assert read_checkpoint(RunDir(cut))["position"]["epoch"] == 1
    run_experiment(tiny_config(), cut, RunOptions(resume="auto"))
    assert_same_run(whole, cut)


def test_event_files_that_find_no_space_end_the_run_in_words_and_it_goes_on_later(
    tmp_path: Path, tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bnlab.training.experiment.CHECKPOINT_SECONDS", 0.0)
    root, threads = RunDir(tmp_path / "run"), threading.active_count()

    class FillsUp(Watcher):
        def epoch(self, config: Config, record: Any) -> None:
            [events] = root.tensorboard.iterdir()
            events.unlink()
            events.symlink_to("/dev/full")
            assert threading.active_count() == threads  # nobody else could fail beside this one

    with pytest.raises(BnlabError, match=r"tfevents.*free some space"):
        run_experiment(tiny_config(), root.root, watcher=FillsUp())
    assert raw_run(root)["status"] == "failed"
    run_experiment(tiny_config(), root.root, RunOptions(resume="auto"))
    assert [line["epoch"] for line in raw_metrics(root)] == [1, 2]


def test_what_kills_left_half_written_is_cleared_when_the_run_goes_on(
    tmp_path: Path, tiny_config: MakeConfig
) -> None:
    root = tmp_path / "run"
    with pytest.raises(StopRequestedError):
        run_experiment(tiny_config(), root, watcher=StopAt(1, 2))
    for left in (".run.json.77.new", "checkpoints/.last.pt.77.new"):
        (root / left).write_bytes(b"half")
    run_experiment(tiny_config(), root, RunOptions(resume="auto"))
    assert list(root.rglob("*.new")) == []


def test_a_file_written_anew_clears_what_a_kill_left_of_it_a_day_ago_and_no_younger(
    tmp_path: Path,
) -> None:
    old, young, other = (
        tmp_path / f".{name}.new" for name in ("report.md.77", "report.md.78", "data.csv.77")
    )
    for left in (old, young, other):
        left.write_bytes(b"half")
    for left in (old, other):
        os.utime(left, (0, 0))
    write_text(tmp_path / "report.md", "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".data.csv.77.new",
        ".report.md.78.new",
        "report.md",
    ]


def test_a_run_killed_after_its_summary_is_read_as_finished(
    tmp_path: Path, tiny_config: MakeConfig
) -> None:
    root = tmp_path / "run"
    summary = run_experiment(tiny_config(), root)
    RunDir(root).write_run({**raw_run(RunDir(root)), "status": "running"})
    record = load_record(RunFiles(root))
    assert (record.status, record.facts.status) == (summary["status"], summary["status"])


# ------------------------------------------------------------------------------------- facts


def test_spread_indices_are_distinct_and_reach_both_ends() -> None:
    assert spread(3, 5).tolist() == [0, 2, 4]
    assert spread(10, 4).tolist() == [0, 1, 2, 3]
    assert len(set(spread(1024, 50_000).tolist())) == 1024


GOLDEN = Path(__file__).with_name("golden.json")


def test_the_loss_curve_at_a_fixed_seed_is_the_recorded_one(
    tmp_path: Path, tiny_config: MakeConfig
) -> None:
    """A change of code that should not change numbers must leave this file alone."""
    found: dict[str, list[float]] = {}
    for norm in ("none", "batch"):
        config = tiny_config(f"model.norm.name={norm}", "train.epochs=3")
        root = run_path(tmp_path, config)
        run_experiment(config, root)
        found[norm] = [line["train/loss"] for line in raw_metrics(RunDir(root))]
    if os.environ.get("BNLAB_WRITE_GOLDEN"):
        GOLDEN.write_text(json.dumps(found, indent=2) + "\n")
    golden = json.loads(GOLDEN.read_text())
    for norm, losses in found.items():
        # Other processors sum in another order; over 15 small steps that stays below 1e-4.
        assert losses == pytest.approx(golden[norm], rel=1e-4)


@pytest.fixture(autouse=True)
def _clean(tmp_path: Path) -> Any:
    yield
    shutil.rmtree(tmp_path, ignore_errors=True)


def test_a_run_is_probed_every_epoch_and_once_at_its_end(
    tmp_path: Path, tiny_config: MakeConfig
) -> None:
    probes = "probes=[fit, statistics]"
    run_experiment(tiny_config(probes), tmp_path / "read")
    run_experiment(tiny_config(probes, "train.test_every=null"), tmp_path / "unread")
    read, unread = (raw_metrics(RunDir(tmp_path / name)) for name in ("read", "unread"))
    assert all("probe/eval_loss/train" in record for record in (*read, *unread))
    by_statistics = [[tag for tag in record if "test_accuracy/" in tag] for record in read]
    assert by_statistics[:-1] == [[]] * (len(read) - 1)
    assert len(by_statistics[-1]) == 3
    assert not any("test" in tag for record in unread for tag in record)
    run_experiment(tiny_config("probes=[inference]", "train.test_every=0"), tmp_path / "once")
    tested = ["probe/test_loss/pooled" in r for r in raw_metrics(RunDir(tmp_path / "once"))]
    assert tested == [False, True]
    plain = run_experiment(tiny_config(), tmp_path / "plain")
    probed = raw_summary(RunDir(tmp_path / "read"))
    assert probed["test/loss"] == plain["test/loss"]


def test_batches_for_probes_mix_the_classes_and_drop_a_last_single_image(
    tiny_config: MakeConfig,
) -> None:
    config = tiny_config()
    data = load_splits(config.dataset)
    task = build_task(config, data, torch.device("cpu"), "fp32")
    drawn = list(mixed_batches(task.train, 33, 16))
    assert [len(labels) for _, labels in drawn] == [16, 16]
    labels = torch.cat([labels for _, labels in drawn])
    assert len(labels.unique()) > 5
    again = torch.cat([labels for _, labels in mixed_batches(task.train, 33, 16)])
    assert torch.equal(labels, again)
