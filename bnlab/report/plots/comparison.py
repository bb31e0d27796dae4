"""The figures of a comparison."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bnlab.analysis import Comparison, Curve, View, make_metric
from bnlab.report.numbers import column, difference, score
from bnlab.report.plots.canvas import COLORS, INK, add_legend, look_at, make_axes
from bnlab.report.safe import tick

LETTER = 0.065
"""Width of a letter of a label in inches, about."""

MOST_TICKS = 50
"""Letters that fit side by side below a plot."""


def _look(comparison: Comparison, arm: str) -> dict[str, Any]:
    place = [known.name for known in comparison.arms].index(arm)
    return look_at(place)


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


def draw_forest(comparison: Comparison, view: View) -> Figure:
    """Effects with intervals, one row an arm."""
    metric = view.metric
    figure, axes = make_axes(_rows(len(view.effects)), left=0.06)
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


def draw_strip(comparison: Comparison, view: View) -> Figure:
    """Every seed as a dot; runs that diverged as crosses at the left edge."""
    metric = view.metric
    figure, axes = make_axes(_rows(len(view.results)), left=0.06)
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


def draw_response(comparison: Comparison) -> Figure:
    """The metric over the tuned key."""
    names = [r.arm for r in comparison.responses]
    figure, axes = make_axes(2.1, legend=names)
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
    add_legend(figure, axes)
    return figure


def _low(interval: Any, mean: float) -> float:
    return float(interval.low) if interval else mean


def _high(interval: Any, mean: float) -> float:
    return float(interval.high) if interval else mean


def draw_curves(comparison: Comparison, tag: str, axis: str) -> Figure:
    """One quantity along training, one line an arm, with interval bands."""
    metric = make_metric(tag)
    found = [c for c in comparison.curves if c.tag == tag]
    figure, axes = make_axes(2.0, legend=[c.arm for c in found])
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
    add_legend(figure, axes)
    return figure


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
        axes.plot(x, y, label=arm, markersize=5, linewidth=1, **look)
        axes.fill_between(x, low, high, color=look["color"], alpha=0.15, linewidth=0)
        axes.vlines(x, low, high, color=look["color"], linewidth=1)
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
