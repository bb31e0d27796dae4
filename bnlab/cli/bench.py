"""How fast bnlab trains here: `bench`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from bnlab.cli.options import AsJson, Device, Files, Sets, settle_config
from bnlab.cli.output import print_json, remark

app = typer.Typer()


@app.command()
def bench(
    config: Files = None,
    sets: Sets = None,
    device: Device = "auto",
    quick: Annotated[bool, typer.Option("--quick", help="Fewer and shorter laps.")] = False,
    processes: Annotated[
        bool, typer.Option("--processes", help="Also time runs at once in a process each.")
    ] = False,
    only: Annotated[
        str, typer.Option(metavar="TEXT", help="Only contenders whose names contain this.")
    ] = "",
    out: Annotated[Path | None, typer.Option(help="Write the JSON report here too.")] = None,
    as_json: AsJson = False,
) -> None:
    """Time bnlab beside the conventional loop and the machine's limit.

    On synthetic images, unless --set dataset.name says otherwise.
    """
    settled = settle_config(config, ["dataset.name=synthetic", *(sets or ())])
    from dataclasses import replace

    from bnlab.bench import bench as measure
    from bnlab.bench import default_settings, table_of
    from bnlab.records import write_text
    from bnlab.report.terminal import stdout_console
    from bnlab.training.device import resolve_device

    settings = replace(default_settings(resolve_device(device), quick=quick), only=only)
    if processes:
        settings = replace(settings, ways=("threads", "processes"))

    def keep(report: Mapping[str, Any]) -> None:
        if out is not None:
            write_text(out, json.dumps(report, indent=2) + "\n")

    report = measure(settled, settings, remark, keep)
    keep(report)
    if as_json:
        print_json(report)
    else:
        stdout_console().print(table_of(report))
