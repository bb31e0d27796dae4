#!/usr/bin/env python3
"""What the three runs of scripts/quickstart show, in as many lines.

Usage: scripts/first_look.py RUNS DATASET
"""

import math
import sys
from collections.abc import Sequence
from pathlib import Path

from bnlab.analysis import Run, load_runs
from bnlab.config import load_config
from bnlab.report.listing import sparkline

ARMS = {
    "none": "BN off",
    "batch-before_activation": "BN before the activation",
    "batch-after_activation": "BN after the activation",
}
ACCURACY = "test/accuracy"
PLACES = ("before", "after")
CONFIG = Path(__file__).parents[1] / "configs" / "quickstart.yaml"


def planned(dataset: str) -> set[tuple[str, int]]:
    """Configuration and seed of what quickstart trains on a data set."""
    norms = ("none", *(f"{{name: batch, placement: {place}_activation}}" for place in PLACES))
    configs = (
        load_config([CONFIG], [f"dataset.name={dataset}", f"model.norm={norm}"]) for norm in norms
    )
    return {(config.hash, config.seed) for config in configs}


def those_of(runs: Sequence[Run], dataset: str) -> list[Run]:
    """Quickstart's own: others of the same arms may lie beside them."""
    own = planned(dataset)
    return [run for run in runs if (run.hash, run.seed) in own]


def answer(runs: Sequence[Run]) -> str:
    """A line a run, what they mean, and what they do not."""
    by_arm = {run.label: run for run in runs}
    shown = [(told, by_arm[arm]) for arm, told in ARMS.items() if arm in by_arm]
    curves = {told: [float(value) for value in run.curves[ACCURACY]] for told, run in shown}
    known = [value for values in curves.values() for value in values if math.isfinite(value)]
    if not known:
        return "no run has tested anything: look at what was printed above"
    ends = min(known), max(known)
    width = max(map(len, curves))
    lines = [
        f"  {told:<{width}}  {100 * run.final.get(ACCURACY, float('nan')):5.1f} %  "
        f"{sparkline(curves[told], ends=ends)}"
        for told, run in shown
    ]
    note = next((run.facts.dataset.note for _, run in shown if run.facts.dataset.note), "")
    images = f"{note}; " if note else ""
    best = max(shown, key=lambda one: one[1].final.get(ACCURACY, 0.0))[0]
    return "\n".join(
        [
            "Test accuracy, and how it came about from epoch to epoch:",
            *lines,
            "",
            f"What it shows: here {best} did best, at one learning rate for all.",
            f"What it does not: {images}one seed each, and no arm had its own learning rate.",
            "An answer takes several seeds, each tuned: bnlab claims.",
        ]
    )


def main(folder: Path, dataset: str) -> None:
    """Print it."""
    print(answer(those_of(load_runs([folder])[0], dataset)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
