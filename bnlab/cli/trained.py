"""What a run has trained: `evaluate` it, `export` it."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from bnlab.cli.options import AsJson, Device, Trust
from bnlab.cli.output import print_json, print_line, print_sections, remark

app = typer.Typer()

RunPath = Annotated[Path, typer.Argument(help="A run directory.")]


@app.command()
def evaluate(
    run: RunPath,
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            "-s",
            metavar="KEY=VALUE",
            help="Other images, as in dataset.name=folder, dataset.root=FOLDER, "
            "dataset.test_size=1000.",
        ),
    ] = None,
    statistics: Annotated[
        Literal["running", "population", "batch"],
        typer.Option(
            help="Batch norm's: as the run left them, of training images anew, or of each batch."
        ),
    ] = "running",
    split: Annotated[
        Literal["test", "val", "train"], typer.Option(help="Which images; none are augmented.")
    ] = "test",
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images a batch.", show_default="the run's")
    ] = None,
    device: Device = "auto",
    precision: Annotated[
        Literal["auto", "fp32", "tf32", "bf16"] | None, typer.Option(show_default="the run's")
    ] = None,
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Test a run's network anew: on other images, or by other statistics. Nothing is written."""
    from bnlab.cli.console import loading_progress
    from bnlab.records import RunDir, find_run
    from bnlab.report.blocks import Column, Section, Table
    from bnlab.training.evaluation import evaluate_run

    with loading_progress() as progress:
        found = evaluate_run(
            RunDir(find_run(run).root),
            sets=sets or (),
            statistics=statistics,
            split=split,
            batch_size=batch_size,
            device=device,
            precision=precision,
            trust=trust,
            progress=progress,
        )
    for note in found.notes:
        remark(note)
    if as_json:
        print_json(found.as_data())
        return
    by = f"{found.statistics} statistics"
    if found.statistics == "batch":
        by += f" of {found.batch_size} images each"
    elif found.statistics_images is not None:
        by += f" of {found.statistics_images:,} training images"
    print_line(
        f"{found.split} accuracy {found.accuracy:.2%}, loss {found.loss:.4f}: {found.images:,} "
        f"images of {found.dataset}, by {by}, {found.precision} on {found.device}"
    )
    columns = (Column("class", numeric=False), Column("accuracy"), Column("images"))
    rows = tuple(
        (
            name,
            "" if score.accuracy is None else f"{score.accuracy:.2%}",
            f"{score.images:,}",
        )
        for name, score in found.classes.items()
    )
    print_sections([Section("classes", found.run, (Table("", columns, rows),))])


@app.command()
def export(
    run: RunPath,
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write.")],
    kind: Annotated[
        Literal["state", "torch", "onnx"],
        typer.Option(
            "--format",
            help="Weights and a header for torch.load; or the whole computation from uint8 images "
            "to logits, by torch.export.save or as ONNX.",
        ),
    ] = "state",
    fold: Annotated[
        bool,
        typer.Option(help="Make batch norms part of the layers right in front of them."),
    ] = True,
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Write a run's network into one file, batch norms folded into the layers before them."""
    from bnlab.records import RunDir, find_run
    from bnlab.report.blocks import Column, Section, Table
    from bnlab.training.export import export_run

    made = export_run(RunDir(find_run(run).root), out, format=kind, folded=fold, trust=trust)
    if as_json:
        print_json(made.as_data())
        return
    if made.foldings:
        columns = tuple(Column(name, numeric=False) for name in ("norm", "kind", "what"))
        rows = tuple(
            (one.norm, one.kind, f"folded into {one.into}" if one.into else f"stays: {one.why}")
            for one in made.foldings
        )
        note = (
            f"largest difference to a logit of random images: {made.difference:.1e} of the largest"
        )
        print_sections([Section("norms", "Normalizers", (Table("", columns, rows, (note,)),))])
    print_line(f"{made.path}: {made.format}, {made.size:,} bytes")
