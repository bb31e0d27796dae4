#!/usr/bin/env python3
"""Measures `bnlab compare` on made run directories: seconds and peak memory of the whole process.

Usage: scripts/bench_compare.py [RUNS ...]      numbers of runs, by default 300 and 3000

Needs the Python that bnlab is installed in (.venv/bin/python scripts/bench_compare.py). Exits with
1 if 300 runs take more than 5 s of processor time (it has one thread; on an idle machine that is
the wall time) or 500 MB, or if time grows faster than the number of runs.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from made_runs import make_run

EPOCHS = 200
ARMS: tuple[dict[str, Any], ...] = (
    {"model.norm.name": "none"},
    {},
    {"model.norm.placement": "after_activation"},
    {"model.norm.placement": "after_pool"},
    {"model.norm.placement": "before_conv"},
    {"model.norm.placement": "both"},
)
RATES = (0.01, 0.03, 0.1, 0.3, 1.0)


def make_study(root: Path, runs: int) -> None:
    """Six arms over five learning rates, as many seeds as make up the number."""
    for number in range(runs):
        arm, rest = number % len(ARMS), number // len(ARMS)
        lr, seed = RATES[rest % len(RATES)], rest // len(RATES)
        sets = {**ARMS[arm], "name": "bench", "optim.lr": lr, "train.epochs": EPOCHS}
        sets["dataset.val_size"] = 5000
        accuracy = 0.70 + 0.01 * arm - 0.05 * abs(lr - 0.1) + 0.0007 * (seed * 7919 % 11)
        status = "diverged" if arm == 0 and lr == 1.0 else "done"
        make_run(root, seed=seed, sets=sets, accuracy=accuracy, status=status)


def measure(root: Path) -> tuple[float, float, float]:
    """Wall seconds, processor seconds and peak megabytes of one `bnlab compare` and report."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "bnlab.cli", "compare", str(root)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"bnlab compare ended with {process.returncode}")
    per_mb = 2**20 if sys.platform == "darwin" else 2**10  # ru_maxrss is in bytes there
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / per_mb


def main() -> None:
    """Make, measure, judge."""
    sizes = sorted({int(text) for text in sys.argv[1:]} or {300, 3000})
    measured = []
    with tempfile.TemporaryDirectory() as folder:
        for runs in sizes:
            make_study(Path(folder) / str(runs), runs)
            seconds, cpu, peak = measure(Path(folder) / str(runs))
            measured.append((runs, cpu, peak))
            print(
                f"{runs:5} runs of {EPOCHS} epochs: {seconds:6.2f} s ({cpu:.2f} s of processor "
                f"time), {peak:.0f} MB"
            )
    within = all(seconds < 5 and peak < 500 for runs, seconds, peak in measured if runs <= 300)
    (first, fast, _), (last, slow, _) = measured[0], measured[-1]
    if not within or slow / fast > last / first:
        sys.exit("too slow, or too large")


if __name__ == "__main__":
    main()
