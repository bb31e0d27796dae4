"""What is at hand: images (`data`) and configurations (`configs`)."""

from pathlib import Path
from typing import Annotated

import typer

from bnlab.cli.options import AsJson
from bnlab.cli.output import print_json, print_line, print_sections

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


@app.command()
def configs(as_json: AsJson = False) -> None:
    """List the configurations, presets and studies that come with bnlab."""
    from bnlab.config import list_shipped
    from bnlab.report.blocks import Column, Section, Table

    found = list(list_shipped())
    if as_json:
        print_json({"configs": [{**vars(one), "path": str(one.path)} for one in found]})
        return
    columns = (Column("", numeric=False), Column("", numeric=False))
    titles = (
        ("configuration", "Configurations: bnlab train --config NAME"),
        ("preset", "Presets of the claims' studies: bnlab train --config NAME"),
        ("study", "Studies: bnlab study run NAME"),
    )
    for kind, title in titles:
        rows = tuple((one.name, one.about) for one in found if one.kind == kind)
        print_sections([Section(kind, title, (Table("", columns, rows),))])
