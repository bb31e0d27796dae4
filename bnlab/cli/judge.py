"""Is B better than A? `judge`, for scripts: the answer is the exit code."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bnlab.cli.options import AsJson
from bnlab.cli.output import print_json, print_wrapped, remark
from bnlab.errors import ConfigError

if TYPE_CHECKING:
    from bnlab.analysis.better import Judged

app = typer.Typer()

EXIT_CODES = {"better": 0, "not better": 10, "undecided": 11}
"""As of grep and cmp, the answer; above those that every command has, so that no error is taken for
an answer."""

MIN_EFFECT = 0.3
"""Percentage points: what counts in the claims under full."""


@app.command()
def judge(
    a: Annotated[Path, typer.Argument(metavar="A", help="What is there: runs of one arm.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="What would take its place.")],
    min_effect: Annotated[
        float | None,
        typer.Option(
            metavar="PP",
            help="The least that counts as better, in percentage points, or in the metric's unit.",
            show_default="0.3",
        ),
    ] = None,
    metric: Annotated[str, typer.Option(help="What is compared.")] = "test/accuracy",
    allow_mixed: Annotated[
        bool, typer.Option("--allow-mixed", help="Judge runs of different code, device or data.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say whether B is better than A; exits with 0 if so, 10 if not, 11 if that is undecided."""
    from bnlab.analysis import load_runs, make_metric
    from bnlab.analysis.better import is_better

    unit = make_metric(metric)
    if min_effect is None and not unit.unit:
        raise ConfigError(f"--metric {metric}: say with --min-effect how much counts as better")
    least = MIN_EFFECT if min_effect is None else min_effect
    if not least > 0:
        raise ConfigError(f"--min-effect {least:g}: must be positive")
    sides = []
    for path in (a, b):
        loaded, remarks = load_runs([path])
        sides.append(loaded)
        for one in remarks:
            remark(f"{one.where}: {one.what}")
    judged = is_better(sides[0], sides[1], unit, least / unit.scale, allow_mixed=allow_mixed)
    code = EXIT_CODES[judged.answer]
    if as_json:
        print_json({**judged.as_data(), "exit_code": code})
    else:
        print_wrapped(_line(judged))
    raise typer.Exit(code)


def _line(judged: "Judged") -> str:
    from bnlab.report.numbers import difference, difference_interval, number, p_value, with_unit

    effect, metric = judged.effect, judged.metric
    said = with_unit(difference(effect.estimate, metric), metric)
    if effect.interval is not None:
        said += f" (95 % limits {difference_interval(effect.interval, metric)}"
        said += f", p {p_value(effect.p)})"
    least = with_unit(number(judged.smallest * metric.scale, 2), metric)
    how = {"paired": "pairs", "welch": "seeds a side, unpaired", "single": "seed a side"}
    (failed_a, of_a), (failed_b, of_b) = judged.failures
    return (
        f"{judged.answer}: {metric.name} {said} of B less A, at least {least} asked for; "
        f"{effect.n} {how[effect.method]}; diverged: A {failed_a} of {of_a}, B {failed_b} of "
        f"{of_b}; {judged.why}"
    )
