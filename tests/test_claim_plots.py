"""The figures of the claims' page, drawn from the reference, and the rules that they follow."""

import functools
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from bnlab.claims import Chart, Finding, Line, find_findings
from bnlab.report.blocks import Plot
from bnlab.report.claims import page_sections
from bnlab.report.plots.canvas import _STYLE, COLORS, Sheet, label_ticks, looks_of, make_axes, svg
from bnlab.report.plots.claims import SAYS, draw_all, draw_chart, draw_effect, rows_of

REFERENCE = Path(__file__).parents[1] / "runs" / "reference"


@functools.cache
def findings() -> dict[str, Finding]:
    """Those that have measured something, by name."""
    found, _ = find_findings(REFERENCE)
    return {one.claim.name: one for one in found if one.contrast is not None}


@functools.cache
def figures() -> dict[str, Sheet]:
    """All of the page, as they are when they are written."""
    blocks = [
        block for section in page_sections([*findings().values()]) for block in section.blocks
    ]
    drawn = {block.name: drawn_by(block) for block in blocks if isinstance(block, Plot)}
    assert {"all-claims", "decay_norm-effect", "higher_lr-lr", "accuracy-runs"} < drawn.keys()
    return drawn


def drawn_by(plot: Plot) -> Sheet:
    kept: list[Figure] = []

    def draw() -> Figure:
        kept.append(plot.draw())
        return kept[0]

    svg(plot.name, draw, plot.caption)
    [drawn] = kept
    assert isinstance(drawn, Sheet)
    return drawn


def boxes_of(figure: Figure) -> dict[str, list[tuple[str, Bbox]]]:
    """Of each axis the labels of its ticks that are drawn, with where they are, in pixels."""
    with rc_context(_STYLE):
        return _boxes_of(figure)


def _boxes_of(figure: Figure) -> dict[str, list[tuple[str, Bbox]]]:
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    [axes] = figure.axes
    found = {}
    for name, axis in (("x", axes.xaxis), ("y", axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        labels = zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True)
        inside = [label for at, label in labels if low <= at <= high and label.get_text()]
        found[name] = [(label.get_text(), label.get_window_extent(renderer)) for label in inside]
    return found


def cut_off(figure: Figure) -> list[str]:
    sheet = figure.bbox
    return [
        text
        for labels in boxes_of(figure).values()
        for text, box in labels
        if box.x0 < 0 or box.y0 < 0 or box.x1 > sheet.width or box.y1 > sheet.height
    ]


def touching(figure: Figure) -> list[tuple[str, str]]:
    return [
        (first, second)
        for labels in boxes_of(figure).values()
        for (first, box), (second, other) in itertools.pairwise(labels)
        if box.padded(1).overlaps(other)
    ]


def test_every_label_of_a_tick_lies_within_its_figure() -> None:
    assert {name: cut for name, figure in figures().items() if (cut := cut_off(figure))} == {}


def test_no_label_of_a_tick_runs_into_the_next() -> None:
    assert {name: met for name, figure in figures().items() if (met := touching(figure))} == {}


@pytest.mark.parametrize("ticks", [(-1000.5, 1000.5), (0.0, 1e7)])
def test_a_label_at_the_end_of_an_axis_moves_the_plot_in(ticks: tuple[float, float]) -> None:
    def draw() -> Figure:
        figure, axes = make_axes(1.0, left=0.06)
        axes.set_xlim(*ticks)
        label_ticks(axes, "x", {tick: f"{tick:f}" for tick in ticks})
        return figure

    assert cut_off(draw())
    assert cut_off(drawn_by(Plot("ends", "ends", draw))) == []


def test_ticks_too_near_to_each_other_keep_the_labels_with_most_room() -> None:
    _, axes = make_axes(1.0)
    axes.set_xscale("log")
    axes.set_xlim(0.002, 4.0)
    tried = [0.003, 0.01, 0.03, 0.05, 0.1, 0.2, 0.3, 1.0, 3.0]
    label_ticks(axes, "x", {lr: f"{lr:g}" for lr in tried})
    assert [*axes.get_xticks()] == tried
    shown = [label.get_text() for label in axes.get_xticklabels()]
    assert shown == ["0.003", "0.01", "0.03", "", "0.1", "", "0.3", "1", "3"]


def test_zero_keeps_its_label() -> None:
    _, axes = make_axes(1.0)
    axes.set_xlim(-10.0, 10.0)
    label_ticks(axes, "x", {tick: f"{tick:g}" for tick in (-10.0, -0.1, 0.0, 0.1, 10.0)})
    assert [label.get_text() for label in axes.get_xticklabels()] == ["-10", "", "0", "", "10"]


def colors_of_lines(figure: Figure, arms: Sequence[str]) -> dict[str, str]:
    lines = {str(line.get_label()): line for line in figure.axes[0].get_lines()}
    return {arm: to_hex(line.get_color()) for arm, line in lines.items() if arm in arms}


def colors_of_runs(figure: Sheet) -> dict[str, set[str]]:
    """By arm, the colors of the dots that say that they are runs of it."""
    found: dict[str, set[str]] = {}
    for drawn in figure.axes[0].collections:
        for url in filter(None, drawn.get_urls()):
            arm = figure.marks[int(url.removeprefix("mark-"))].tip.split(", ")[0]
            found.setdefault(arm, set()).add(to_hex(np.atleast_2d(drawn.get_facecolor())[0]))
    return found


def test_an_arm_has_one_color_in_all_figures_of_a_claim_and_no_other_arm_has_it() -> None:
    compared = 0
    for name in findings():
        runs = colors_of_runs(figures()[f"{name}-runs"])
        assert all(len(colors) == 1 for colors in runs.values())
        if f"{name}-lr" in figures():
            curves = colors_of_lines(figures()[f"{name}-lr"], [*runs])
            assert {arm: {color} for arm, color in curves.items()}.items() <= runs.items()
            compared += len(curves)
        if len(runs) <= len(COLORS):
            assert len(set.union(*runs.values())) == len(runs)
        gray = [arm for arm, colors in runs.items() if COLORS[0] in colors]
        assert gray == (["none"] if "none" in runs else [next(iter(runs))])
    assert compared > 40


def test_many_arms_are_told_apart_and_only_the_one_without_bn_is_gray() -> None:
    arms = ["batch", "none", *(f"other_{place}" for place in range(12))]
    looks = looks_of(arms)
    assert [arm for arm, look in looks.items() if look["color"] == COLORS[0]] == ["none"]
    for second in ("marker", "linestyle"):
        assert len({(look["color"], str(look[second])) for look in looks.values()}) == len(arms)


def test_lines_of_a_chart_look_as_the_arms_that_they_go_through() -> None:
    through = {"none": "none_4", "batch": "batch_4", "none, residual": "none_4_residual"}
    through |= {"group norm": "group", "group, too": "", "other": ""}
    names = tuple(through)
    lines = tuple(
        Line(name, np.array([4.0, 16.0]), np.ones((2, 2)), arm) for name, arm in through.items()
    )
    arms = ["none_4", "none_16", "batch_4", "batch_16", "group", "none_4_residual"]
    figure = draw_chart(Chart("", "", "", lines), arms)
    found, looks = colors_of_lines(figure, names), looks_of(arms)
    assert found["batch"] == looks["batch_4"]["color"]
    assert found["none, residual"] == looks["none_4_residual"]["color"]
    assert found["group norm"] == looks["group"]["color"]
    assert len({*found.values()}) == len(names)


def test_the_row_of_a_place_says_what_this_place_says() -> None:
    twice = [one for one in findings().values() if len(one.places) > 1]
    assert twice
    for finding in twice:
        rows = rows_of(finding)
        told = [words for _, words, *_ in rows]
        assert sum(words.count(finding.verdict.label) for words in told) == 1
        assert told[0].startswith(f"{finding.claim.name}: {finding.verdict.label}")
        for (claim, _), (label, words, *_) in zip(finding.places, rows, strict=True):
            assert claim.place in words
            assert SAYS[label] in words
        if finding.verdict.sublabel.startswith("depends on"):
            assert {label for label, *_ in rows} == {"SUPPORTED", "REFUTED"}


def lines_at(figure: Figure, x: float) -> int:
    """How many upright lines there are at a place."""
    [axes] = figure.axes
    upright = [
        one
        for drawn in axes.collections
        if isinstance(drawn, LineCollection)
        for one in drawn.get_segments()
    ]
    upright += [np.column_stack(line.get_data()) for line in axes.get_lines()]
    return sum(len(line) == 2 and bool((line[:, 0] == x).all()) for line in upright)


def test_a_claim_of_likeness_has_a_line_on_either_side() -> None:
    alike = [one for one in findings().values() if one.claim.either_way]
    assert alike
    for finding in alike:
        figure, smallest = draw_effect(finding), finding.smallest_effect * finding.claim.scale
        assert lines_at(figure, smallest) == lines_at(figure, -smallest) == 1
        assert "between the dashed lines" in figure.axes[0].get_xlabel()
        [(_, words, *_)] = rows_of(finding)
        assert "within ±" in words
    every = [*findings().values()]
    rows = sum(len(one.places) for one in every)
    assert lines_at(draw_all(every), -1.0) == len(alike)
    assert lines_at(draw_all(every), 1.0) == rows
