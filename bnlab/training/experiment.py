"""One run, from its configuration to its summary, on one page."""

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from bnlab.config import Config, arm_label, read_source
from bnlab.errors import BnlabError, StopRequestedError
from bnlab.records import RunDir, Status, read_metrics
from bnlab.training.checkpoint import load_checkpoint, save_checkpoint
from bnlab.training.datasets import Splits, load_splits
from bnlab.training.device import (
    autocast,
    keep_freed_memory,
    numerics,
    resolve_device,
    resolve_precision,
)
from bnlab.training.fingerprint import code_of
from bnlab.training.lane import alone, lane, wait_for
from bnlab.training.loop import Position, Task, fit
from bnlab.training.models import roles
from bnlab.training.pictures import MOST_CLASSES, count_confusions, first_batch
from bnlab.training.probes import POPULATION_IMAGES, PROBE_IMAGES, Sample, look_at_start, run_probes
from bnlab.training.provenance import (
    describe_attempt,
    describe_change,
    describe_run,
    git_state,
    installed_packages,
    now,
)
from bnlab.training.recorder import Recorder, open_recorder
from bnlab.training.resume import (
    Resume,
    earlier_facts,
    refuse_other_images,
    refuse_unless_allowed,
)
from bnlab.training.signals import StopRequest, stop_on_signal, unless_stopped
from bnlab.training.task import (
    build_task,
    check_batches,
    mixed_batches,
    plain_sample,
    steps_ahead,
)

log = logging.getLogger("bnlab")

CHECKPOINT_SECONDS = 5.0
"""Least time between two checkpoints while training goes on. An epoch may take a tenth of a second
and a checkpoint as long; a kill costs at most this much work, plus an epoch."""


class Watcher:
    """Told how a run goes; this one says nothing. Subclass to show progress."""

    def loading(self, what: str, done: int, total: int) -> None:
        """Data is being read or drawn."""

    def step(self, position: Position, steps: int) -> None:
        """An optimizer step was taken; `steps` make an epoch. Called often: be quick."""

    def epoch(self, config: Config, record: Mapping[str, Any]) -> None:
        """An epoch's record is on disk."""


@dataclass(frozen=True)
class RunOptions:
    """How to run, as opposed to what: nothing here changes the result.

    Attributes:
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        resume: `never` refuses an unfinished run; `auto` continues it; `must` demands one.
        deterministic: Bit-identical repeats on a GPU too, at some cost.
        arm: Name of the arm in the run directory; by default made from the norm.
        runs_at_once: The most runs that share the device with this one, itself included: what a
            record says of speed is that of a run alone only if it is 1.
        histograms: Draw gamma and beta for TensorBoard after every epoch.
    """

    device: str = "auto"
    resume: Resume = "never"
    deterministic: bool = False
    arm: str | None = None
    runs_at_once: int = 1
    histograms: bool = True


def run_experiment(
    config: Config,
    root: Path,
    options: RunOptions | None = None,
    watcher: Watcher | None = None,
    *,
    data: Splits | None = None,
    stop: StopRequest | None = None,
) -> dict[str, Any]:
    """Train one configuration and leave its whole record in `root`.

    Args:
        config: What to train.
        root: The run directory; see `run_path`.
        options: How to run it.
        watcher: Told how it goes.
        data: The images, if they are loaded already.
        stop: Asked after every step; by default SIGTERM and Ctrl-C.

    Returns:
        The content of summary.json: `status` is `done` or `diverged`.

    Raises:
        RefusedError: If the run exists, or a resume does not fit it, or another process trains it,
            or has taken it over while this one was suspended.
        StopRequestedError: On SIGTERM or Ctrl-C, with a checkpoint written.
        BnlabError: On a mistake in data or configuration, or a disk that takes no more.
    """
    options, watcher = options or RunOptions(), watcher or Watcher()
    device = resolve_device(options.device)
    precision = resolve_precision(config.train.precision, device)
    run_dir = RunDir(root)
    if device.type == "cpu":
        keep_freed_memory()
    with ExitStack() as stack:
        refuse_unless_allowed(run_dir, config, options.resume)
        stop = stop or stack.enter_context(stop_on_signal())
        data = data or load_splits(config.dataset, unless_stopped(stop, watcher.loading))
        check_batches(config, data)

        run_dir = stack.enter_context(run_dir.lock(unless_stopped(stop, watcher.loading)))
        refuse_unless_allowed(run_dir, config, options.resume)  # now nobody else can change it
        stack.enter_context(numerics(precision, deterministic=options.deterministic))
        stack.enter_context(lane(device))
        refuse_other_images(run_dir.files, data.checksum, config.dataset.root)
        git, earlier = git_state(), earlier_facts(run_dir)
        with alone(device):
            task = build_task(config, data, device, precision)
            stack.callback(_let_go, task)
            facts = describe_run(task, data, git)
        if change := describe_change(facts["environment"], device, earlier):
            log.warning(
                "%s: goes on with other rounding than it began with (%s); the result is not bit "
                "for bit that of an uninterrupted run",
                root,
                change,
            )
        run = {
            **facts,
            "arm": options.arm or arm_label(config),
            "deterministic": options.deterministic,
            **describe_attempt(
                code_of(config), facts["environment"], options.runs_at_once, earlier
            ),
        }
        with alone(device):
            load_checkpoint(run_dir, task, run)
        if not run_dir.started:
            run_dir.create(config.to_yaml(), installed_packages(), git.diff, source_of(config))
        _write_status(run_dir, run, "running")
        try:
            summary = _train(task, run_dir, run, options, stop, watcher)
        except (StopRequestedError, KeyboardInterrupt):  # the latter is a second Ctrl-C
            _write_status(run_dir, run, "preempted")
            raise
        except BaseException as error:
            _try_to_mark_failed(run_dir, run, error)
            raise
        run_dir.write_summary(summary)
        _write_status(run_dir, run, summary["status"])
        return summary


def source_of(config: Config) -> str | None:
    """The text of the file that makes the network, where that is the user's."""
    if config.model.file is None:
        return None
    return read_source(config.model.file)[0]


def _let_go(task: Task) -> None:
    """Drop its captured steps: they hold the task, a circle with a GPU's memory in it."""
    wait_for(task.device)
    with alone(task.device):
        task.passes.clear()


def _train(
    task: Task,
    run_dir: RunDir,
    run: dict[str, Any],
    options: RunOptions,
    stop: StopRequest,
    watcher: Watcher,
) -> dict[str, Any]:
    """The loop over epochs with its effects: record, probe, checkpoint, report, summarize."""
    saved = time.perf_counter()
    started = saved - run.get("wall_seconds", 0.0)
    probing = task.config.probes
    with alone(task.device), autocast(task.precision, task.device):
        sample = _probe_sample(task)
        if (task.position.epoch, task.position.step) == (0, 0):
            look_at_start(probing, task.model, sample)

    def between_steps(position: Position) -> bool:
        watcher.step(position, task.train.steps)
        return stop()

    def save() -> None:
        run["wall_seconds"] = time.perf_counter() - started
        save_checkpoint(run_dir, task, run)

    norms = roles(task.model).norms
    done = task.position.epoch
    recorder = open_recorder(run_dir, task.config, epochs_done=done, histograms=options.histograms)
    if (done, task.position.step) == (0, 0):
        with alone(task.device):
            begun = first_batch(task.train)
        recorder.show_batch(begun)
    for record in fit(task, between_steps):
        with alone(task.device), autocast(task.precision, task.device):
            last = task.position.outcome is not None
            seen = sample if "test/loss" in record else replace(sample, test=None)
            probed = run_probes(probing, task.model, seen, last=last)
        line = {**record, **probed}
        recorder.write(line, norms)
        if time.perf_counter() - saved > CHECKPOINT_SECONDS:
            save()
            saved = time.perf_counter()
        watcher.epoch(task.config, line)
    save()
    outcome = task.position.outcome
    if outcome is None:
        raise StopRequestedError(
            f"{run_dir.root}: stopped by {stop.name} in epoch {task.position.epoch + 1} of "
            f"{task.config.train.epochs}; a checkpoint is written, go on with --resume auto",
            exit_code=stop.exit_code,
        )
    _show_confusion(task, recorder, run["dataset"]["classes"])
    recorder.end(outcome)
    return _summarize(task, run_dir, run, outcome)


def _show_confusion(task: Task, recorder: Recorder, classes: Sequence[str]) -> None:
    """Of the test images, if the run reads them, and by the statistics that it reads them by."""
    train, test = task.config.train, task.held_out.get("test")
    if test is None or train.test_every is None or train.evaluate_in_train_mode:
        return
    if task.position.outcome == "done" and task.num_classes <= MOST_CLASSES:
        with alone(task.device), autocast(task.precision, task.device):
            counts = count_confusions(task, test)
        recorder.show_confusion(counts, classes, task.position.epoch)


def _summarize(
    task: Task, run_dir: RunDir, run: Mapping[str, Any], outcome: Status
) -> dict[str, Any]:
    records = read_metrics(run_dir.files).records
    last = records[-1]
    scores = (
        "train/loss",
        "train/accuracy",
        "val/loss",
        "val/accuracy",
        "test/loss",
        "test/accuracy",
    )
    return {
        "status": outcome,
        "run": str(run_dir.root),
        "arm": run["arm"],
        "seed": task.config.seed,
        "config_hash": run["config_hash"],
        "epochs": last["epoch"],
        **{tag: last[tag] for tag in scores if tag in last},
        "train_seconds": sum(record["seconds"] or 0.0 for record in records),
        "wall_seconds": run["wall_seconds"],
        "images_per_second": sum(r["images_per_second"] or 0.0 for r in records) / len(records),
        "precision": run["precision"],
        "device": run["device"],
        "dataset": run["dataset"]["name"],
        "note": run["dataset"]["note"],
    }


def _probe_sample(task: Task) -> Sample:
    """What the task's probes look at; test images only where the run reads them."""
    config = task.config
    test = task.held_out.get("test") if config.train.test_every is not None else None
    return Sample(
        *plain_sample(task.train, PROBE_IMAGES),
        batch_size=config.train.batch_size,
        train=partial(mixed_batches, task.train, POPULATION_IMAGES),
        test=None if test is None else partial(mixed_batches, test, len(test)),
        ahead=partial(steps_ahead, task),
        memory=task.memory,
    )


def _write_status(run_dir: RunDir, run: Mapping[str, Any], status: Status) -> None:
    run_dir.write_run({"status": status, "updated": now(), **run})


def _try_to_mark_failed(run_dir: RunDir, run: dict[str, Any], error: BaseException) -> None:
    """Leave a word about the failure, if the disk still takes one; the failure itself goes on."""
    run["error"] = f"{type(error).__name__}: {error}"
    try:
        _write_status(run_dir, run, "failed")
    except BnlabError:
        return
