"""The command line: parse, call one function, print. Heavy libraries load inside the commands."""

import errno
import json
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from bnlab import __version__
from bnlab.errors import BnlabError, ConfigError, RefusedError

if TYPE_CHECKING:
    from bnlab.config import Config

app = typer.Typer(
    name="bnlab",
    help="Measure what batch normalization does to a conv-BN-ReLU network on CIFAR-10.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Files = Annotated[
    list[Path] | None,
    typer.Option("--config", "-c", help="YAML file; repeat to lay later files over earlier ones."),
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", metavar="KEY=VALUE", help="Override, as in optim.lr=0.01."),
]
RunsDir = Annotated[Path, typer.Option(help="Folder of all runs.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout.")]


def main() -> None:
    """Run the command line; a mistake of the user's gets one message and an exit code."""
    logging.basicConfig(format="bnlab: %(message)s", level=logging.WARNING)
    try:
        app()
    except BnlabError as error:
        print(f"bnlab: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(error.exit_code)
    except (MemoryError, RuntimeError) as error:  # torch's allocators raise RuntimeError
        words = ("can't allocate memory", "out of memory")
        if not isinstance(error, MemoryError) and not any(word in str(error) for word in words):
            raise
        print(  # noqa: T201
            f"bnlab: not enough memory: {str(error).splitlines()[0]}; lower dataset sizes, "
            "model.widths, model.hidden, train.batch_size or train.eval_batch_size",
            file=sys.stderr,
        )
        sys.exit(1)
    except BrokenPipeError:  # the reader (head, less) went away
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:  # files are written under a StorageError; this is the output
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(  # noqa: T201
            f"bnlab: the output is incomplete: {error.strerror}; free some space, or send it "
            "elsewhere (runs and reports are written apart from it)",
            file=sys.stderr,
        )
        sys.stderr.close()  # what stdout still holds would be told about at exit
        sys.exit(1)


def _print_json(data: Mapping[str, Any]) -> None:
    typer.echo(json.dumps(data, indent=2))


def _version(show: bool) -> None:
    if show:
        typer.echo(f"bnlab {__version__}")
        raise typer.Exit


@app.callback()
def _bnlab(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def _load(files: list[Path] | None, sets: list[str] | None, **flags: Any) -> "Config":
    from bnlab.config import load_config

    return load_config(files or (), sets or (), flags=flags)


@app.command()
def train(
    config: Files = None,
    sets: Sets = None,
    seed: Annotated[int | None, typer.Option(help="Seed of every random stream.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    runs_dir: RunsDir = Path("runs"),
    name: Annotated[str | None, typer.Option(help="Folder under the runs folder.")] = None,
    resume: Annotated[
        Literal["never", "auto", "must"],
        typer.Option(help="What to do about an unfinished run of this configuration."),
    ] = "never",
    if_exists: Annotated[
        Literal["error", "skip"], typer.Option(help="What to do about a finished one.")
    ] = "error",
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Bit-identical repeats on a GPU, slower.")
    ] = False,
    require_clean: Annotated[
        bool, typer.Option("--require-clean", help="Refuse uncommitted changes in bnlab itself.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show what would be trained, and where; write nothing."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train one run and record it; its directory is the last line on stdout."""
    settled = _load(config, sets, seed=seed, name=name)
    from bnlab.records import RunDir, read_summary
    from bnlab.training.experiment import RunOptions, run_experiment, run_path
    from bnlab.training.provenance import git_state

    root = run_path(runs_dir, settled)
    if require_clean and git_state().dirty:
        raise RefusedError("--require-clean: bnlab's checkout has uncommitted changes; commit them")
    if dry_run:
        typer.echo(settled.to_yaml(), nl=False)
        typer.echo(root)
        return
    if if_exists == "skip" and RunDir(root).finished:
        summary = read_summary(RunDir(root).files).as_data()
    else:
        from bnlab.cli.console import watching

        options = RunOptions(device=device, resume=resume, deterministic=deterministic)
        with watching(settled) as watcher:
            summary = run_experiment(settled, root, options, watcher=watcher)
    if as_json:
        _print_json(summary)
    else:
        typer.echo(_result_line(summary))
        typer.echo(root)
    if summary["status"] == "diverged":
        raise typer.Exit(3)


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _result_line(summary: Mapping[str, Any]) -> str:
    split = next(s for s in ("test", "val", "train") if f"{s}/accuracy" in summary)
    accuracy = summary[f"{split}/accuracy"]
    return (
        f"{summary['status']}: {summary['arm']}, seed {summary['seed']}, "
        f"{_count(summary['epochs'], 'epoch')}, {split} accuracy {100 * accuracy:.2f} %, "
        f"{summary['train_seconds']:.1f} s of training in {summary['precision']} "
        f"on {summary['device']} ({summary['note']})"
    )


@app.command()
def check(
    config: Annotated[list[Path], typer.Argument(help="YAML files, laid over one another.")],
    sets: Sets = None,
    show: Annotated[
        bool, typer.Option("--print", help="Print the resolved configuration.")
    ] = False,
) -> None:
    """Check a configuration: every fault at once, with file and line."""
    settled = _load(config, sets)
    from bnlab.training.experiment import check_config

    check_config(settled)
    if show:
        typer.echo(settled.to_yaml(), nl=False)
    else:
        typer.echo(f"{', '.join(map(str, config))}: valid (hash {settled.hash[:8]})")


@app.command()
def diff(
    left: Annotated[Path, typer.Argument(help="A configuration file or a run directory.")],
    right: Annotated[Path, typer.Argument(help="Another.")],
    as_json: AsJson = False,
) -> None:
    """Show what differs between two configurations or runs."""
    from bnlab.config import differences

    found = differences(_resolved(left), _resolved(right))
    if as_json:
        _print_json({key: {"left": one, "right": two} for key, one, two in found})
    elif not found:
        typer.echo("no differences")
    for key, one, two in found if not as_json else ():
        typer.echo(f"{key}: {one} -> {two}")


def _resolved(path: Path) -> dict[str, Any]:
    """The resolved configuration of a file, or of a run without loading torch."""
    from bnlab.records import RunDir, read_config

    if path.is_dir():
        if not RunDir(path).started:
            raise ConfigError(f"{path}: neither a run directory nor a configuration file")
        return read_config(RunDir(path).files).resolved()
    return _load([path], None).resolved()


@app.command()
def data(
    root: Annotated[Path, typer.Option(help="Where CIFAR-10 lies or should lie.")] = Path("data"),
    fetch: Annotated[
        bool, typer.Option("--fetch", help="Download CIFAR-10 if it is not there.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say which data sets are at hand; fetch CIFAR-10."""
    from bnlab.training.datasets.cifar10 import cifar10_status, fetch_cifar10
    from bnlab.training.datasets.folder import find_image_folders

    if fetch:
        from bnlab.cli.console import loading_progress

        with loading_progress() as progress:
            fetch_cifar10(root, progress)
    status, folders = cifar10_status(root), [str(path) for path in find_image_folders(root)]
    if as_json:
        _print_json({"cifar10": status.state, "message": status.message, "folder": folders})
        return
    typer.echo(f"cifar10    {status.state}: {status.message}")
    for folder in folders:
        typer.echo(f"folder     ready: --set dataset.name=folder --set dataset.root={folder}")
    typer.echo("synthetic  ready: drawn by bnlab, not CIFAR-10")


@app.command()
def tensorboard(
    runs: Annotated[list[Path] | None, typer.Argument(help="Folders of runs, or runs.")] = None,
    port: Annotated[int, typer.Option(help="Port to serve on.")] = 6006,
    host: Annotated[str, typer.Option(help="Address to serve on.")] = "localhost",
) -> None:
    """Start TensorBoard with runs named by what differs between them."""
    from bnlab.report.dashboard import serve

    serve(
        runs or [Path("runs")],
        host=host,
        port=port,
        say=lambda line: typer.echo(line, err=True),
    )


study_app = typer.Typer(help="Many runs from one file.", no_args_is_help=True)
app.add_typer(study_app, name="study")

StudyPath = Annotated[Path, typer.Argument(metavar="STUDY", help="YAML file of a study.")]
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


@study_app.command("plan")
def study_plan(
    file: StudyPath,
    sets: StudySets = None,
    runs_dir: RunsDir = Path("runs"),
    name: StudyName = None,
    as_json: AsJson = False,
) -> None:
    """Show the runs of a study, how far they are and how long the rest takes; write nothing."""
    from bnlab.study.estimate import estimate_left
    from bnlab.study.plan import load_study
    from bnlab.study.render import render_choices, render_estimate, render_plan, study_as_data
    from bnlab.study.survey import survey_study

    plan = load_study(file, sets or (), runs_dir=runs_dir, name=name)
    survey = survey_study(plan, runs_dir)
    estimate = estimate_left(survey, runs_dir)
    if as_json:
        _print_json(study_as_data(survey, estimate))
        return
    _print_parts(
        render_plan(survey),
        render_choices(survey),
        render_estimate(survey, estimate),
    )


@study_app.command("status")
def study_status(
    file: StudyPath,
    sets: StudySets = None,
    runs_dir: RunsDir = Path("runs"),
    name: StudyName = None,
    as_json: AsJson = False,
) -> None:
    """Show how far a study is, while it runs or after; write nothing."""
    from bnlab.study.plan import load_study
    from bnlab.study.render import (
        render_choices,
        render_plan,
        render_results,
        render_under_way,
        results,
        study_as_data,
    )
    from bnlab.study.survey import survey_study

    plan = load_study(file, sets or (), runs_dir=runs_dir, name=name)
    survey = survey_study(plan, runs_dir)
    if as_json:
        _print_json(study_as_data(survey))
        return
    _print_parts(
        render_plan(survey),
        render_choices(survey),
        render_under_way(survey),
        render_results(survey) if results(survey) else "",
    )


@study_app.command("run")
def study_run(
    file: StudyPath,
    sets: StudySets = None,
    runs_dir: RunsDir = Path("runs"),
    name: StudyName = None,
    jobs: Annotated[
        str, typer.Option(help="Runs at once: a number, or auto for what suits the machine.")
    ] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Bit-identical repeats on a GPU, slower.")
    ] = False,
    executor: Annotated[
        str, typer.Option(help="Where runs execute: processes, threads, or inline (one by one).")
    ] = "processes",
    force: Annotated[bool, typer.Option("--force", help="Go beyond the study's budget.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train what is missing of a study; ends with 6 if a run failed."""
    from bnlab.cli.console import watching_study
    from bnlab.study.plan import load_study
    from bnlab.study.render import render_choices, render_results, results, study_as_data
    from bnlab.study.run import StudyOptions, raise_failures, run_study

    options = StudyOptions(_jobs(jobs), device, deterministic, executor, force)
    plan = load_study(file, sets or (), runs_dir=runs_dir, name=name)
    with watching_study() as (watcher, say):
        finished = run_study(plan, runs_dir, options, watcher, say)
    if as_json:
        _print_json({**study_as_data(finished.survey), "failures": dict(finished.failures)})
    else:
        _print_parts(
            render_choices(finished.survey),
            render_results(finished.survey) if results(finished.survey) else "",
            f"{finished.survey.folder}",
        )
    raise_failures(
        finished, _study_command(file, sets, runs_dir=runs_dir, name=name, device=device, jobs=jobs)
    )


def _jobs(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdigit() or int(text) < 1:
        raise ConfigError(f"--jobs {text}: expected a number from 1, or auto")
    return int(text)


def _print_parts(*parts: str) -> None:
    typer.echo("\n\n".join(part for part in parts if part))


def _study_command(file: Path, sets: list[str] | None, **flags: object) -> list[str]:
    """The command that goes on with a study; flags that are None are left out."""
    words = ["bnlab", "study", "run", str(file)]
    for text in sets or ():
        words += ["--set", text]
    for flag, value in flags.items():
        if value is not None:
            words += [f"--{flag.replace('_', '-')}", str(value)]
    return words


@app.command()
def compare(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(help="Folders of runs, single runs or glob patterns.", show_default="runs"),
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(help="Arm to compare with; by default the one without norm.")
    ] = None,
    metric: Annotated[str, typer.Option(help="What is compared.")] = "test/accuracy",
    margin: Annotated[
        float | None,
        typer.Option(
            metavar="PP", help="Largest difference that counts as none, in percentage points."
        ),
    ] = None,
    target: Annotated[
        float | None, typer.Option(metavar="PERCENT", help="Accuracy whose time is taken.")
    ] = None,
    tuned: Annotated[str, typer.Option(help="Key that is tuned for each arm.")] = "optim.lr",
    allow_mixed: Annotated[
        bool,
        typer.Option("--allow-mixed", help="Compare runs of different code, device or data."),
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the report.", show_default="runs/STUDY/report")
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option(
            metavar="REPORT.JSON",
            help="Exit 4 if a verdict is not as this report has it; writes only with --out.",
        ),
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write mean curves for TensorBoard as well.")
    ] = False,
    runs_dir: RunsDir = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Compare arms over seeds: effects with intervals, and a report."""
    from bnlab.analysis import Options, load_runs, make_metric
    from bnlab.analysis import compare as compare_runs
    from bnlab.report import changed_verdicts, default_folder, read_report, to_json, write_report

    if margin is not None and not margin > 0:
        raise ConfigError(f"--margin {margin:g}: must be positive, in percentage points")
    if target is not None and not 1 < target <= 100:
        raise ConfigError(f"--target {target:g}: must be a percentage above 1, as in 70")
    options = Options(
        metric=metric,
        baseline=baseline,
        margin=margin / make_metric(metric).scale if margin else None,
        target=target / 100 if target else None,
        tuned=tuned,
        allow_mixed=allow_mixed,
    )
    earlier = read_report(check) if check else None
    loaded, remarks = load_runs(runs or [runs_dir])
    comparison = compare_runs(loaded, options, remarks)
    folder = out or default_folder(comparison, runs_dir)
    if as_json:
        typer.echo(to_json(comparison), nl=False)
    else:
        from bnlab.report.sections import IN_TERMINAL
        from bnlab.report.terminal import print_sections, stdout_console

        print_sections([section(comparison) for section in IN_TERMINAL], stdout_console())
    if out or not check:
        write_report(comparison, folder)
        typer.echo(f"report: {folder / 'report.html'}", err=True)
    if tensorboard:
        from bnlab.report.events import write_events

        typer.echo(f"tensorboard --logdir {write_events(comparison, folder)}", err=True)
    if earlier is not None:
        changed = changed_verdicts(earlier, comparison)
        for line in changed:
            typer.echo(f"verdict changed: {line}", err=True)
        if changed:
            raise typer.Exit(4)


@app.command()
def runs(
    folders: Annotated[
        list[Path] | None, typer.Argument(help="Folders of runs.", show_default="runs")
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Only these, as in norm=batch; repeatable."),
    ] = None,
    status: Annotated[
        str | None, typer.Option(help="Only done, diverged, running, failed or preempted ones.")
    ] = None,
    sort: Annotated[
        str | None, typer.Option(metavar="KEY", help="Order by a value; -KEY for falling.")
    ] = None,
    runs_dir: RunsDir = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """List runs."""
    from bnlab.report.listing import choose, list_runs, ordered, runs_section
    from bnlab.report.terminal import print_sections, stdout_console

    found = list_runs(folders or [runs_dir])
    rows = ordered(choose(found, where or [], status), sort)
    if as_json:
        _print_json({"runs": [{"path": str(row.path), **row.values} for row in rows]})
    elif not rows:
        typer.echo(f"no runs{' like that' if found else ''}", err=True)
    else:
        print_sections([runs_section(rows, len(found))], stdout_console())


@app.command()
def show(
    run: Annotated[Path, typer.Argument(help="A run directory.")], as_json: AsJson = False
) -> None:
    """Show one run: result, curves, configuration, provenance."""
    from bnlab.report.listing import load_run, show_data, show_section
    from bnlab.report.terminal import print_sections, stdout_console

    record = load_run(run)
    if as_json:
        _print_json(show_data(record))
    else:
        print_sections([show_section(record)], stdout_console())


claims_app = typer.Typer(
    help="What is said of batch normalization, with verdicts.", invoke_without_command=True
)
app.add_typer(claims_app, name="claims")

ClaimNames = Annotated[list[str], typer.Argument(metavar="NAME...", help="Claims.")]
Strict = Annotated[
    bool, typer.Option("--strict", help="Exit 4 unless every claim shown is SUPPORTED.")
]
ClaimsOut = Annotated[
    Path | None, typer.Option(help="Write claims.html, .md and .json into this folder.")
]


@claims_app.callback()
def claims(
    context: typer.Context,
    runs_dir: RunsDir = Path("runs"),
    strict: Strict = False,
    out: ClaimsOut = None,
    as_json: AsJson = False,
) -> None:
    """List every claim with its verdict, from the runs at hand alone."""
    if context.invoked_subcommand is None:
        _show_claims(None, runs_dir, strict, out, as_json)


@claims_app.command("run")
def claims_run(
    names: ClaimNames,
    preset: Annotated[
        Literal["smoke", "quick", "full"],
        typer.Option(help="smoke gives no verdict; quick suits two CPU cores; full a GPU."),
    ] = "quick",
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set", "-s", metavar="KEY=VALUE", help="dataset.name and dataset.root only."
        ),
    ] = None,
    runs_dir: RunsDir = Path("runs"),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the runs that are missing; train nothing.")
    ] = False,
    jobs: Annotated[
        str, typer.Option(help="Runs at once: a number, or auto for what suits the machine.")
    ] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    executor: Annotated[
        str, typer.Option(help="Where runs execute: processes, or inline (one by one, here).")
    ] = "processes",
    strict: Strict = False,
    out: ClaimsOut = None,
    as_json: AsJson = False,
) -> None:
    """Train what is missing for some claims, then judge; runs are shared among claims."""
    from bnlab.claims import SHARED, find_claim, refuse_bending, stored_study, study_file
    from bnlab.cli.console import watching_study
    from bnlab.study.estimate import estimate_left
    from bnlab.study.plan import load_shared_study
    from bnlab.study.render import render_estimate, render_plan, study_as_data
    from bnlab.study.run import StudyOptions, raise_failures, run_study
    from bnlab.study.survey import survey_study

    refuse_bending(sets or ())
    chosen = [find_claim(name).name for name in dict.fromkeys(names)]
    options = StudyOptions(_jobs(jobs), device, executor=executor)
    ended, planned = [], {}
    for name in chosen:
        plan = load_shared_study(
            study_file(name),
            sets or (),
            runs_dir=runs_dir,
            name=SHARED,
            preset=preset,
            stored=stored_study(name, preset),
        )
        if dry_run:
            survey = survey_study(plan, runs_dir)
            estimate = estimate_left(survey, runs_dir)
            planned[name] = study_as_data(survey, estimate)
            parts = (name, render_plan(survey), render_estimate(survey, estimate))
            if not as_json:
                _print_parts(*parts)
            continue
        with watching_study() as (watcher, say):
            say(f"{name}, preset {preset}")
            ended.append((name, run_study(plan, runs_dir, options, watcher, say)))
    if dry_run:
        if as_json:
            _print_json(planned)
        return
    for name, finished in ended:
        command = ["bnlab", "claims", "run", name, "--preset", preset]
        raise_failures(finished, [*command, "--runs-dir", str(runs_dir)])
    _show_claims(chosen, runs_dir, strict, out, as_json)


@claims_app.command("explain")
def claims_explain(
    name: Annotated[str, typer.Argument(help="A claim.")],
) -> None:
    """Say what a claim means, how it is tested and by which rule it is judged."""
    from bnlab.claims import explain, find_claim

    typer.echo(explain(find_claim(name)))


def _show_claims(
    names: list[str] | None, runs_dir: Path, strict: bool, out: Path | None, as_json: bool
) -> None:
    """All claims are judged together, whichever are shown."""
    from bnlab.claims import as_data, find_findings

    found, remarks = find_findings(runs_dir)
    shown = [one for one in found if names is None or one.claim.name in names]
    for remark in remarks:
        typer.echo(f"{remark.where}: {remark.what}", err=True)
    if out is not None:  # first: whoever reads the terminal's output may stop reading early
        from bnlab.report.claims import write_claims

        typer.echo(f"report: {write_claims(shown, out)}", err=True)
    if as_json:
        _print_json(as_data(shown))
    else:
        from bnlab.report.claims import terminal_sections
        from bnlab.report.terminal import print_sections, stdout_console

        print_sections(terminal_sections(shown), stdout_console())
    if strict and any(one.verdict.label != "SUPPORTED" for one in shown):
        raise typer.Exit(4)


@app.command()
def bench(
    config: Files = None,
    sets: Sets = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    quick: Annotated[bool, typer.Option("--quick", help="Fewer and shorter laps.")] = False,
    processes: Annotated[
        bool, typer.Option("--processes", help="Also time runs at once in a process each.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Write the JSON report here too.")] = None,
    as_json: AsJson = False,
) -> None:
    """Time bnlab beside the conventional loop and the machine's limit, on synthetic images."""
    settled = _load(config, ["dataset.name=synthetic", *(sets or ())])
    from dataclasses import replace

    from rich.console import Console

    from bnlab.bench import bench as measure
    from bnlab.bench import default_settings, table_of
    from bnlab.training.device import resolve_device

    settings = default_settings(resolve_device(device), quick=quick)
    if processes:
        settings = replace(settings, ways=("threads", "processes"))
    report = measure(settled, settings, lambda text: typer.echo(text, err=True))
    if out is not None:
        out.write_text(json.dumps(report, indent=2) + "\n")
    if as_json:
        _print_json(report)
    else:
        Console().print(table_of(report))
