"""The figures of a claim's page."""

import math

import numpy as np
from matplotlib.figure import Figure

from bnlab.analysis.stats import Interval, mean_interval
from bnlab.claims import Chart, Claim, Contrast, Evidence
from bnlab.report.plots.canvas import COLORS, INK, add_legend, look_at, make_axes


def draw_effect(claim: Claim, contrast: Contrast, limits: Interval, smallest: float) -> Figure:
    """A claim's effect on every seed, its mean and limits, against 0 and the smallest of interest.

    A seed that gives no more than a bound is a triangle that points to where its effect may lie.

    Args:
        claim: Whose effect.
        contrast: Its seeds.
        limits: Mean and limits to draw, at the claim's level where there is a verdict.
        smallest: The smallest effect of interest.
    """
    scale, color = claim.scale, COLORS[1]
    figure, axes = make_axes(0.9, left=0.06)
    least, greatest = (bound * scale for bound in contrast.bounds)
    values = np.where(np.isfinite(least), least, greatest)
    rows = 0.15 + 0.12 * ((np.arange(len(values)) * 2) % 5 - 2) / 2
    axes.axvline(0, color=INK, linewidth=0.9)
    axes.axvline(smallest * scale, color=COLORS[2], linewidth=1.2, linestyle="--")
    for marker, seeds in (
        ("o", least == greatest),
        (">", np.isfinite(least) & (greatest > least)),
        ("<", np.isneginf(least) & np.isfinite(greatest)),
    ):
        axes.plot(
            values[seeds], rows[seeds], linestyle="", marker=marker, markersize=4.5, color=color,
            alpha=0.75, markeredgewidth=0,
        )  # fmt: skip
    lowest, middle, highest = (x * scale for x in (limits.low, limits.estimate, limits.high))
    known = [0, smallest * scale, lowest, middle, highest, *values]
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
    axes.set_xlabel(f"effect, {claim.unit} ({favors} favors the claim)")
    return figure


def draw_chart(chart: Chart) -> Figure:
    """Means over seeds with their 95 % limits, over a logarithmic axis."""
    figure, axes = make_axes(1.9, legend=[line.name for line in chart.lines])
    places = sorted({float(x) for line in chart.lines for x in line.x})
    for place, line in enumerate(chart.lines):
        look = look_at(place)
        means = chart.y_scale * line.values.mean(axis=0)
        axes.plot(line.x, means, label=line.name, markersize=4.5, **look)
        if len(line.values) > 1:
            limits = [mean_interval(column * chart.y_scale) for column in line.values.T]
            low, high = [i.low for i in limits], [i.high for i in limits]
            axes.fill_between(line.x, low, high, color=look["color"], alpha=0.15, linewidth=0)
    axes.set_xscale("log")
    axes.set_xticks(places, [f"{x:g}" for x in places])
    axes.minorticks_off()
    axes.set_xlabel(chart.x_label)
    axes.set_ylabel(chart.y_label)
    add_legend(figure, axes)
    return figure


def draw_sweep(evidence: Evidence) -> Figure:
    """Mean validation accuracy of every arm over the learning rates tried."""
    figure, axes = make_axes(1.9, legend=list(evidence.sweep))
    for place, (arm, scores) in enumerate(evidence.sweep.items()):
        means = 100 * scores.mean(axis=0)
        axes.plot(evidence.lrs, means, label=arm, markersize=4.5, **look_at(place))
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("validation accuracy, %")
    add_legend(figure, axes)
    return figure
