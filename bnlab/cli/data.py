"""The images at hand: `data`."""

from pathlib import Path
from typing import Annotated

import typer

from bnlab.cli.options import AsJson
from bnlab.cli.output import print_json, print_line

app = typer.Typer()


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
        print_json({"cifar10": status.state, "message": status.message, "folder": folders})
        return
    ready = "folder     ready: --set dataset.name=folder --set dataset.root="
    lines = [f"cifar10    {status.state}: {status.message}", *(ready + path for path in folders)]
    print_line("\n".join([*lines, "synthetic  ready: drawn by bnlab, not CIFAR-10"]))
