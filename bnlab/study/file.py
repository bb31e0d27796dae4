"""A study as it is written down, and what it stands for once it is checked."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from bnlab.analysis.choose import Point
from bnlab.config import (
    Config,
    ConfigSection,
)
from bnlab.study.pilot import Grid

FIRST_TUNE_SEED = 1000
"""A count of tuning seeds starts here, so that no later count of final seeds runs into it."""

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
    ones laid over earlier ones; a configuration that comes with bnlab by its name."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Laid over the base, for all arms."""
    overrides: tuple[str, ...] = ()
    """`--set` assignments that the study was run with; laid over `set`."""
    factors: dict[Name, dict[Name, dict[str, Any] | None]] = Field(default_factory=dict)
    """By factor, its levels, and what each lays over the rest: every combination is an arm, named
    by its levels with `_` between them. A level that lays nothing over the rest is left out of the
    name: `norm: {none: {model.norm: none}, batch: {}}` and `init: {he: {}, small: {...}}` make the
    arms `none`, `none_small`, `batch` and `batch_small`."""
    arms: dict[Name, dict[str, Any] | None] = Field(default_factory=dict)
    """What the study compares, beside the combinations of `factors`: by name, what each lays over
    the rest."""
    tune: dict[str, Any] = Field(default_factory=dict)
    """By key, the values that every arm is tried at; with several keys, all combinations. While
    tuning, `dataset.val_size` images are held out, the test set is not read and nothing is probed,
    so that studies with other probes share these runs. The final runs
    train on these images too (`train_size`, where given, grows by them) and read the test set after
    the last epoch only, unless `set` gives `train.test_every`."""
    tune_seeds: Annotated[tuple[Seed, ...], _count_from(FIRST_TUNE_SEED)] = ()
    """Seeds of the tuning runs: a list, or a count n for 1000 to 999 + n."""
    alternatives: dict[Name, dict[str, Any]] = Field(default_factory=dict)
    """By arm, further keys that it alone is tuned over, with their values: each is tried with every
    point of `tune`, as where the arm without a norm may choose its initialization. Alternatives
    have no order: there is no edge to extend, and a neighborhood holds all of them."""
    seeds: Annotated[tuple[Seed, ...], _count_from(0)] = Field(min_length=1)
    """Seeds of the final runs: a list, or a count n for 0 to n - 1."""
    each_seed: bool | tuple[Name, ...] = False
    """Whether every final seed tunes for itself, in all arms that are tuned or in those listed, so
    that tuning is part of what is compared and the intervals hold for all of it. The tuning seeds
    are then a pilot that finds the neighborhood: for each arm the best value of the grid and the
    values beside it. Every final seed is trained at each of these with images held out, and then on
    all images at its own best. Costs an arm (tuning seeds x grid) + 3 n + n runs; with k tuned keys
    3^k n + n. An arm whose best stays at the edge of the grid gets no final runs. `same_as` means
    the pilot's choice, for that arm too, and is exploratory: it was not tuned with the seeds it is
    trained with."""
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
    """By arm, another arm at whose best values it is trained instead of being tuned itself; or by
    factor, one of its levels: `budget: whole` lets every arm follow that one which differs from it
    in having the whole budget."""
    in_turn: bool = False
    """Whether arms take turns, seed by seed, forth and back (ABBA), so that what else the machine
    does meets all alike: where times are compared."""
    budget: Budget = Budget()
    presets: dict[Name, dict[str, Any]] = Field(default_factory=dict)
    """By name, what is laid over this file to make the same study smaller or larger."""


@dataclass(frozen=True)
class Plan:
    """A study file, checked, with the configuration of every run it may need.

    Attributes:
        spec: The file.
        grids: By arm, the values that it is tuned over, or that the arm is which it follows, and
            how they may go on.
        same: The point of `same`, if given.
        levels: By arm that is a combination of factors, its level of each.
        configs: By stage, arm and point; their seed is 0.
        text: The study as YAML that loads without its base's files.
    """

    spec: StudyFile
    grids: Mapping[str, Grid]
    same: Point | None
    configs: Mapping[tuple[Stage, str, Point], Config]
    text: str
    levels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def keys(self) -> tuple[str, ...]:
        """All keys that are tuned, in whichever arm; none without `tune`."""
        return tuple(dict.fromkeys(key for grid in self.grids.values() for key in grid.values))

    @property
    def tuned(self) -> bool:
        """Whether the study has stages."""
        return bool(self.keys)

    @property
    def tuned_arms(self) -> tuple[str, ...]:
        """Arms that are tried at every point; none in a study without `tune`."""
        return tuple(arm for arm in self.spec.arms if self.tuned and arm not in self.spec.follow)

    def leader(self, arm: str) -> str:
        """The arm at whose best it is trained: itself, unless it follows another."""
        return self.spec.follow.get(arm, arm)

    def each(self, arm: str) -> bool:
        """Whether the final seeds of an arm, or of the one that it follows, tune for themselves."""
        chosen = self.spec.each_seed
        return chosen if isinstance(chosen, bool) else self.leader(arm) in chosen

    def at_values(self, arm: str, values: Point, own: Point) -> Point:
        """Values of `tune` that all arms share, and of its own alternatives those of `own`."""
        given = {key: value for key, value in values if key not in self.grids[arm].unordered}
        return tuple((key, given.get(key, value)) for key, value in own)

    def seeds(self, stage: Stage) -> tuple[int, ...]:
        """The seeds of one stage."""
        return self.spec.tune_seeds if stage == "tune" else self.spec.seeds


def show_point(point: Point) -> str:
    """`optim.lr=0.1 optim.momentum=0.9`."""
    return " ".join(f"{key}={show_value(value)}" for key, value in point)


def show_value(value: Any) -> str:
    """A configuration value as it is written in YAML."""
    return f"{value:g}" if isinstance(value, float) else json.dumps(value).strip('"')
