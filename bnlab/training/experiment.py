"""One run, from its configuration to its summary, on one page."""

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from bnlab.config import Config, arm_label, differences
from bnlab.errors import BnlabError, RefusedError, StopRequestedError
from bnlab.records import RunDir, Status, read_config, read_facts, read_metrics
from bnlab.training.accelerate import build_forward, resolve_acceleration
from bnlab.training.batches import Batches, data_order_hash, fit_normalize
from bnlab.training.checkpoint import read_checkpoint, write_checkpoint
from bnlab.training.datasets import Splits, load_splits
from bnlab.training.device import (
    Precision,
    autocast,
    keep_freed_memory,
    numerics,
    resolve_device,
    resolve_precision,
)
from bnlab.training.loop import Position, Task, fit
from bnlab.training.models import build_model, check_batch, init_hash, parameter_count, roles
from bnlab.training.norms import calibrate
from bnlab.training.optim import build_optimizer
from bnlab.training.probes import PROBE_IMAGES, Sample, run_probes
from bnlab.training.provenance import (
    GitState,
    environment,
    git_state,
    installed_packages,
)
from bnlab.training.recorder import open_recorder
from bnlab.training.signals import StopRequest, stop_on_signal

CHECKPOINT_SECONDS = 5.0
"""Least time between two checkpoints while training goes on. An epoch may take a tenth of a second
and a checkpoint as long; a kill costs at most this much work, plus an epoch."""

CALIBRATION_IMAGES = 2048
"""Training images on which `frozen_init` measures its statistics."""

Resume = Literal["never", "auto", "must"]


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
    """

    device: str = "auto"
    resume: Resume = "never"
    deterministic: bool = False
    arm: str | None = None
    runs_at_once: int = 1


def run_path(runs_dir: Path, config: Config, arm: str | None = None) -> Path:
    """`<runs_dir>/<name>/<arm>-<hash8>/s<seed>`."""
    folder = f"{arm or arm_label(config)}-{config.hash[:8]}"
    return runs_dir / config.name / folder / f"s{config.seed}"


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
        RefusedError: If the run exists, or a resume does not fit it.
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
        _refuse_unless_allowed(run_dir, config, options.resume)
        stop = stop or stack.enter_context(stop_on_signal())
        data = data or load_splits(config.dataset, watcher.loading)
        _check_batches(config, data)

        stack.enter_context(run_dir.lock())
        _refuse_unless_allowed(run_dir, config, options.resume)  # now nobody else can change it
        stack.enter_context(numerics(precision, deterministic=options.deterministic))
        attempts = _attempts(run_dir)
        _refuse_other_images(run_dir, data)
        task = build_task(config, data, device, precision)
        stack.callback(task.passes.clear)  # they hold the task: a circle, and a GPU's memory in it
        git = git_state()
        run = {
            **_provenance(config, task, data, git),
            "arm": options.arm or arm_label(config),
            "deterministic": options.deterministic,
            "runs_at_once": _most_at_once(run_dir, options),
            "attempts": attempts,
        }
        _load_checkpoint(run_dir, task, run)
        if not run_dir.started:
            run_dir.create(config.to_yaml(), installed_packages(), git.diff)
        _write_status(run_dir, run, "running")
        try:
            summary = _train(task, run_dir, run, stop, watcher)
        except (StopRequestedError, KeyboardInterrupt):  # the latter is a second Ctrl-C
            _write_status(run_dir, run, "preempted")
            raise
        except BaseException as error:
            _try_to_mark_failed(run_dir, run, error)
            raise
        run_dir.write_summary(summary)
        _write_status(run_dir, run, summary["status"])
        return summary


def check_config(config: Config) -> None:
    """Find what can be found wrong without reading data.

    Raises:
        ConfigError: If the network cannot be built, or cannot be trained in batches of that size.
    """
    build_model(config.model, seed=config.seed)
    images = config.dataset.train_size or config.train.batch_size
    check_batch(config.model, config.train.batch_size, images)


def _check_batches(config: Config, data: Splits) -> None:
    """Refuse batches of one image, where statistics would have to be taken from them."""
    train = config.train
    check_batch(config.model, train.batch_size, len(data.train))
    if not train.evaluate_in_train_mode:
        return
    for name, split in (("val", data.val), ("test", data.test)):
        if split is not None:
            keys = ("train.eval_batch_size", f"dataset.{name}_size")
            check_batch(config.model, train.eval_batch_size, len(split), keys=keys)


def build_task(config: Config, data: Splits, device: torch.device, precision: Precision) -> Task:
    """Network, optimizer and device-resident data of a configuration, at the start of training."""
    dataset, train = config.dataset, config.train
    normalize = fit_normalize(dataset.normalize, data.train.images)
    batches = Batches(
        data.train,
        normalize,
        batch_size=train.batch_size,
        device=device,
        seed=config.seed,
        flip=dataset.flip,
        crop_padding=dataset.crop_padding,
        shuffle=True,
    )
    held_out = {
        name: Batches(
            split,
            normalize,
            batch_size=train.eval_batch_size,
            device=device,
            seed=config.seed,
            flip=dataset.flip and dataset.augment_test,
            crop_padding=dataset.crop_padding if dataset.augment_test else 0,
            shuffle=False,
        )
        for name, split in (("val", data.val), ("test", data.test))
        if split is not None
    }
    model = build_model(config.model, num_classes=len(data.classes), seed=config.seed)
    model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    calibrate(model, plain_sample(batches, CALIBRATION_IMAGES)[0])
    acceleration = resolve_acceleration(train.accelerate, device)
    return Task(
        config=config,
        model=model,
        forward=build_forward(model, acceleration),
        optimizer=build_optimizer(model, config.optim),
        train=batches,
        held_out=held_out,
        device=device,
        precision=precision,
        acceleration=acceleration,
        num_classes=len(data.classes),
    )


def spread(wanted: int, count: int) -> torch.Tensor:
    """Up to `wanted` indices below `count`, evenly apart: data sets may be sorted by class."""
    return torch.linspace(0, count - 1, min(wanted, count)).long()


def plain_sample(batches: Batches, wanted: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Up to `wanted` images, un-augmented and normalized, and their labels, on the device."""
    return batches.make(spread(wanted, len(batches)).to(batches.device), None)


POPULATION_IMAGES = 10_000
"""Training images from which a probe may take the population's statistics: 10^3 to 10^4 suffice
(Wu and Johnson 2021)."""


def probe_sample(task: Task) -> Sample:
    """What the task's probes look at; test images only where the run reads them."""
    config = task.config
    test = task.held_out.get("test") if config.train.test_every is not None else None
    return Sample(
        *plain_sample(task.train, PROBE_IMAGES),
        batch_size=config.train.batch_size,
        train=partial(mixed_batches, task.train, POPULATION_IMAGES),
        test=None if test is None else partial(mixed_batches, test, len(test)),
    )


def mixed_batches(
    batches: Batches, most: int, size: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Up to so many un-augmented images in batches; data sets may be sorted by class.

    The order is the same for every run. A last batch of one image, which has no statistics of its
    own, is left out.
    """
    order = torch.randperm(len(batches), generator=torch.Generator().manual_seed(0))[:most]
    for part in order.to(batches.device).split(size):
        if len(part) > 1 or size == 1:
            yield batches.make(part, None)


def _train(
    task: Task,
    run_dir: RunDir,
    run: dict[str, Any],
    stop: StopRequest,
    watcher: Watcher,
) -> dict[str, Any]:
    """The loop over epochs with its effects: record, probe, checkpoint, report, summarize."""
    saved = time.perf_counter()
    started = saved - run.get("wall_seconds", 0.0)
    sample = probe_sample(task)

    def between_steps(position: Position) -> bool:
        watcher.step(position, task.train.steps)
        return stop()

    def save() -> None:
        run["wall_seconds"] = time.perf_counter() - started
        _save_checkpoint(run_dir, task, run)

    layers = roles(task.model)
    with open_recorder(
        run_dir, task.config, layers.weighted, epochs_done=task.position.epoch
    ) as recorder:
        for record in fit(task, between_steps):
            with autocast(task.precision, task.device):
                last = task.position.outcome is not None
                probed = run_probes(task.config.probes, task.model, sample, last=last)
            line = {**record, **probed}
            recorder.write(line, layers.norms)
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
    return _summarize(task, run_dir, run, outcome)


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


# ----------------------------------------------------------------------------- run directory


def _refuse_unless_allowed(run_dir: RunDir, config: Config, resume: Resume) -> None:
    if run_dir.finished:
        raise RefusedError(
            f"{run_dir.root}: this run is finished; use --if-exists skip to accept it, another "
            "--seed or --name to train anew, or delete the folder"
        )
    if run_dir.started and resume == "never":
        raise RefusedError(
            f"{run_dir.root}: an unfinished run is here; --resume auto continues it, or use "
            "another --name or delete the folder"
        )
    if run_dir.started:
        _refuse_other_config(run_dir, config)
    elif resume == "must":
        raise RefusedError(_nothing_to_resume(run_dir, config))


def _refuse_other_config(run_dir: RunDir, config: Config) -> None:
    stored = read_config(run_dir.files)
    if stored.hash != config.hash or stored.seed != config.seed:
        raise RefusedError(
            f"{run_dir.root}: --resume needs the configuration that the run was started with; "
            f"these keys differ:\n{_differing_keys(stored, config)}"
        )


def _refuse_other_images(run_dir: RunDir, data: Splits) -> None:
    """Refuse to go on with other images: where they lie is no part of the configuration."""
    stored = read_facts(run_dir.files).dataset.checksum if run_dir.run.exists() else None
    if stored is not None and stored != data.checksum:
        raise RefusedError(
            f"{run_dir.root}: --resume needs the images that the run was started with; these have "
            f"another checksum: {stored[:8]} -> {data.checksum[:8]}; see dataset.root"
        )


def _nothing_to_resume(run_dir: RunDir, config: Config) -> str:
    """Say that no run is there, and what differs in unfinished runs of the same name and seed."""
    message = f"{run_dir.root}: --resume must, but there is no run here"
    for other in sorted(run_dir.root.parent.parent.glob(f"*/{run_dir.root.name}")):
        if RunDir(other).started and not RunDir(other).finished:
            stored = read_config(RunDir(other).files)
            message += (
                f"\n{other}: unfinished, of another configuration; these keys differ:\n"
                f"{_differing_keys(stored, config)}"
            )
    return message


def _differing_keys(stored: Config, config: Config) -> str:
    found = differences(stored.resolved(), config.resolved())
    return "\n".join(f"  {key}: {was} -> {now}" for key, was, now in found)


def _attempts(run_dir: RunDir) -> list[dict[str, str]]:
    earlier = read_facts(run_dir.files).attempts if run_dir.run.exists() else ()
    return [*(attempt.model_dump() for attempt in earlier), {"started": _now()}]


def _most_at_once(run_dir: RunDir, options: RunOptions) -> int:
    """Over all attempts: the record tells of the epochs of earlier ones too."""
    earlier = read_facts(run_dir.files).runs_at_once if run_dir.run.exists() else 1
    return max(options.runs_at_once, earlier or 1)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _provenance(config: Config, task: Task, data: Splits, git: GitState) -> dict[str, Any]:
    dataset = config.dataset
    return {
        "config_hash": config.hash,
        "seeds": {"run": config.seed},
        "init_hash": init_hash(task.model),
        "data_order_hash": data_order_hash(config.seed, config.train.epochs, len(data.train)),
        "parameters": parameter_count(task.model),
        "dataset": {
            "name": dataset.name,
            "checksum": data.checksum,
            "classes": list(data.classes),
            "train_images": len(data.train),
            "val_images": len(data.val) if data.val else 0,
            "test_images": len(data.test),
            "val_indices_hash": data.val_indices_hash,
            "note": data.note,
        },
        "device": str(task.device),
        "precision": task.precision,
        "acceleration": task.acceleration,
        "git": {"sha": git.sha, "dirty": git.dirty},
        "environment": environment(task.device),
    }


def _write_status(run_dir: RunDir, run: Mapping[str, Any], status: Status) -> None:
    run_dir.write_run({"status": status, "updated": _now(), **run})


def _try_to_mark_failed(run_dir: RunDir, run: dict[str, Any], error: BaseException) -> None:
    """Leave a word about the failure, if the disk still takes one; the failure itself goes on."""
    run["error"] = f"{type(error).__name__}: {error}"
    try:
        _write_status(run_dir, run, "failed")
    except BnlabError:
        return


# -------------------------------------------------------------------------------- checkpoints


def _save_checkpoint(run_dir: RunDir, task: Task, run: Mapping[str, Any]) -> None:
    state = {
        "config_hash": run["config_hash"],
        "precision": task.precision,
        "model": task.model.state_dict(),
        "optimizer": task.optimizer.state_dict(),
        "position": asdict(task.position),
        "wall_seconds": run.get("wall_seconds", 0.0),
    }
    write_checkpoint(run_dir, state)


def _load_checkpoint(run_dir: RunDir, task: Task, run: dict[str, Any]) -> None:
    """Put the task where the run's checkpoint stands; without one, it stays at the start."""
    if not run_dir.checkpoint.exists():
        return
    state = read_checkpoint(run_dir)
    if state["precision"] != task.precision:
        raise RefusedError(
            f"{run_dir.root}: was trained in {state['precision']}, this device would go on in "
            f"{task.precision}; set train.precision or choose the --device it ran on"
        )
    try:
        task.model.load_state_dict(state["model"])
        task.optimizer.load_state_dict(state["optimizer"])
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise RefusedError(
            f"{run_dir.checkpoint}: does not fit this bnlab's network and optimizer "
            f"({type(error).__name__}: {str(error).splitlines()[0]}); delete "
            f"{run_dir.checkpoint.parent} to train this run from its start"
        ) from None
    for name, value in state["position"].items():
        setattr(task.position, name, value)
    run["wall_seconds"] = state["wall_seconds"]
