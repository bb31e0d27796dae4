"""Many runs from one file: `study plan`, `study status`, `study run`."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bnlab.cli.hiring import OnInterrupt, Ray, RayAddress, Script, Slurm, Workers, hire
from bnlab.cli.options import AsJson, Deterministic, Device, Executor, Jobs, RunsDir, count_jobs
from bnlab.cli.output import print_json, print_line, print_parts, remark, this_command

if TYPE_CHECKING:
    from bnlab.study.plan import Study
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
    from bnlab.study.cluster import look_at_workers
    from bnlab.study.render import (
        render_choices,
        render_plan,
        render_results,
        render_under_way,
        render_workers,
        results,
        study_as_data,
    )

    survey = _survey(file, sets, runs_dir, name)
    workers = look_at_workers(survey.folder)
    if as_json:
        print_json({**study_as_data(survey), "workers": [vars(worker) for worker in workers]})
    else:
        print_parts(
            render_plan(survey),
            render_choices(survey),
            render_under_way(survey),
            render_workers(workers),
            render_results(survey) if results(survey) else "",
        )


def _survey(file: Path, sets: list[str] | None, runs_dir: Path, name: str | None) -> "Survey":
    from bnlab.study.survey import survey_study

    return survey_study(_study(file, sets, runs_dir, name), runs_dir)


def _study(file: Path, sets: list[str] | None, runs_dir: Path, name: str | None) -> "Study":
    """A study, with a word where it is not the file as it is written."""
    from bnlab.study.plan import load_study

    study = load_study(file, sets or (), runs_dir=runs_dir, name=name)
    if study.remembered:
        remark(
            f"{file}: with the settings of the last `study run`: "
            f"{shlex.join(f'--set={text}' for text in study.remembered)}; for the file as it is "
            "written give another --name"
        )
    return study


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
    workers: Workers = None,
    slurm: Slurm = None,
    ray: Ray = None,
    ray_address: RayAddress = None,
    on_interrupt: OnInterrupt = None,
    script: Script = False,
    force: Annotated[bool, typer.Option("--force", help="Go beyond the study's budget.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train what is missing of a study; ends with 6 if a run failed."""
    at_once = count_jobs(jobs)
    from bnlab.cli.console import watching_study
    from bnlab.study.render import render_choices, render_results, results, study_as_data
    from bnlab.study.run import StudyOptions, prepare_study, raise_failures, run_study

    hiring = hire(executor, workers, slurm, ray, ray_address, on_interrupt, script=script)
    options = StudyOptions(at_once, device, deterministic, executor, force, hiring=hiring)
    study = _study(file, sets, runs_dir, name)
    if script:
        from bnlab.study.executors.slurm import sbatch_script

        _, settings, _ = prepare_study(study, runs_dir, options, remark)
        assert settings.fleet is not None
        print_line(sbatch_script(settings.fleet))
        return
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


@app.command(hidden=True)
def work(
    folder: Annotated[Path, typer.Argument(help="Folder of the study's runs.")],
    token: Annotated[str, typer.Option(help="What tells that it is the same folder here.")],
) -> None:
    """Be a worker of a study; what a script of `study run --print` runs in its jobs."""
    from bnlab.study.executors.slurm import work_as_job

    work_as_job(folder, token)
