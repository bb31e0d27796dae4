"""What lies in a folder of runs: listed, told, drawn, packed."""

from pathlib import Path
from typing import Annotated

import typer

from bnlab.cli.options import AsJson, RunsDir
from bnlab.cli.output import print_json, print_line, print_sections, remark

app = typer.Typer()


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
        str | None,
        typer.Option(help="Only those that are done, diverged, running, failed, preempted, ..."),
    ] = None,
    sort: Annotated[
        str | None, typer.Option(metavar="KEY", help="Order by a value; -KEY for falling.")
    ] = None,
    runs_dir: RunsDir = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """List runs."""
    from bnlab.analysis.listing import filter_runs, list_runs, sort_runs
    from bnlab.report.listing import runs_section

    found = list_runs(folders or [runs_dir])
    listed = sort_runs(filter_runs(found, where or [], status), sort)
    if as_json:
        print_json({"runs": [{"path": str(run.path), **run.values} for run in listed]})
    elif not listed:
        remark(f"no runs{' like that' if found else ''}")
    else:
        print_sections([runs_section(listed, len(found))])


@app.command()
def show(
    run: Annotated[Path, typer.Argument(help="A run, or a folder of one.")],
    as_json: AsJson = False,
) -> None:
    """Show one run: result, curves, configuration, provenance."""
    from bnlab.records import find_run, load_record
    from bnlab.report.listing import show_data, show_section

    record = load_record(find_run(run))
    if as_json:
        print_json(show_data(record))
    else:
        print_sections([show_section(record)])


@app.command()
def pack(
    runs: Annotated[list[Path], typer.Argument(help="Runs, folders of runs, archives.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The archive, NAME.tar.xz.")],
    as_json: AsJson = False,
) -> None:
    """Pack finished runs into one file, without checkpoints; it is read like a folder of runs."""
    from bnlab.records import pack as pack_runs

    packed = pack_runs(runs, out)
    for one in packed.remarks:
        remark(f"{one.where}: {one.what}")
    if as_json:
        print_json({"archive": str(out), "runs": packed.runs, "bytes": packed.size})
    else:
        print_line(f"{out}: {packed.runs} runs, {packed.size:,} bytes")


@app.command()
def tensorboard(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(help="Folders of runs, runs, archives.", show_default="runs"),
    ] = None,
    port: Annotated[int, typer.Option(help="Port to serve on.")] = 6006,
    host: Annotated[str, typer.Option(help="Address to serve on.")] = "localhost",
) -> None:
    """Start TensorBoard with runs named by what differs, grouped by arm, with each arm's mean."""
    from bnlab.report.dashboard import serve

    serve(runs or [Path("runs")], host=host, port=port, say=remark)
