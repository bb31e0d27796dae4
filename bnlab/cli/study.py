"""Many runs from one file: `study plan`, `study status`, `study run`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bnlab.cli.options import AsJson, Deterministic, Device, Executor, Jobs, RunsDir, count_jobs
from bnlab.cli.output import print_json, print_parts, this_command

if TYPE_CHECKING:
    from bnlab.study.survey import Survey

app = typer.Typer(help="Many runs from one file.", no_args_is_help=True)

StudyPath = Annotated[
    Path, typer.Argument(metavar="STUDY", help="YAML file of a study, or its name.")
]
StudySets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        "-s",
        metavar="KEY=VALUE",
        help="Override for all arms; without any, those of the last `study run` count again.",
    ),
]
StudyName = Annotated[
    str | None, typer.Option(help="Folder under the runs folder, if not the study's own name.")
]


@app.command()
def plan(
    file: StudyPath,
    sets: StudySets = None,
    runs_dir: RunsDir = Path("runs"),
    name: StudyName = None,
    as_json: AsJson = False,
) -> None:
    """Show the runs of a study, how far they are and how long the rest takes; write nothing."""
    from bnlab.study.estimate import estimate_left
    from bnlab.study.render import render_choices, render_estimate, render_plan, study_as_data

    survey = _survey(file, sets, runs_dir, name)
    estimate = estimate_left(survey, runs_dir)
    if as_json:
        print_json(study_as_data(survey, estimate))
    else:
        print_parts(render_plan(survey), render_choices(survey), render_estimate(survey, estimate))


@app.command()
def status(
    file: StudyPath,
    sets: StudySets = None,
    runs_dir: RunsDir = Path("runs"),
    name: StudyName = None,
    as_json: AsJson = False,
) -> None:
    """Show how far a study is, while it runs or after; write nothing."""
    from bnlab.study.render import (
        render_choices,
        render_plan,
        render_results,
        render_under_way,
        results,
        study_as_data,
    )

    survey = _survey(file, sets, runs_dir, name)
    if as_json:
        print_json(study_as_data(survey))
    else:
        print_parts(
            render_plan(survey),
            render_choices(survey),
            render_under_way(survey),
            render_results(survey) if results(survey) else "",
        )


def _survey(file: Path, sets: list[str] | None, runs_dir: Path, name: str | None) -> "Survey":
    from bnlab.study.plan import load_study
    from bnlab.study.survey import survey_study

    return survey_study(load_study(file, sets or (), runs_dir=runs_dir, name=name), runs_dir)


@app.command()
def run(
    file: StudyPath,
    sets: StudySets = None,
    runs_dir: RunsDir = Path("runs"),
    name: StudyName = None,
    jobs: Jobs = "auto",
    device: Device = "auto",
    deterministic: Deterministic = False,
    executor: Executor = None,
    force: Annotated[bool, typer.Option("--force", help="Go beyond the study's budget.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train what is missing of a study; ends with 6 if a run failed."""
    at_once = count_jobs(jobs)
    from bnlab.cli.console import watching_study
    from bnlab.study.plan import load_study
    from bnlab.study.render import render_choices, render_results, results, study_as_data
    from bnlab.study.run import StudyOptions, raise_failures, run_study

    options = StudyOptions(at_once, device, deterministic, executor, force)
    study = load_study(file, sets or (), runs_dir=runs_dir, name=name)
    with watching_study() as (watcher, say):
        finished = run_study(study, runs_dir, options, watcher, say)
    if as_json:
        print_json({**study_as_data(finished.survey), "failures": dict(finished.failures)})
    else:
        print_parts(
            render_choices(finished.survey),
            render_results(finished.survey) if results(finished.survey) else "",
            str(finished.survey.folder),
        )
    raise_failures(finished, this_command())
