"""What a claim is measured from: the values of all runs of its study, as arrays by arm."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from bnlab.analysis import Run
from bnlab.analysis.choose import Choice, Point
from bnlab.claims._cells import SCORED, Cells, Points, results_of, scores_of
from bnlab.claims._contrast import Array, Evidence
from bnlab.study.file import Plan, show_value
from bnlab.study.pilot import Pilot

LR = "optim.lr"


def lr_of(point: Point) -> float:
    """The learning rate of a tuned point."""
    return float(dict(point)[LR])


def make_evidence(
    plan: Plan,
    preset: str,
    cells: Cells,
    best: Mapping[str, Points],
    same: Mapping[str, Points],
    pilots: Mapping[str, Pilot],
    own: Mapping[str, Mapping[int, Choice]],
) -> Evidence:
    """Arrays by arm, of a study all of whose runs are finished.

    Args:
        plan: The study.
        preset: The preset that it stands under.
        cells: Its runs.
        best: By arm, where each final seed is trained at its best.
        same: By arm, where it is trained at one value for all arms.
        pilots: By tuned arm, what its pilot found.
        own: By arm and final seed, what that seed chose.
    """
    final = {arm: cells.final(arm, points) for arm, points in best.items()}
    at_same = {arm: cells.final(arm, points) for arm, points in same.items()}
    lrs = sorted({lr_of(point) for pilot in pilots.values() for point in pilot.points if point})
    choices = {arm: one.choice for arm, one in pilots.items() if one.choice is not None}
    followed = {arm: choices[plan.leader(arm)] for arm in best if plan.leader(arm) in choices}
    rising = {
        arm: [plan.at_values(arm, ((LR, lr),), choice.point) for lr in lrs]
        for arm, choice in choices.items()
    }
    return Evidence(
        best={
            arm: scores_of(runs, plan.spec.seeds, SCORED["final"]) for arm, runs in final.items()
        },
        same={
            arm: scores_of(runs, plan.spec.seeds, SCORED["final"]) for arm, runs in at_same.items()
        },
        levels=plan.levels,
        sweep={
            arm: cells.sweep(arm, pilots[arm], points, _validated) for arm, points in rising.items()
        },
        lrs=np.array(lrs),
        chosen={arm: lr_of(choice.point) for arm, choice in followed.items()},
        told={
            arm: _told(choice, own.get(arm), len(plan.spec.seeds))
            for arm, choice in choices.items()
        },
        pilot={arm: choice.score for arm, choice in choices.items()},
        diverged=_diverged(final, plan.spec.seeds),
        same_diverged=_diverged(at_same, plan.spec.seeds),
        epochs=_epochs(final),
        seconds={
            arm: float(np.median([np.median(run.curves["seconds"]) for run in timed]))
            for arm, runs in final.items()
            if (timed := [run for run in runs.values() if _timed(run)])
        },
        sweep_diverged={
            arm: cells.sweep(arm, pilots[arm], points, lambda run: float(run.diverged))
            for arm, points in rising.items()
        },
        readings={arm: _readings(runs, plan.spec.seeds) for arm, runs in final.items()},
        curves={arm: _curves(runs, plan.spec.seeds) for arm, runs in final.items()},
        preset=preset,
    )


def _diverged(runs: Mapping[str, Mapping[int, Run]], seeds: Sequence[int]) -> dict[str, Array]:
    """By arm, whether its run diverged, 0 or 1: (seeds,)."""
    return {
        arm: np.array([float(found[seed].diverged) for seed in seeds])
        for arm, found in runs.items()
    }


def _told(choice: Choice, own: Mapping[int, Choice] | None, seeds: int) -> str:
    """`0.1`, of a pilot; of seeds that each chose, `0.03 (2 of 12 seeds), 0.1 (10)`."""

    def show(point: Point) -> str:
        beside = [f"{key.rpartition('.')[2]} {show_value(v)}" for key, v in point if key != LR]
        return " ".join([f"{lr_of(point):g}", *(["with", *beside] if beside else [])])

    if own is None:
        return show(choice.point)
    counts = Counter(one.point for one in own.values())
    shown = [f"{show(point)} ({count})" for point, count in sorted(counts.items(), key=_by_lr)]
    return f"of each of {seeds} seeds {', '.join(shown)}"


def _by_lr(item: tuple[Point, int]) -> tuple[float, str]:
    return lr_of(item[0]), str(item[0])


def _epochs(final: Mapping[str, Mapping[int, Run]]) -> dict[str, float]:
    """How often the final runs of each arm go through as many images as the largest arm has."""
    images = {
        arm: run.facts.dataset.train_images for arm, runs in final.items() for run in runs.values()
    }
    most = max(images.values(), default=0)
    return {
        arm: run.budget * (images[arm] / most if most else 1)
        for arm, runs in final.items()
        for run in runs.values()
    }


def _readings(runs: Mapping[int, Run], seeds: Sequence[int]) -> dict[str, Array]:
    """What runs recorded at their end, by tag; NaN where one lacks it: (seeds,)."""
    tags = dict.fromkeys(tag for run in runs.values() for tag in run.final)
    return {tag: np.array([runs[s].final.get(tag, math.nan) for s in seeds]) for tag in tags}


def _curves(runs: Mapping[int, Run], seeds: Sequence[int]) -> dict[str, Array]:
    """What runs recorded after every epoch, by tag; NaN where one lacks it: (seeds, epochs)."""
    tags = dict.fromkeys(tag for run in runs.values() for tag in run.curves)
    epochs = max(
        (len(values) for run in runs.values() for values in run.curves.values()), default=0
    )

    def row(run: Run, tag: str) -> Array:
        values = run.curves.get(tag, np.zeros(0))
        return np.concatenate([values, np.full(epochs - len(values), math.nan)])

    return {tag: np.stack([row(runs[s], tag) for s in seeds]) for tag in tags}


def _timed(run: Run) -> bool:
    seconds = run.curves.get("seconds", np.zeros(0))
    return len(seconds) > 0 and bool(np.isfinite(seconds).all())


def _validated(run: Run) -> float:
    return results_of([run], SCORED["tune"])[run.seed]
