"""How far a study is, worked out from the run directories alone; nothing here writes."""

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from bnlab.errors import BnlabError
from bnlab.records.rundir import RunDir
from bnlab.study.executors import Cell, last_line, log_path
from bnlab.study.file import Point, Stage
from bnlab.study.plan import Study

State = Literal["done", "diverged", "running", "cut off", "failed", "missing"]
STATES: tuple[State, ...] = ("done", "diverged", "running", "cut off", "failed", "missing")


@dataclass(frozen=True)
class Choice:
    """The best point of an arm.

    Attributes:
        point: The best.
        score: Its mean `select` metric over the tuning seeds.
        scores: Of all points.
        on_edge: Keys whose best value is the smallest or largest that was tried.
        diverged: How many of its tuning runs diverged.
    """

    point: Point
    score: float
    scores: Mapping[Point, float]
    on_edge: tuple[str, ...]
    diverged: int


@dataclass(frozen=True)
class Row:
    """An arm at one point, in one stage.

    Attributes:
        point: None as long as tuning has not settled it.
        why: In the final stage of a tuned study: `best`, `best of ARM`, `same` or `same as ARM`.
        seeds: Seeds it is trained with.
        cells: One per seed; none while the point is not settled.
        states: How far each cell is.
    """

    stage: Stage
    arm: str
    point: Point | None
    why: str
    seeds: tuple[int, ...]
    cells: tuple[Cell, ...] = ()
    states: tuple[State, ...] = ()

    @property
    def counts(self) -> dict[State, int]:
        """Cells by state."""
        if self.point is None:
            return {"missing": len(self.seeds)}
        return dict(Counter(self.states))


@dataclass(frozen=True)
class Survey:
    """A study as the run directories show it.

    Attributes:
        rows: In the order in which they are trained.
        choices: By arm, where its tuning is finished.
        reasons: Why a cell failed, by run directory.
    """

    study: Study
    folder: Path
    rows: tuple[Row, ...]
    choices: Mapping[str, Choice]
    reasons: Mapping[Path, str]

    @cached_property
    def cells(self) -> dict[Path, tuple[Cell, State]]:
        """Every cell once, by run directory; two rows may share theirs."""
        ordered: dict[Path, tuple[Cell, State]] = {}
        for stage in ("tune", "final"):
            rows = [row for row in self.rows if row.stage == stage and row.cells]
            # Seed by seed, so that a study that is cut off has as many seeds of each arm.
            for place in range(max((len(row.cells) for row in rows), default=0)):
                for row in rows:
                    ordered[row.cells[place].root] = (row.cells[place], row.states[place])
        return ordered

    @property
    def total(self) -> int:
        """Runs that the study needs, as far as known: rows that turn out alike share theirs."""
        return len(self.cells) + sum(len(row.seeds) for row in self.rows if row.point is None)

    def count(self, *states: State) -> int:
        """Cells in one of these states."""
        return sum(state in states for _, state in self.cells.values())

    def unfinished(self) -> list[tuple[Cell, State]]:
        """What is still to be trained, in order, as far as it is known."""
        return [
            (cell, state)
            for cell, state in self.cells.values()
            if state not in ("done", "diverged") and not RunDir(cell.root).finished
        ]


def survey_study(study: Study, runs_dir: Path) -> Survey:
    """Read from the run directories how far a study is; writes nothing."""
    folder = runs_dir / study.spec.name
    reasons: dict[Path, str] = {}
    rows: list[Row] = []
    arms = list(study.spec.arms)

    def add(stage: Stage, arm: str, point: Point | None, why: str = "") -> None:
        if point is None:
            rows.append(Row(stage, arm, None, why, study.seeds(stage)))
            return
        cells = study.cells(stage, arm, point, runs_dir)
        states = tuple(_state(cell, folder, reasons) for cell in cells)
        rows.append(Row(stage, arm, point, why, study.seeds(stage), cells, states))

    if not study.tuned:
        for arm in arms:
            add("final", arm, ())
        return Survey(study, folder, tuple(rows), {}, reasons)

    tuned = study.tuned_arms
    for arm, point in itertools.product(tuned, study.points):
        add("tune", arm, point)
    choices = {arm: choice for arm in tuned if (choice := _choose(study, arm, rows)) is not None}
    best = {arm: choice.point for arm, choice in choices.items()}
    for arm in arms:
        if arm in study.spec.follow:
            leader = study.spec.follow[arm]
            add("final", arm, best.get(leader), f"best of {leader}")
            continue
        add("final", arm, best.get(arm), "best")
        # Stage 2 of an arm begins when its tuning is over, whichever point it is trained at.
        if study.same is not None:
            add("final", arm, study.same if arm in best else None, "same")
        if study.spec.same_as not in (None, arm):
            other = best.get(study.spec.same_as or "") if arm in best else None
            add("final", arm, other, f"same as {study.spec.same_as}")
    return Survey(study, folder, tuple(rows), choices, reasons)


def _state(cell: Cell, folder: Path, reasons: dict[Path, str]) -> State:
    run_dir = RunDir(cell.root)
    try:
        if run_dir.finished:
            return "diverged" if run_dir.read_summary()["status"] == "diverged" else "done"
        if run_dir.locked:
            return "running"
        failure = _failure(cell, folder)
    except (BnlabError, KeyError) as error:
        failure = f"{error}; delete {cell.root} to train it anew"
    if failure:
        reasons[cell.root] = failure
        return "failed"
    return "cut off" if run_dir.started else "missing"


def _failure(cell: Cell, folder: Path) -> str:
    """What the last attempt at an unfinished cell failed of; "" if it did not fail."""
    log, run_dir = log_path(folder / "logs", cell), RunDir(cell.root)
    if log.exists():
        return last_line(log)
    run = run_dir.read_run() if run_dir.run.exists() else {}
    return str(run.get("error", "unknown")) if run.get("status") == "failed" else ""


def _choose(study: Study, arm: str, rows: Iterable[Row]) -> Choice | None:
    """The best point of an arm, or None until all its tuning runs are finished."""
    tuning = [row for row in rows if row.stage == "tune" and row.arm == arm]
    if any(state not in ("done", "diverged") for row in tuning for state in row.states):
        return None
    select = study.spec.select
    sign = 1.0 if select.endswith("accuracy") else -1.0
    scores = {
        row.point: fmean(score_of(cell.root, select) for cell in row.cells)
        for row in tuning
        if row.point is not None
    }
    point = min(scores, key=lambda point: (-sign * scores[point], _order(point, study.points)))
    diverged = next(row.counts.get("diverged", 0) for row in tuning if row.point == point)
    return Choice(point, scores[point], scores, _edges(point, study.points), diverged)


def score_of(root: Path, metric: str) -> float:
    """A metric of a finished run; that of guessing, if it diverged or broke down."""
    summary = RunDir(root).read_summary()
    value = summary.get(metric)
    if summary["status"] == "diverged" or value is None:
        classes = len(RunDir(root).read_run()["dataset"]["classes"])
        return 1 / classes if metric.endswith("accuracy") else math.log(classes)
    return float(value)


def _order(point: Point, points: Sequence[Point]) -> tuple[float, ...]:
    """Smaller for smaller values; for values that are not numbers, for those listed first."""
    listed = float(points.index(point))
    return tuple(float(value) if _is_number(value) else listed for _, value in point)


def _edges(point: Point, points: Sequence[Point]) -> tuple[str, ...]:
    found = []
    for place, (key, value) in enumerate(point):
        tried = {other[place][1] for other in points if _is_number(other[place][1])}
        if _is_number(value) and len(tried) > 1 and value in (min(tried), max(tried)):
            found.append(key)
    return tuple(found)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
