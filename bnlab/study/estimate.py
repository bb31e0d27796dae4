"""How long the rest of a study takes, going by runs already made, and whether its budget allows."""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bnlab.config import Config
from bnlab.errors import BnlabError
from bnlab.records import find_runs, read_config, read_facts, read_summary
from bnlab.study.plan import Study
from bnlab.study.survey import Survey, survey_study

STARTUP_SECONDS = 5.0
"""What a run takes besides its training: Python, torch and the data. Only for estimates."""


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


@dataclass(frozen=True)
class Timings:
    """How fast the runs at hand trained.

    Attributes:
        same: Wall seconds of whole runs, by the hash of their configuration.
        speeds: Images a second, by network and batch size.
        images: Images for training and validation, by data set.
    """

    same: Mapping[str, Sequence[float]]
    speeds: Mapping[tuple[object, ...], Sequence[float]]
    images: Mapping[str, int]

    def estimate(self, left: Sequence[Config]) -> Estimate:
        """For runs that are left: each by one of its configuration, else of its network."""
        seconds: float | None = 0.0
        for config in left:
            one = self._run_seconds(config)
            seconds = None if seconds is None or one is None else seconds + one + STARTUP_SECONDS
        return Estimate(len(left), seconds, sum(map(len, self.speeds.values())))

    def _run_seconds(self, config: Config) -> float | None:
        if config.hash in self.same:
            return median(self.same[config.hash])
        speed = self.speeds.get(_network(config))
        dataset = config.dataset
        count = dataset.train_size or self.images.get(dataset.name, 0) - dataset.val_size
        if not speed or count <= 0:
            return None
        return config.train.epochs * count / median(speed)


def read_timings(runs_dir: Path) -> Timings:
    """Those of all finished runs below a folder."""
    same: dict[str, list[float]] = {}
    speeds: dict[tuple[object, ...], list[float]] = {}
    images: dict[str, int] = {}
    for run in find_runs([runs_dir]).runs if runs_dir.exists() else ():
        try:
            summary, facts, made_with = read_summary(run), read_facts(run), read_config(run)
        except BnlabError:
            continue  # unfinished or foreign: nothing to go by
        dataset = facts.dataset
        images[dataset.name] = dataset.train_images + dataset.val_images
        if summary.images_per_second:
            speeds.setdefault(_network(made_with), []).append(summary.images_per_second)
        if summary.wall_seconds and summary.epochs == made_with.train.epochs:
            same.setdefault(made_with.hash, []).append(summary.wall_seconds)
    return Timings(same, speeds, images)


def _network(config: Config) -> tuple[object, ...]:
    model = config.model
    size = config.dataset.size
    return (
        *(model.name, model.file, model.widths, model.depths, model.hidden),
        *(size, config.train.batch_size),
    )


def runs_left(survey: Survey) -> list[tuple[Hashable, Config]]:
    """What is left to train, each under a name that another study's same run has, too.

    Before tuning has settled a point, any of the grid's stands for it: a learning rate costs no
    time.
    """
    left: list[tuple[Hashable, Config]] = [
        (cell.root, cell.config) for cell, _ in survey.unfinished()
    ]
    study = survey.study
    met: Counter[Hashable] = Counter()
    for row in survey.rows:
        if row.point is not None:
            continue
        tried = [study.configs[row.stage, row.arm, point] for point in study.grids[row.arm].points]
        alike = row.stage, frozenset(config.hash for config in tried)
        met[alike] += 1
        left += [((*alike, met[alike], seed), tried[0]) for seed in row.seeds]
    return left


def estimate_left(survey: Survey, runs_dir: Path) -> Estimate:
    """Of one study, going by the runs at hand."""
    return read_timings(runs_dir).estimate([config for _, config in runs_left(survey)])


@dataclass(frozen=True)
class Ahead:
    """What a study of a series still has to train.

    Attributes:
        survey: Where it stands.
        estimate: Of what is left of it.
        own: Of what no study before it trains.
    """

    survey: Survey
    estimate: Estimate
    own: Estimate


def look_ahead(studies: Mapping[str, Study], runs_dir: Path) -> tuple[dict[str, Ahead], Estimate]:
    """Where each study stands, by name, and how long all take together."""
    timings = read_timings(runs_dir)
    ahead: dict[str, Ahead] = {}
    known: dict[Hashable, Config] = {}
    for name, study in studies.items():
        survey = survey_study(study, runs_dir)
        left = runs_left(survey)
        own = {key: config for key, config in left if key not in known}
        known |= own
        ahead[name] = Ahead(
            survey,
            timings.estimate([config for _, config in left]),
            timings.estimate([*own.values()]),
        )
    return ahead, timings.estimate([*known.values()])


def budget_excess(survey: Survey, estimate: Estimate) -> str:
    """In what way the plan goes beyond the study's budget; "" if it does not."""
    budget = survey.study.spec.budget
    if budget.runs is not None and survey.total > budget.runs:
        return f"the study needs {survey.total} runs, its budget is {budget.runs}"
    hours = None if estimate.seconds is None else estimate.seconds / 3600
    if budget.hours is not None and hours is not None and hours > budget.hours:
        return f"what is left takes about {hours:.1f} hours, the budget is {budget.hours:g}"
    return ""
