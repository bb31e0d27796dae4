"""How far a study is, worked out from the run directories alone; nothing here writes."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeAlias

from bnlab.analysis import make_metric, score_of
from bnlab.analysis.choose import Choice, Point, choose
from bnlab.errors import BnlabError
from bnlab.records import (
    RunDir,
    RunFacts,
    Summary,
    has_diverged,
    read_facts,
    read_summary,
)
from bnlab.records.files import SUMMARY
from bnlab.study.executors import Cell, last_line, log_path
from bnlab.study.file import STAGES, Stage
from bnlab.study.pilot import Pilot, follow_pilot, own_choices, pilot_scores
from bnlab.study.plan import Study

State = Literal["done", "diverged", "running", "cut off", "failed", "missing"]
STATES: tuple[State, ...] = ("done", "diverged", "running", "cut off", "failed", "missing")

OWN_BEST = "own best"
"""Why a final seed is trained where it is, if each tunes for itself."""


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
        why: In the final stage of a tuned study: `best`, `best of ARM`, `same` or `same as ARM`;
            where each seed tunes for itself, `own best`, `own best of ARM`, `same as ARM's pilot`.
        seeds: Seeds it is trained with: of an `own best` those that chose the point.
        cells: One per seed; none while the point is not settled.
        states: How far each cell is.
        results: Of those that are finished, by seed.
    """

    stage: Stage
    arm: str
    point: Point | None
    why: str
    seeds: tuple[int, ...]
    cells: tuple[Cell, ...] = ()
    states: tuple[State, ...] = ()
    results: Mapping[int, Result] = field(default_factory=dict)

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
        pilots: How far the tuning of each arm is.
        own: By arm and final seed, what that seed chose, where each seed tunes for itself.
        reasons: Why a cell failed, by run directory.
    """

    study: Study
    folder: Path
    rows: tuple[MatrixRow, ...]
    pilots: Mapping[str, Pilot]
    own: Mapping[str, Mapping[int, Choice]]
    reasons: Mapping[Path, str]

    @cached_property
    def choices(self) -> Mapping[str, Choice]:
        """The best point of each arm whose tuning is finished."""
        return {arm: pilot.choice for arm, pilot in self.pilots.items() if pilot.choice is not None}

    @cached_property
    def cells(self) -> dict[Path, tuple[Cell, State]]:
        """Every cell once, by run directory; two rows may share theirs."""
        ordered: dict[Path, tuple[Cell, State]] = {}
        for stage in STAGES:
            rows = [row for row in self.rows if row.stage == stage]
            found = [pair for row in rows for pair in zip(row.cells, row.states, strict=True)]
            place = {seed: number for number, seed in enumerate(self.study.seeds(stage))}
            # Seed by seed, so that a study that is cut off has as many seeds of each arm.
            for cell, state in sorted(found, key=lambda pair: place[pair[0].config.seed]):
                ordered[cell.root] = (cell, state)
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
        """What is still to be trained, in order, as far as it is known; not what is damaged."""
        left: list[tuple[Cell, State]] = [
            (cell, state)
            for cell, state in self.cells.values()
            if state in ("running", "cut off", "missing")
            or (state == "failed" and not RunDir(cell.root).finished)
        ]
        return _in_turn(left) if self.study.spec.in_turn else left


def _in_turn(cells: Sequence[tuple[Cell, State]]) -> list[tuple[Cell, State]]:
    """Seed by seed, the arms in order for every other seed and backwards for those between."""
    by_seed: dict[int, list[tuple[Cell, State]]] = {}
    for cell, state in cells:
        by_seed.setdefault(cell.config.seed, []).append((cell, state))
    turns = (by_seed[seed][:: 1 - 2 * (place % 2)] for place, seed in enumerate(sorted(by_seed)))
    return [one for turn in turns for one in turn]


Known: TypeAlias = dict[Path, tuple[tuple[int, ...], Result]]
"""What finished runs say, by run directory, each with the stamp of the summary it was read from."""


def survey_study(study: Study, runs_dir: Path, known: Known | None = None) -> Survey:
    """Read from the run directories how far a study is; writes nothing.

    Args:
        study: Which.
        runs_dir: Folder of all runs.
        known: From earlier surveys of it, brought up to date: finished runs are read but once.
    """
    surveyor = _Surveyor(study, runs_dir, {} if known is None else known)
    if not study.tuned:
        for arm in study.spec.arms:
            surveyor.add("final", arm, ())
        return surveyor.survey({}, {})
    pilots = {arm: surveyor.pilot(arm) for arm in study.tuned_arms}
    own = {arm: surveyor.each_seed(arm, pilot) for arm, pilot in pilots.items() if study.each(arm)}
    for arm in study.spec.arms:
        _add_final(surveyor, arm, pilots, own)
    return surveyor.survey(pilots, own)


class _Surveyor:
    """Adds the rows of a study, looking at each cell."""

    def __init__(self, study: Study, runs_dir: Path, known: Known) -> None:
        self.study, self.runs_dir, self.known = study, runs_dir, known
        self.folder = runs_dir / study.spec.name
        self.rows: list[MatrixRow] = []
        self.reasons: dict[Path, str] = {}

    def survey(
        self, pilots: Mapping[str, Pilot], own: Mapping[str, Mapping[int, Choice]]
    ) -> Survey:
        return Survey(self.study, self.folder, tuple(self.rows), pilots, own, self.reasons)

    def add(
        self,
        stage: Stage,
        arm: str,
        point: Point | None,
        why: str = "",
        seeds: Sequence[int] | None = None,
    ) -> MatrixRow:
        """A row of all seeds of its stage, or of some."""
        seeds = self.study.seeds(stage) if seeds is None else tuple(seeds)
        row = MatrixRow(stage, arm, point, why, seeds)
        if point is not None:
            cells = self.study.cells(stage, arm, point, self.runs_dir, seeds)
            looked = [self._look(cell) for cell in cells]
            states = tuple(state for state, _ in looked)
            results = {
                seed: result
                for seed, (_, result) in zip(seeds, looked, strict=True)
                if result is not None
            }
            row = MatrixRow(stage, arm, point, why, seeds, cells, states, results)
        self.rows.append(row)
        return row

    def _look(self, cell: Cell) -> tuple[State, Result | None]:
        """How far a cell is, and its result if it is finished."""
        run_dir, files = RunDir(cell.root), self.study.files_of(cell)
        try:
            stamp = files.stamp(SUMMARY)
            if stamp is None:
                if run_dir.locked:
                    return "running", None
                stamp = files.stamp(SUMMARY)  # whoever held it may just have finished it
            if stamp is not None:
                before, result = self.known.get(cell.root, (None, None))
                if result is None or before != stamp:
                    result = Result(read_summary(files), read_facts(files))
                    self.known[cell.root] = stamp, result
                return ("diverged" if result.diverged else "done"), result
            failure = _failure(cell, self.folder)
        except BnlabError as error:
            failure = f"{error}; delete {cell.root} to train it anew"
        if failure:
            self.reasons[cell.root] = failure
            return "failed", None
        return ("cut off" if run_dir.started else "missing"), None

    def pilot(self, arm: str) -> Pilot:
        """The tuning of an arm, as far as it is."""
        tuning: dict[Point, MatrixRow] = {}

        def best_of(points: tuple[Point, ...]) -> Choice | None:
            for point in points:
                if point not in tuning:
                    tuning[point] = self.add("tune", arm, point)
            tried = {point: tuning[point] for point in points}
            if any(len(row.results) < len(row.seeds) for row in tried.values()):
                return None
            each, scores = self.study.each(arm), self._scores(tried)
            return choose(
                {
                    point: pilot_scores(
                        list(scores[point].values()),
                        [result.diverged for result in row.results.values()],
                        each_seed=each,
                    )
                    for point, row in tried.items()
                },
                images=self._images(tried),
                higher_is_better=self._higher_is_better,
                unordered=self.study.grids[arm].unordered,
            )

        return follow_pilot(self.study.grids[arm], best_of)

    def each_seed(self, arm: str, pilot: Pilot) -> dict[int, Choice]:
        """What each final seed chose, of those that have tried the whole neighborhood."""
        if pilot.choice is None:
            count = self.study.grids[arm].neighbors
            for number in range(1, count + 1):
                self.add("each", arm, None, f"near the best, {number} of {count}")
        tried = {point: self.add("each", arm, point) for point in pilot.neighborhood}
        return own_choices(
            self._scores(tried),
            self.study.spec.seeds,
            images=self._images(tried),
            higher_is_better=self._higher_is_better,
            unordered=pilot.unordered,
        )

    @property
    def _higher_is_better(self) -> bool:
        return self.study.spec.select.endswith("accuracy")

    def _scores(self, rows: Mapping[Point, MatrixRow]) -> dict[Point, dict[int, float]]:
        select = self.study.spec.select
        return {
            point: {seed: result.score(select) for seed, result in row.results.items()}
            for point, row in rows.items()
        }

    def _images(self, rows: Mapping[Point, MatrixRow]) -> int:
        results = [result for row in rows.values() for result in row.results.values()]
        images = {result.facts.dataset.val_images for result in results}
        return images.pop() if len(images) == 1 and self._higher_is_better else 0


def _add_final(
    surveyor: _Surveyor,
    arm: str,
    pilots: Mapping[str, Pilot],
    own: Mapping[str, Mapping[int, Choice]],
) -> None:
    """The final rows of an arm in a tuned study; none where the best lies outside the grid."""
    study = surveyor.study
    spec, leader, each = study.spec, study.leader(arm), study.each(arm)
    of_leader = f" of {leader}" if leader != arm else ""
    if not each:
        choice = pilots[leader].choice
        surveyor.add("final", arm, choice.point if choice else None, f"best{of_leader}")
    elif not pilots[leader].stuck:
        _add_own_best(surveyor, arm, pilots[leader], own[leader], f"{OWN_BEST}{of_leader}")
    if leader != arm or (each and pilots[arm].stuck):
        return
    # Stage 2 of an arm begins when its tuning is over, whichever point it is trained at.
    own_choice = pilots[arm].choice
    if study.same is not None:
        point = study.at_values(arm, study.same, own_choice.point) if own_choice else None
        surveyor.add("final", arm, point, "same")
    # At its own best the arm itself is trained anyway, but for seeds that tune for themselves.
    if spec.same_as is not None and (each or spec.same_as != arm):
        other, other_each = pilots[spec.same_as], study.each(spec.same_as)
        if not (other_each and other.stuck):
            point = None
            if own_choice and other.choice:
                point = study.at_values(arm, other.choice.point, own_choice.point)
            pilot = "'s pilot" if other_each else ""
            surveyor.add("final", arm, point, f"same as {spec.same_as}{pilot}")


def _add_own_best(
    surveyor: _Surveyor, arm: str, pilot: Pilot, chosen: Mapping[int, Choice], why: str
) -> None:
    """A row for each value that seeds chose, and one for those that have not chosen yet."""
    seeds = surveyor.study.spec.seeds
    for point in pilot.neighborhood:
        those = [seed for seed in seeds if seed in chosen and chosen[seed].point == point]
        if those:
            surveyor.add("final", arm, point, why, those)
    rest = [seed for seed in seeds if seed not in chosen]
    if rest:
        surveyor.add("final", arm, None, why, rest)


def _failure(cell: Cell, folder: Path) -> str:
    """What the last attempt at an unfinished cell failed of; "" if it did not fail."""
    log, run_dir = log_path(folder / "logs", cell), RunDir(cell.root)
    if log.exists():
        return last_line(log)
    if not run_dir.run.exists():
        return ""
    facts = read_facts(run_dir.files)
    return (facts.error or "unknown") if facts.status == "failed" else ""
