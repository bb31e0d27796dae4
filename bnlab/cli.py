"""The command line: parse, call one function, print. Heavy libraries load inside the commands."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from bnlab import __version__
from bnlab.errors import BnlabError, RefusedError

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
    try:
        app()
    except BnlabError as error:
        print(f"bnlab: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(error.exit_code)
    except BrokenPipeError:  # the reader (head, less) went away
        sys.stderr.close()
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
    from bnlab.experiment import VOCABULARY

    return load_config(files or (), sets or (), vocabulary=VOCABULARY, flags=flags)


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
    from bnlab.experiment import RunOptions, run_experiment, run_path
    from bnlab.rundir import RunDir
    from bnlab.runtime import git_state

    root = run_path(runs_dir, settled)
    if require_clean and git_state().dirty:
        raise RefusedError("--require-clean: bnlab's checkout has uncommitted changes; commit them")
    if dry_run:
        typer.echo(settled.to_yaml(), nl=False)
        typer.echo(root)
        return
    if if_exists == "skip" and RunDir(root).finished:
        summary = RunDir(root).read_summary()
    else:
        from bnlab.console import watching

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


def _result_line(summary: Mapping[str, Any]) -> str:
    accuracy = summary["test/accuracy"]
    return (
        f"{summary['status']}: {summary['arm']}, seed {summary['seed']}, "
        f"{summary['epochs']} epochs, test accuracy {100 * accuracy:.2f} %, "
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
    from bnlab.experiment import check_config

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
    from bnlab.rundir import RunDir

    if path.is_dir():
        return RunDir(path).read_config()
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
    from bnlab.datasets.cifar10 import cifar10_status, fetch_cifar10

    if fetch:
        from bnlab.console import loading_progress

        with loading_progress() as progress:
            fetch_cifar10(root, progress)
    status = cifar10_status(root)
    if as_json:
        _print_json({"root": str(root), "cifar10": status.state, "message": status.message})
    else:
        typer.echo(f"cifar10: {status.state}: {status.message}")


@app.command()
def tensorboard(
    runs: Annotated[list[Path] | None, typer.Argument(help="Folders of runs, or runs.")] = None,
    port: Annotated[int, typer.Option(help="Port to serve on.")] = 6006,
    host: Annotated[str, typer.Option(help="Address to serve on.")] = "localhost",
) -> None:
    """Start TensorBoard with runs named by what differs between them."""
    from bnlab.dashboard import serve

    serve(
        runs or [Path("runs")],
        host=host,
        port=port,
        say=lambda line: typer.echo(line, err=True),
    )


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
    from bnlab.runtime import resolve_device

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


if __name__ == "__main__":
    main()
