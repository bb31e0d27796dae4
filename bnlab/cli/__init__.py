"""The command line: a file a group of commands, of which each parses, calls and prints.

Heavy libraries load inside the commands, so that `--help` and a mistyped flag answer at once.
"""

import errno
import sys
from typing import Annotated, Any

import typer

from bnlab import __version__
from bnlab.cli import (
    bench,
    claims,
    compare,
    data,
    doctor,
    explain,
    judge,
    layers,
    runs,
    study,
    train,
    trained,
)
from bnlab.cli.output import prepare_streams, print_line, warn_on_stderr
from bnlab.errors import BnlabError, shown_lines

HELP: dict[str, Any] = {"help_option_names": ["-h", "--help"]}


class _Commands(typer.Typer):
    """Typer's, but that its help puts no `<bool>` beside flags, which take no value."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        command = typer.main.get_command(self)
        _leave_out_types_of_flags(command)
        return command(*args, **kwargs)


def _leave_out_types_of_flags(command: Any) -> None:
    for option in command.get_params(typer.Context(command, **HELP)):
        if getattr(option, "is_flag", False):
            option.metavar = ""
    for below in getattr(command, "commands", {}).values():
        _leave_out_types_of_flags(below)


app = _Commands(
    name="bnlab",
    help="Measure what batch normalization does to a conv-BN-ReLU network on CIFAR-10.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings=HELP,
)
# In the order of `--help`; a group without a name lays its commands beside the others.
app.add_typer(train.app)
app.add_typer(layers.app)
app.add_typer(doctor.app)
app.add_typer(study.app, name="study")
app.add_typer(compare.app)
app.add_typer(judge.app)
app.add_typer(claims.app, name="claims")
app.add_typer(runs.app)
app.add_typer(trained.app)
app.add_typer(data.app)
app.add_typer(bench.app)
app.add_typer(explain.app)


def _version(show: bool) -> None:
    if show:
        print_line(f"bnlab {__version__}")
        raise typer.Exit


@app.callback()
def _bnlab(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; a mistake of the user's gets one message and an exit code."""
    from bnlab.training.signals import StoppedError, exit_on_signal, raise_on_signal

    raise_on_signal()
    prepare_streams()
    warn_on_stderr()
    try:
        app()
    except StoppedError as stopped:
        exit_on_signal()
        _end(str(stopped), stopped.exit_code)
    except BnlabError as error:
        _end(str(error), error.exit_code)
    except (MemoryError, RuntimeError) as error:  # torch's allocators raise RuntimeError
        if "home directory" in str(error):  # pathlib's, of a ~ that means nothing here
            _end(
                f"{error} Give paths such as dataset.root without ~, or set HOME (BNLAB_CACHE for "
                "decoded images)",
                2,
            )
        words = ("can't allocate memory", "out of memory")
        if not isinstance(error, MemoryError) and not any(word in str(error) for word in words):
            raise
        said = str(error).partition("\n")[0]  # Python's own says nothing
        _end(
            f"not enough memory{f': {said}' if said else ''}; lower dataset sizes, "
            "model.widths, model.hidden, train.batch_size or train.eval_batch_size"
        )
    except OSError as error:  # files are written under a StorageError; this is the output
        if error.errno == errno.ENAMETOOLONG:
            _end(f"{error.filename}: {error.strerror}; use a shorter one", 2)
        if error.errno == errno.EACCES and error.filename is not None:
            _end(f"{error.filename}: {error.strerror}; another user's? choose another place", 2)
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(  # noqa: T201
            f"bnlab: the output is incomplete: {error.strerror}; free some space, or send it "
            "elsewhere (runs and reports are written apart from it)",
            file=sys.stderr,
        )
        sys.stderr.close()  # what stdout still holds would be told about at exit
        sys.exit(1)
    finally:
        exit_on_signal()


def _end(message: str, exit_code: int = 1) -> None:
    print(f"bnlab: {shown_lines(message)}", file=sys.stderr)  # noqa: T201
    sys.exit(exit_code)
