"""Options that several commands share, and what is read from them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bnlab.errors import ConfigError

if TYPE_CHECKING:
    from bnlab.config import Config

Files = Annotated[
    list[Path] | None,
    typer.Option(
        "--config",
        "-c",
        help="YAML file, or a name that `bnlab configs` lists; repeat to lay later files over "
        "earlier ones.",
    ),
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", metavar="KEY=VALUE", help="Override, as in optim.lr=0.01."),
]
RunsDir = Annotated[Path, typer.Option(help="Folder of all runs.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Deterministic = Annotated[
    bool, typer.Option("--deterministic", help="Bit-identical repeats on a GPU, slower.")
]
Jobs = Annotated[
    str, typer.Option(help="Runs at once: a number, or auto for what suits the machine.")
]
Executor = Annotated[
    str | None,
    typer.Option(
        help="Where runs execute: lanes (threads of one process; the default on a GPU), processes "
        "(the default on a CPU), threads, inline (one by one), or, for `study run`, workers on "
        "other machines: slurm, ray."
    ),
]
Trust = Annotated[
    bool,
    typer.Option("--trust", help="Run the Python file that makes the run's network (model.file)."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout.")]


def settle_config(files: list[Path] | None, sets: list[str] | None, **flags: Any) -> "Config":
    """The configuration of a command: files, then `--set`, then flags over the defaults."""
    from bnlab.config import load_config

    return load_config(files or (), sets or (), flags=flags)


def count_jobs(text: str) -> int | None:
    """Runs at once; None for as many as suit the machine.

    Raises:
        ConfigError: If it is neither a number from 1 nor `auto`.
    """
    if text == "auto":
        return None
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise ConfigError(f"--jobs {text}: expected a number from 1, or auto")
    return number
