"""The figures of a report, as SVG that reads on light and dark pages, in print and on a phone.

Text takes the page's color; arms are told apart by color, marker and dashes together, the baseline
in gray. The colors (after Okabe and Ito 2008, darkened where needed) differ for color-blind readers
and contrast at least 3:1 with white and with near-black. Figures are small, and many.
"""

import io
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bnlab.analysis import Comparison, Curve, View, make_metric
from bnlab.analysis.stats import mean_interval
from bnlab.report.numbers import column, difference, score

if TYPE_CHECKING:
    from bnlab.analysis.stats import Interval
    from bnlab.claims import Chart, Claim, Contrast, Evidence

INK = "#0b0b0b"
"""Stands for the page's text color until `svg` replaces it."""

COLORS = ("#7f7f7f", "#1a7fc1", "#d55e00", "#009e73", "#b3589a", "#a07a00", "#5f8f2f")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES: tuple[Any, ...] = ("--", "-", (0, (5, 1)), "-.", (0, (1, 1)), (0, (3, 1, 1, 1, 1, 1)), ":")

WIDTH = 4.6
"""Inches; as wide as a phone shows without shrinking the text below reading size."""

_STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "grid.color": INK,
    "grid.alpha": 0.15,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
}

_CSS = (
    "<style>svg.plot{color:#1b1f24}"
    "@media (prefers-color-scheme:dark){svg.plot{color:#d8dee6}}"
    "@media print{svg.plot{color:#000}}</style>"
)


def svg(name: str, draw: Any, alt: str) -> str:
    """One figure as an SVG element; the same bytes every time.

    Args:
        name: Makes the ids in it unique on a page.
        draw: Gives the figure.
        alt: What it shows, for readers who do not see it.
    """
    with rc_context({**_STYLE, "svg.hashsalt": name}):
        file = io.StringIO()
        draw().savefig(
            file, format="svg", transparent=True, metadata={"Date": None, "Creator": None}
        )
    text = file.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r"'?DejaVu Sans'?(, [^;\"]*)?", "system-ui, sans-serif", text)
    # Ids without a hash (figure_1, axes_1) are the same in every figure of a page.
    text = re.sub(r'(?<=<g id=")', f"{name}-", text)
    label = alt.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    text = text.replace("<svg", f'<svg class="plot" role="img" aria-label="{label}"', 1)
    return text.replace(">", f">{_CSS}", 1)


def _axes(height: float, left: float = 0.56, legend: Sequence[str] = ()) -> tuple[Figure, Axes]:
    """A figure with one plot, `height` inches high, above room for a legend of these names.

    Margins are fixed: to fit them to the labels would take as long as drawing does.
    """
    below = 0.42 + (0.08 + 0.19 * -(-len(legend) // _legend_columns(legend)) if legend else 0)
    above = 0.24 if legend else 0.05
    total = height + below + above
    figure = Figure(figsize=(WIDTH, total))
    width = WIDTH - left - 0.14
    return figure, figure.add_axes(
        (left / WIDTH, below / total, width / WIDTH, height / total)
    )  # fmt: skip


def _legend_columns(names: Sequence[str]) -> int:
    return 2 if max(map(len, names), default=0) < 26 else 1


def _look(comparison: Comparison, arm: str) -> dict[str, Any]:
    place = [known.name for known in comparison.arms].index(arm)
    return _look_at(place)


def _look_at(place: int) -> dict[str, Any]:
    """Color, marker and dashes of the arm in this place."""
    # Beyond seven arms colors come again, with other markers and dashes.
    turn = place // len(COLORS)
    return {
        "color": COLORS[place % len(COLORS)],
        "marker": MARKERS[(place + turn) % len(MARKERS)],
        "linestyle": DASHES[(place + 2 * turn) % len(DASHES)],
    }


def _legend(figure: Figure, axes: Axes) -> None:
    handles, names = axes.get_legend_handles_labels()
    figure.legend(
        handles, names, loc="lower left", bbox_to_anchor=(0.0, 0.0), borderaxespad=0.0,
        ncols=_legend_columns(names), handlelength=3.2, labelspacing=0.4,
    )  # fmt: skip


def _rows(rows: int) -> float:
    return 0.2 + 0.52 * rows


def _row_label(axes: Axes, row: int, text: str) -> None:
    axes.text(
        0, row - 0.36, text, transform=axes.get_yaxis_transform(), fontsize=8.5, va="center"
    )  # fmt: skip


def _bare_rows(axes: Axes, rows: int) -> None:
    axes.set_ylim(rows - 0.55, -0.6)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)


def forest(comparison: Comparison, view: View) -> Figure:
    """Effects with intervals, one row an arm."""
    metric = view.metric
    figure, axes = _axes(_rows(len(view.effects)), left=0.06)
    places = range(len(view.effects))
    # In pieces, so that it does not cross the labels.
    axes.vlines(
        np.zeros(len(places)), [row - 0.2 for row in places], [row + 0.3 for row in places],
        color=INK, linewidth=0.9,
    )  # fmt: skip
    if comparison.margin:
        reach = comparison.margin * metric.scale
        axes.axvspan(-reach, reach, color=COLORS[0], alpha=0.18, linewidth=0)
    for row, effect in enumerate(view.effects):
        look = _look(comparison, effect.arm)
        middle = effect.estimate * metric.scale
        if effect.interval:
            limits = [effect.interval.low * metric.scale, effect.interval.high * metric.scale]
            axes.plot(limits, [row, row], color=look["color"], linewidth=2)
        axes.plot([middle], [row], color=look["color"], marker=look["marker"], markersize=7)
        verdict = effect.verdict if effect.interval else "no interval"
        _row_label(axes, row, f"{effect.arm}: {difference(effect.estimate, metric)}, {verdict}")
    _bare_rows(axes, len(view.effects))
    unit = "percentage points of " if metric.unit else ""
    axes.set_xlabel(f"difference from {comparison.baseline}, {unit}{metric.name}")
    return figure


def strip(comparison: Comparison, view: View) -> Figure:
    """Every seed as a dot; runs that diverged as crosses at the left edge."""
    metric = view.metric
    figure, axes = _axes(_rows(len(view.results)), left=0.06)
    kept = [
        value * metric.scale
        for result in view.results
        for seed, value in result.scores.items()
        if seed not in result.diverged
    ] or [value * metric.scale for result in view.results for value in result.scores.values()]
    limits = [
        limit * metric.scale
        for result in view.results
        if result.interval and not result.diverged
        for limit in (result.interval.low, result.interval.high)
    ]
    low, high = min(kept + limits), max(kept + limits)
    pad = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    left, right = low - pad * (2 if any(r.diverged for r in view.results) else 1), high + pad
    for row, result in enumerate(view.results):
        look = _look(comparison, result.arm)
        whole = [v * metric.scale for s, v in result.scores.items() if s not in result.diverged]
        offsets = 0.12 * ((np.arange(len(whole)) * 2) % 5 - 2) / 2
        axes.plot(
            whole, row + offsets, linestyle="", marker=look["marker"], markersize=4.5,
            color=look["color"], alpha=0.75, markeredgewidth=0,
        )  # fmt: skip
        label = f"{result.arm}: {score(result.mean, metric)}"
        if result.diverged:
            count = len(result.diverged)
            axes.plot(
                left + pad * 0.5 + np.zeros(count), row + 0.12 * np.linspace(-1, 1, count),
                linestyle="", marker="x", color=look["color"],
            )  # fmt: skip
            label += f" ({count} of {result.n} diverged, ×)"  # noqa: RUF001 - the marker
        mean = result.mean * metric.scale
        if left <= mean <= right:
            axes.plot([mean, mean], [row - 0.17, row + 0.17], color=INK, linewidth=1.6)
            if result.interval and not result.diverged:
                ends = [result.interval.low * metric.scale, result.interval.high * metric.scale]
                axes.plot(ends, [row, row], color=INK, linewidth=0.9)
        _row_label(axes, row, label)
    _bare_rows(axes, len(view.results))
    axes.set_xlim(left, right)
    axes.set_xlabel(column(metric))
    return figure


def response(comparison: Comparison) -> Figure:
    """The metric over the tuned key."""
    names = [r.arm for r in comparison.responses]
    figure, axes = _axes(2.1, legend=names)
    scale = make_metric(comparison.responses[0].metric).scale
    whole = [
        point.mean * scale
        for r in comparison.responses
        for point in r.points
        if not point.diverged and np.isfinite(point.mean)
    ]
    bottom = None
    if whole:
        # Diverged cells at chance would press all that matters into the upper tenth.
        pad = 0.15 * (max(whole) - min(whole)) or 1.0
        bottom = min(whole) - pad
    for r in comparison.responses:
        look = _look(comparison, r.arm)
        means = np.array([point.mean * scale for point in r.points])
        lows = np.array([_low(point.interval, point.mean) * scale for point in r.points])
        highs = np.array([_high(point.interval, point.mean) * scale for point in r.points])
        keys = np.array([point.setting for point in r.points], dtype=np.float64)
        shown = np.ones(len(means), dtype=bool) if bottom is None else means >= bottom
        axes.plot(keys[shown], means[shown], label=r.arm, markersize=5, linewidth=1.5, **look)
        axes.vlines(keys[shown], lows[shown], highs[shown], color=look["color"], linewidth=1)
        if bottom is not None and not shown.all():
            axes.plot(
                keys[~shown], np.full((~shown).sum(), bottom), linestyle="", marker="v",
                markersize=7, color=look["color"], clip_on=False, fillstyle="none",
            )  # fmt: skip
        best = [point.mean * scale for point in r.points if point.setting == r.best]
        axes.plot([r.best], best, marker="o", markersize=11, fillstyle="none", color=look["color"])
    if all(value > 0 for r in comparison.responses for value in [p.setting or 0 for p in r.points]):
        axes.set_xscale("log")
    axes.set_xlabel(comparison.tuned or "")
    if bottom is not None:
        axes.set_ylim(bottom=bottom)
    axes.set_title(column(make_metric(comparison.responses[0].metric)))
    _legend(figure, axes)
    return figure


def _low(interval: Any, mean: float) -> float:
    return float(interval.low) if interval else mean


def _high(interval: Any, mean: float) -> float:
    return float(interval.high) if interval else mean


def curves(comparison: Comparison, tag: str, axis: str) -> Figure:
    """One quantity along training, one line an arm, with interval bands."""
    metric = make_metric(tag)
    found = [c for c in comparison.curves if c.tag == tag]
    figure, axes = _axes(2.0, legend=[c.arm for c in found])
    for curve in found:
        look = _look(comparison, curve.arm)
        x = curve.epochs if axis == "epochs" else curve.seconds
        marks = max(1, len(x) // 8)
        axes.plot(
            x, curve.mean * metric.scale, label=curve.arm, linewidth=1.4, markersize=4,
            markevery=marks, **look,
        )  # fmt: skip
        axes.fill_between(
            x, curve.low * metric.scale, curve.high * metric.scale,
            color=look["color"], alpha=0.2, linewidth=0,
        )  # fmt: skip
    _clip(axes, found, metric.scale)
    axes.set_title(column(metric))
    if axis == "epochs":
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch" if axis == "epochs" else "seconds of training (mean over seeds)")
    _legend(figure, axes)
    return figure


def _clip(axes: Axes, found: Sequence[Curve], scale: float) -> None:
    """Keep the axis to the means: a band over two seeds can be ten times as high as all curves."""
    means = np.concatenate([curve.mean for curve in found]) * scale
    low, high = float(np.nanmin(means)), float(np.nanmax(means))
    pad = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    axes.set_ylim(low - pad, high + pad)


def probe(comparison: Comparison, quantity: str) -> Figure:
    """One probed quantity by layer."""
    found = [p for p in comparison.probes if p.quantity == quantity]
    layers = list(dict.fromkeys(p.layer for p in found))
    arms = list(dict.fromkeys(p.arm for p in found))
    figure, axes = _axes(1.9, legend=arms)
    for place, arm in enumerate(arms):
        look = _look(comparison, arm)
        own = [p for p in found if p.arm == arm]
        shift = 0.3 * ((place + 0.5) / len(arms) - 0.5)
        x = np.array([layers.index(p.layer) for p in own]) + shift
        y = np.array([p.last for p in own])
        axes.plot(x, y, label=arm, markersize=5, linewidth=1, **look)
        for at, p in zip(x, own, strict=True):
            if p.interval:
                axes.vlines(at, p.interval.low, p.interval.high, color=look["color"], linewidth=1)
    values = np.array([p.last for p in found])
    if (values > 0).all() and values.max() > 20 * values.min():
        axes.set_yscale("log")
    axes.set_xticks(range(len(layers)), layers, rotation=30 if len(layers) > 6 else 0)
    axes.grid(visible=False, axis="x")
    axes.set_title(quantity.replace("_", " "))
    _legend(figure, axes)
    return figure


def claim_effect(claim: "Claim", contrast: "Contrast", limits: "Interval") -> Figure:
    """A claim's effect on every seed, its mean and limits, against 0 and the smallest of interest.

    A seed that gives no more than a bound is a triangle that points to where its effect may lie.

    Args:
        claim: Whose effect.
        contrast: Its seeds.
        limits: Mean and limits to draw, corrected where there is a verdict.
    """
    scale, color = claim.scale, COLORS[1]
    figure, axes = _axes(0.9, left=0.06)
    least, greatest = (bound * scale for bound in contrast.bounds)
    values = np.where(np.isfinite(least), least, greatest)
    rows = 0.15 + 0.12 * ((np.arange(len(values)) * 2) % 5 - 2) / 2
    axes.axvline(0, color=INK, linewidth=0.9)
    axes.axvline(claim.smallest_effect * scale, color=COLORS[2], linewidth=1.2, linestyle="--")
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
    known = [0, claim.smallest_effect * scale, lowest, middle, highest, *values]
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
    axes.set_xlabel(f"effect, {claim.unit} (right of 0 favors the claim)")
    return figure


def claim_chart(chart: "Chart") -> Figure:
    """Means over seeds with their 95 % limits, over a logarithmic axis."""
    figure, axes = _axes(1.9, legend=[line.name for line in chart.lines])
    places = sorted({float(x) for line in chart.lines for x in line.x})
    for place, line in enumerate(chart.lines):
        look = _look_at(place)
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
    _legend(figure, axes)
    return figure


def claim_sweep(evidence: "Evidence") -> Figure:
    """Mean validation accuracy of every arm over the learning rates tried."""
    figure, axes = _axes(1.9, legend=list(evidence.sweep))
    for place, (arm, scores) in enumerate(evidence.sweep.items()):
        means = 100 * scores.mean(axis=0)
        axes.plot(evidence.lrs, means, label=arm, markersize=4.5, **_look_at(place))
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("validation accuracy, %")
    _legend(figure, axes)
    return figure
