"""From run directories to a claim's evidence, without torch.

A run belongs to a cell of the claim's study if its configuration has the cell's hash. Which study
it was trained for does not matter.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np

from bnlab.analysis import Run, make_metric, score_of
from bnlab.analysis.choose import Choice, Point, choose
from bnlab.analysis.results import images_of
from bnlab.claims._contrast import Array, Evidence
from bnlab.claims._network import DOCUMENTS, OWN, Network
from bnlab.config import Config
from bnlab.study.file import Plan, Stage, show_value
from bnlab.study.pilot import Pilot, follow_pilot, own_choices, pilot_scores

SMOKE_GUARD = "the preset smoke only proves that everything works; it never gives a verdict"

LR = "optim.lr"

SCORED: Mapping[Stage, str] = {
    "tune": "val/accuracy",
    "each": "val/accuracy",
    "final": "test/accuracy",
}


class RunIndex:
    """Finished runs by their configuration's hash; of two alike, the first by path counts."""

    def __init__(self, runs: Iterable[Run]) -> None:
        self._runs: dict[str, dict[int, list[Run]]] = defaultdict(lambda: defaultdict(list))
        for run in runs:
            self._runs[run.hash][run.seed].append(run)

    def __bool__(self) -> bool:
        return bool(self._runs)

    def runs_of(self, config: Config) -> dict[int, Run]:
        """The runs of a configuration, by seed."""
        return {seed: alike[0] for seed, alike in self._runs.get(config.hash, {}).items()}

    def all_like(self, runs: Iterable[Run]) -> tuple[Run, ...]:
        """These runs and all records of the same configuration and seed."""
        return tuple(alike for run in runs for alike in self._runs[run.hash][run.seed])


@dataclass(frozen=True, eq=False)
class Gathered:
    """What is at hand for one claim under one preset.

    Attributes:
        preset: Its name.
        finished: Runs of the study that are finished.
        total: Runs that the study needs, as far as known.
        evidence: None until every run is finished.
        runs: The finished runs, in the study's order.
        records: These, and further records of the same runs.
        choices: What tuning chose, by arm; where each seed tunes for itself, what the pilot chose.
        scope: For what a verdict would hold, in words.
        guard: Why no verdict may be built on these runs; "" if nothing stands against one.
        network: What network this is about, as tables call it.
        void: Why the claim means nothing on that network; "" if it does.
        own: By arm and final seed, what that seed chose, where each seed tunes for itself.
        stuck: Arms that are then not trained, as their best lies at the edge of the grid.
        failed: Arms all of whose tuning runs diverged.
        final: By arm and seed, the finished final runs.
    """

    preset: str
    finished: int
    total: int
    evidence: Evidence | None
    runs: tuple[Run, ...]
    records: tuple[Run, ...]
    choices: Mapping[str, Choice]
    scope: str
    guard: str
    own: Mapping[str, Mapping[int, Choice]] = field(default_factory=dict)
    stuck: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    network: Network = OWN
    void: str = ""
    final: Mapping[str, Mapping[int, Run]] = field(default_factory=dict)

    def own_lrs(self, arm: str) -> dict[int, float]:
        """The learning rate that each final seed chose; nothing where one stands for all."""
        return {seed: _lr(choice.point) for seed, choice in self.own.get(arm, {}).items()}


def gather(
    plan: Plan, preset: str, index: RunIndex, network: Network = OWN, void: str = ""
) -> Gathered:
    """Find the runs of a claim's study.

    Args:
        plan: The study.
        preset: The preset that it stands under.
        index: All runs at hand.
        network: The network that it is asked of.
        void: Why the claim means nothing there.
    """
    cells = _Cells(plan, index)
    pilots = {arm: cells.pilot(arm) for arm in plan.tuned_arms}
    stuck = tuple(arm for arm, one in pilots.items() if plan.each(arm) and one.stuck)
    own = {arm: cells.own(arm, one) for arm, one in pilots.items() if plan.each(arm)}
    own |= {arm: own[leader] for arm, leader in plan.spec.follow.items() if leader in own}
    best, waiting = _best_points(plan, pilots, own)
    same, unsettled = _same_points(plan, pilots)
    for arm, points in (*best.items(), *same.items()):
        cells.final(arm, points)
    runs = tuple(run for run in cells.asked.values() if run is not None)
    total = len(cells.asked) + cells.unsettled + waiting + unsettled
    whole = len(runs) == total and not stuck and not void
    return Gathered(
        preset,
        len(runs),
        total,
        _evidence(plan, preset, cells, best, same, pilots, own) if whole else None,
        runs,
        index.all_like(runs),
        {arm: one.choice for arm, one in pilots.items() if one.choice is not None},
        _scope(plan, preset, runs),
        SMOKE_GUARD if preset == "smoke" else "",
        own,
        stuck,
        tuple(arm for arm, one in pilots.items() if cells.failed(arm, one)),
        network,
        void,
        {arm: cells.final(arm, points) for arm, points in best.items()},
    )


Points: TypeAlias = Mapping[int, Point]
"""By final seed, the point at which it is trained."""


def _best_points(
    plan: Plan, pilots: Mapping[str, Pilot], own: Mapping[str, Mapping[int, Choice]]
) -> tuple[dict[str, Points], int]:
    """Where each seed of an arm is trained at its best, and for how many it is not settled."""
    seeds = plan.spec.seeds
    if not plan.tuned:
        return {arm: dict.fromkeys(seeds, ()) for arm in plan.spec.arms}, 0
    best: dict[str, Points] = {}
    waiting = 0
    for arm in plan.spec.arms:
        leader, each = plan.leader(arm), plan.each(arm)
        pilot = pilots[leader]
        if each:
            best[arm] = {seed: choice.point for seed, choice in own[leader].items()}
        elif pilot.choice is not None:
            best[arm] = dict.fromkeys(seeds, pilot.choice.point)
        if not (each and pilot.stuck):
            waiting += len(seeds) - len(best.get(arm, ()))
    return best, waiting


def _same_points(plan: Plan, pilots: Mapping[str, Pilot]) -> tuple[dict[str, Points], int]:
    """Where all arms are trained at one value, and how many such runs are not settled."""
    seeds, other = plan.spec.seeds, plan.spec.same_as
    chosen = {arm: one.choice.point for arm, one in pilots.items() if one.choice is not None}
    arms = [arm for arm, one in pilots.items() if not (plan.each(arm) and one.stuck)]
    same: dict[str, Points] = {}
    unsettled = 0
    if other in arms:
        if other in chosen:
            same = {
                arm: dict.fromkeys(seeds, plan.at_values(arm, chosen[other], chosen[arm]))
                for arm in arms
                if arm in chosen
            }
        # At its own best that arm is trained anyway, but for seeds that tune for themselves.
        needed = [arm for arm in arms if arm != other or plan.each(arm)]
        unsettled += sum(arm not in same for arm in needed) * len(seeds)
    if plan.same is not None:
        same = {
            arm: dict.fromkeys(seeds, plan.at_values(arm, plan.same, chosen[arm]))
            for arm in arms
            if arm in chosen
        }
        unsettled += (len(arms) - len(same)) * len(seeds)
    return same, unsettled


class _Cells:
    """The finished runs of a plan; those asked for count as planned.

    Attributes:
        asked: By configuration and seed, so that arms that turn out alike share their runs; None
            for a run that is not finished.
        unsettled: Runs that are needed too, it is not known where.
    """

    def __init__(self, plan: Plan, index: RunIndex) -> None:
        self.plan, self.index = plan, index
        self.asked: dict[tuple[str, int], Run | None] = {}
        self.unsettled = 0
        self._known: dict[tuple[Stage, str, Point], tuple[str, dict[int, Run]]] = {}

    def runs(self, stage: Stage, arm: str, point: Point, seeds: Iterable[int]) -> dict[int, Run]:
        """The finished ones of a stage, by seed."""
        digest, there = self._scored(stage, arm, point)
        found = {seed: there[seed] for seed in seeds if seed in there}
        self.asked.update({(digest, seed): found.get(seed) for seed in seeds})
        return found

    def _scored(self, stage: Stage, arm: str, point: Point) -> tuple[str, dict[int, Run]]:
        """The hash of a configuration, and its runs that have a score; asked for many times."""
        key = stage, arm, point
        if key not in self._known:
            config = self.plan.configs[key]
            there = self.index.runs_of(config)
            scored = _results(there.values(), SCORED[stage])
            self._known[key] = config.hash, {seed: there[seed] for seed in scored}
        return self._known[key]

    def final(self, arm: str, points: Points) -> dict[int, Run]:
        """The finished final runs of an arm, by seed, each at its own point."""
        found: dict[int, Run] = {}
        for seed, point in points.items():
            found |= self.runs("final", arm, point, [seed])
        return found

    def pilot(self, arm: str) -> Pilot:
        """The tuning of an arm, as far as it is."""

        def best_of(points: tuple[Point, ...]) -> Choice | None:
            seeds = self.plan.spec.tune_seeds
            tried = {point: self.runs("tune", arm, point, seeds) for point in points}
            if any(len(runs) < len(seeds) for runs in tried.values()):
                return None
            scores = {
                point: pilot_scores(
                    _scores(runs, seeds, SCORED["tune"]).tolist(),
                    [runs[seed].diverged for seed in seeds],
                    each_seed=self.plan.each(arm),
                )
                for point, runs in tried.items()
            }
            unordered = self.plan.grids[arm].unordered
            return choose(scores, images=_val_images(tried), unordered=unordered)

        return follow_pilot(self.plan.grids[arm], best_of)

    def failed(self, arm: str, pilot: Pilot) -> bool:
        """Whether the tuning of an arm is over and every run of it diverged."""
        seeds = self.plan.spec.tune_seeds
        tried = [self.runs("tune", arm, point, seeds) for point in pilot.points]
        return pilot.choice is not None and all(
            run.diverged for runs in tried for run in runs.values()
        )

    def own(self, arm: str, pilot: Pilot) -> dict[int, Choice]:
        """What each final seed chose, of those that have tried the whole neighborhood."""
        seeds = self.plan.spec.seeds
        if pilot.choice is None:
            self.unsettled += self.plan.grids[arm].neighbors * len(seeds)
        tried = {point: self.runs("each", arm, point, seeds) for point in pilot.neighborhood}
        scores = {point: _results(runs.values(), SCORED["each"]) for point, runs in tried.items()}
        return own_choices(scores, seeds, images=_val_images(tried), unordered=pilot.unordered)

    def sweep(
        self, arm: str, pilot: Pilot, points: Iterable[Point], read: Callable[[Run], float]
    ) -> Array:
        """A reading of the tuning runs, NaN where an arm was not tried: (tuning seeds, points)."""
        seeds = self.plan.spec.tune_seeds
        columns = [
            self.runs("tune", arm, point, seeds) if point in pilot.points else {}
            for point in points
        ]
        return np.array(
            [[read(runs[s]) if s in runs else math.nan for runs in columns] for s in seeds]
        )


def _validated(run: Run) -> float:
    return _results([run], SCORED["tune"])[run.seed]


def _val_images(tried: Mapping[Point, Mapping[int, Run]]) -> int:
    runs = [run for by_seed in tried.values() for run in by_seed.values()]
    return images_of(runs, make_metric(SCORED["tune"]))


def _evidence(
    plan: Plan,
    preset: str,
    cells: _Cells,
    best: Mapping[str, Points],
    same: Mapping[str, Points],
    pilots: Mapping[str, Pilot],
    own: Mapping[str, Mapping[int, Choice]],
) -> Evidence:
    final = {arm: cells.final(arm, points) for arm, points in best.items()}
    at_same = {arm: cells.final(arm, points) for arm, points in same.items()}
    lrs = sorted({_lr(point) for pilot in pilots.values() for point in pilot.points if point})
    choices = {arm: one.choice for arm, one in pilots.items() if one.choice is not None}
    followed = {arm: choices[plan.leader(arm)] for arm in best if plan.leader(arm) in choices}
    rising = {
        arm: [plan.at_values(arm, ((LR, lr),), choice.point) for lr in lrs]
        for arm, choice in choices.items()
    }
    return Evidence(
        best={arm: _scores(runs, plan.spec.seeds, SCORED["final"]) for arm, runs in final.items()},
        same={
            arm: _scores(runs, plan.spec.seeds, SCORED["final"]) for arm, runs in at_same.items()
        },
        levels=plan.levels,
        sweep={
            arm: cells.sweep(arm, pilots[arm], points, _validated) for arm, points in rising.items()
        },
        lrs=np.array(lrs),
        chosen={arm: _lr(choice.point) for arm, choice in followed.items()},
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
        return " ".join([f"{_lr(point):g}", *(["with", *beside] if beside else [])])

    if own is None:
        return show(choice.point)
    counts = Counter(one.point for one in own.values())
    shown = [f"{show(point)} ({count})" for point, count in sorted(counts.items(), key=_by_lr)]
    return f"of each of {seeds} seeds {', '.join(shown)}"


def _by_lr(item: tuple[Point, int]) -> tuple[float, str]:
    return _lr(item[0]), str(item[0])


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


def _lr(point: Point) -> float:
    return float(dict(point)[LR])


def _scores(runs: Mapping[int, Run], seeds: Sequence[int], tag: str) -> Array:
    """One score a seed; chance for a run that diverged."""
    scores = _results(runs.values(), tag)
    return np.array([scores[seed] for seed in seeds], dtype=np.float64)


def _results(runs: Iterable[Run], tag: str) -> Mapping[int, float]:
    metric = make_metric(tag)
    return {run.seed: score for run in runs if (score := score_of(run, metric)) is not None}


def _scope(plan: Plan, preset: str, runs: Sequence[Run]) -> str:
    arm, grid = next(iter(plan.grids.items()))
    config = plan.configs["final", arm, grid.points[0]]
    size = config.dataset.train_size
    images = f"{size:,} training images" if size else "all training images"
    notes = sorted({str(run.facts.dataset.note) for run in runs} - {""})
    machines = sorted({f"{run.facts.device} {run.facts.precision}" for run in runs})
    parts = [
        f"preset {preset}",
        f"{config.dataset.name}" + (f" ({'; '.join(notes)})" if notes else ""),
        images,
        _network_of(config),
        f"{config.train.epochs} epoch{'s' * (config.train.epochs > 1)}",
        f"{len(plan.spec.seeds)} final seeds",
        *([f"{len(plan.spec.tune_seeds)} tuning seeds"] if plan.tuned else []),
        *(["each final seed tuned for itself"] if plan.spec.each_seed else []),
        *machines,
    ]
    return ", ".join(parts)


def _network_of(config: Config) -> str:
    model = config.model
    if model.name == DOCUMENTS:
        hidden = "-".join(map(str, model.hidden)) or "no"
        return f"{'-'.join(map(str, model.widths))} conv, {hidden} hidden"
    if model.file is not None:
        return f"{Path(model.file).name} (source {model.source[:8]})"
    sized = "width" in model.model_fields_set
    return f"{model.name}{f' of width {model.width}' if sized else ''}"
