"""Figures of rows, each with its label above: runs as dots, effects as intervals."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnlab.report.plots.canvas import INK, Mark, cut, draw_marks, make_axes


def rows_height(rows: int, each: float = 0.52) -> float:
    """Inches for so many rows."""
    return 0.2 + each * rows


LETTERS = 560
"""Letters that fit above a row, times their size in points."""

SMALLEST = 6.0


def label_rows(axes: Axes, texts: Sequence[str], size: float = 8.5) -> None:
    """Words above each row, all of one size, smaller where some are many."""
    longest = max(map(len, texts), default=1)
    size, most = max(SMALLEST, min(size, LETTERS / max(1, longest))), LETTERS / SMALLEST
    for row, text in enumerate(texts):
        half = int(most / 2) - 1
        shown = text if len(text) <= most else f"{text[:half]}…{text[-half:]}"
        axes.text(
            0, row - 0.36, shown, transform=axes.get_yaxis_transform(), fontsize=size, va="center"
        )  # fmt: skip


def bare_rows(axes: Axes, rows: int) -> None:
    """Rows from the top down, without an axis of their own."""
    axes.set_ylim(rows - 0.55, -0.6)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)


def draw_runs(
    axes: Axes, x: Sequence[float], y: Sequence[float], marks: Sequence[Mark],
    failed: Sequence[bool], look: dict[str, Any], size: float,
) -> list[Artist]:  # fmt: skip
    """Runs that trained with the arm's marker, those that diverged as crosses."""
    drawn = []
    for bad, marker, width in ((False, look["marker"], 0.0), (True, "x", 1.5)):
        some = [place for place, one in enumerate(failed) if one == bad]
        if not some:
            continue
        dots = draw_marks(
            axes, [x[place] for place in some], [y[place] for place in some],
            [marks[place] for place in some], s=45.0 if bad else size, color=look["color"],
            marker=marker, linewidths=width, alpha=1.0 if bad else 0.75, zorder=4 if bad else 3,
        )  # fmt: skip
        drawn.append(dots)
    return drawn


@dataclass(frozen=True)
class Strip:
    """One row of runs.

    Attributes:
        label: Words above it.
        values: Of the runs, in the unit of tables.
        failed: Whether each diverged.
        marks: What each says of itself.
        look: Color and marker.
        limits: Of the mean; None to draw none.
    """

    label: str
    values: Sequence[float]
    failed: Sequence[bool]
    marks: Sequence[Mark]
    look: dict[str, Any]
    limits: tuple[float, float] | None = None


def draw_strips(strips: Sequence[Strip], label: str) -> Figure:
    """Every run as a dot at its value, those that diverged as crosses, and the mean of all."""
    figure, axes = make_axes(rows_height(len(strips)), left=0.06)
    whole: list[float] = []
    apart: list[float] = []
    for row, strip in enumerate(strips):
        offsets = 0.12 * ((np.arange(len(strip.values)) * 2) % 5 - 2) / 2
        places = [row + offset for offset in offsets]
        draw_runs(axes, strip.values, places, strip.marks, strip.failed, strip.look, 20.0)
        for value, bad in zip(strip.values, strip.failed, strict=True):
            (apart if bad else whole).append(value)
        mean = float(np.mean(strip.values))
        if not all(strip.failed):
            whole.append(mean)
        axes.plot([mean, mean], [row - 0.17, row + 0.17], color=INK, linewidth=1.6)
        if strip.limits:
            axes.plot(strip.limits, [row, row], color=INK, linewidth=0.9)
            whole += strip.limits
    label_rows(axes, [_told(strip) for strip in strips])
    bare_rows(axes, len(strips))
    cut(axes, "x", whole, apart)
    axes.set_xlabel(label)
    return figure


def _told(strip: Strip) -> str:
    if not any(strip.failed):
        return strip.label
    failed, runs = sum(strip.failed), len(strip.failed)
    return f"{strip.label} ({failed} of {runs} diverged, ×)"  # noqa: RUF001 - the marker
