"""Compare every accelerated way of training with eager fp32: does it change the science?

The same small network is trained from the same seeds in every way. The loss of each of the first
steps must agree within the way's tolerance, and the final test accuracies, paired by seed, must
show no difference that stands Holm's adjustment over all ways. `eager fp32 again` shows what a mere
repeat does (on a CPU: nothing).

Usage: python scripts/aa_check.py [--device auto] [--seeds 8] [--compile] [--out FILE]
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

from bnlab.analysis.stats import holm, paired_interval
from bnlab.analysis.stats.intervals import t_p
from bnlab.config import Config, load_config
from bnlab.errors import BnlabError
from bnlab.records import RunDir, read_summary, write_text
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
from bnlab.training.lane import lane
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
    "train.epochs=3",
    "train.batch_size=64",
)
REFERENCE = "eager fp32"
ALPHA = 0.05
STEPS, WINDOW = 100, 10
"""Losses are compared over the first steps, each the mean of a window: one batch's loss jumps."""

EXACT = 0.0
REORDERED = 0.02
"""Relative. The same sums in another order: chaos doubles a rounding error every few steps."""
ROUNDED = 0.05
"""Relative. bf16 keeps 8 bits of each product's factors."""


def ways_of(device: torch.device, *, compiled: bool) -> dict[str, tuple[str, str, float]]:
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
        if compiled:
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
    data = load_splits(config.dataset)
    losses = list[float]()

    def keep(position: Position) -> bool:
        size = task.train.size_of(position.step - 1)
        losses.append(sums.loss.item() / size)
        sums.start()
        return len(losses) == STEPS

    with lane(device), numerics(precision):
        task = build_task(config, data, device, precision)
        hold_lr(task.optimizer, device)
        sums = training_sums(task)
        while len(losses) < STEPS:
            train_epoch(task, keep)
            task.position.epoch, task.position.step = task.position.epoch + 1, 0
            task.position.sums = None
    return torch.tensor(losses, dtype=torch.float64).view(-1, WINDOW).mean(dim=1)


def final_accuracies(
    name: str, way: tuple[str, str, float], seeds: int, device: str
) -> list[float]:
    """Test accuracy after training, by seed, the runs at once as a study has them.

    Raises:
        BnlabError: If a run fails.
    """
    jobs, threads = share_cores(None, device, None)
    found: dict[int, float] = {}
    with tempfile.TemporaryDirectory(prefix="bnlab-aa-") as folder, stop_on_signal() as stop:
        cells = [
            Cell(Path(folder) / str(seed), name, name, configure(way, seed))
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
            found[cell.config.seed] = accuracy
    return [found[seed] for seed in range(seeds)]


def measure(name: str, way: tuple[str, str, float], seeds: int, device: str) -> dict[str, Any]:
    """One way: its losses and accuracies, or why there are none."""
    try:
        losses = first_losses(configure(way, 0), resolve_device(device))
        return {
            "losses": losses.tolist(),
            "test/accuracy": final_accuracies(name, way, seeds, device),
        }
    except (BnlabError, RuntimeError) as error:
        return {"error": f"{type(error).__name__}: {error}"}


def compare(ways: Mapping[str, tuple[str, str, float]], found: Mapping[str, Any]) -> bool:
    """Put each way beside the reference, in `found`; whether all that were measured fit.

    The differences of accuracy are one family: Holm's adjustment keeps the rate at which any of
    them is called one by chance at 5 %.
    """
    reference, p_values = found[REFERENCE], dict[str, float]()
    for name, one in found.items():
        if name == REFERENCE or "error" in one or "error" in reference:
            continue
        ratios = torch.tensor(one["losses"]) / torch.tensor(reference["losses"])
        interval = paired_interval(one["test/accuracy"], reference["test/accuracy"])
        one["largest_relative_loss_difference"] = (ratios - 1).abs().max().item()
        one["tolerance"] = ways[name][2]
        one["paired_difference"] = asdict(interval)
        p_values[name] = t_p(interval) if interval.high > interval.low else float(interval.low == 0)
    for name, adjusted in zip(p_values, holm(list(p_values.values())), strict=True):
        one = found[name]
        one["holm_p"] = adjusted
        one["fits"] = (
            one["largest_relative_loss_difference"] <= one["tolerance"] and adjusted >= ALPHA
        )
    return all(one.get("fits", name == REFERENCE) for name, one in found.items())


def told(name: str, one: Mapping[str, Any]) -> str:
    """A line about a way."""
    if "error" in one:
        return f"{name}: {one['error']}"
    if "fits" not in one:
        return f"{name}: {len(one['test/accuracy'])} seeds"
    interval = one["paired_difference"]
    return (
        f"{name}: losses of {STEPS} steps within {one['largest_relative_loss_difference']:.2g} "
        f"(allowed {one['tolerance']:g}); accuracy {100 * interval['estimate']:+.2f} points "
        f"[{100 * interval['low']:+.2f}, {100 * interval['high']:+.2f}], n = {interval['n']}, "
        f"p = {one['holm_p']:.2f}: {'fits' if one['fits'] else 'DIFFERS'}"
    )


def main() -> int:
    """Compare, print, write; 4 if a way fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--compile", action="store_true", help="torch.compile too (GPU)")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    device = resolve_device(given.device)
    ways = ways_of(device, compiled=given.compile)
    found: dict[str, Any] = {}
    report: dict[str, Any] = {
        "command": f"python scripts/aa_check.py --device {device} --seeds {given.seeds}",
        "environment": environment(device),
        "configuration": list(SMALL),
        "reference": REFERENCE,
        "ways": found,
    }
    sound = False
    for name, way in ways.items():
        found[name] = measure(name, way, given.seeds, given.device)
        sound = compare(ways, found)
        if given.out is not None:  # after each: time may run out
            given.out.parent.mkdir(parents=True, exist_ok=True)
            write_text(given.out, json.dumps(report, indent=2) + "\n")
    for name, one in found.items():
        print(told(name, one))
    return 0 if sound else 4


if __name__ == "__main__":
    sys.exit(main())
