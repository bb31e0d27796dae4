"""What is said of batch normalization, with verdicts: `claims`, and what is below it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from bnlab.cli.options import AsJson, Device, Executor, Jobs, RunsDir, count_jobs
from bnlab.cli.output import (
    print_json,
    print_line,
    print_parts,
    print_sections,
    remark,
    stdout_width,
    this_command,
)
from bnlab.errors import ConfigError, did_you_mean, shown

if TYPE_CHECKING:
    from bnlab.claims import Finding, Network
    from bnlab.study.plan import Study


class _Claims(TyperGroup):
    """A group in which a claim's name may stand as if it were a command: the claim is shown."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        known = args[0] in self.commands or args[0].startswith("-")
        return super().resolve_command(ctx, args if known else ["show", *args])


app = typer.Typer(
    cls=_Claims,
    help="What is said of batch normalization, with verdicts.",
    invoke_without_command=True,
    subcommand_metavar="[COMMAND | CLAIM...]",
)


def _complete(incomplete: str) -> list[str]:
    """Claims whose names begin so, for the shell."""
    from bnlab.registry import CLAIMS

    return [name for name in CLAIMS if name.startswith(incomplete)]


Preset = Literal["smoke", "quick", "full"]
Strict = Annotated[
    bool, typer.Option("--strict", help="Exit 4 unless every claim shown is SUPPORTED.")
]
Model = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE.py:FUNCTION",
        help="Ask of another network, a scope of its own; its file is run.",
        show_default="convnet",
    ),
]
Out = Annotated[
    Path | None, typer.Option(help="Write claims.html, .md and .json into this folder.")
]


@app.callback()
def claims(
    context: typer.Context,
    runs_dir: RunsDir = Path("runs"),
    model: Model = None,
    strict: Strict = False,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """List every claim with its verdict, from the runs at hand alone."""
    if context.invoked_subcommand is None:
        from bnlab.claims import find_network

        _show(None, runs_dir, find_network(model), strict, out, as_json)


@app.command()
def show(
    names: Annotated[
        list[str], typer.Argument(metavar="NAME...", help="Claims.", autocompletion=_complete)
    ],
    runs_dir: RunsDir = Path("runs"),
    model: Model = None,
    strict: Strict = False,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Show some claims with their verdicts; `bnlab claims NAME` does the same."""
    from bnlab.claims import CLAIMS, find_network

    for name in names:
        if name not in CLAIMS:
            commands = ("explain", "run", "show")
            raise ConfigError(
                f"bnlab claims {shown(name)}: no claim or command of that name"
                f"{did_you_mean(name, [*CLAIMS, *commands])}"
            )
    _show(names, runs_dir, find_network(model), strict, out, as_json)


@app.command()
def run(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME...", help="Claims.", show_default=False, autocompletion=_complete
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All claims.")] = False,
    preset: Annotated[
        Preset, typer.Option(help="smoke gives no verdict; quick suits two CPU cores; full a GPU.")
    ] = "quick",
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set", "-s", metavar="KEY=VALUE", help="dataset.name and dataset.root only."
        ),
    ] = None,
    model: Model = None,
    runs_dir: RunsDir = Path("runs"),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the runs that are missing; train nothing.")
    ] = False,
    jobs: Jobs = "auto",
    device: Device = "auto",
    executor: Executor = None,
    strict: Strict = False,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Train what is missing for some claims, then judge; runs are shared among claims."""
    at_once = count_jobs(jobs)
    from bnlab.claims import CLAIMS, find_network

    if every == bool(names):
        raise ConfigError("name claims (bnlab claims explain lists them), or give --all")
    network = find_network(model)
    studies = _studies(names or list(CLAIMS), preset, sets or (), runs_dir, network)
    from bnlab.cli.console import watching_study
    from bnlab.study.run import StudyOptions, raise_failures
    from bnlab.study.series import run_each

    if dry_run:
        _show_plans(studies, runs_dir, as_json)
        return
    if len(studies) > 1:
        from bnlab.study.estimate import look_ahead
        from bnlab.study.render import render_series

        remark(render_series(*look_ahead(studies, runs_dir)))
    scope = f"preset {preset}" if network.own else f"preset {preset}, {network.label}"
    titled = {f"{name}, {scope}": study for name, study in studies.items()}
    options = StudyOptions(at_once, device, executor=executor)
    for finished in run_each(titled, runs_dir, options, watching_study):
        raise_failures(finished, this_command())
    _show(list(studies), runs_dir, network, strict, out, as_json)


@app.command("explain")
def explain_claim(
    name: Annotated[
        str | None,
        typer.Argument(help="A claim; without, all are listed.", autocompletion=_complete),
    ] = None,
) -> None:
    """Say what a claim means, how it is tested and by which rule it is judged."""
    from bnlab.claims import CLAIMS, READABLE, explain, find_claim
    from bnlab.report.blocks import Column, Section, Table

    if name is not None:
        print_line(explain(find_claim(name), min(READABLE, stdout_width())))
        return
    columns = (Column("", numeric=False), Column("", numeric=False))
    rows = tuple((name, find_claim(name).statement) for name in CLAIMS)
    told = ("bnlab claims explain NAME says how one is tested, bnlab claims NAME what came of it",)
    print_sections([Section("claims", "What the documents say", (Table("", columns, rows, told),))])


def _studies(
    names: Sequence[str], preset: Preset, sets: Sequence[str], runs_dir: Path, network: "Network"
) -> "dict[str, Study]":
    """The study of each claim, once, by its name."""
    from bnlab.claims import (
        SHARED,
        find_claim,
        not_asked,
        refuse_bending,
        stored_study,
        study_file,
    )
    from bnlab.study.plan import load_shared_study

    refuse_bending(sets)
    studies = {}
    for claim in map(find_claim, dict.fromkeys(names)):
        study = load_shared_study(
            study_file(claim.name),
            sets,
            runs_dir=runs_dir,
            name=SHARED,
            preset=preset,
            network=network.layer(preset),
            stored=stored_study(claim.name, preset, network),
        )
        if void := not_asked(claim, study, network):
            raise ConfigError(f"claim {claim.name}: {void}")
        studies[claim.name] = study
    return studies


def _show_plans(studies: "Mapping[str, Study]", runs_dir: Path, as_json: bool) -> None:
    """Of one claim the whole plan, of several a line each."""
    from bnlab.study.estimate import look_ahead
    from bnlab.study.render import render_estimate, render_plan, render_series, study_as_data

    ahead, total = look_ahead(studies, runs_dir)
    if as_json:
        print_json({name: study_as_data(one.survey, one.estimate) for name, one in ahead.items()})
    elif len(ahead) > 1:
        print_parts(render_series(ahead, total))
    else:
        for name, one in ahead.items():
            print_parts(name, render_plan(one.survey), render_estimate(one.survey, one.estimate))


def _show(
    names: list[str] | None,
    runs_dir: Path,
    network: "Network",
    strict: bool,
    out: Path | None,
    as_json: bool,
) -> None:
    """Show the claims named, or all."""
    from bnlab.claims import as_data, find_findings
    from bnlab.report.claims import terminal_sections, write_claims
    from bnlab.report.reference import reference_sections, shipped_verdicts, write_reference

    found, remarks = find_findings(runs_dir, network)
    shown = [one for one in found if names is None or one.claim.name in names]
    for met in remarks:
        remark(f"{met.where}: {met.what}")
    untested = {one.claim.name for one in shown if one.verdict.label == "NOT TESTED"}
    shipped = shipped_verdicts() if network.own else []
    reference = [one for one in shipped if one["claim"] in untested]
    if all(one["verdict"] == "NOT TESTED" for one in reference):
        reference = []
    # Of what was not asked for by name, smoke runs are of no interest: they give no verdict.
    begun = [
        one
        for one in shown
        if one.gathered.finished
        and (names or one.gathered.preset != "smoke" or one.contrast is not None)
    ]
    if out is not None:
        own = begun or not reference
        remark(f"report: {write_claims(shown, out) if own else write_reference(reference, out)}")
    if as_json:
        print_json(as_data(shown))
    elif reference:
        print_sections(
            [*reference_sections(reference), *(terminal_sections(begun) if begun else ())]
        )
    else:
        print_sections(terminal_sections(shown))
    return _strictly(strict, shown)


def _strictly(strict: bool, shown: "Sequence[Finding]") -> None:
    if strict and any(one.verdict.label != "SUPPORTED" for one in shown):
        raise typer.Exit(4)
