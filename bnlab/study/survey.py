"""How far a study is, worked out from the run directories alone; nothing here writes."""

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from bnlab.analysis import make_metric, score_of
from bnlab.analysis.choose import Choice, Point, choose
from bnlab.errors import BnlabError
from bnlab.records import (
    RunDir,
    RunFacts,
    RunFiles,
    Summary,
    has_diverged,
    read_facts,
    read_summary,
)
from bnlab.records.files import SUMMARY
from bnlab.study.executors import Cell, last_line, log_path
from bnlab.study.file import Stage
from bnlab.study.plan import Study

State = Literal["done", "diverged", "running", "cut off", "failed", "missing"]
STATES: tuple[State, ...] = ("done", "diverged", "running", "cut off", "failed", "missing")


@dataclass(frozen=True)
class Result:
    """What a finished cell says, as far as a study needs it."""

    summary: Summary
    facts: RunFacts

    @property
    def diverged(self) -> bool:
        """Whether training broke down or learned nothing."""
        return has_diverged(self.summary.scores, self.classes)

    @property
    def classes(self) -> int:
        """Number of classes; 10 where run.json does not say."""
        return len(self.facts.dataset.classes) or 10

    @property
    def final(self) -> Mapping[str, float | None]:
        """Values by tag at its end."""
        return self.summary.scores

    def score(self, metric: str) -> float:
        """A metric; that of guessing, if it diverged or broke down."""
        kind = make_metric(metric)
        score = score_of(self, kind)
        chance = kind.chance(self.classes)
        assert chance is not None  # studies select and report accuracies and losses
        return chance if score is None else score


@dataclass(frozen=True)
class MatrixRow:
    """An arm at one point, in one stage.

    Attributes:
        point: None as long as tuning has not settled it.
        why: In the final stage of a tuned study: `best`, `best of ARM`, `same` or `same as ARM`.
        seeds: Seeds it is trained with.
        cells: One per seed; none while the point is not settled.
        states: How far each cell is.
        results: Of those that are finished.
    """

    stage: Stage
    arm: str
    point: Point | None
    why: str
    seeds: tuple[int, ...]
    cells: tuple[Cell, ...] = ()
    states: tuple[State, ...] = ()
    results: tuple[Result, ...] = ()

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
        choices: The best point of each arm whose tuning is finished.
        reasons: Why a cell failed, by run directory.
    """

    study: Study
    folder: Path
    rows: tuple[MatrixRow, ...]
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

    def tuning_row(self, arm: str) -> "MatrixRow":
        """The tuning of an arm at the point that was chosen."""
        point = self.choices[arm].point
        return next(
            row for row in self.rows if (row.stage, row.arm, row.point) == ("tune", arm, point)
        )

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
    rows: list[MatrixRow] = []
    arms = list(study.spec.arms)

    def add(stage: Stage, arm: str, point: Point | None, why: str = "") -> None:
        if point is None:
            rows.append(MatrixRow(stage, arm, None, why, study.seeds(stage)))
            return
        cells = study.cells(stage, arm, point, runs_dir)
        looked = [_look(cell, study.files_of(cell), folder, reasons) for cell in cells]
        states = tuple(state for state, _ in looked)
        results = tuple(result for _, result in looked if result is not None)
        rows.append(MatrixRow(stage, arm, point, why, study.seeds(stage), cells, states, results))

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


def _look(
    cell: Cell, files: RunFiles, folder: Path, reasons: dict[Path, str]
) -> tuple[State, Result | None]:
    """How far a cell is, and its result if it is finished."""
    run_dir = RunDir(cell.root)
    try:
        if files.has(SUMMARY):
            result = Result(read_summary(files), read_facts(files))
            return ("diverged" if result.diverged else "done"), result
        if run_dir.locked:
            return "running", None
        failure = _failure(cell, folder)
    except BnlabError as error:
        failure = f"{error}; delete {cell.root} to train it anew"
    if failure:
        reasons[cell.root] = failure
        return "failed", None
    return ("cut off" if run_dir.started else "missing"), None


def _failure(cell: Cell, folder: Path) -> str:
    """What the last attempt at an unfinished cell failed of; "" if it did not fail."""
    log, run_dir = log_path(folder / "logs", cell), RunDir(cell.root)
    if log.exists():
        return last_line(log)
    if not run_dir.run.exists():
        return ""
    facts = read_facts(run_dir.files)
    return (facts.error or "unknown") if facts.status == "failed" else ""


def _choose(study: Study, arm: str, rows: Iterable[MatrixRow]) -> Choice | None:
    """The best point of an arm, or None until all its tuning runs are finished."""
    tuning = [row for row in rows if row.stage == "tune" and row.arm == arm]
    if any(len(row.results) < len(row.seeds) for row in tuning):
        return None
    select = study.spec.select
    images = {result.facts.dataset.val_images for row in tuning for result in row.results}
    return choose(
        {
            row.point: [result.score(select) for result in row.results]
            for row in tuning
            if row.point is not None
        },
        images=images.pop() if len(images) == 1 and select.endswith("accuracy") else 0,
        higher_is_better=select.endswith("accuracy"),
    )
