"""A comparison as a report: HTML, Markdown, JSON, CSV, SVG, and the terminal's table.

A report is an ordered tuple of section functions, each from a `Comparison` to a `Section`, which
the renderers turn into their format. The same runs give the same bytes.
"""

from collections.abc import Mapping
from pathlib import Path

from bnlab.analysis import Comparison
from bnlab.records import REFERENCE, StorageError, archive_of, write_text
from bnlab.report.blocks import Plot
from bnlab.report.data import changed_verdicts, curves_csv, read_report, runs_csv, to_json

__all__ = [
    "FOLDER",
    "changed_verdicts",
    "default_folder",
    "is_reference",
    "read_report",
    "to_json",
    "write_files",
    "write_report",
]

FOLDER = "report"
"""Where a report goes by default, below the study's folder or below runs/."""


def default_folder(comparison: Comparison, runs_dir: Path) -> Path:
    """`runs/<study>/report` when all runs lie in one study, else `runs/report`.

    The report of an archive `x.tar.xz` goes to `x/report` beside it.

    Args:
        comparison: What the report is about.
        runs_dir: Folder of all runs.
    """
    studies = {run.root.resolve().parent.parent for run in comparison.runs}
    archives = {archive_of(study) for study in studies} - {None}
    if archives:
        studies = {path.with_name(path.name.partition(".")[0]) for path in archives if path}
    if len(studies) > 1:
        return runs_dir / FOLDER
    study, here = studies.pop(), Path.cwd()
    return (study.relative_to(here) if study.is_relative_to(here) else study) / FOLDER


def is_reference(folder: Path, runs_dir: Path) -> bool:
    """Whether a default folder lies among the records that came with bnlab.

    They are kept with the code, so a report is written there by who names the place, not in
    passing. Runs may be compared from any working directory and with any `runs_dir`: a study, or
    a folder of studies, in a folder `reference` is taken for such records too.

    Args:
        folder: As `default_folder` gives it.
        runs_dir: Folder of all runs.
    """
    there = folder.resolve()
    below_runs = there.is_relative_to((runs_dir / REFERENCE).resolve())
    return below_runs or REFERENCE in there.parts[-3:-1]


def title(comparison: Comparison) -> str:
    """Heading of a report."""
    names = ", ".join(comparison.studies) or "runs"
    return f"bnlab compare: {names}"


def write_report(comparison: Comparison, folder: Path) -> list[Path]:
    """Write every file of a report, and return their paths.

    Raises:
        StorageError: If the folder cannot be written.
    """
    from bnlab.report.page import linked, render_html, render_markdown
    from bnlab.report.plots.canvas import svg
    from bnlab.report.sections import SECTIONS

    sections = [made for make in SECTIONS if (made := make(comparison)).blocks]
    plots = [block for section in sections for block in section.blocks if isinstance(block, Plot)]
    links = linked(comparison.runs, folder)
    drawings = {plot.name: svg(plot.name, plot.draw, plot.caption, links) for plot in plots}
    heading = title(comparison)
    files = {
        "report.html": render_html(heading, sections, drawings, links=links),
        "report.md": render_markdown(heading, sections),
        "report.json": to_json(comparison),
        "runs.csv": runs_csv(comparison),
        "curves.csv": curves_csv(comparison),
        **{f"{name}.svg": drawing for name, drawing in drawings.items()},
    }
    write_files(folder, files)
    return [folder / name for name in files]


def write_files(folder: Path, files: Mapping[str, str]) -> None:
    """Write texts by name into a folder, which is made.

    Raises:
        StorageError: If the folder cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"{folder}: cannot be made: {error.strerror}; choose another folder with --out"
        ) from None
    for name, text in files.items():
        write_text(folder / name, text)
