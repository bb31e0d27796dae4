"""From run directories to a claim's evidence, without torch.

A run belongs to a cell of the claim's study if its configuration has the cell's hash. Which study
it was trained for does not matter.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bnlab.analysis import Run, make_metric, score_of
from bnlab.analysis.choose import Choice, Point, choose
from bnlab.analysis.views import images_of
from bnlab.claims._base import CLAIMS, Array, Evidence
from bnlab.config import Config, flatten, parse_override
from bnlab.errors import ConfigError
from bnlab.study.file import Plan, Stage, load_plan, stored_layer

PRESETS = ("full", "quick", "smoke")
"""From the strongest evidence to none."""

SHARED = "claims"
"""Folder below runs/ in which all claims share their runs."""

SMOKE_GUARD = "the preset smoke only proves that everything works; it never gives a verdict"

LR = "optim.lr"

SCORED: Mapping[Stage, str] = {"tune": "val/accuracy", "final": "test/accuracy"}


def study_file(name: str) -> Path:
    """A claim's study: its own, or `configs/claims/NAME.yaml` of the checkout or as installed.

    Raises:
        ConfigError: If there is no such claim, or its study is not there.
    """
    own = CLAIMS[name].study
    if own is not None:
        return own
    package = Path(__file__).parents[1]
    for configs in (package.parent / "configs", package / "configs"):
        path = configs / "claims" / f"{name}.yaml"
        if path.exists():
            return path
    raise ConfigError(f"{path}: missing; install bnlab again, or run it from a whole checkout")


def stored_study(name: str, preset: str) -> str:
    """Where a claim's study is kept as it was run, below the runs folder."""
    return f"{SHARED}/{name}-{preset}.yaml"


def load_claim_plan(name: str, preset: str, runs_dir: Path) -> Plan:
    """The study of a claim under one preset, with the images and seeds that it was run with."""
    return load_plan(
        study_file(name),
        name=SHARED,
        preset=preset,
        stored=stored_layer(runs_dir, stored_study(name, preset)),
        stored_seeds=True,
    )


MAY_BE_SET = ("dataset.name", "dataset.root")
"""Where the images lie; everything else is the claim's protocol."""


def refuse_bending(overrides: Sequence[str]) -> None:
    """Hold a claim to its protocol.

    Raises:
        ConfigError: If an override sets more than where the images lie.
    """
    for text in overrides:
        for key in flatten(parse_override(text).tree):
            if key not in MAY_BE_SET:
                raise ConfigError(
                    f"--set {text}: a claim's protocol is fixed beforehand; only "
                    f"{' and '.join(MAY_BE_SET)} may be set (for other settings: bnlab study run)"
                )


class RunIndex:
    """Finished runs by their configuration's hash; of two alike, the first by path counts."""

    def __init__(self, runs: Iterable[Run]) -> None:
        self._runs: dict[str, dict[int, list[Run]]] = defaultdict(lambda: defaultdict(list))
        for run in runs:
            self._runs[run.hash][run.seed].append(run)

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
        choices: What tuning chose, by arm.
        scope: For what a verdict would hold, in words.
        guard: Why no verdict may be built on these runs; "" if nothing stands against one.
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


def gather(plan: Plan, preset: str, index: RunIndex) -> Gathered:
    """Find the runs of a claim's study."""
    cells = _Cells(plan, index)
    sweep = {arm: scores for arm in plan.tuned_arms if (scores := cells.sweep(arm)) is not None}
    choices = {arm: cells.choice(arm, scores) for arm, scores in sweep.items()}
    chosen = {arm: choice.point for arm, choice in choices.items()}
    follow, other = plan.spec.follow, plan.spec.same_as
    leaders = {arm: follow.get(arm, arm) for arm in plan.spec.arms}
    best = {arm: chosen[leader] for arm, leader in leaders.items() if leader in chosen}
    if not plan.tuned:
        best = dict.fromkeys(plan.spec.arms, ())
    same = dict.fromkeys(chosen, chosen[other]) if other in chosen else {}
    if plan.same is not None:
        same = dict.fromkeys(chosen, plan.same)
    for arm, point in (*best.items(), *same.items()):
        cells.runs("final", arm, point)
    rows = len(plan.spec.arms) - len(best)
    if other is not None and other not in chosen:
        rows += len(plan.tuned_arms) - 1
    if plan.same is not None:
        rows += len(plan.tuned_arms) - len(chosen)
    # Two arms may turn out to be one configuration, and so share their runs.
    alike = {plan.configs[key].hash: key for key in cells.found}
    runs = tuple(run for key in alike.values() for run in cells.found[key].values())
    total = sum(len(plan.seeds(stage)) for stage, _, _ in alike.values())
    total += rows * len(plan.spec.seeds)
    return Gathered(
        preset,
        len(runs),
        total,
        _evidence(plan, preset, cells, best, same, sweep) if len(runs) == total else None,
        runs,
        index.all_like(runs),
        choices,
        _scope(plan, preset, runs),
        SMOKE_GUARD if preset == "smoke" else "",
    )


class _Cells:
    """The finished runs of a plan, by stage, arm and point; those asked for count as planned."""

    def __init__(self, plan: Plan, index: RunIndex) -> None:
        self.plan, self.index = plan, index
        self.found: dict[tuple[Stage, str, Point], dict[int, Run]] = {}

    def runs(self, stage: Stage, arm: str, point: Point) -> dict[int, Run]:
        key = (stage, arm, point)
        if key not in self.found:
            there = self.index.runs_of(self.plan.configs[key])
            scored = _results(there.values(), SCORED[stage])
            self.found[key] = {s: there[s] for s in self.plan.seeds(stage) if s in scored}
        return self.found[key]

    def sweep(self, arm: str) -> Array | None:
        """Validation scores, (tuning seeds, points); None while one is missing."""
        seeds = self.plan.spec.tune_seeds
        columns = [self.runs("tune", arm, point) for point in self.plan.points]
        if any(len(column) < len(seeds) for column in columns):
            return None
        return np.column_stack([_scores(column, seeds, SCORED["tune"]) for column in columns])

    def choice(self, arm: str, scores: Array) -> Choice:
        """What tuning chose, from validation scores: (tuning seeds, points)."""
        runs = [run for p in self.plan.points for run in self.runs("tune", arm, p).values()]
        by_point = dict(zip(self.plan.points, scores.T.tolist(), strict=True))
        return choose(by_point, images=images_of(runs, make_metric(SCORED["tune"])))

    def sweep_diverged(self, arm: str) -> Array:
        """1 for every tuning run that diverged, else 0: (tuning seeds, points)."""
        columns = [self.runs("tune", arm, point) for point in self.plan.points]
        seeds = self.plan.spec.tune_seeds
        return np.array([[float(column[s].diverged) for column in columns] for s in seeds])


def _evidence(
    plan: Plan,
    preset: str,
    cells: _Cells,
    best: Mapping[str, Point],
    same: Mapping[str, Point],
    sweep: Mapping[str, Array],
) -> Evidence:
    def final(points: Mapping[str, Point]) -> dict[str, Array]:
        return {
            arm: _scores(cells.runs("final", arm, point), plan.spec.seeds, SCORED["final"])
            for arm, point in points.items()
        }

    return Evidence(
        best=final(best),
        same=final(same),
        sweep=_rising(sweep, plan.points),
        lrs=np.array(sorted(_lr(point) for point in plan.points) if plan.tuned else ()),
        chosen={arm: _lr(point) for arm, point in best.items()} if plan.tuned else {},
        diverged={
            arm: np.array([float(there[seed].diverged) for seed in plan.spec.seeds])
            for arm, point in best.items()
            for there in (cells.runs("final", arm, point),)
        },
        epochs={arm: plan.configs["final", arm, point].train.epochs for arm, point in best.items()},
        seconds={
            arm: float(np.median([np.median(run.curves["seconds"]) for run in runs]))
            for arm, point in best.items()
            if (runs := [r for r in cells.runs("final", arm, point).values() if _timed(r)])
        },
        sweep_diverged=_rising({arm: cells.sweep_diverged(arm) for arm in sweep}, plan.points),
        readings={
            arm: _readings(cells.runs("final", arm, point), plan.spec.seeds)
            for arm, point in best.items()
        },
        curves={
            arm: _curves(cells.runs("final", arm, point), plan.spec.seeds)
            for arm, point in best.items()
        },
        preset=preset,
    )


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


def _rising(sweep: Mapping[str, Array], points: Sequence[Point]) -> dict[str, Array]:
    """Columns in the order of rising learning rates."""
    order = sorted(range(len(points)), key=lambda i: _lr(points[i])) if sweep else []
    return {arm: scores[:, order] for arm, scores in sweep.items()}


def _scores(runs: Mapping[int, Run], seeds: Sequence[int], tag: str) -> Array:
    """One score a seed; chance for a run that diverged."""
    scores = _results(runs.values(), tag)
    return np.array([scores[seed] for seed in seeds], dtype=np.float64)


def _results(runs: Iterable[Run], tag: str) -> Mapping[int, float]:
    metric = make_metric(tag)
    return {run.seed: score for run in runs if (score := score_of(run, metric)) is not None}


def _scope(plan: Plan, preset: str, runs: Sequence[Run]) -> str:
    config = plan.configs["final", next(iter(plan.spec.arms)), plan.points[0]]
    size = config.dataset.train_size
    images = f"{size:,} training images" if size else "all training images"
    notes = sorted({str(run.facts.dataset.note) for run in runs} - {""})
    network = (
        "-".join(map(str, config.model.widths))
        + " conv, "
        + ("-".join(map(str, config.model.hidden)) or "no")
        + " hidden"
    )
    machines = sorted({f"{run.facts.device} {run.facts.precision}" for run in runs})
    parts = [
        f"preset {preset}",
        f"{config.dataset.name}" + (f" ({'; '.join(notes)})" if notes else ""),
        images,
        network,
        f"{config.train.epochs} epoch{'s' * (config.train.epochs > 1)}",
        f"{len(plan.spec.seeds)} final seeds",
        *([f"{len(plan.spec.tune_seeds)} tuning seeds"] if plan.tuned else []),
        *machines,
    ]
    return ", ".join(parts)
