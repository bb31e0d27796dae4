"""A finished run as the beginning of a longer one, to the bit; the finished one stays as it is."""

import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from bnlab.config import Config
from bnlab.errors import RefusedError
from bnlab.records import RunDir, epoch_of, read_config, read_facts, read_metrics, write_text
from bnlab.records.files import DIFF, PACKAGES
from bnlab.records.storage import storage, to_json
from bnlab.training.checkpoint import packed, read_checkpoint
from bnlab.training.probes import PROBES


def extend(root: Path, config: Config) -> None:
    """Lay a run directory out as if its run had been preempted where a shorter one ended.

    What the shorter run has of its last epoch alone, because it was the last, is left out. A run
    that was begun at `root` already is left alone.

    Args:
        root: The longer run's directory.
        config: The longer run's.

    Raises:
        RefusedError: If the longer run would have begun otherwise, or there is no shorter one.
        StorageError: If the disk takes no more.
    """
    if RunDir(root).started:
        return
    _refuse_what_depends_on_the_length(config)
    shorter, begun = _longest_shorter(root, config)
    state, epochs = read_checkpoint(shorter), begun.train.epochs
    _refuse_broken(shorter, state, epochs)
    lines = [
        _as_if_not_last(record, config) if epoch_of(record) == epochs else dict(record)
        for record in read_metrics(shorter.files).records
    ]
    with RunDir(root).lock() as run_dir:
        if run_dir.started:
            return
        # In the order in which a run leaves its files: whatever kills this, the run resumes.
        packages, diff, source = (
            path.read_text(encoding="utf-8") if path.exists() else None
            for path in (shorter.root / PACKAGES, shorter.root / DIFF, shorter.source)
        )
        run_dir.create(config.to_yaml(), packages or "", diff, source)
        write_text(run_dir.metrics, "".join(to_json(line) + "\n" for line in lines))
        facts = read_facts(shorter.files).model_dump(mode="json", exclude_unset=True)
        origin = {"run": str(shorter.root), "epochs": epochs, "config_hash": begun.hash}
        changed = {"status": "preempted", "config_hash": config.hash, "extended_from": origin}
        run_dir.write_run({**facts, **changed})
        if shorter.tensorboard.exists():
            with storage(run_dir.tensorboard):
                shutil.copytree(shorter.tensorboard, run_dir.tensorboard)
        position = {**state["position"], "outcome": None}
        run_dir.write_checkpoint(
            packed({**state, "config_hash": config.hash, "position": position})
        )


def _refuse_what_depends_on_the_length(config: Config) -> None:
    """Refuse where the first epochs would be others if more were to come."""
    schedule, epochs = config.optim.schedule, config.train.epochs
    if schedule != "constant":
        raise RefusedError(
            f"--extend: optim.schedule is {schedule}, so the rate of every step depends on "
            f"train.epochs and no shorter run is the beginning of one of {epochs}; only constant "
            "can be extended: train anew"
        )
    looks = [name for name in config.probes if "last" in PROBES.entry(name).facts]
    if looks:
        raise RefusedError(
            f"--extend: {', '.join(looks)} looks after the last epoch only, which was another one "
            "in the shorter run: leave it out of probes in both, or train anew"
        )


def _longest_shorter(root: Path, config: Config) -> tuple[RunDir, Config]:
    """The finished run with the most epochs that is this one with fewer."""
    found = []
    for place in sorted(root.parent.parent.glob(f"*/{root.name}")):
        run_dir = RunDir(place)
        if not run_dir.finished or not run_dir.started:
            continue
        stored = read_config(run_dir.files)
        if stored.train.epochs < config.train.epochs and _with_epochs(stored, config) == config:
            found.append((stored.train.epochs, run_dir, stored))
    if not found:
        raise RefusedError(
            f"--extend: no finished run in {root.parent.parent} is this one with fewer epochs than "
            f"{config.train.epochs} (same name, seed and settings); without --extend it is trained "
            "from its start"
        )
    _, run_dir, stored = max(found, key=lambda one: one[0])
    if not run_dir.checkpoint.exists():
        raise RefusedError(f"--extend: {run_dir.root} has no checkpoint to go on from; train anew")
    return run_dir, stored


def _with_epochs(stored: Config, config: Config) -> Config:
    train = stored.train.model_copy(update={"epochs": config.train.epochs})
    return stored.model_copy(update={"train": train})


def _refuse_broken(shorter: RunDir, state: Mapping[str, Any], epochs: int) -> None:
    last = read_metrics(shorter.files).records[-1]
    loss = last.get("train/loss")
    whole = (value for value in state["model"].values() if isinstance(value, torch.Tensor))
    finite = all(bool(value.isfinite().all()) for value in whole if value.is_floating_point())
    if epoch_of(last) != epochs or loss is None or not math.isfinite(loss) or not finite:
        raise RefusedError(
            f"--extend: {shorter.root} broke down in epoch {last['epoch']}; more epochs change "
            "nothing"
        )


def _as_if_not_last(record: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """The record of the shorter run's last epoch as the longer run would have it."""
    every, epoch = config.train.test_every, epoch_of(record)
    read = "test/loss" in record
    if not read or (every and epoch % every == 0):
        return dict(record)
    if config.train.evaluate_in_train_mode or config.probes:
        why = "testing changed its statistics" if not config.probes else "its probes saw them"
        raise RefusedError(
            f"--extend: the shorter run read the test images after its last epoch, {epoch}, which "
            f"this one would not (train.test_every), and {why}: train anew"
        )
    return {tag: value for tag, value in record.items() if not tag.startswith("test/")}
