"""What happens along training: times to a target, cost, mean curves, probes."""

import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from bnlab.analysis.listing import probe_of
from bnlab.analysis.results import (
    LEVEL,
    Arrival,
    Cost,
    Curve,
    Effect,
    Options,
    ProbeSummary,
    View,
    make_metric,
)
from bnlab.analysis.runs import Array, Run
from bnlab.analysis.stats import (
    Speedup,
    TimeToTarget,
    censored_median,
    mean_interval,
    median_speedup,
    time_to_target,
    within,
)
from bnlab.analysis.views import Cells


def choose_target(cells: Cells, options: Options) -> tuple[float | None, str]:
    """The accuracy that runs race to, and the curve on which it is looked for."""
    runs = [run for _, _, group in cells for run in group]
    tag = next(
        (
            tag
            for tag in ("test/accuracy", "val/accuracy", "train/accuracy")
            if all(
                np.isfinite(run.curves.get(tag, np.array([]))).sum() > 1
                for run in runs
                if not run.diverged
            )
            and any(tag in run.curves for run in runs)
        ),
        "",
    )
    if not tag:
        return None, ""
    if options.target is not None:
        return options.target, tag
    finals = []
    for _, _, group in cells:
        ends = [
            run.curves[tag][np.isfinite(run.curves[tag])][-1] for run in group if not run.diverged
        ]
        if ends:
            finals.append(float(np.median(ends)))
    # Whole percents, so that the number can be said; a hair above guards floor() from 0.57 * 100.
    return (math.floor(100 * min(finals) - 1 + 1e-9) / 100, tag) if finals else (None, "")


def find_arrivals(cells: Cells, view: View, target: float | None, tag: str) -> tuple[Arrival, ...]:
    """When each arm reaches the target; nothing without one.

    Args:
        cells: The runs of each arm, baseline first.
        view: Their effects, which say where they are paired.
        target: Accuracy, a fraction.
        tag: Curve on which it is looked for.
    """
    if target is None:
        return ()
    times = [
        {run.seed: _arrival(run, target, tag) for run in runs if len(run.curves["epoch"])}
        for _, _, runs in cells
    ]
    effects = {effect.arm: effect for effect in view.effects}
    arrivals = []
    for (arm, _, _), own in zip(cells, times, strict=True):
        if not own:
            continue
        seconds = [time for _, time in own.values() if time is not None]
        arrivals.append(
            Arrival(
                arm=arm.name,
                n=len(own),
                reached=sum(epochs.reached for epochs, _ in own.values()),
                epochs=censored_median([epochs for epochs, _ in own.values()]),
                seconds=censored_median(seconds) if len(seconds) == len(own) else None,
                speedup=_speedup(effects.get(arm.name), own, times[0]),
            )
        )
    return tuple(arrivals)


Times: TypeAlias = Mapping[int, tuple[TimeToTarget, TimeToTarget | None]]


def _arrival(run: Run, target: float, tag: str) -> tuple[TimeToTarget, TimeToTarget | None]:
    """Epochs and seconds to the target; a run that ended early would have taken all its budget."""
    epochs, values = (
        run.curves["epoch"],
        run.curves.get(tag, np.full(len(run.curves["epoch"]), math.nan)),
    )
    seen = np.isfinite(values)
    clock = np.cumsum(run.curves["seconds"]) if "seconds" in run.curves else None
    if seen.any():
        reached = time_to_target(epochs[seen], values[seen], target)
    else:
        reached = TimeToTarget(float(run.budget), reached=False)
    if not reached.reached:
        reached = TimeToTarget(float(max(run.budget, epochs[-1])), reached=False)
    if clock is None or not np.isfinite(clock).all():
        return reached, None
    if reached.reached:
        return reached, TimeToTarget(float(clock[epochs == reached.value][0]), reached=True)
    return reached, TimeToTarget(float(clock[-1] * reached.value / epochs[-1]), reached=False)


def _speedup(effect: Effect | None, own: Times, base: Times) -> Speedup | None:
    if effect is None or effect.method != "paired":
        return None
    seeds = [seed for seed in effect.seeds if seed in own and seed in base]
    try:
        return median_speedup([own[seed][0] for seed in seeds], [base[seed][0] for seed in seeds])
    except ValueError:  # too few pairs for an interval of a median
        return None


def measure_costs(cells: Cells) -> tuple[Cost, ...]:
    """What an epoch takes in each arm, the first one being the measure."""
    costs: list[Cost] = []
    for arm, _, runs in cells:
        seconds = _medians(runs, "seconds")
        speeds = _medians(runs, "images_per_second")
        mean = float(np.mean(seconds)) if seconds else None
        base = costs[0].seconds_per_epoch if costs else mean
        spread = within(mean_interval(seconds, LEVEL), 0, math.inf) if len(seconds) > 1 else None
        counts = [run.facts.parameters for run in runs]
        parameters = {count for count in counts if isinstance(count, int)}
        costs.append(
            Cost(
                arm=arm.name,
                parameters=parameters.pop() if len(parameters) == 1 else None,
                seconds_per_epoch=mean,
                interval=spread,
                images_per_second=float(np.mean(speeds)) if speeds else None,
                ratio=mean / base if mean and base else None,
            )
        )
    return tuple(costs)


def _medians(runs: Sequence[Run], tag: str) -> list[float]:
    """Each run's median over epochs: the first ones pay for start-up."""
    curves = [run.curves[tag] for run in runs if tag in run.curves]
    return [float(np.nanmedian(curve)) for curve in curves if np.isfinite(curve).any()]


CURVE_TAGS = tuple(
    f"{split}/{what}" for what in ("accuracy", "loss") for split in ("train", "val", "test")
)


def mean_curves(cells: Cells) -> tuple[Curve, ...]:
    """The mean curve of every tag and arm that has one."""
    by_arm = [arm_curves(arm.name, runs) for arm, _, runs in cells]
    found = (curve for curves in by_arm for curve in curves)
    return tuple(sorted(found, key=lambda curve: CURVE_TAGS.index(curve.tag)))


def arm_curves(arm: str, runs: Sequence[Run]) -> tuple[Curve, ...]:
    """The mean curve over some runs of every tag that one of them has."""
    tags = (tag for tag in CURVE_TAGS if any(tag in run.curves for run in runs))
    curves = (_mean_curve(arm, tag, runs) for tag in tags)
    return tuple(curve for curve in curves if len(curve.epochs))


def _mean_curve(arm: str, tag: str, runs: Sequence[Run]) -> Curve:
    grid = np.unique(np.concatenate([run.curves["epoch"] for run in runs]))
    values = np.full((len(runs), len(grid)), math.nan)
    clock = np.full((len(runs), len(grid)), math.nan)
    for row, run in enumerate(runs):
        places = np.searchsorted(grid, run.curves["epoch"])
        values[row, places] = run.curves.get(tag, math.nan)
        if run.diverged and tag.endswith("accuracy") and tag in run.curves:
            # As in the tables: a run that ended early would guess until its budget is spent.
            values[row, (grid > run.curves["epoch"][-1]) & (grid <= run.budget)] = 1 / run.classes
        if "seconds" in run.curves:
            clock[row, places] = np.cumsum(run.curves["seconds"])
    seen = np.isfinite(values).any(axis=0)
    values, clock, grid = values[:, seen], clock[:, seen], grid[seen]
    n = np.isfinite(values).sum(axis=0)
    mean, half = _mean_and_half(values, n)
    least, most = make_metric(tag).bounds
    low, high = np.maximum(mean - half, least), np.minimum(mean + half, most)
    return Curve(arm, tag, grid, _column_means(clock), n.astype(np.int64), mean, low, high)


def _mean_and_half(values: Array, n: NDArray[np.int_]) -> tuple[Array, Array]:
    """Column means and half widths of Student's interval over the finite values of each column."""
    mean = _column_means(values)
    squares = np.nansum((values - mean) ** 2, axis=0)
    several = n > 1
    sd = np.sqrt(squares / np.where(several, n - 1, 1))
    t = stdtrit(np.where(several, n - 1, 1), (1 + LEVEL) / 2)
    return mean, np.where(several, t * sd / np.sqrt(np.maximum(n, 1)), math.nan)


def _column_means(values: Array) -> Array:
    counts = np.isfinite(values).sum(axis=0)
    return np.where(counts > 0, np.nansum(values, axis=0) / np.maximum(counts, 1), math.nan)


def summarize_probes(cells: Cells) -> tuple[ProbeSummary, ...]:
    """Every probed quantity by layer and arm."""
    tags = dict.fromkeys(
        tag
        for _, _, runs in cells
        for run in runs
        for tag in run.curves
        if probe_of(tag) is not None
    )
    probes = []
    for tag in tags:
        quantity, layer = probe_of(tag) or ("", "")
        for arm, _, runs in cells:
            ends = []
            for run in runs:
                values = run.curves.get(tag, np.array([]))
                finite = values[np.isfinite(values)]
                if len(finite):
                    ends.append((finite[0], finite[-1]))
            if ends:
                first, last = np.mean(ends, axis=0)
                interval = mean_interval([e[1] for e in ends], LEVEL) if len(ends) > 1 else None
                probes.append(
                    ProbeSummary(
                        arm.name, quantity, layer, float(first), float(last), interval, len(ends)
                    )
                )
    return tuple(probes)
