"""From a study file to the configuration of every run that it may need.

Nothing here imports torch: what is at hand of a study can be read where nothing is trained.
"""

import itertools
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from bnlab.analysis.choose import Point
from bnlab.config import (
    Config,
    KeyPath,
    Layer,
    build_config,
    flatten,
    mark_of,
    merge_layers,
    parse_override,
    read_file,
    render_yaml,
    shipped_as,
    sublayer,
)
from bnlab.errors import ConfigError, did_you_mean, shown
from bnlab.study.file import (
    Plan,
    Stage,
    StudyFile,
    show_point,
)
from bnlab.study.pilot import Grid, go_on
from bnlab.study.twins import without_twins

MAX_CONFIGS = 5_000
"""Arms times values of the grid. Checking one configuration takes a millisecond or two."""

MAX_FAULTS = 50


class Builder:
    """Turns a study file into configurations, collecting faults on the way.

    Args:
        file: Its path.
        layer: What it says.
        spec: The same, checked key by key.
        levels: By arm that is a combination of factors, its level of each.
        elsewhere: Whether it is asked of another network than it was made for: what means nothing
            there is left out instead of being a fault.
    """

    def __init__(
        self,
        file: Path,
        layer: Layer,
        spec: StudyFile,
        levels: Mapping[str, Mapping[str, str]],
        *,
        elsewhere: bool = False,
    ) -> None:
        self.file, self.layer, self.spec, self.levels = file, layer, spec, levels
        self.elsewhere = elsewhere
        self.faults: dict[str, None] = {}

    def build(self) -> Plan:
        """The plan.

        Raises:
            ConfigError: With every fault found, one a line, each with its place.
        """
        arms, base = self._layers()
        tune = self._sublayer("tune")
        grid = flatten(tune.tree)
        self._check_seeds()
        own = {arm: self._sublayer("alternatives", arm) for arm in self.spec.alternatives}
        alternatives = {arm: flatten(layer.tree) for arm, layer in own.items()}
        self._check_grid("tune", grid, tune.marks)
        for arm, layer in own.items():
            self._check_grid(f"alternatives.{arm}", alternatives[arm], layer.marks)
        if not self.faults:
            self._check_size(grid, alternatives)
        self._check_alternatives(alternatives, grid, arms)
        self._check_each_seed(arms)
        self._check_same(grid, arms)
        self._check_keys(arms, grid, own)
        self._stop_on_faults()

        marks = {**self._sublayer("same").marks, **tune.marks}
        for layer in own.values():
            marks.update(layer.marks)
        common = [*base, Layer({"name": self.spec.name, "seed": 0}, {})]
        ladder = self._extended(grid, [[*common, arm] for arm in arms.values()], marks)
        grids = {
            arm: _with_alternatives(ladder, alternatives.get(self.spec.follow.get(arm, arm), {}))
            for arm in arms
        }
        same = flatten(self._sublayer("same").tree)
        same_point: Point | None = tuple((key, same[key]) for key in grid) if same else None
        configs: dict[tuple[Stage, str, Point], Config] = {}
        for arm, arm_layer in arms.items():
            for point in _wanted(grids[arm], same):
                if len(self.faults) > MAX_FAULTS:
                    self._stop_on_faults()
                assigned = [_assign(key, value, marks) for key, value in point]
                self._build_stages(configs, arm, point, [*common, arm_layer, *assigned])
        self._stop_on_faults()
        plan = Plan(self.spec, grids, same_point, configs, "", self.levels)
        if self.elsewhere:
            plan = without_twins(plan)
        else:
            self._check_distinct(configs, grids)
            self._stop_on_faults()
        return replace(plan, text=self._text(merge_layers(self._base()), plan))

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
            there = self.file.parent / name
            found = None if there.exists() else shipped_as(Path(name))
            return read_file(found or there)
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
        for key in ("tune_seeds", "alternatives", "each_seed", "same", "same_as", "follow"):
            if getattr(spec, key) and not spec.tune:
                self._fault((key,), "means nothing without `tune`")
        if "extend" in self.layer.tree and not spec.each_seed:
            self._fault(("extend",), "means nothing without `each_seed`")
        if not spec.arms:
            self._fault(("arms",), "expected at least one arm, here or by `factors`")

    def _check_grid(
        self, under: str, grid: Mapping[str, Any], marks: Mapping[KeyPath, str]
    ) -> None:
        for key, values in grid.items():
            place = mark_of(tuple(key.split(".")), marks)
            if not isinstance(values, list) or not values:
                given = shown(json.dumps(values))
                said = f"expected a list of values, got {given}"
                self.faults[f"{place}: {under}.{key}: {said}"] = None
            elif len({repr(_number(value)) for value in values}) < len(values):
                self.faults[f"{place}: {under}.{key}: a value is given twice"] = None

    def _check_size(
        self, grid: Mapping[str, Any], alternatives: Mapping[str, Mapping[str, Any]]
    ) -> None:
        more = 2 * self.spec.extend if self.spec.each_seed else 0
        points = math.prod(len(values) + more for values in grid.values())
        leaders = (self.spec.follow.get(arm, arm) for arm in self.spec.arms)
        own = sum(math.prod(map(len, alternatives.get(arm, {}).values())) for arm in leaders)
        if points * own > MAX_CONFIGS:
            said = f"{points * own:,} configurations; a study has at most {MAX_CONFIGS:,}"
            self._fault(("tune",) if grid else ("arms",), said)

    def _check_alternatives(
        self,
        alternatives: Mapping[str, Mapping[str, Any]],
        grid: Mapping[str, Any],
        arms: Iterable[str],
    ) -> None:
        for arm, keys in alternatives.items():
            place = ("alternatives", arm)
            if arm not in arms:
                self._fault(place, f"unknown arm {arm!r}{did_you_mean(arm, arms)}")
            elif arm in self.spec.follow:
                self._fault(place, f"follows {self.spec.follow[arm]}, so it is not tuned itself")
            for key in keys:
                if _overlaps(key, grid):
                    self._fault((*place, key), "is tuned in all arms; keep one")

    def _check_each_seed(self, arms: Iterable[str]) -> None:
        listed = self.spec.each_seed
        for arm in () if isinstance(listed, bool) else listed:
            if arm not in arms:
                self._fault(("each_seed",), f"unknown arm {arm!r}{did_you_mean(arm, arms)}")
            elif arm in self.spec.follow:
                leader = self.spec.follow[arm]
                self._fault(("each_seed",), f"{arm} follows {leader}; name that one")

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

    def _check_keys(
        self, arms: Mapping[str, Layer], grid: Mapping[str, Any], own_tuned: Mapping[str, Layer]
    ) -> None:
        """Keys that two parts of the file claim: no single configuration would show it."""
        tuned: dict[KeyPath, list[str]] = {
            ("arms", arm): _keys(own_tuned[leader])
            for arm in arms
            if (leader := self.spec.follow.get(arm, arm)) in own_tuned
        }
        everywhere = [*grid, *(key for layer in own_tuned.values() for key in _keys(layer))]
        own = ["name", "seed"]
        of_stages = ["dataset.val_size", "train.test_every"] if grid else []
        layers: list[tuple[KeyPath, Layer]] = [(("tune",), self._sublayer("tune"))]
        layers += [(("alternatives", arm), layer) for arm, layer in own_tuned.items()]
        layers += [(("arms", arm), layer) for arm, layer in arms.items()]
        layers.append((("set",), self._sublayer("set")))
        layers += [(("--set",), layer) for layer in self._assigned()]
        for path, layer in layers:
            for key in _keys(layer):
                place = f"{mark_of(tuple(key.split('.')), layer.marks)}: {'.'.join(map(str, path))}"
                searched = path[0] in {"tune", "alternatives"}
                taken = [*grid, *tuned.get(path, ())] if path[0] == "arms" else everywhere
                if key in own or (key in of_stages and (searched or path[0] == "arms")):
                    self.faults[f"{place}: {key}: the study sets this key itself"] = None
                elif not searched and _overlaps(key, taken):
                    self.faults[f"{place}: {key}: is tuned, so nothing else may fix it"] = None
                if path[0] == "--set":
                    for arm, fixed in arms.items():
                        if _overlaps(key, _keys(fixed)):
                            said = f"has no effect, since arm {arm!r} fixes it"
                            self.faults[f"{place}: {key}: {said}"] = None

    def _check_distinct(
        self, configs: Mapping[tuple[Stage, str, Point], Config], grids: Mapping[str, Grid]
    ) -> None:
        seen: dict[str, tuple[str, Point]] = {}
        points = {arm: set(grid.points) for arm, grid in grids.items()}
        for (stage, arm, point), config in configs.items():
            if stage != "final" or point not in points[arm]:
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

    def _text(self, base: Layer, plan: Plan) -> str:
        """The study with its base spelled out, without what means nothing on its network."""
        spec = plan.spec
        told = {
            key: self.layer.tree[key] for key in StudyFile.model_fields if key in self.layer.tree
        }
        whole = {**told, "base": base.tree, "overrides": list(spec.overrides)}
        if self.elsewhere:
            whole["arms"] = {arm: told["arms"][arm] for arm in spec.arms}
            whole["follow"] = dict(spec.follow)
            if not isinstance(spec.each_seed, bool):
                whole["each_seed"] = list(spec.each_seed)
            whole["alternatives"] = {
                arm: layer
                for arm, layer in (told.get("alternatives") or {}).items()
                if arm in spec.arms and plan.grids[arm].unordered
            }
        whole["seeds"] = list(spec.seeds)
        if spec.tune:
            whole["tune_seeds"] = list(spec.tune_seeds)
        order = [key for key in StudyFile.model_fields if whole.get(key) not in (None, [], {})]
        return render_yaml({key: whole[key] for key in order})


def _with_alternatives(grid: Grid, alternatives: Mapping[str, Sequence[Any]]) -> Grid:
    """The grid of an arm that has alternatives of its own."""
    if not alternatives:
        return grid
    own = {key: tuple(values) for key, values in alternatives.items()}
    return replace(grid, values={**own, **grid.values}, unordered=tuple(own))


def _wanted(grid: Grid, same: Mapping[str, Any]) -> list[Point]:
    """The points at which an arm may come to be trained."""
    wanted = list(grid.whole.points)
    if same:
        at_same = replace(grid, values={**grid.values, **{k: (v,) for k, v in same.items()}})
        wanted += [point for point in at_same.points if point not in wanted]
    return wanted


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
