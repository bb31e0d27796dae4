"""What is wrong with a network's batch norms: `doctor`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bnlab.cli.options import AsJson, Files, Sets, settle_config
from bnlab.cli.output import print_json, print_sections, remark
from bnlab.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bnlab.doctor import Finding, Subject
    from bnlab.report.blocks import Section

app = typer.Typer()


@app.command()
def doctor(
    target: Annotated[
        str,
        typer.Argument(metavar="TARGET", help="A network as path.py:function, or a run directory."),
    ],
    config: Files = None,
    sets: Sets = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Run the Python file that a run recorded.")
    ] = False,
    data: Annotated[
        bool, typer.Option("--data/--no-data", help="Measure on the images at hand.")
    ] = True,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 4 if there is a fault.")] = False,
    as_json: AsJson = False,
) -> None:
    """Examine batch norms: in the network, its training, its values. Trains nothing.

    For path.py:function, --config and --set say how it is trained and on what.
    """
    subject = _subject(target, config, sets, trust=trust, data=data)
    from bnlab.doctor import examine, faults, findings_as_data

    findings = examine(subject)
    if as_json:
        told = {"norms": list(subject.norms), "trained": subject.trained}
        print_json({**told, "findings": findings_as_data(findings), "remarks": subject.remarks})
    else:
        print_sections([_section(target, subject, findings)])
        for line in subject.remarks:
            remark(line)
    if strict and faults(findings):
        raise typer.Exit(4)


def _subject(
    target: str, config: list[Path] | None, sets: list[str] | None, *, trust: bool, data: bool
) -> "Subject":
    from bnlab.cli.console import loading_progress
    from bnlab.records import find_run

    path, _, function = target.rpartition(":")
    named = path.endswith(".py") and function.isidentifier()
    if not named and not Path(target).exists():
        raise ConfigError(f"{target}: neither path.py:function nor a run directory")
    if not named and (config or sets):
        raise ConfigError(
            f"{target}: a run has its own configuration; --config and --set do not apply"
        )
    if named:
        # As it is, norms included, unless --set says otherwise.
        overrides = ["model.rewrite=false", *(sets or ()), f"model.file={target}"]
        settled = settle_config(config, overrides)
    else:
        files = find_run(Path(target))
    from bnlab.doctor import subject_of_config, subject_of_run

    with loading_progress() as progress:
        if named:
            return subject_of_config(settled, data=data, progress=progress)
        return subject_of_run(files, trust=trust, data=data, progress=progress)


def _section(target: str, subject: "Subject", findings: "Sequence[Finding]") -> "Section":
    from bnlab.doctor import CHECKS
    from bnlab.report.blocks import Block, Bullets, Column, Section, Table, Text

    blocks: list[Block] = []
    if not subject.norms:
        blocks.append(Text("No batch norm that keeps statistics as modules do."))
    elif not findings:
        blocks.append(Text(f"Nothing found in {len(subject.norms)} batch norms."))
    if findings:
        names = ("code", "", "layer", "what")
        rows = tuple(
            (one.code, one.severity, one.layer, "; ".join(filter(None, (one.what, one.cost))))
            for one in findings
        )
        blocks.append(Table("", tuple(Column(name, numeric=False) for name in names), rows))
        found = {one.code for one in findings}
        checks = [check for check in CHECKS if check.code in found]
        blocks.append(
            Bullets(
                tuple(
                    f"{check.code} {check.title}. {check.why} To do: {check.todo}."
                    for check in checks
                )
            )
        )
    return Section("doctor", f"Doctor: {target}", tuple(blocks))
