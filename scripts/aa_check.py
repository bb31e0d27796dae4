"""Compare every accelerated way of training with eager fp32: does it change the science?

The same small network is trained from the same seeds in every way. The loss of each of the first
steps must agree within the way's tolerance, and the final test accuracies, paired by seed, must
show no difference. `eager fp32 again` shows what a mere repeat does (on a CPU: nothing).

Usage: python scripts/aa_check.py [--device auto] [--seeds 8] [--out FILE]
Exits with 4 if a way fails.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from bnlab.analysis.stats import paired_interval
from bnlab.config import Config, load_config
from bnlab.errors import BnlabError
from bnlab.records import RunDir, read_summary
from bnlab.study.executors import (
    EXECUTORS,
    Cell,
    ExecutorOptions,
    StudyWatcher,
    share_cores,
)
from bnlab.training.accelerate import hold_lr
from bnlab.training.datasets import load_splits
from bnlab.training.device import numerics, resolve_device, resolve_precision
from bnlab.training.loop import Position, train_epoch, training_sums
from bnlab.training.provenance import environment
from bnlab.training.signals import stop_on_signal
from bnlab.training.task import build_task

SMALL = (
    "name=aa",
    "dataset.name=synthetic",
    "dataset.train_size=2000",
    "dataset.test_size=1000",
    "model.widths=[16, 32]",
    "model.hidden=[64]",
    "model.dropout=0.1",
    "optim.lr=0.05",
    "optim.schedule=linear",
    "train.epochs=5",
    "train.batch_size=64",
)
REFERENCE = "eager fp32"
STEPS, WINDOW = 100, 10
"""Losses are compared over the first steps, each the mean of a window: one batch's loss jumps."""

EXACT = 0.0
REORDERED = 0.02
"""Relative. The same sums in another order: chaos doubles a rounding error every few steps."""
ROUNDED = 0.05
"""Relative. bf16 keeps 8 bits of each product's factors."""


def ways_of(device: torch.device) -> dict[str, tuple[str, str, float]]:
    """Name -> acceleration, precision, tolerance of the loss."""
    repeat = EXACT if device.type == "cpu" else REORDERED
    ways = {
        REFERENCE: ("eager", "fp32", EXACT),
        "eager fp32 again": ("eager", "fp32", repeat),
        "auto fp32": ("auto", "fp32", repeat),
        "graph fp32": ("graph", "fp32", repeat),
    }
    if device.type == "cuda":
        ways["graph tf32"] = ("graph", "tf32", REORDERED)
        ways["compile fp32"] = ("compile", "fp32", REORDERED)
    if resolve_precision("auto", device) == "bf16":
        ways["eager bf16"] = ("eager", "bf16", ROUNDED)
        ways["auto bf16"] = ("auto", "bf16", ROUNDED)
    return ways


def configure(way: tuple[str, str, float], seed: int) -> Config:
    """The small network in one way."""
    overrides = [*SMALL, f"train.accelerate={way[0]}", f"train.precision={way[1]}"]
    return load_config((), overrides, flags={"seed": seed})


def first_losses(config: Config, device: torch.device) -> torch.Tensor:
    """Training loss, averaged over windows of the first steps."""
    precision = resolve_precision(config.train.precision, device)
    task = build_task(config, load_splits(config.dataset), device, precision)
    hold_lr(task.optimizer, device)
    sums, losses = training_sums(task), list[float]()

    def keep(position: Position) -> bool:
        size = task.train.size_of(position.step - 1)
        losses.append(sums.loss.item() / size)
        sums.start()
        return len(losses) == STEPS

    with numerics(precision):
        while len(losses) < STEPS:
            train_epoch(task, keep)
            task.position.epoch, task.position.step = task.position.epoch + 1, 0
            task.position.sums = None
    return torch.tensor(losses, dtype=torch.float64).view(-1, WINDOW).mean(dim=1)


def final_accuracies(
    ways: Mapping[str, tuple[str, str, float]], seeds: int, device: str
) -> dict[str, list[float]]:
    """Test accuracy after training, by way and seed."""
    jobs, threads = share_cores(None, device, None)
    found: dict[tuple[str, int], float] = {}
    with tempfile.TemporaryDirectory(prefix="bnlab-aa-") as folder, stop_on_signal() as stop:
        cells = [
            Cell(
                Path(folder) / name.replace(" ", "_") / str(seed), name, name, configure(way, seed)
            )
            for name, way in ways.items()
            for seed in range(seeds)
        ]
        options = ExecutorOptions(jobs, threads, device, deterministic=False, logs=Path(folder))
        for outcome in EXECUTORS["threads"](cells, options, stop, StudyWatcher()):
            cell = outcome.cell
            if outcome.ending not in {"done", "diverged"}:
                raise BnlabError(
                    f"{cell.label}, seed {cell.config.seed}: {outcome.reason or outcome.ending}"
                )
            accuracy = read_summary(RunDir(cell.root).files).scores["test/accuracy"]
            assert accuracy is not None  # it is done, or diverged and measured all the same
            print(f"{cell.arm}, seed {cell.config.seed}: {accuracy:.3f}", file=sys.stderr)
            found[cell.arm, cell.config.seed] = accuracy
    return {name: [found[name, seed] for seed in range(seeds)] for name in ways}


def main() -> int:
    """Compare, print, write; 4 if a way fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    device = resolve_device(given.device)
    ways = ways_of(device)

    curves = {name: first_losses(configure(way, 0), device) for name, way in ways.items()}
    accuracies = final_accuracies(ways, given.seeds, given.device)
    report: dict[str, Any] = {
        "command": f"python scripts/aa_check.py --device {device} --seeds {given.seeds}",
        "environment": environment(device),
        "configuration": list(SMALL),
        "reference": {"way": REFERENCE, "test/accuracy": accuracies[REFERENCE]},
        "ways": {},
    }
    sound = True
    for name, (_, _, tolerance) in ways.items():
        if name == REFERENCE:
            continue
        apart = ((curves[name] / curves[REFERENCE] - 1).abs()).max().item()
        interval = paired_interval(accuracies[name], accuracies[REFERENCE])
        fits = apart <= tolerance and interval.low <= 0 <= interval.high
        sound = sound and fits
        report["ways"][name] = {
            "largest_relative_loss_difference": apart,
            "tolerance": tolerance,
            "test/accuracy": accuracies[name],
            "paired_difference": asdict(interval),
            "fits": fits,
        }
        print(
            f"{name}: losses of {STEPS} steps within {apart:.2g} (allowed {tolerance:g}); accuracy "
            f"{100 * interval.estimate:+.2f} points [{100 * interval.low:+.2f}, "
            f"{100 * interval.high:+.2f}], n = {interval.n}: {'fits' if fits else 'DIFFERS'}"
        )
    if given.out is not None:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(report, indent=2) + "\n")
    return 0 if sound else 4


if __name__ == "__main__":
    sys.exit(main())
