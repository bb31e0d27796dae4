#!/usr/bin/env python3
"""Where a captured training step's time goes: its kernels by time, as a table and as JSON.

Usage: scripts/profile_step.py [--set KEY=VALUE ...] [--steps 20] [--out FILE]     needs a GPU

The network is that of configs/seed_fair.yaml unless --set says otherwise. The sum over kernels is
put beside the time of a step measured without the profiler: what is left are gaps.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from bnlab.config import load_config
from bnlab.training.datasets import load_splits
from bnlab.training.device import numerics, resolve_device, resolve_precision
from bnlab.training.lane import lane
from bnlab.training.loop import fit
from bnlab.training.provenance import environment
from bnlab.training.task import build_task

SEED = Path(__file__).resolve().parent.parent / "configs" / "seed_fair.yaml"
SMALL = ("dataset.name=synthetic", "dataset.train_size=12800", "dataset.test_size=1000")


def profile(sets: list[str], steps: int) -> dict[str, Any]:
    """Train a few epochs of 100 steps, time one, then look at the kernels of some steps."""
    config = load_config((SEED,), [*SMALL, "train.epochs=100", *sets])
    device = resolve_device("cuda")
    precision = resolve_precision(config.train.precision, device)
    with lane(device), numerics(precision):
        task = build_task(config, load_splits(config.dataset), device, precision)
        run = fit(task, lambda _position: False)
        for _ in range(5):
            next(run)
        _, take = task.passes[task.train]
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        take.start(5)
        begin.record()
        started = time.perf_counter()
        for _ in range(task.train.steps - 1):
            take()
        launched = time.perf_counter() - started
        end.record()
        end.synchronize()
        timed = task.train.steps - 1
        take.start(6)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
            for _ in range(steps):
                take()
            torch.cuda.synchronize()
    kernels = [
        {
            "kernel": event.key,
            "calls_a_step": event.count / steps,
            "us_a_step": event.self_device_time_total / steps,
        }
        for event in seen.key_averages()
        if event.self_device_time_total > 0
    ]
    kernels.sort(key=lambda kernel: -kernel["us_a_step"])
    return {
        "environment": environment(device),
        "config": config.resolved(),
        "precision": precision,
        "acceleration": task.acceleration,
        "us_a_step": 1000 * begin.elapsed_time(end) / timed,
        "us_to_launch_a_step": 1e6 * launched / timed,
        "us_in_kernels": sum(kernel["us_a_step"] for kernel in kernels),
        "kernels_a_step": sum(kernel["calls_a_step"] for kernel in kernels),
        "peak_memory_mb": torch.cuda.max_memory_allocated(device) / 2**20,
        "kernels": kernels,
    }


def main() -> int:
    """Profile, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    found = profile(given.set, given.steps)
    for kernel in found["kernels"][:40]:
        name, calls, took = kernel.values()
        print(f"{took:8.1f} us {calls:6.1f} x  {name[:110]}")
    print(
        f"{found['us_a_step']:.1f} us a step, {found['us_in_kernels']:.1f} of them in "
        f"{found['kernels_a_step']:.0f} kernels; launching takes "
        f"{found['us_to_launch_a_step']:.1f} us; {found['precision']}, {found['acceleration']}; "
        f"{found['peak_memory_mb']:.0f} MB at most"
    )
    if given.out is not None:
        given.out.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
