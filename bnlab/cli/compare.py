"""Arms over seeds: `compare`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bnlab.cli.options import AsJson, RunsDir
from bnlab.cli.output import print_json, print_line, print_sections, remark
from bnlab.errors import ConfigError

if TYPE_CHECKING:
    from bnlab.analysis import Comparison

app = typer.Typer()


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
    if margin is not None and not margin > 0:
        raise ConfigError(f"--margin {margin:g}: must be positive, in percentage points")
    if target is not None and not 1 < target <= 100:
        raise ConfigError(f"--target {target:g}: must be a percentage above 1, as in 70")
    from bnlab.analysis import Options, load_runs, make_metric
    from bnlab.analysis import compare as compare_runs
    from bnlab.report import changed_verdicts, read_report, to_json
    from bnlab.report.sections import IN_TERMINAL

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
    # Written before anything is printed: whoever reads the terminal's output may stop early.
    written = _write(comparison, out, runs_dir, report=bool(out or not check), curves=tensorboard)
    if as_json:
        print_line(to_json(comparison).rstrip("\n"))
    else:
        print_sections([section(comparison) for section in IN_TERMINAL])
    changed = changed_verdicts(earlier, comparison) if earlier is not None else []
    for line in [*written, *(f"verdict changed: {line}" for line in changed)]:
        remark(line)
    if changed:
        raise typer.Exit(4)


def _write(
    comparison: "Comparison", out: Path | None, runs_dir: Path, *, report: bool, curves: bool
) -> list[str]:
    """Write what is asked for; a line about each place."""
    from bnlab.report import default_folder, is_reference, write_report

    folder = out or default_folder(comparison, runs_dir)
    if (report or curves) and out is None and is_reference(folder, runs_dir):
        return [f"no report: {folder} lies among the reference records; name a folder with --out"]
    lines = []
    if report:
        write_report(comparison, folder)
        lines.append(f"report: {folder / 'report.html'}")
    if curves:
        from bnlab.report.events import write_events

        lines.append(f"tensorboard --logdir {write_events(comparison, folder)}")
    return lines


@app.command()
def audit(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(help="Folders of runs, archives, single runs.", show_default="runs"),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit 4 if anything bars a verdict.")
    ] = False,
    runs_dir: RunsDir = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Check whether runs belong together and what may be built on them; compares nothing."""
    from bnlab.analysis import Options, load_runs
    from bnlab.analysis import compare as compare_runs
    from bnlab.analysis.audit import audit_as_data, barring
    from bnlab.report.audit import audit_section

    loaded, remarks = load_runs(runs or [runs_dir])
    audited = compare_runs(loaded, Options(allow_mixed=True), remarks).audit
    if as_json:
        print_json({"runs": len(loaded), "checks": audit_as_data(audited)})
    else:
        print_sections([audit_section(audited)])
    for one in remarks:
        remark(f"{one.where}: {one.what}")
    if strict and barring(audited):
        raise typer.Exit(4)
