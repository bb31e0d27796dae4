"""A study as it is written down, and what it stands for once it is checked."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
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
