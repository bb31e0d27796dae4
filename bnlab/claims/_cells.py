"""Which finished runs are those of a study's cells, without torch.

A run belongs to a cell if its configuration has the cell's hash. Which study it was trained for
does not matter.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from bnlab.analysis import Run, make_metric, score_of
from bnlab.analysis.choose import Choice, Point, choose
from bnlab.analysis.results import images_of
from bnlab.claims._contrast import Array
from bnlab.config import Config
from bnlab.study.file import Plan, Stage
from bnlab.study.pilot import Pilot, follow_pilot, own_choices, pilot_scores

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


Points: TypeAlias = Mapping[int, Point]
"""By final seed, the point at which it is trained."""


def best_points(
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


def same_points(plan: Plan, pilots: Mapping[str, Pilot]) -> tuple[dict[str, Points], int]:
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


class Cells:
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
            scored = results_of(there.values(), SCORED[stage])
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
                    scores_of(runs, seeds, SCORED["tune"]).tolist(),
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
        scores = {point: results_of(runs.values(), SCORED["each"]) for point, runs in tried.items()}
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


def _val_images(tried: Mapping[Point, Mapping[int, Run]]) -> int:
    runs = [run for by_seed in tried.values() for run in by_seed.values()]
    return images_of(runs, make_metric(SCORED["tune"]))


def scores_of(runs: Mapping[int, Run], seeds: Sequence[int], tag: str) -> Array:
    """One score a seed; chance for a run that diverged."""
    scores = results_of(runs.values(), tag)
    return np.array([scores[seed] for seed in seeds], dtype=np.float64)


def results_of(runs: Iterable[Run], tag: str) -> Mapping[int, float]:
    """What runs reached, by seed, of those that have a value."""
    metric = make_metric(tag)
    return {run.seed: score for run in runs if (score := score_of(run, metric)) is not None}
