"""How long the rest of a study takes, going by runs already made, and whether its budget allows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bnlab.config import Config
from bnlab.errors import BnlabError
from bnlab.records import find_runs, read_config, read_facts, read_summary
from bnlab.study.survey import Survey

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


def estimate_left(survey: Survey, runs_dir: Path) -> Estimate:
    """From runs already made: of the same configuration, else of the same network and batch."""
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
    left = [cell.config for cell, _ in survey.unfinished()]
    study = survey.study
    unsettled = [row for row in survey.rows if row.point is None]
    for row in unsettled:  # any point does: the value of a learning rate costs no time
        point = study.grids[row.arm].points[0]
        left += [study.configs[row.stage, row.arm, point]] * len(row.seeds)
    seconds: float | None = 0.0
    for config in left:
        one = _run_seconds(config, same, speeds, images)
        seconds = None if seconds is None or one is None else seconds + one + STARTUP_SECONDS
    return Estimate(len(left), seconds, sum(map(len, speeds.values())))


def _network(config: Config) -> tuple[object, ...]:
    model = config.model
    return (model.widths, model.depths, model.hidden, config.train.batch_size)


def _run_seconds(
    config: Config,
    same: Mapping[str, Sequence[float]],
    speeds: Mapping[tuple[object, ...], Sequence[float]],
    images: Mapping[str, int],
) -> float | None:
    if config.hash in same:
        return median(same[config.hash])
    speed = speeds.get(_network(config))
    dataset = config.dataset
    count = dataset.train_size or images.get(dataset.name, 0) - dataset.val_size
    if not speed or count <= 0:
        return None
    return config.train.epochs * count / median(speed)


def budget_excess(survey: Survey, estimate: Estimate) -> str:
    """In what way the plan goes beyond the study's budget; "" if it does not."""
    budget = survey.study.spec.budget
    if budget.runs is not None and survey.total > budget.runs:
        return f"the study needs {survey.total} runs, its budget is {budget.runs}"
    hours = None if estimate.seconds is None else estimate.seconds / 3600
    if budget.hours is not None and hours is not None and hours > budget.hours:
        return f"what is left takes about {hours:.1f} hours, the budget is {budget.hours:g}"
    return ""
