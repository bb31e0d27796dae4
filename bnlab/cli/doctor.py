"""What is wrong with a network's batch norms: `doctor`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bnlab.cli.options import AsJson, Files, Sets, Trust, settle_config
from bnlab.cli.output import print_json, print_sections, remark
from bnlab.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

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
    trust: Trust = False,
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
    from bnlab.doctor import CHECKS, examine, faults, findings_as_data

    findings = examine(subject)
    remarks = list(subject.remarks)
    if subject.sample is None:
        codes = ", ".join(check.code for check in CHECKS if check.images)
        remarks.append(f"left out without images: {codes}, and what faults cost")
    if as_json:
        told = {"norms": list(subject.norms), "trained": subject.trained}
        print_json({**told, "findings": findings_as_data(findings), "remarks": remarks})
    else:
        print_sections([_section(target, subject, findings)])
        for line in remarks:
            remark(line)
    if strict and faults(findings):
        raise typer.Exit(4)


LIKE_FILES = (".py", ".yaml", ".yml")
"""Of files that are taken for a target."""


def _subject(
    target: str, config: list[Path] | None, sets: list[str] | None, *, trust: bool, data: bool
) -> "Subject":
    from bnlab.records import find_run

    path, _, function = target.rpartition(":")
    named = path.endswith(".py") and function.isidentifier()
    if not named and (not Path(target).exists() or Path(target).suffix in LIKE_FILES):
        raise ConfigError(
            f"{target}: neither path.py:function, as in net.py:Net, nor a run directory; a "
            "configuration goes beside a path.py:function, with --config"
        )
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
    from bnlab.cli.console import loading_progress
    from bnlab.doctor import subject_of_config, subject_of_run

    with loading_progress() as progress:
        if named:
            return subject_of_config(settled, data=data, progress=progress)
        return subject_of_run(files, trust=trust, data=data, progress=progress)


SHOWN = 3
"""Findings of one check and severity that the terminal spells out; JSON has all."""


def _section(target: str, subject: "Subject", findings: "Sequence[Finding]") -> "Section":
    from bnlab.doctor import CHECKS
    from bnlab.report.blocks import Block, Bullets, Column, Section, Table, Text

    if not findings:
        what = f"Nothing found in {len(subject.norms)} batch norms."
        said = what if subject.norms else "No batch norm among its modules, and nothing else found."
        return Section("doctor", f"Doctor: {target}", (Text(said),))
    columns = tuple(Column(name, numeric=False) for name in ("code", "", "layer", "what"))
    found = {one.code for one in findings}
    why = (
        f"{check.code} {check.title}. {check.why} To do: {check.todo}."
        for check in CHECKS
        if check.code in found
    )
    blocks: tuple[Block, ...] = (
        Table("", columns, tuple(_rows(findings))),
        Bullets(tuple(why)),
    )
    return Section("doctor", f"Doctor: {target}", blocks)


def _rows(findings: "Sequence[Finding]") -> "Iterator[tuple[str, ...]]":
    groups: dict[tuple[str, str], list[Finding]] = {}
    for one in sorted(findings, key=lambda one: (one.severity, one.code)):
        groups.setdefault((one.code, one.severity), []).append(one)
    for (code, severity), group in groups.items():
        for one in group[:SHOWN]:
            what = f"{one.what}; {one.cost}" if one.cost else one.what
            yield code, severity, one.layer, what
        if len(group) > SHOWN:
            yield code, severity, f"{len(group) - SHOWN} more", "likewise (--json tells all)"
