"""The figures of a comparison."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bnlab.analysis import Comparison, Curve, Effect, Metric, Result, View, make_metric
from bnlab.analysis.stats import Interval
from bnlab.report.numbers import (
    at_setting,
    column,
    difference,
    difference_interval,
    number,
    score,
    seeds,
    with_unit,
)
from bnlab.report.plots.canvas import (
    COLORS,
    INK,
    Mark,
    add_legend,
    cut,
    draw_marks,
    look_at,
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
from bnlab.report.safe import tick

LETTER = 0.065
"""Width of a letter of a label in inches, about."""

MOST_TICKS = 50
"""Letters that fit side by side below a plot."""


def _look(comparison: Comparison, arm: str) -> dict[str, Any]:
    place = [known.name for known in comparison.arms].index(arm)
    return look_at(place)


def draw_forest(comparison: Comparison, view: View, pairs: Sequence[Effect] = ()) -> Figure:
    """Effects with intervals, one row each; below them further pairs with simultaneous limits."""
    metric, rows = view.metric, [*view.effects, *pairs]
    figure, axes = make_axes(rows_height(len(rows)), left=0.06)
    places = range(len(rows))
    # In pieces, so that it does not cross the labels.
    axes.vlines(
        np.zeros(len(places)), [row - 0.2 for row in places], [row + 0.3 for row in places],
        color=INK, linewidth=0.9,
    )  # fmt: skip
    if comparison.margin:
        reach = comparison.margin * metric.scale
        axes.axvspan(-reach, reach, color=COLORS[0], alpha=0.18, linewidth=0)
    labels = []
    for row, effect in enumerate(rows):
        look, pair = _look(comparison, effect.arm), row >= len(view.effects)
        interval = effect.simultaneous if pair else effect.interval
        middle = effect.estimate * metric.scale
        if interval:
            limits = [interval.low * metric.scale, interval.high * metric.scale]
            axes.plot(limits, [row, row], color=look["color"], linewidth=2)
        name = f"{effect.arm} against {effect.baseline}" if pair else effect.arm
        told = _effect_told(effect, interval, metric)
        draw_marks(
            axes, [middle], [row], [Mark(f"{effect.arm} against {effect.baseline}: {told}")],
            s=49, color=look["color"], marker=look["marker"], zorder=3,
        )  # fmt: skip
        verdict = (effect.verdict if interval else "no interval") + " (exploratory)" * pair
        labels.append(f"{name}: {difference(effect.estimate, metric)}, {verdict}")
    label_rows(axes, labels)
    bare_rows(axes, len(rows))
    unit = "percentage points of " if metric.unit else ""
    against = "difference" if pairs else f"difference from {comparison.baseline}"
    axes.set_xlabel(f"{against}, {unit}{metric.name}")
    return figure


def _effect_told(effect: Effect, interval: Interval | None, metric: Metric) -> str:
    told = with_unit(difference(effect.estimate, metric), metric)
    if interval:
        told += f", {100 * interval.level:.3g} % limits {difference_interval(interval, metric)}"
    return f"{told}, n {seeds(effect)}"


def _runs(result: Result, comparison: Comparison, metric: Metric) -> list[Mark]:
    """A mark for every run, in the order of its scores."""
    unit = " %" if metric.unit else ""
    return [
        Mark(
            f"{result.arm}{at_setting(result.setting, comparison.tuned)}, seed {seed}: "
            f"{score(value, metric)}{unit}{', diverged' * (seed in result.diverged)}"
            f"; run {result.runs.get(seed, '')}",
            result.runs.get(seed, ""),
        )
        for seed, value in result.scores.items()
    ]


def draw_strip(comparison: Comparison, view: View) -> Figure:
    """Every run as a dot at its score, and the means."""
    metric = view.metric
    rows = [
        Strip(
            f"{result.arm}: {score(result.mean, metric)}",
            [value * metric.scale for value in result.scores.values()],
            [seed in result.diverged for seed in result.scores],
            _runs(result, comparison, metric),
            _look(comparison, result.arm),
            scaled(result.interval, metric.scale) if not result.diverged else None,
        )
        for result in view.results
    ]
    return draw_strips(rows, column(metric))


def scaled(interval: Interval | None, scale: float) -> tuple[float, float] | None:
    """Limits in the unit of tables."""
    return None if interval is None else (interval.low * scale, interval.high * scale)


def draw_response(comparison: Comparison) -> Figure:
    """The metric over the tuned key: every run at its value, and the means of each arm."""
    names = [r.arm for r in comparison.responses]
    figure, axes = make_axes(2.1, legend=names)
    metric = make_metric(comparison.responses[0].metric)
    scale = metric.scale
    keys = sorted({p.setting for r in comparison.responses for p in r.points if p.setting})
    if all(p.setting is not None and p.setting > 0 for r in comparison.responses for p in r.points):
        axes.set_xscale("log")
    whole: list[float] = []
    apart: list[float] = []
    for r in comparison.responses:
        look = _look(comparison, r.arm)
        shown = [p for p in r.points if p.setting is not None and np.isfinite(p.mean)]
        x, y, marks, failed = [], [], [], []
        for point in shown:
            marks += _runs(point, comparison, metric)
            for seed, value in point.scores.items():
                bad = seed in point.diverged
                x.append(point.setting or 0.0)
                y.append(value * scale)
                failed.append(bad)
                (apart if bad else whole).append(value * scale)
            if len(point.diverged) < point.n:
                whole.append(point.mean * scale)
        drawn = draw_runs(axes, x, y, marks, failed, look, 7.0)
        places = [point.setting or 0.0 for point in shown]
        means = [point.mean * scale for point in shown]
        drawn += axes.plot(places, means, label=r.arm, markersize=5, linewidth=1.5, **look)
        best = [point.mean * scale for point in shown if point.setting == r.best]
        drawn += axes.plot(
            [r.best] * len(best), best, marker="o", markersize=11, fillstyle="none",
            color=look["color"], linestyle="",
        )  # fmt: skip
        of_arm(axes, r.arm, look["color"], *drawn)
    cut(axes, "y", whole, apart)
    tick_at(axes, keys)
    axes.set_xlabel(comparison.tuned or "")
    axes.set_title(column(metric))
    add_legend(figure, axes)
    return figure


def draw_curves(comparison: Comparison, tag: str, axis: str) -> Figure:
    """One quantity along training, one line an arm, with interval bands."""
    metric = make_metric(tag)
    found = [c for c in comparison.curves if c.tag == tag]
    figure, axes = make_axes(2.0, legend=[c.arm for c in found])
    for curve in found:
        look = _look(comparison, curve.arm)
        x = curve.epochs if axis == "epochs" else curve.seconds
        every = slice(0, None, max(1, len(x) // 8))
        drawn = axes.plot(
            x, curve.mean * metric.scale, label=curve.arm, linewidth=1.4, markersize=4,
            markevery=(len(x), 1), **look,
        )  # fmt: skip
        band = axes.fill_between(
            x, curve.low * metric.scale, curve.high * metric.scale,
            color=look["color"], alpha=0.2, linewidth=0,
        )  # fmt: skip
        dots = draw_marks(
            axes, x[every], curve.mean[every] * metric.scale, _points(curve, metric)[every],
            s=16, color=look["color"], marker=look["marker"], linewidths=0, zorder=3,
        )  # fmt: skip
        of_arm(axes, curve.arm, look["color"], *drawn, band, dots)
    _clip(axes, found, metric.scale)
    axes.set_title(column(metric))
    if axis == "epochs":
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch" if axis == "epochs" else "seconds of training (mean over seeds)")
    add_legend(figure, axes)
    return figure


def _points(curve: Curve, metric: Metric) -> list[Mark]:
    unit = " %" if metric.unit else ""
    return [
        Mark(f"{curve.arm}, epoch {epoch:g}: mean {number(mean * metric.scale)}{unit}, n {n}")
        for epoch, mean, n in zip(curve.epochs, curve.mean, curve.n, strict=True)
    ]


def _clip(axes: Axes, found: Sequence[Curve], scale: float) -> None:
    """Keep the axis to the means: a band over two seeds can be ten times as high as all curves."""
    means = np.concatenate([curve.mean for curve in found]) * scale
    low, high = float(np.nanmin(means)), float(np.nanmax(means))
    pad = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    axes.set_ylim(low - pad, high + pad)


def draw_probe(comparison: Comparison, quantity: str) -> Figure:
    """One probed quantity by layer."""
    found = [p for p in comparison.probes if p.quantity == quantity]
    layers = list(dict.fromkeys(p.layer for p in found))
    arms = list(dict.fromkeys(p.arm for p in found))
    names = [tick(layer) for layer in layers]
    turned = sum(map(len, names)) > MOST_TICKS
    room = 0.7 * LETTER * max(map(len, names)) if turned else 0.0
    figure, axes = make_axes(1.9, legend=arms, ticks=room)
    for arm in arms:
        look = _look(comparison, arm)
        own = [p for p in found if p.arm == arm]
        x = np.array([layers.index(p.layer) for p in own])
        y = np.array([p.last for p in own])
        low, high = (
            np.array([getattr(p.interval, end, p.last) for p in own]) for end in ("low", "high")
        )
        drawn = axes.plot(x, y, label=arm, markersize=5, linewidth=1, **look)
        band = axes.fill_between(x, low, high, color=look["color"], alpha=0.15, linewidth=0)
        limits = axes.vlines(x, low, high, color=look["color"], linewidth=1)
        of_arm(axes, arm, look["color"], *drawn, band, limits)
    values = np.array([p.last for p in found])
    if (values > 0).all() and values.max() > 20 * values.min():
        axes.set_yscale("log")
    axes.set_xticks(range(len(layers)), names)
    if turned:
        axes.tick_params(axis="x", rotation=45)
        for label in axes.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
    axes.grid(visible=False, axis="x")
    axes.set_title(quantity.replace("_", " "))
    add_legend(figure, axes)
    return figure
