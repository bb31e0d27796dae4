"""The figures of a claim's page."""

import math
from collections.abc import Sequence
from itertools import compress
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnlab.analysis.stats import mean_interval
from bnlab.claims import (
    Chart,
    Claim,
    Contrast,
    Evidence,
    Finding,
    Label,
    show_limits,
)
from bnlab.report.plots.canvas import (
    COLORS,
    INK,
    Mark,
    add_legend,
    cut,
    draw_marks,
    label_ticks,
    look_at,
    looks_of,
    make_axes,
    of_arm,
    tick_at,
)
from bnlab.report.plots.rows import (
    Strip,
    bare_rows,
    draw_runs,
    draw_strips,
    label_rows,
    rows_height,
)

VERDICT_LOOKS = {
    "SUPPORTED": {"color": COLORS[3], "marker": "D"},
    "REFUTED": {"color": COLORS[2], "marker": "s"},
    "INCONCLUSIVE": {"color": COLORS[1], "marker": "o"},
    "NOT TESTED": {"color": COLORS[0], "marker": "o", "facecolors": "none"},
}

TICKS = (0.3, 1, 3, 10, 30, 100, 300, 1000)


def draw_all(findings: Sequence[Finding]) -> Figure:
    """The effects of all claims in multiples of their smallest effects of interest.

    Args:
        findings: Those that have measured something.
    """
    rows = [row for finding in findings for row in rows_of(finding)]
    claims = [claim for finding in findings for claim, _ in finding.places]
    figure, axes = make_axes(rows_height(len(rows), 0.4), left=0.06)
    known = [1.0, *(x for *_, ratios in rows for x in ratios if math.isfinite(x))]
    reach = 1.6 * max(map(abs, known))
    _draw_pieces(axes, 0.0, range(len(rows)))
    _draw_pieces(axes, 1.0, range(len(rows)))
    _draw_pieces(axes, -1.0, [row for row, claim in enumerate(claims) if claim.either_way])
    for row, (verdict, _, tip, ratios) in enumerate(rows):
        look = VERDICT_LOOKS[verdict]
        low, middle, high = (min(max(x, -reach), reach) for x in ratios)
        axes.plot([low, high], [row, row], color=look["color"], linewidth=2)
        for limit, end, marker in ((ratios[0], low, "<"), (ratios[2], high, ">")):
            if math.isinf(limit):
                axes.plot([end], [row], color=look["color"], marker=marker, markersize=6)
        if math.isfinite(ratios[1]):
            filled = {"color": look["color"]} if "facecolors" not in look else {
                "edgecolors": look["color"], "facecolors": "none",
            }  # fmt: skip
            draw_marks(
                axes, [middle], [row], [Mark(tip)], s=42, marker=look["marker"], zorder=3, **filled
            )
    label_rows(axes, [words for _, words, *_ in rows], 7.5)
    bare_rows(axes, len(rows))
    axes.set_xscale("asinh", linear_width=1.0)
    ticks = [0.0, *TICKS, *(-tick for tick in TICKS)]
    low, high = axes.get_xlim()
    label_ticks(axes, "x", {tick: f"{tick:g}" for tick in ticks if low <= tick <= high}, 8.0)
    axes.set_xlabel("effect in smallest effects of interest")
    return figure


def _draw_pieces(axes: Axes, at: float, rows: Sequence[int]) -> None:
    """A line across these rows at 0, or dashed at a smallest effect, that crosses no label."""
    look: dict[str, Any] = {"color": COLORS[2], "linestyle": "--"} if at else {"color": INK}
    low, high = np.asarray(rows) - 0.16, np.asarray(rows) + 0.34
    axes.vlines(np.full(len(rows), at), low, high, linewidth=1.0, **look)


_Row = tuple[Label, str, str, tuple[float, float, float]]

SAYS: dict[Label, str] = {
    "SUPPORTED": "supports",
    "REFUTED": "refutes",
    "INCONCLUSIVE": "open",
    "NOT TESTED": "not judged",
}
"""What a single place says of a claim whose verdict takes both."""


def rows_of(finding: Finding) -> list[_Row]:
    """Verdict, words, tip and limits as multiples: of a claim, or of each place it is asked in.

    A place has the verdict that it would give alone; that of the claim stands in its first row.
    """
    name, sides = finding.claim.name, finding.places
    rows: list[_Row] = []
    parts = finding.verdict.parts or [finding.verdict] * len(sides)
    for place, ((one, measured), alone) in enumerate(zip(sides, parts, strict=True)):
        limits = finding.limits(measured) or measured.interval
        smallest = one.smallest(finding.gathered.preset)
        effect = f"{one.show(limits.estimate)}{_asked(one, smallest)}"
        where = f" ({one.place})" if len(sides) > 1 else ""
        words = f"{name}: {finding.verdict.label}"
        if place:
            words = f"{name}{where}: {SAYS[alone.label]}, {effect}"
        elif where:
            words += f"; {one.place}: {SAYS[alone.label]}, {effect}"
        else:
            words += f", {effect}"
        tip = (
            f"{name}{where}: {one.show(limits.estimate)}, {100 * limits.level:g} % limits "
            f"{show_limits(limits, one.unit)}, smallest of interest {one.show(smallest)}, "
            f"n {len(measured.differences)}"
        )
        ratios = limits.low / smallest, limits.estimate / smallest, limits.high / smallest
        rows.append((alone.label, words, tip, ratios))
    return rows


def _asked(claim: Claim, smallest: float) -> str:
    """How far from 0 an effect may be that favors a claim which says that there is none."""
    amount = claim.show(smallest).lstrip("+")
    if claim.either_way:
        return f" (claimed: within ±{amount})"
    return f" of at most {amount}" if claim.bounded else ""


def looks_in(evidence: Evidence) -> dict[str, dict[str, Any]]:
    """The look of every arm, the same in all figures of a claim."""
    return looks_of([*dict.fromkeys([*evidence.best, *evidence.sweep])])


def draw_final_runs(finding: Finding) -> Figure:
    """Every final run of every arm at its test accuracy."""
    evidence, final = finding.gathered.evidence, finding.gathered.final
    assert evidence is not None
    looks, strips = looks_in(evidence), []
    for arm, scores in evidence.best.items():
        failed = evidence.diverged.get(arm, np.zeros(len(scores))) > 0
        marks = [
            Mark(
                f"{arm}, seed {seed}: {100 * value:.2f} %{', diverged' * bool(bad)}; "
                f"run {run.path}",
                run.path,
            )
            for (seed, run), value, bad in zip(final[arm].items(), scores, failed, strict=True)
        ]
        label = f"{arm}: {100 * scores.mean():.2f}"
        strips.append(
            Strip(label, [100 * x for x in scores], [*map(bool, failed)], marks, looks[arm])
        )
    return draw_strips(strips, "test accuracy, %")


def _seeds(finding: Finding, contrast: Contrast) -> list[str]:
    """The seeds behind the effect, in its order; unnamed where it is of something else."""
    seeds = [f"seed {seed}" for seed in next(iter(finding.gathered.final.values()), {})]
    failures, count = contrast.failures, len(contrast.differences)
    if failures is not None and failures.set_apart:
        seeds = [*compress(seeds[-len(failures.any) :], failures.any == 0)]
    seeds = seeds[-count:]
    return seeds if len(seeds) == count else ["one of them"] * count


def draw_effect(finding: Finding, place: int = 0) -> Figure:
    """A claim's effect on every seed, its mean and limits, against 0 and the smallest of interest.

    A seed that gives no more than a bound is a triangle that points to where its effect may lie.
    Limits are at the claim's level where there is a verdict.
    """
    (claim, contrast), smallest = finding.places[place], finding.smallest_effect
    limits = finding.limits(contrast) or contrast.interval
    scale, color = claim.scale, COLORS[1]
    figure, axes = make_axes(0.9, left=0.06)
    least, greatest = (bound * scale for bound in contrast.bounds)
    values = np.where(np.isfinite(least), least, greatest)
    told = [
        Mark(f"{seed}: {claim.show(value / scale)}")
        for seed, value in zip(_seeds(finding, contrast), values, strict=True)
    ]
    rows = 0.15 + 0.12 * ((np.arange(len(values)) * 2) % 5 - 2) / 2
    axes.axvline(0, color=INK, linewidth=0.9)
    dashed = [smallest * scale, *([-smallest * scale] if claim.either_way else [])]
    for at in dashed:
        axes.axvline(at, color=COLORS[2], linewidth=1.2, linestyle="--")
    for marker, seeds in (
        ("o", least == greatest),
        (">", np.isfinite(least) & (greatest > least)),
        ("<", np.isneginf(least) & np.isfinite(greatest)),
    ):
        draw_marks(
            axes, values[seeds], rows[seeds], [*compress(told, seeds)], marker=marker, s=20,
            color=color, alpha=0.75, linewidths=0,
        )  # fmt: skip
    lowest, middle, highest = (x * scale for x in (limits.low, limits.estimate, limits.high))
    known = [0, *dashed, lowest, middle, highest, *values]
    known = [x for x in known if math.isfinite(x)]
    # A limit that the data did not set is an arrow beyond everything else.
    beyond = 0.12 * (max(known) - min(known))
    ends = [max(lowest, min(known) - beyond), min(highest, max(known) + beyond)]
    axes.plot(ends, [-0.2, -0.2], color=INK, linewidth=2)
    for limit, end, marker in zip((lowest, highest), ends, "<>", strict=True):
        if math.isinf(limit):
            axes.plot([end], [-0.2], color=INK, marker=marker, markersize=7)
    if math.isfinite(middle):
        axes.plot([middle], [-0.2], color=INK, marker="D", markersize=6)
    axes.set_ylim(-0.45, 0.5)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    favors = "left of the dashed line" if claim.bounded else "right of 0"
    if claim.either_way:
        favors = "between the dashed lines"
    axes.set_xlabel(f"effect, {claim.unit} ({favors} favors the claim)")
    return figure


def draw_chart(chart: Chart, arms: Sequence[str] = ()) -> Figure:
    """Means over seeds with their 95 % limits.

    Args:
        chart: What to draw.
        arms: Those of the claim's study in its order, whose looks the lines take.
    """
    figure, axes = make_axes(1.9, legend=[line.name for line in chart.lines])
    places = sorted({float(x) for line in chart.lines for x in line.x})
    looks = looks_of(arms or [line.name for line in chart.lines])
    for line in chart.lines:
        look = looks.setdefault(line.arm or line.name, look_at(len(looks)))
        means = chart.y_scale * line.values.mean(axis=0)
        drawn = axes.plot(line.x, means, label=line.name, markersize=4.5, **look)
        if len(line.values) > 1:
            limits = [mean_interval(column * chart.y_scale) for column in line.values.T]
            low, high = [i.low for i in limits], [i.high for i in limits]
            drawn.append(
                axes.fill_between(line.x, low, high, color=look["color"], alpha=0.15, linewidth=0)  # type: ignore[arg-type]
            )
        of_arm(axes, line.name, look["color"], *drawn)
    axes.set_xscale(chart.x_scale)
    tick_at(axes, places)
    axes.set_xlabel(chart.x_label)
    axes.set_ylabel(chart.y_label)
    add_legend(figure, axes)
    return figure


def draw_sweep(evidence: Evidence) -> Figure:
    """Validation accuracy over the learning rates tried: every tuning seed, and each arm's mean."""
    figure, axes = make_axes(1.9, legend=list(evidence.sweep))
    axes.set_xscale("log")
    whole: list[float] = []
    apart: list[float] = []
    looks = looks_in(evidence)
    for arm, scores in evidence.sweep.items():
        look = looks[arm]
        diverged = evidence.sweep_diverged.get(arm, np.zeros_like(scores)) > 0
        tried = np.argwhere(np.isfinite(scores))
        x = [float(evidence.lrs[column]) for _, column in tried]
        y = [float(100 * scores[row, column]) for row, column in tried]
        failed = [bool(diverged[row, column]) for row, column in tried]
        marks = [
            Mark(f"{arm}, lr {lr:g}, tuning seed {row + 1}: {value:.2f} %{', diverged' * bad}")
            for (row, _), lr, value, bad in zip(tried, x, y, failed, strict=True)
        ]
        drawn = draw_runs(axes, x, y, marks, failed, look, 7.0)
        means = 100 * scores.mean(axis=0)
        drawn += axes.plot(evidence.lrs, means, label=arm, markersize=4.5, **look)
        of_arm(axes, arm, look["color"], *drawn)
        for value, bad in zip(y, failed, strict=True):
            (apart if bad else whole).append(value)
        trained = np.isfinite(means) & ~diverged.all(axis=0)
        whole += means[trained].tolist()
    cut(axes, "y", whole, apart)
    tick_at(axes, [*map(float, evidence.lrs)])
    axes.set_xlabel("learning rate")
    axes.set_ylabel("validation accuracy, %")
    add_legend(figure, axes)
    return figure
