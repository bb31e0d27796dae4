"""A study as it is written down, and the configuration of every run that it may need.

Nothing here imports torch: what is at hand of a study can be read where nothing is trained.
"""

import itertools
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from bnlab.analysis.choose import Point
from bnlab.config import (
    Config,
    ConfigSection,
    KeyPath,
    Layer,
    build_config,
    build_section,
    flatten,
    mark_of,
    merge_layers,
    parse_override,
    parse_yaml,
    read_file,
    render_yaml,
    sublayer,
)
from bnlab.errors import ConfigError, did_you_mean, shown
from bnlab.records import read_study
from bnlab.study.pilot import Grid, go_on

FIRST_TUNE_SEED = 1000
"""A count of tuning seeds starts here, so that no later count of final seeds runs into it."""

MAX_CONFIGS = 5_000
"""Arms times values of the grid. Checking one configuration takes a millisecond or two."""

MAX_FAULTS = 50

Stage = Literal["tune", "each", "final"]
STAGES: tuple[Stage, ...] = ("tune", "each", "final")
"""In the order in which they are trained. In `each`, every final seed tunes for itself."""


def _count_from(first: int) -> BeforeValidator:
    """A count n stands for n seeds from `first` on."""

    def spell_out(value: Any) -> Any:
        is_count = isinstance(value, int) and not isinstance(value, bool) and value <= 1000
        return tuple(range(first, first + value)) if is_count else value

    return BeforeValidator(spell_out)


Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]


class Budget(ConfigSection):
    """The most that `study run` begins without `--force`."""

    runs: int | None = Field(None, ge=1)
    """Runs of all stages together."""
    hours: float | None = Field(None, gt=0)
    """Time for what is left, one run after the other, as `study plan` estimates it; an estimate
    needs finished runs, so a first run of a study is held to `runs` only."""


class StudyFile(ConfigSection):
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
    """By key, the values that every arm is tried at; with several keys, all combinations. While
    tuning, `dataset.val_size` images are held out, the test set is not read and nothing is probed,
    so that studies with other probes share these runs. The final runs
    train on these images too (`train_size`, where given, grows by them) and read the test set after
    the last epoch only, unless `set` gives `train.test_every`."""
    tune_seeds: Annotated[tuple[Seed, ...], _count_from(FIRST_TUNE_SEED)] = ()
    """Seeds of the tuning runs: a list, or a count n for 1000 to 999 + n."""
    seeds: Annotated[tuple[Seed, ...], _count_from(0)] = Field(min_length=1)
    """Seeds of the final runs: a list, or a count n for 0 to n - 1."""
    each_seed: bool = False
    """Whether every final seed tunes for itself, so that tuning is part of what is compared and the
    intervals hold for all of it. The tuning seeds are then a pilot that finds the neighborhood: for
    each arm the best value of the grid and the values beside it. Every final seed is trained at
    each of these with images held out, and then on all images at its own best. Costs an arm
    (tuning seeds x grid) + 3 n + n runs; with k tuned keys 3^k n + n. An arm whose best stays at
    the edge of the grid gets no final runs. `same_as` means the pilot's choice, for that arm too,
    and is exploratory: it was not tuned with the seeds it is trained with."""
    extend: int = Field(2, ge=0, le=10)
    """With `each_seed`, the most values by which the pilot goes on beyond either end of the grid as
    long as its best lies there: numbers only, in the ratio of the last two. Their runs are in no
    budget before they are known to be needed."""
    select: Literal["val/accuracy", "val/loss"] = "val/accuracy"
    """What the best value is best at, in the mean over the tuning seeds. A diverged run scores as
    guessing does. Ties go to the smaller value."""
    report: Literal["test/accuracy", "test/loss"] = "test/accuracy"
    """What the closing table shows of the final runs."""
    same: dict[str, Any] = Field(default_factory=dict)
    """A value for each tuned key: every arm is trained there too in the final stage."""
    same_as: str | None = None
    """An arm: all others are trained at its best values too in the final stage."""
    follow: dict[Name, Name] = Field(default_factory=dict)
    """By arm, another arm at whose best values it is trained instead of being tuned itself."""
    budget: Budget = Budget()
    presets: dict[Name, dict[str, Any]] = Field(default_factory=dict)
    """By name, what is laid over this file to make the same study smaller or larger."""


@dataclass(frozen=True)
class Plan:
    """A study file, checked, with the configuration of every run it may need.

    Attributes:
        spec: The file.
        grid: The tuned values and how they may go on.
        same: The point of `same`, if given.
        configs: By stage, arm and point; their seed is 0.
        text: The study as YAML that loads without its base's files.
    """

    spec: StudyFile
    grid: Grid
    same: Point | None
    configs: Mapping[tuple[Stage, str, Point], Config]
    text: str

    @property
    def points(self) -> tuple[Point, ...]:
        """The grid as it is written; one empty point without `tune`."""
        return self.grid.points

    @property
    def tuned(self) -> bool:
        """Whether the study has stages."""
        return bool(self.grid.values)

    @property
    def tuned_arms(self) -> tuple[str, ...]:
        """Arms that are tried at every point; none in a study without `tune`."""
        return tuple(arm for arm in self.spec.arms if self.tuned and arm not in self.spec.follow)

    def seeds(self, stage: Stage) -> tuple[int, ...]:
        """The seeds of one stage."""
        return self.spec.tune_seeds if stage == "tune" else self.spec.seeds


def show_point(point: Point) -> str:
    """`optim.lr=0.1 optim.momentum=0.9`."""
    return " ".join(f"{key}={show_value(value)}" for key, value in point)


def show_value(value: Any) -> str:
    """A configuration value as it is written in YAML."""
    return f"{value:g}" if isinstance(value, float) else json.dumps(value).strip('"')


def stored_layer(runs_dir: Path, name: str) -> Layer | None:
    """A study as it was run last, from the runs folder or an archive there; None if it never was.

    Args:
        runs_dir: Folder of all runs.
        name: `STUDY/study.yaml`, or how studies that share a folder call theirs.

    Raises:
        BnlabError: If it cannot be read.
    """
    found = read_study(runs_dir, name)
    return None if found is None else parse_yaml(*found)


def load_plan(
    file: Path,
    overrides: Sequence[str] = (),
    *,
    name: str | None = None,
    preset: str | None = None,
    stored: Layer | None = None,
    stored_seeds: bool = False,
) -> Plan:
    """Read and check a study file.

    Args:
        file: The study file.
        overrides: `--set` assignments for all arms.
        name: Another name than the file's.
        preset: One of the file's presets, laid over it.
        stored: The study as it was run before; its overrides count if there are no others.
        stored_seeds: Whether its seeds count, too: what was planned then is whole, however many
            seeds are planned since.

    Raises:
        ConfigError: With every fault found, one a line, each with its place.
    """
    layer = read_file(file)
    layer.tree.setdefault("name", file.stem)
    layer.marks[()] = str(file)
    if name is not None:
        layer.tree["name"] = name
        layer.marks["name",] = f"--name {name}"
    if preset is not None:
        layer = _with_preset(file, layer, preset)
    if overrides:
        layer.tree["overrides"] = list(overrides)
    elif "overrides" not in layer.tree and stored is not None:
        layer.tree["overrides"] = list(stored.tree.get("overrides") or [])
    if stored_seeds and stored is not None:
        planned = ("seeds", "tune_seeds")
        layer.tree.update({key: stored.tree[key] for key in planned if key in stored.tree})
    return _Builder(file, layer, build_section(StudyFile, layer)).build()


def _with_preset(file: Path, layer: Layer, preset: str) -> Layer:
    """A study file with one of its presets laid over it."""
    presets = build_section(StudyFile, _seeded(layer)).presets
    if preset not in presets:
        raise ConfigError(
            f"{file}: unknown preset {shown(repr(preset))}{did_you_mean(preset, presets)}"
        )
    chosen = sublayer(layer, "presets", preset)
    unknown = chosen.tree.keys() - StudyFile.model_fields.keys() | {"presets"} & chosen.tree.keys()
    if unknown:
        place = mark_of(("presets", preset), layer.marks)
        raise ConfigError(
            f"{place}: presets.{preset}: {', '.join(sorted(unknown))} cannot be laid over a study"
        )
    merged = merge_layers([_undotted(layer), _undotted(chosen)])
    # A grid and a base replace those below; laid over one another they would mix.
    tree = {**merged.tree, **{key: chosen.tree[key] for key in ("base",) if key in chosen.tree}}
    tree.pop("presets")
    return Layer(tree, {**merged.marks, (): str(file)})


def _seeded(layer: Layer) -> Layer:
    """A file whose seeds stand in its presets only is whole once one of them is chosen."""
    return Layer({"seeds": 1, **layer.tree}, layer.marks)


def _undotted(layer: Layer) -> Layer:
    """`set: {optim.lr: 0.1}` as nested mappings, so that presets meet the keys they mean."""
    nested = Layer(dict(layer.tree), dict(layer.marks))
    for key in ("set", "tune", "same"):
        if isinstance(layer.tree.get(key), Mapping):
            inner = sublayer(layer, key)
            nested.tree[key] = inner.tree
            nested.marks.update({(key, *place): mark for place, mark in inner.marks.items()})
    return nested


class _Builder:
    """Turns a study file into configurations, collecting faults on the way."""

    def __init__(self, file: Path, layer: Layer, spec: StudyFile) -> None:
        self.file, self.layer, self.spec = file, layer, spec
        self.faults: dict[str, None] = {}

    def build(self) -> Plan:
        arms, base = self._layers()
        tune = self._sublayer("tune")
        grid = flatten(tune.tree)
        self._check_seeds()
        self._check_grid(grid, tune.marks)
        self._check_same(grid, arms)
        self._check_keys(arms, grid)
        self._stop_on_faults()

        marks = {**self._sublayer("same").marks, **tune.marks}
        common = [*base, Layer({"name": self.spec.name, "seed": 0}, {})]
        ladder = self._extended(grid, [[*common, arm] for arm in arms.values()], marks)
        points = ladder.points
        same = flatten(self._sublayer("same").tree)
        same_point: Point | None = tuple((key, same[key]) for key in grid) if same else None
        wanted = list(ladder.whole.points)
        if same_point is not None and same_point not in wanted:
            wanted.append(same_point)
        configs: dict[tuple[Stage, str, Point], Config] = {}
        for arm, arm_layer in arms.items():
            for point in wanted:
                if len(self.faults) > MAX_FAULTS:
                    self._stop_on_faults()
                assigned = [_assign(key, value, marks) for key, value in point]
                self._build_stages(configs, arm, point, [*common, arm_layer, *assigned])
        self._stop_on_faults()
        self._check_distinct(configs, points)
        self._stop_on_faults()
        text = self._text(merge_layers(self._base()))
        return Plan(self.spec, ladder, same_point, configs, text)

    def _extended(
        self,
        values: Mapping[str, Sequence[Any]],
        arms: Sequence[Sequence[Layer]],
        marks: Mapping[KeyPath, str],
    ) -> Grid:
        """The grid, and how far it may go on: to where an arm does not take the next value."""
        grid = Grid({key: tuple(tried) for key, tried in values.items()})
        if not self.spec.each_seed:
            return grid
        first = {key: tried[0] for key, tried in values.items()}

        def taken(key: str, value: Any) -> bool:
            point = [_assign(k, v, marks) for k, v in {**first, key: value}.items()]
            try:
                for layers in arms:
                    build_config([*layers, *point])
            except ConfigError:
                return False
            return True

        ends = {key: go_on(tried, self.spec.extend) for key, tried in values.items()}
        below, above = (
            {
                key: tuple(itertools.takewhile(partial(taken, key), sides[end]))
                for key, sides in ends.items()
            }
            for end in (0, 1)
        )
        return replace(grid, below=below, above=above)

    # ---------------------------------------------------------------------------------- layers

    def _layers(self) -> tuple[dict[str, Layer], list[Layer]]:
        arms = {arm: self._sublayer("arms", arm) for arm in self.spec.arms}
        try:
            base = self._base()
        except ConfigError as error:
            self._fault_lines(str(error))
            base = []
        return arms, [*base, self._sublayer("set"), *self._assigned()]

    def _assigned(self) -> list[Layer]:
        found = []
        for text in self.spec.overrides:
            try:
                found.append(parse_override(text))
            except ConfigError as error:
                self._fault_lines(str(error))
        return found

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
                    f"{place}: base: expected the path of a configuration or a mapping, got "
                    f"{shown(str(part))}"
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
            plain = build_config(layers)
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
        tune = Layer({"train": {"test_every": None}, "probes": []}, {})
        configs["tune", arm, point] = build_config([*layers, tune])
        if self.spec.each_seed:
            configs["each", arm, point] = configs["tune", arm, point]
        configs["final", arm, point] = build_config([*layers, Layer(final, {})])

    def _sets(self, key: str) -> bool:
        given = [self._sublayer("set"), *self._assigned()]
        return any(key in _keys(layer) for layer in given)

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
                self._fault((key,), f"{shown(', '.join(twice))} given twice; keep one")
        both = sorted(set(spec.seeds) & set(spec.tune_seeds))
        if both:
            self._fault(
                ("tune_seeds",),
                f"{shown(', '.join(map(str, both)))} also in `seeds`; a value that was chosen for "
                "its luck with a seed must be confirmed with others",
            )
        if spec.tune and not spec.tune_seeds:
            self._fault(("tune",), "needs `tune_seeds`, a list of seeds or how many")
        for key in ("tune_seeds", "each_seed", "same", "same_as", "follow"):
            if getattr(spec, key) and not spec.tune:
                self._fault((key,), "means nothing without `tune`")
        if "extend" in self.layer.tree and not spec.each_seed:
            self._fault(("extend",), "means nothing without `each_seed: true`")

    def _check_grid(self, grid: Mapping[str, Any], marks: Mapping[KeyPath, str]) -> None:
        for key, values in grid.items():
            place = mark_of(tuple(key.split(".")), marks)
            if not isinstance(values, list) or not values:
                given = shown(json.dumps(values))
                self.faults[f"{place}: tune.{key}: expected a list of values, got {given}"] = None
            elif len({repr(_number(value)) for value in values}) < len(values):
                self.faults[f"{place}: tune.{key}: a value is given twice"] = None
        if not self.faults:
            more = 2 * self.spec.extend if self.spec.each_seed else 0
            count = math.prod(len(values) + more for values in grid.values()) * len(self.spec.arms)
            if count > MAX_CONFIGS:
                said = f"{count:,} configurations; a study has at most {MAX_CONFIGS:,}"
                self._fault(("tune",) if grid else ("arms",), said)

    def _check_same(self, grid: Mapping[str, Any], arms: Iterable[str]) -> None:
        same = flatten(self._sublayer("same").tree)
        if same and same.keys() != grid.keys():
            self._fault(("same",), f"expected one value for each of {', '.join(grid)}")
        elif any(
            isinstance(value, list) and not _holds_lists(grid[key]) for key, value in same.items()
        ):
            self._fault(("same",), "expected one value for each key, not a list")
        other = self.spec.same_as
        if other is not None and other not in arms:
            self._fault(("same_as",), f"unknown arm {other!r}{did_you_mean(other, arms)}")
        self._check_follow(arms)

    def _check_follow(self, arms: Iterable[str]) -> None:
        follow = self.spec.follow
        for arm, leader in follow.items():
            for name in (arm, leader):
                if name not in arms:
                    self._fault(("follow", arm), f"unknown arm {name!r}{did_you_mean(name, arms)}")
            if leader in follow:
                self._fault(("follow", arm), f"{leader} follows {follow[leader]}; follow that one")
        if self.spec.same_as in follow:
            self._fault(("same_as",), f"{self.spec.same_as} is not tuned itself")

    def _check_keys(self, arms: Mapping[str, Layer], grid: Mapping[str, Any]) -> None:
        """Keys that two parts of the file claim: no single configuration would show it."""
        own = ["name", "seed"]
        of_stages = ["dataset.val_size", "train.test_every"] if grid else []
        layers: list[tuple[KeyPath, Layer]] = [(("tune",), self._sublayer("tune"))]
        layers += [(("arms", arm), layer) for arm, layer in arms.items()]
        layers.append((("set",), self._sublayer("set")))
        layers += [(("--set",), layer) for layer in self._assigned()]
        for path, layer in layers:
            for key in _keys(layer):
                place = f"{mark_of(tuple(key.split('.')), layer.marks)}: {'.'.join(map(str, path))}"
                if key in own or (key in of_stages and path[0] in {"arms", "tune"}):
                    self.faults[f"{place}: {key}: the study sets this key itself"] = None
                elif path[0] != "tune" and _overlaps(key, grid):
                    self.faults[f"{place}: {key}: is tuned, so nothing else may fix it"] = None
                if path[0] == "--set":
                    for arm, fixed in arms.items():
                        if _overlaps(key, _keys(fixed)):
                            said = f"has no effect, since arm {arm!r} fixes it"
                            self.faults[f"{place}: {key}: {said}"] = None

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
            elif not self._trained_elsewhere(arm, other_arm):
                self._fault(("arms", arm), f"is the same configuration as arm {other_arm!r}")

    def _trained_elsewhere(self, one: str, other: str) -> bool:
        """Whether arms alike are trained at the best values of different arms, as one says."""
        follow = self.spec.follow
        leaders = {follow.get(one, one), follow.get(other, other)}
        return len(leaders) == 2 and bool({one, other} & follow.keys())

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
        return render_yaml({key: whole[key] for key in order})


def _assign(key: str, value: Any, marks: Mapping[KeyPath, str]) -> Layer:
    """The layer of one tuned value."""
    path: KeyPath = tuple(key.split("."))
    place = mark_of(path, marks)
    for part in reversed(path):
        value = {part: value}
    return Layer(value, {path[:end]: place for end in range(1, len(path) + 1)})


def _keys(layer: Layer) -> list[str]:
    """The dotted keys that a layer gives, shorthand written out."""
    return list(flatten(merge_layers([layer]).tree))


def _overlaps(key: str, others: Iterable[str]) -> bool:
    """Whether a key is, holds or lies in one of the others, as `model.norm` holds its `name`."""
    return any(f"{key}.".startswith(f"{o}.") or f"{o}.".startswith(f"{key}.") for o in others)


def _number(value: Any) -> Any:
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _holds_lists(values: Any) -> bool:
    return isinstance(values, list) and any(isinstance(value, list) for value in values)
