"""One run: `train` it, `check` its configuration, `diff` it with another."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from bnlab.cli.options import AsJson, Deterministic, Device, Files, RunsDir, Sets, settle_config
from bnlab.cli.output import print_json, print_line, print_sections, print_wrapped
from bnlab.errors import ConfigError, RefusedError

if TYPE_CHECKING:
    from bnlab.config import Config

app = typer.Typer()


@app.command()
def train(
    config: Files = None,
    sets: Sets = None,
    seed: Annotated[int | None, typer.Option(help="Seed of every random stream.")] = None,
    device: Device = "auto",
    runs_dir: RunsDir = Path("runs"),
    name: Annotated[str | None, typer.Option(help="Folder under the runs folder.")] = None,
    resume: Annotated[
        Literal["never", "auto", "must"],
        typer.Option(help="What to do about an unfinished run of this configuration."),
    ] = "never",
    if_exists: Annotated[
        Literal["error", "skip"], typer.Option(help="What to do about a finished one.")
    ] = "error",
    extend: Annotated[
        bool,
        typer.Option(
            "--extend",
            help="With --resume auto: begin where this run with fewer epochs ended (constant lr).",
        ),
    ] = False,
    deterministic: Deterministic = False,
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
    if extend and resume != "auto":
        raise ConfigError("--extend goes on from a finished run: give it with --resume auto")
    settled = settle_config(config, sets, seed=seed, name=name)
    from bnlab.cli.console import result_line, watching
    from bnlab.records import RunDir, load_record, run_path
    from bnlab.training.experiment import RunOptions, run_experiment
    from bnlab.training.extend import extend as extend_run
    from bnlab.training.provenance import git_state
    from bnlab.training.resume import refuse_other_images_than_at_hand

    root = run_path(runs_dir, settled)
    if require_clean and git_state().dirty:
        raise RefusedError("--require-clean: bnlab's checkout has uncommitted changes; commit them")
    if dry_run:
        print_line(f"{settled.to_yaml()}{root}")
        _show_rewritten(settled)
        return
    if if_exists == "skip" and RunDir(root).finished:
        with watching(settled) as watcher:
            refuse_other_images_than_at_hand(RunDir(root).files, settled, watcher.loading)
        finished = load_record(RunDir(root).files).summary
        assert finished is not None
        summary = finished.as_data()
    else:
        if extend:
            extend_run(root, settled)
        options = RunOptions(device=device, resume=resume, deterministic=deterministic)
        with watching(settled) as watcher:
            summary = run_experiment(settled, root, options, watcher=watcher)
    if as_json:
        print_json(summary)
    else:
        print_wrapped(result_line(summary))
        print_line(str(root))
    if summary["status"] == "diverged":
        raise typer.Exit(3)


def _print_schema(asked: bool) -> None:
    if not asked:
        return
    from textwrap import fill, indent

    from bnlab.config.described import describe_keys

    for key in describe_keys():
        if not key.default:
            print_line(f"\n{key.name}: {key.meaning}")
            continue
        print_line(f"{key.name}: {key.default}")
        for line in filter(None, (key.accepts, key.counts, key.meaning)):
            print_line(indent(fill(" ".join(line.split()), 75), "    "))
    raise typer.Exit


Schema = Annotated[
    bool,
    typer.Option(
        "--schema",
        callback=_print_schema,
        is_eager=True,
        help="Print every key: its default, what it accepts, what it means.",
    ),
]


@app.command()
def check(
    config: Annotated[
        list[Path], typer.Argument(help="YAML files or names, laid over one another.")
    ],
    sets: Sets = None,
    show: Annotated[
        bool, typer.Option("--print", help="Print the resolved configuration.")
    ] = False,
    schema: Schema = False,  # noqa: ARG001 - acts in its callback
) -> None:
    """Check a configuration: every fault at once, with file and line."""
    settled = settle_config(config, sets)
    from bnlab.training.task import check_config

    check_config(settled)
    valid = f"{', '.join(map(str, config))}: valid (hash {settled.hash[:8]})"
    print_line(settled.to_yaml().rstrip("\n") if show else valid)
    _show_rewritten(settled)


def _show_rewritten(config: "Config") -> None:
    """What becomes of the normalizers of a network of the user's own."""
    if config.model.file is None or not config.model.rewrite:
        return
    from bnlab.report.blocks import Block, Bullets, Column, Section, Table
    from bnlab.training.models import CLASSES
    from bnlab.training.models.file import rewritten

    found = rewritten(config.model, config.dataset.image_shape, CLASSES, config.seed)
    columns = tuple(Column(name, numeric=False) for name in ("layer", "before", "after", "what"))
    rows = tuple((one.layer, one.before, one.after, one.what) for one in found.changes)
    left = tuple(f"{layer}: {why}" for layer, why in found.without.items())
    blocks: tuple[Block, ...] = (Table("", columns, rows), *([Bullets(left)] if left else []))
    print_sections([Section("network", f"Norms of {config.model.file}", blocks)])


@app.command()
def diff(
    left: Annotated[
        Path, typer.Argument(help="A configuration (file or name), a run, or an arm of one seed.")
    ],
    right: Annotated[Path, typer.Argument(help="Another.")],
    as_json: AsJson = False,
) -> None:
    """Show what differs between two configurations or runs."""
    from bnlab.config import differences

    found = differences(_resolved(left), _resolved(right))
    if as_json:
        print_json({key: {"left": one, "right": two} for key, one, two in found})
    else:
        lines = [f"{key}: {one} -> {two}" for key, one, two in found]
        print_line("\n".join(lines or ["no differences"]))


def _resolved(path: Path) -> dict[str, Any]:
    """The resolved configuration of a file or name, or of a run."""
    from bnlab.config import shipped_as
    from bnlab.records import find_run, read_config

    if path.suffix in (".yaml", ".yml") or (not path.exists() and shipped_as(path)):
        return settle_config([path], None).resolved()
    return read_config(find_run(path)).resolved()
