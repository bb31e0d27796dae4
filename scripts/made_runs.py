"""Run directories as training leaves them, made without training: for tests and benchmarks."""

import copy
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import yaml

from bnlab.config import resolved_hash
from bnlab.records import RunDir, write_text

NORM = {
    "name": "batch",
    "placement": "before_activation",
    "conv": True,
    "fc": True,
    "momentum": 0.1,
    "eps": 1e-5,
    "affine": True,
}
BASE: dict[str, Any] = {
    "name": "made",
    "seed": 0,
    "dataset": {"name": "cifar10", "root": "data", "normalize": "half", "val_size": 0},
    "model": {"widths": [64, 128, 256], "hidden": [1024], "norm": NORM, "dropout": 0.0},
    "optim": {"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4},
    "train": {"epochs": 5, "batch_size": 128, "precision": "auto", "test_every": 1},
    "probes": [],
}
LAYERS = ("conv1", "conv2", "conv3", "fc1", "fc2")


def make_config(
    sets: Mapping[str, Any] | None = None, base: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """A resolved configuration; `model.norm.name` of none drops what then means nothing."""
    config = copy.deepcopy(dict(base or BASE))
    for key, value in (sets or {}).items():
        *sections, last = key.split(".")
        section = config
        for name in sections:
            section = section[name]
        section[last] = value
    if config["model"]["norm"]["name"] == "none":
        config["model"]["norm"] = {"name": "none"}
    return config


def make_run(
    runs: Path,
    *,
    seed: int = 0,
    sets: Mapping[str, Any] | None = None,
    arm: str | None = None,
    accuracy: float = 0.7,
    status: str = "done",
    run: Mapping[str, Any] | None = None,
    probes: Sequence[str] = (),
    config: Mapping[str, Any] | None = None,
) -> RunDir:
    """One run that ends at a test accuracy.

    Args:
        runs: Folder of all runs.
        seed: The run's seed.
        sets: Configuration by dotted key; `name` is the study.
        arm: Label in run.json; by default made from the norm.
        accuracy: On the test images at the end; the curve rises to it.
        status: `done`, `diverged`, or another that leaves the run unfinished.
        run: Laid over run.json.
        probes: Further quantities, each in every layer.
        config: A whole resolved configuration to lay `sets` over.
    """
    config = make_config({**(sets or {}), "seed": seed}, config)
    norm = config["model"]["norm"]
    label = arm or ("none" if norm["name"] == "none" else f"{norm['name']}-{norm['placement']}")
    digest = resolved_hash(config)
    run_dir = RunDir(runs / config["name"] / f"{label}-{digest[:8]}" / f"s{seed}")
    epochs, held_out = config["train"]["epochs"], config["dataset"]["val_size"]
    facts = {
        "status": status,
        "config_hash": digest,
        "arm": label,
        "seeds": {"run": seed},
        "init_hash": _hash(f"init {seed} {config['model']['widths']}"),
        "data_order_hash": _hash(f"order {seed} {epochs} {held_out}"),
        "parameters": 4_579_338,
        "dataset": {
            "name": config["dataset"]["name"],
            "checksum": _hash("images"),
            "classes": [f"class {label}" for label in range(10)],
            "note": "not CIFAR-10" if config["dataset"]["name"] == "synthetic" else "",
        },
        "device": "cpu",
        "precision": "fp32",
        "git": {"sha": _hash("commit")[:40], "dirty": False},
        "environment": {"python": "3.11.9", "torch": "2.13.0", "cpu": "a processor"},
        "deterministic": False,
        "attempts": [{"started": "2026-11-20T12:00:00+00:00"}],
    }
    records = _records(config, seed, accuracy, status, probes)
    # A made run need not outlive a power cut.
    with mock.patch("os.fsync"):
        run_dir.create(yaml.safe_dump(config, sort_keys=False), "torch==2.13.0\n", None)
        write_text(run_dir.metrics, "".join(json.dumps(record) + "\n" for record in records))
        run_dir.write_run({**facts, **(run or {})})
        if status in ("done", "diverged"):
            last = records[-1]
            run_dir.write_summary(
                {
                    "status": status,
                    "run": str(run_dir.root),
                    "arm": label,
                    "seed": seed,
                    "config_hash": digest,
                    "epochs": last["epoch"],
                    **{
                        tag: last[tag]
                        for tag in last
                        if tag.split("/")[0] in ("train", "val", "test")
                    },
                }
            )
    return run_dir


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _records(
    config: Mapping[str, Any], seed: int, accuracy: float, status: str, probes: Sequence[str]
) -> list[dict[str, Any]]:
    epochs, every = config["train"]["epochs"], config["train"]["test_every"]
    noise = np.random.default_rng(seed).normal(0, 0.004, size=(epochs, 4))
    if status == "diverged":
        epochs = max(1, epochs // 2)
    records = []
    for epoch in range(1, epochs + 1):
        last = epoch == epochs
        rise = 1 - math.exp(-4 * epoch / config["train"]["epochs"])
        reached = accuracy * rise / (1 - math.exp(-4))
        wobble = noise[epoch - 1] * (not last)
        record: dict[str, Any] = {
            "epoch": epoch,
            "step": 390 * epoch,
            "seconds": 2.0 + float(abs(wobble[0])),
            "images_per_second": 25_000.0,
            "optim/lr": config["optim"]["lr"],
            "train/loss": 2.3 * (1 - 0.9 * reached) + float(wobble[1]),
            "train/accuracy": min(1.0, reached + 0.02 + float(wobble[2])),
        }
        if config["dataset"]["val_size"]:
            record |= {"val/loss": 2.3 * (1 - reached), "val/accuracy": reached - 0.01}
        # As in train.test_every: null for never.
        if every is not None and (last or (every and epoch % every == 0)):
            record["test/loss"] = 2.3 * (1 - reached)
            record["test/accuracy"] = reached + float(wobble[3])
        for quantity in ("grad_norm", *probes):
            record |= {
                f"probe/{quantity}/{layer}": 0.5 / (place + epoch)
                for place, layer in enumerate(LAYERS, start=1)
            }
        if status == "diverged" and last:
            # As RunDir writes what is not finite.
            record |= {tag: None for tag in record if tag.endswith("loss")}
            record |= {tag: 0.1 for tag in record if tag.endswith("accuracy")}
        records.append(record)
    return records
