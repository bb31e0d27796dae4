"""Studies: one file that stands for every run it needs.

With `tune`, a study has two stages. First every arm is trained at every value of the same grid, on
the training images less a validation split, and the test set is not read. Then each arm is trained
at the value that did best there, with fresh seeds, on all training images, and the test set is read
once. Nothing but the run directories remembers how far a study is: which values did best is
worked out from them again each time.
"""

import itertools
import json
import math
import shlex
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Annotated, Any, Literal, TypeAlias

import yaml
from pydantic import BeforeValidator, Field

from bnlab.config import (
    Config,
    KeyPath,
    Layer,
    Section,
    build_config,
    build_section,
    differences,
    flatten,
    mark_of,
    merge_layers,
    parse_override,
    read_file,
    sublayer,
)
from bnlab.errors import BnlabError, ConfigError, RefusedError, StopRequestedError, did_you_mean
from bnlab.executors import (
    EXECUTORS,
    Cell,
    ExecutorOptions,
    StudyWatcher,
    last_line,
    log_path,
    share_cores,
    show_metric,
    show_progress,
)
from bnlab.experiment import VOCABULARY, run_path
from bnlab.rundir import RunDir, find_runs, write_text
from bnlab.runtime import stop_on_signal

FIRST_TUNE_SEED = 1000
"""A count of tuning seeds starts here, so that no later count of final seeds runs into it."""

WAIT_SECONDS = 1.0
"""How often to look whether other processes have finished the cells they train."""

STARTUP_SECONDS = 5.0
"""What a run takes besides its training: Python, torch and the data. Only for estimates."""

Stage = Literal["tune", "final"]
State = Literal["done", "diverged", "running", "cut off", "failed", "missing"]
STATES: tuple[State, ...] = ("done", "diverged", "running", "cut off", "failed", "missing")

Point: TypeAlias = tuple[tuple[str, Any], ...]
"""A value for each tuned key: `(("optim.lr", 0.1),)`; empty in a study without `tune`."""


class StudyFailedError(BnlabError):
    """Some runs of a study failed; all others are finished."""

    exit_code = 6


# -------------------------------------------------------------------------------------- the file


def _count_from(first: int) -> BeforeValidator:
    """A count n stands for n seeds from `first` on."""

    def spell_out(value: Any) -> Any:
        is_count = isinstance(value, int) and not isinstance(value, bool) and value <= 1000
        return tuple(range(first, first + value)) if is_count else value

    return BeforeValidator(spell_out)


Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class Budget(Section):
    """The most that `study run` begins without `--force`."""

    runs: int | None = Field(None, ge=1)
    """Runs of both stages together."""
    hours: float | None = Field(None, gt=0)
    """Time for what is left, one run after the other, as `study plan` estimates it; an estimate
    needs finished runs, so a first run of a study is held to `runs` only."""


class StudyFile(Section):
    """A study as it is written down."""

    name: Name
    """Folder under runs/; by default the file's name."""
    base: Any = ()
    """A configuration: a path relative to the study's file, a mapping, or a list of such, later
    ones laid over earlier ones."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Laid over the base, for all arms."""
    overrides: tuple[str, ...] = ()
    """`--set` assignments that the study was run with; laid over `set`."""
    arms: dict[Name, dict[str, Any] | None] = Field(min_length=1)
    """What the study compares: by name, what each lays over the rest."""
    tune: dict[str, Any] = Field(default_factory=dict)
    """By key, the values that every arm is tried at; with several keys, all combinations."""
    tune_seeds: Annotated[tuple[Seed, ...], _count_from(FIRST_TUNE_SEED)] = ()
    """Seeds of the tuning runs: a list, or a count n for 1000 to 999 + n."""
    seeds: Annotated[tuple[Seed, ...], _count_from(0)] = Field(min_length=1)
    """Seeds of the final runs: a list, or a count n for 0 to n - 1."""
    select: Literal["val/accuracy", "val/loss"] = "val/accuracy"
    """What the best value is best at, in the mean over the tuning seeds. A diverged run scores as
    guessing does. Ties go to the smaller value."""
    report: Literal["test/accuracy", "test/loss"] = "test/accuracy"
    """What the closing table shows of the final runs."""
    same: dict[str, Any] = Field(default_factory=dict)
    """A value for each tuned key: every arm is trained there too in the final stage."""
    same_as: str | None = None
    """An arm: all others are trained at its best values too in the final stage."""
    budget: Budget = Budget()


@dataclass(frozen=True)
class Study:
    """A study, checked, with the configuration of every run it may need.

    Attributes:
        spec: The file.
        points: The grid; one empty point without `tune`.
        same: The point of `same`, if given.
        configs: By stage, arm and point; their seed is 0.
        text: The study as YAML that loads without its base's files.
    """

    spec: StudyFile
    points: tuple[Point, ...]
    same: Point | None
    configs: Mapping[tuple[Stage, str, Point], Config]
    text: str

    @property
    def tuned(self) -> bool:
        """Whether the study has two stages."""
        return self.points != ((),)

    def seeds(self, stage: Stage) -> tuple[int, ...]:
        """The seeds of one stage."""
        return self.spec.tune_seeds if stage == "tune" else self.spec.seeds

    def cells(self, stage: Stage, arm: str, point: Point, runs_dir: Path) -> tuple[Cell, ...]:
        """One cell per seed."""
        config = self.configs[stage, arm, point]
        found = []
        for seed in self.seeds(stage):
            seeded = config.model_copy(update={"seed": seed})
            label = " ".join([arm, *(show_point(point),) * bool(point), f"seed {seed}"])
            found.append(Cell(run_path(runs_dir, seeded, arm), arm, label, seeded))
        return tuple(found)

    def possible_roots(self, runs_dir: Path) -> frozenset[Path]:
        """Run directories of all cells that the study may come to need."""
        return frozenset(
            cell.root for key in self.configs for cell in self.cells(*key, runs_dir=runs_dir)
        )


def show_point(point: Point) -> str:
    """`optim.lr=0.1 optim.momentum=0.9`."""
    return " ".join(f"{key}={show_value(value)}" for key, value in point)


def show_value(value: Any) -> str:
    """A configuration value as it is written in YAML."""
    return f"{value:g}" if isinstance(value, float) else json.dumps(value).strip('"')


def load_study(
    file: Path, overrides: Sequence[str] = (), *, runs_dir: Path, name: str | None = None
) -> Study:
    """Read and check a study file.

    Args:
        file: The study file.
        overrides: `--set` assignments for all arms. Without any, those that the study was run
            with before count again.
        runs_dir: Folder of all runs, where the study as it was run is kept.
        name: Another name than the file's.

    Raises:
        ConfigError: With every fault found, one a line, each with its place.
    """
    layer = read_file(file)
    layer.tree.setdefault("name", file.stem)
    layer.marks[()] = str(file)
    if name is not None:
        layer.tree["name"] = name
        layer.marks["name",] = f"--name {name}"
    spec = build_section(StudyFile, layer)
    stored = stored_path(runs_dir, spec.name)
    if overrides:
        layer.tree["overrides"] = list(overrides)
    elif "overrides" not in layer.tree and stored.exists():
        layer.tree["overrides"] = list(read_file(stored).tree.get("overrides") or [])
    return _Builder(file, layer, build_section(StudyFile, layer)).build()


def stored_path(runs_dir: Path, name: str) -> Path:
    """Where the study is kept as it was run last."""
    return runs_dir / name / "study.yaml"


class _Builder:
    """Turns a study file into configurations, collecting faults on the way."""

    def __init__(self, file: Path, layer: Layer, spec: StudyFile) -> None:
        self.file, self.layer, self.spec = file, layer, spec
        self.faults: dict[str, None] = {}

    def build(self) -> Study:
        arms, base = self._layers()
        tune = self._sublayer("tune")
        grid = flatten(tune.tree)
        self._check_seeds()
        self._check_keys(arms, grid, tune.marks)
        self._stop_on_faults()

        points = tuple(
            tuple(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())
        )
        same = flatten(self._sublayer("same").tree)
        same_point: Point | None = tuple((key, same[key]) for key in grid) if same else None
        marks = {**self._sublayer("same").marks, **tune.marks}
        wanted = [*points, *(same_point,) * (same_point is not None and same_point not in points)]
        configs: dict[tuple[Stage, str, Point], Config] = {}
        common = [*base, *(parse_override(text) for text in self.spec.overrides)]
        common.append(Layer({"name": self.spec.name, "seed": 0}, {}))
        for arm, arm_layer in arms.items():
            for point in wanted:
                values = [_assign(key, value, marks) for key, value in point]
                self._build_stages(configs, arm, point, [*common, arm_layer, *values])
        self._stop_on_faults()
        self._check_distinct(configs, points)
        self._stop_on_faults()
        text = self._text(merge_layers(self._base()))
        return Study(self.spec, points, same_point, configs, text)

    # ---------------------------------------------------------------------------------- layers

    def _layers(self) -> tuple[dict[str, Layer], list[Layer]]:
        arms = {arm: self._sublayer("arms", arm) for arm in self.spec.arms}
        try:
            base = [*self._base(), self._sublayer("set")]
            for text in self.spec.overrides:
                parse_override(text)
        except ConfigError as error:
            self._fault_lines(str(error))
            base = []
        return arms, base

    def _sublayer(self, *path: str) -> Layer:
        try:
            return sublayer(self.layer, *path) if path[0] in self.layer.tree else Layer({}, {})
        except ConfigError as error:
            self._fault_lines(str(error))
            return Layer({}, {})

    def _base(self) -> list[Layer]:
        """The layers of the base; files are found from the study's own folder."""
        base = self.layer.tree.get("base", [])
        parts = base if isinstance(base, list) else [base]
        found = []
        for index, part in enumerate(parts):
            where: KeyPath = ("base", index) if isinstance(base, list) else ("base",)
            if isinstance(part, dict):
                found.append(sublayer(self.layer, *where))
            elif isinstance(part, str):
                found.append(self._base_file(part))
            else:
                place = mark_of(("base",), self.layer.marks)
                raise ConfigError(
                    f"{place}: base: expected the path of a configuration or a mapping, got {part}"
                )
        return found

    def _base_file(self, name: str) -> Layer:
        try:
            return read_file(self.file.parent / name)
        except ConfigError as error:
            place = mark_of(("base",), self.layer.marks)
            raise ConfigError(f"{place}: base: {error}") from None

    def _build_stages(
        self,
        configs: dict[tuple[Stage, str, Point], Config],
        arm: str,
        point: Point,
        layers: list[Layer],
    ) -> None:
        try:
            plain = build_config(layers, VOCABULARY)
        except ConfigError as error:
            self._fault_lines(str(error))
            return
        if not self.spec.tune:
            configs["final", arm, point] = plain
            return
        dataset = plain.dataset
        if not dataset.val_size:
            self._fault(
                ("tune",),
                "tuning needs a validation split, but dataset.val_size is 0; set it, as in "
                "`set: {dataset.val_size: 5000}`",
            )
        everything: dict[str, Any] = {"val_size": 0}
        if dataset.train_size is not None:
            everything["train_size"] = dataset.train_size + dataset.val_size
        final: dict[str, Any] = {"dataset": everything}
        if not self._sets("train.test_every"):
            final["train"] = {"test_every": 0}
        tune = Layer({"train": {"test_every": None}}, {})
        configs["tune", arm, point] = build_config([*layers, tune], VOCABULARY)
        configs["final", arm, point] = build_config([*layers, Layer(final, {})], VOCABULARY)

    def _sets(self, key: str) -> bool:
        given = [self._sublayer("set"), *map(parse_override, self.spec.overrides)]
        return any(key in flatten(layer.tree) for layer in given)

    # ---------------------------------------------------------------------------------- faults

    def _fault(self, path: KeyPath, message: str) -> None:
        place = mark_of(path, self.layer.marks)
        self.faults[f"{place}: {'.'.join(map(str, path))}: {message}"] = None

    def _fault_lines(self, text: str) -> None:
        self.faults.update(dict.fromkeys(text.splitlines()))

    def _stop_on_faults(self) -> None:
        if self.faults:
            raise ConfigError("\n".join(self.faults))

    def _check_seeds(self) -> None:
        spec = self.spec
        for key, seeds in (("seeds", spec.seeds), ("tune_seeds", spec.tune_seeds)):
            twice = [str(seed) for seed, count in Counter(seeds).items() if count > 1]
            if twice:
                self._fault((key,), f"{', '.join(twice)} given twice; keep one")
        both = sorted(set(spec.seeds) & set(spec.tune_seeds))
        if both:
            self._fault(
                ("tune_seeds",),
                f"{', '.join(map(str, both))} also in `seeds`; a value that was chosen for its "
                "luck with a seed must be confirmed with others",
            )
        if spec.tune and not spec.tune_seeds:
            self._fault(("tune",), "needs `tune_seeds`, a list of seeds or how many")
        for key in ("tune_seeds", "same", "same_as"):
            if getattr(spec, key) and not spec.tune:
                self._fault((key,), "means nothing without `tune`")

    def _check_keys(
        self, arms: Mapping[str, Layer], grid: Mapping[str, Any], marks: Mapping[KeyPath, str]
    ) -> None:
        """Contradictions between the parts of the file that no single configuration shows."""
        for key, values in grid.items():
            place = mark_of(tuple(key.split(".")), marks)
            if not isinstance(values, list) or not values:
                self.faults[f"{place}: tune.{key}: expected a list of values, got {values}"] = None
            elif len({repr(_number(value)) for value in values}) < len(values):
                self.faults[f"{place}: tune.{key}: a value is given twice"] = None
        same = flatten(self._sublayer("same").tree)
        if same and same.keys() != grid.keys():
            self._fault(("same",), f"expected one value for each of {', '.join(grid)}")
        if any(
            isinstance(value, list) and not _holds_lists(grid[key])
            for key, value in same.items()
            if key in grid
        ):
            self._fault(("same",), "expected one value, not a list")
        if self.spec.same_as is not None and self.spec.same_as not in arms:
            self._fault(
                ("same_as",),
                f"unknown arm {self.spec.same_as!r}{did_you_mean(self.spec.same_as, arms)}",
            )

        groups: list[tuple[KeyPath, Mapping[str, Any]]] = [(("tune",), grid)]
        groups += [(("arms", arm), flatten(layer.tree)) for arm, layer in arms.items()]
        groups.append((("set",), flatten(self._sublayer("set").tree)))
        said: dict[str, Any] = {}
        for text in self.spec.overrides:
            said.update(flatten(parse_override(text).tree))
        groups.append((("overrides",), said))
        for path, keys in groups:
            own = ["name", "seed"]
            if grid and path[0] in {"arms", "tune"}:
                own += ["dataset.val_size", "train.test_every"]
            for key in own:
                if key in keys:
                    self._fault((*path, key), "the study sets this key itself; remove it")
            if path[0] != "tune":
                for key in _overlap(keys, grid):
                    self._fault((*path, key), "is tuned, so nothing else may fix it")
            if path[0] == "arms":
                for key in _overlap(said, keys):
                    self._fault((*path, key), "an arm fixes this key, so --set cannot")

    def _check_distinct(
        self, configs: Mapping[tuple[Stage, str, Point], Config], points: Sequence[Point]
    ) -> None:
        seen: dict[str, tuple[str, Point]] = {}
        for (stage, arm, point), config in configs.items():
            if stage != "final" or point not in points:
                continue
            other_arm, other = seen.setdefault(config.hash, (arm, point))
            if (other_arm, other) == (arm, point):
                continue
            if other_arm == arm:
                self._fault(
                    ("arms", arm),
                    f"{show_point(other)} and {show_point(point)} are one configuration; what is "
                    "tuned means nothing in this arm",
                )
            else:
                self._fault(("arms", arm), f"is the same configuration as arm {other_arm!r}")

    def _text(self, base: Layer) -> str:
        """The study with its base spelled out."""
        spec = self.spec
        told = {
            key: self.layer.tree[key] for key in StudyFile.model_fields if key in self.layer.tree
        }
        whole = {**told, "base": base.tree, "overrides": list(spec.overrides)}
        whole["seeds"] = list(spec.seeds)
        if spec.tune:
            whole["tune_seeds"] = list(spec.tune_seeds)
        order = [key for key in StudyFile.model_fields if whole.get(key) not in (None, [], {})]
        return yaml.safe_dump(
            {key: whole[key] for key in order}, sort_keys=False, default_flow_style=None
        )


def _assign(key: str, value: Any, marks: Mapping[KeyPath, str]) -> Layer:
    """The layer of one tuned value."""
    path: KeyPath = tuple(key.split("."))
    place = mark_of(path, marks)
    for part in reversed(path):
        value = {part: value}
    return Layer(value, {path[:end]: place for end in range(1, len(path) + 1)})


def _overlap(keys: Iterable[str], others: Iterable[str]) -> list[str]:
    """Keys that are, hold or lie in one of the others; `model.norm` stands for `model.norm.name`."""
    return [
        key
        for key in keys
        if any(f"{key}.".startswith(f"{o}.") or f"{o}.".startswith(f"{key}.") for o in others)
    ]


def _number(value: Any) -> Any:
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _holds_lists(values: Any) -> bool:
    return isinstance(values, list) and any(isinstance(value, list) for value in values)


# ------------------------------------------------------------------------------ where it stands


@dataclass(frozen=True)
class Choice:
    """The best point of an arm.

    Attributes:
        point: The best.
        score: Its mean `select` metric over the tuning seeds.
        scores: Of all points.
        on_edge: Keys whose best value is the smallest or largest that was tried.
    """

    point: Point
    score: float
    scores: Mapping[Point, float]
    on_edge: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """An arm at one point, in one stage.

    Attributes:
        point: None as long as tuning has not settled it.
        why: In the final stage of a tuned study: `best`, `same` or `same as ARM`.
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

    @property
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

    for arm, point in itertools.product(arms, study.points):
        add("tune", arm, point)
    choices = {arm: choice for arm in arms if (choice := _choose(study, arm, rows)) is not None}
    best = {arm: choice.point for arm, choice in choices.items()}
    for arm in arms:
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
        log = log_path(folder / "logs", cell)
        if log.exists():
            reasons[cell.root] = last_line(log)
            return "failed"
        if not run_dir.started:
            return "missing"
        run = run_dir.read_run() if run_dir.run.exists() else {}
    except (BnlabError, KeyError) as error:
        reasons[cell.root] = f"{error}; delete {cell.root} to train it anew"
        return "failed"
    if run.get("status") == "failed":
        reasons[cell.root] = str(run.get("error", "unknown"))
        return "failed"
    return "cut off"


def _choose(study: Study, arm: str, rows: Iterable[Row]) -> Choice | None:
    """The best point of an arm, or None until all its tuning runs are finished."""
    tuning = [row for row in rows if row.stage == "tune" and row.arm == arm]
    if any(state not in ("done", "diverged") for row in tuning for state in row.states):
        return None
    select = study.spec.select
    sign = 1.0 if select.endswith("accuracy") else -1.0
    scores = {
        row.point: fmean(_score(cell.root, select) for cell in row.cells)
        for row in tuning
        if row.point is not None
    }
    point = min(scores, key=lambda point: (-sign * scores[point], _order(point, study.points)))
    return Choice(point, scores[point], scores, _edges(point, study.points))


def _score(root: Path, metric: str) -> float:
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


# ------------------------------------------------------------------------------------- estimates


@dataclass(frozen=True)
class Estimate:
    """How long what is left takes, one run after the other.

    Attributes:
        runs: Runs left.
        seconds: For all of them; None if no run is at hand to go by.
        basis: Finished runs it is made from.
    """

    runs: int
    seconds: float | None
    basis: int


def estimate_left(survey: Survey, runs_dir: Path) -> Estimate:
    """From runs already made: of the same configuration, else of the same network and batch."""
    same: dict[str, list[float]] = {}
    speeds: dict[str, list[float]] = {}
    images: dict[str, int] = {}
    for root in find_runs(runs_dir) if runs_dir.is_dir() else ():
        try:
            summary, run, config = (
                RunDir(root).read_summary(),
                RunDir(root).read_run(),
                RunDir(root).read_config(),
            )
            dataset, epochs = run["dataset"], config["train"]["epochs"]
            images[dataset["name"]] = dataset["train_images"] + dataset["val_images"]
            speeds.setdefault(_network(config), []).append(summary["images_per_second"])
            if summary["epochs"] == epochs:
                same.setdefault(run["config_hash"], []).append(summary["wall_seconds"])
        except (BnlabError, KeyError, TypeError):
            continue  # unfinished or foreign: nothing to go by
    left = [cell.config for cell, _ in survey.unfinished()]
    study = survey.study
    unsettled = [row for row in survey.rows if row.point is None]
    for row in unsettled:  # any point does: the value of a learning rate costs no time
        left += [study.configs["final", row.arm, study.points[0]]] * len(row.seeds)
    seconds: float | None = 0.0
    for config in left:
        one = _run_seconds(config, same, speeds, images)
        seconds = None if seconds is None or one is None else seconds + one + STARTUP_SECONDS
    return Estimate(len(left), seconds, sum(map(len, speeds.values())))


def _network(config: Mapping[str, Any]) -> str:
    model = config["model"]
    return json.dumps([model["widths"], model["hidden"], config["train"]["batch_size"]])


def _run_seconds(
    config: Config,
    same: Mapping[str, Sequence[float]],
    speeds: Mapping[str, Sequence[float]],
    images: Mapping[str, int],
) -> float | None:
    if config.hash in same:
        return median(same[config.hash])
    speed = speeds.get(_network(config.resolved()))
    dataset = config.dataset
    count = dataset.train_size or images.get(dataset.name, 0) - dataset.val_size
    if not speed or count <= 0:
        return None
    return config.train.epochs * count / median(speed)


# --------------------------------------------------------------------------------------- running


@dataclass(frozen=True)
class StudyOptions:
    """How to run a study, as opposed to what.

    Attributes:
        jobs: Runs at once; None for as many as suit the machine.
        device: As for a single run.
        deterministic: As for a single run.
        executor: Name in `EXECUTORS`.
        force: Go beyond the study's budget.
    """

    jobs: int | None = None
    device: str = "auto"
    deterministic: bool = False
    executor: str = "processes"
    force: bool = False


@dataclass(frozen=True)
class Finished:
    """A study that has been run as far as it goes.

    Attributes:
        survey: Where it stands.
        failures: What each failed run said last, by label.
    """

    survey: Survey
    failures: Mapping[str, str]


def run_study(
    study: Study,
    runs_dir: Path,
    options: StudyOptions | None = None,
    watcher: StudyWatcher | None = None,
    say: Callable[[str], None] = lambda _line: None,
) -> Finished:
    """Train what is missing, resume what was cut off, leave alone what is finished.

    Several processes may run one study: a cell goes to whoever locks its directory first, and the
    cells of a process that died are free again.

    Args:
        study: What to run.
        runs_dir: Folder of all runs.
        options: How to run it.
        watcher: Told how it goes.
        say: Told what deserves a line before it begins.

    Raises:
        RefusedError: If the plan goes beyond its budget, or finished runs would no longer be part
            of the study.
        StopRequestedError: On SIGTERM or Ctrl-C, with every run checkpointed.
    """
    options, watcher = options or StudyOptions(), watcher or StudyWatcher()
    executor = EXECUTORS[options.executor]
    survey = survey_study(study, runs_dir)
    if not options.force:
        _refuse_beyond_budget(survey, runs_dir)
    _store(study, runs_dir, say)
    jobs, threads = share_cores(options.jobs, options.device, _earlier_threads(survey))
    say(f"{jobs} runs at once, {threads} CPU threads each")
    settings = ExecutorOptions(
        jobs, threads, options.device, options.deterministic, survey.folder / "logs"
    )

    failures: dict[Path, str] = {}
    labels: dict[Path, str] = {}
    with stop_on_signal() as stop:
        while True:
            survey = survey_study(study, runs_dir)
            watcher.planned(survey.count("done", "diverged"), survey.total)
            open_cells = [
                (cell, state) for cell, state in survey.unfinished() if cell.root not in failures
            ]
            ready = [cell for cell, state in open_cells if state != "running"]
            if not open_cells or stop():
                break
            if not ready:
                watcher.waiting(len(open_cells))
                time.sleep(WAIT_SECONDS)
                continue
            for outcome in executor(ready, settings, stop, watcher):
                if outcome.ending == "failed":
                    failures[outcome.cell.root] = outcome.reason
                    labels[outcome.cell.root] = outcome.cell.label
                watcher.ended(outcome)
        if stop():
            raise StopRequestedError(
                f"{survey.folder}: stopped by {stop.name or 'a signal'}; "
                f"{survey.count('done', 'diverged')} of {survey.total} runs are finished, those "
                "under way are checkpointed; the same command goes on",
                exit_code=stop.exit_code,
            )
    for root, (cell, state) in survey.cells.items():
        if state == "failed" and root not in failures:
            failures[root], labels[root] = survey.reasons.get(root, "unknown"), cell.label
    return Finished(survey, {labels[root]: reason for root, reason in failures.items()})


def raise_failures(finished: Finished, command: Sequence[str]) -> None:
    """Say which runs failed and how to try them again.

    Raises:
        StudyFailedError: If any failed.
    """
    if finished.failures:
        said = "\n".join(f"  {label}: {reason}" for label, reason in finished.failures.items())
        raise StudyFailedError(
            f"{len(finished.failures)} of {finished.survey.total} runs failed; all others are "
            f"finished or wait for them:\n{said}\ntheir logs are in "
            f"{finished.survey.folder / 'logs'}; try them again with\n  {shlex.join(command)}"
        )


def _refuse_beyond_budget(survey: Survey, runs_dir: Path) -> None:
    over = budget_excess(survey, estimate_left(survey, runs_dir))
    if over:
        raise RefusedError(f"{over}; raise the study's budget, or use --force")


def budget_excess(survey: Survey, estimate: Estimate) -> str:
    """In what way the plan goes beyond the study's budget; "" if it does not."""
    budget = survey.study.spec.budget
    if budget.runs is not None and survey.total > budget.runs:
        return f"the study needs {survey.total} runs, its budget is {budget.runs}"
    hours = None if estimate.seconds is None else estimate.seconds / 3600
    if budget.hours is not None and hours is not None and hours > budget.hours:
        return f"what is left takes about {hours:.1f} hours, the budget is {budget.hours:g}"
    return ""


def _earlier_threads(survey: Survey) -> int | None:
    for root in survey.cells:
        try:
            return int(RunDir(root).read_run()["environment"]["threads"])
        except (BnlabError, KeyError, TypeError, ValueError):
            continue
    return None


def _store(study: Study, runs_dir: Path, say: Callable[[str], None]) -> None:
    """Keep the study beside its runs; say what has changed since it was run last."""
    path = stored_path(runs_dir, study.spec.name)
    if path.exists():
        before = read_file(path).tree
        changes = [
            f"  {key}: {was} -> {now}"
            for key, was, now in differences(before, yaml.safe_load(study.text))
        ]
        if changes:
            said = "\n".join(changes)
            lost = _no_longer_part(path, study, runs_dir)
            if lost:
                raise RefusedError(
                    f"{path}: the study has changed so that {len(lost)} finished runs are no "
                    f"longer part of it, {lost[0]} for one; leaving out runs whose outcome is "
                    f"known biases the rest, so use another --name\n{said}"
                )
            say(f"the study has changed since it was run last:\n{said}")
    if not path.exists() or path.read_text(encoding="utf-8") != study.text:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, study.text)


def _no_longer_part(path: Path, study: Study, runs_dir: Path) -> list[Path]:
    before = load_study(path, runs_dir=runs_dir).possible_roots(runs_dir)
    now = study.possible_roots(runs_dir)
    return sorted(root for root in before - now if RunDir(root).finished)


# --------------------------------------------------------------------------------------- showing


def render_plan(survey: Survey) -> str:
    """The matrix: a row per arm and point, with its cells counted by state."""
    keys = [key for key, _ in survey.study.points[0]]
    header = ["stage", "arm", *keys, "seeds", *STATES]
    lines = []
    for row in survey.rows:
        values = (
            [show_value(v) for _, v in row.point] if row.point is not None else ["?"] * len(keys)
        )
        if row.why and values:
            values[-1] += f" ({row.why})"
        counts = [str(row.counts.get(state, 0) or "-") for state in STATES]
        lines.append([row.stage, row.arm, *values, _show_seeds(row.seeds), *counts])
    totals = [str(survey.count(state) or "-") for state in STATES[:-1]]
    missing = survey.total - survey.count(*STATES[:-1])
    lines.append(["all", "", *[""] * len(keys), str(survey.total), *totals, str(missing or "-")])
    return render_table(header, lines)


def render_choices(survey: Survey) -> str:
    """What tuning chose, with a warning where the grid should be extended."""
    select = survey.study.spec.select
    lines = []
    for arm, choice in survey.choices.items():
        edge = "".join(
            f"; {key} is best at the edge of its grid: extend it" for key in choice.on_edge
        )
        lines.append(
            f"{arm}: best {show_point(choice.point)} "
            f"({select} {show_metric(select, choice.score)}){edge}"
        )
    return "\n".join(lines)


def render_results(survey: Survey) -> str:
    """Per arm and point of the final stage: how many runs, and their mean."""
    report = survey.study.spec.report
    keys = [key for key, _ in survey.study.points[0]]
    lines = []
    for result in results(survey):
        values = [show_value(value) for value in result["values"].values()]
        shown = "-" if result["mean"] is None else show_metric(report, result["mean"])
        why = [result["why"]] if survey.study.tuned else []
        counts = [str(result["n"]), str(result["diverged"])]
        lines.append([result["arm"], *values, *why, *counts, shown])
    header = ["arm", *keys, *(["why"] if survey.study.tuned else []), "n", "diverged", report]
    return render_table(header, lines)


def results(survey: Survey) -> list[dict[str, Any]]:
    """The final stage as plain data; a diverged run counts with the score of guessing."""
    found = []
    for row in survey.rows:
        if row.stage == "tune" or row.point is None:
            continue
        roots = [
            cell.root
            for cell, state in zip(row.cells, row.states, strict=True)
            if state in ("done", "diverged")
        ]
        scores = [_score(root, survey.study.spec.report) for root in roots]
        found.append(
            {
                "arm": row.arm,
                "values": dict(row.point),
                "why": row.why,
                "n": len(roots),
                "diverged": row.counts.get("diverged", 0),
                "mean": fmean(scores) if scores else None,
            }
        )
    return found


def study_as_data(survey: Survey, estimate: Estimate | None = None) -> dict[str, Any]:
    """All that the commands print, for programs."""
    return {
        "study": survey.study.spec.name,
        "folder": str(survey.folder),
        "total": survey.total,
        "finished": survey.count("done", "diverged"),
        "rows": [
            {
                "stage": row.stage,
                "arm": row.arm,
                "values": None if row.point is None else dict(row.point),
                "why": row.why,
                "seeds": list(row.seeds),
                **{state.replace(" ", "_"): row.counts.get(state, 0) for state in STATES},
            }
            for row in survey.rows
        ],
        "choices": {
            arm: {
                "values": dict(choice.point),
                survey.study.spec.select: choice.score,
                "on_edge": list(choice.on_edge),
            }
            for arm, choice in survey.choices.items()
        },
        "report": survey.study.spec.report,
        "results": results(survey),
        "failures": {str(root): reason for root, reason in survey.reasons.items()},
        **(
            {}
            if estimate is None
            else {"runs_left": estimate.runs, "seconds_left": estimate.seconds}
        ),
    }


def render_estimate(survey: Survey, estimate: Estimate) -> str:
    """What is left and how long it takes; whether the budget allows it."""
    if not estimate.runs:
        return "nothing left to train"
    if estimate.seconds is None:
        time_left = "how long they take is unknown until a run of this network is finished"
    else:
        time_left = (
            f"about {_show_duration(estimate.seconds)} one after the other, going by "
            f"{estimate.basis} finished runs"
        )
    over = budget_excess(survey, estimate)
    return f"{estimate.runs} runs left: {time_left}" + (
        f"\nbeyond the budget: {over}" if over else ""
    )


def render_under_way(survey: Survey) -> str:
    """A line per running and failed cell."""
    lines = []
    for cell, state in survey.cells.values():
        if state == "running":
            lines.append(f"running: {cell.label}: {show_progress(cell)}")
        elif state == "failed":
            lines.append(f"failed: {cell.label}: {survey.reasons.get(cell.root, 'unknown')}")
    return "\n".join(lines)


def render_table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Columns two spaces apart; numbers to the right."""
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    rows = [header, *lines]

    def pad(text: str, width: int, place: int) -> str:
        number = all(not row[place] or row[place][0] in "-0123456789" for row in lines)
        return text.rjust(width) if number else text.ljust(width)

    return "\n".join(
        "  ".join(pad(text, widths[i], i) for i, text in enumerate(row)).rstrip() for row in rows
    )


def _show_seeds(seeds: tuple[int, ...]) -> str:
    """`0-15`, or the seeds one by one."""
    if len(seeds) > 2 and seeds == tuple(range(seeds[0], seeds[0] + len(seeds))):
        return f"{seeds[0]}-{seeds[-1]}"
    return ",".join(map(str, seeds))


def _show_duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
