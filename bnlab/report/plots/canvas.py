"""What all figures share: the sheet they are drawn on, the look of an arm, and SVG as text.

Two things survive into the SVG for the page to work with: marks, which say on being pointed at what
they are and lead to their run, and arms, each a group of its own.
"""

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import escape
from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.textpath import TextPath
from matplotlib.ticker import MaxNLocator, NullLocator
from numpy.typing import NDArray

from bnlab.report.safe import plain

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
    "axes.unicode_minus": False,
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


@dataclass(frozen=True)
class Mark:
    """What a dot says of itself.

    Attributes:
        tip: In words: arm, seed, value, run.
        run: Path of the run behind it, or "".
    """

    tip: str
    run: str = ""


class Sheet(Figure):
    """A figure that knows its arms and its marks."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.arms: dict[str, str] = {}
        self.marks: list[Mark] = []


def of_arm(axes: Axes, arm: str, color: str, *artists: Artist) -> None:
    """Say whose these are, so that a page can show and hide them."""
    sheet = axes.figure
    assert isinstance(sheet, Sheet)
    place = [*sheet.arms].index(arm) if arm in sheet.arms else len(sheet.arms)
    sheet.arms.setdefault(arm, color)
    for artist in artists:
        artist.set_gid(f"arm{place}")


def draw_marks(axes: Axes, x: Any, y: Any, marks: Sequence[Mark], **look: Any) -> Artist:
    """Dots with something to say; none is left out or cut off at the edge."""
    sheet = axes.figure
    assert isinstance(sheet, Sheet)
    start = len(sheet.marks)
    sheet.marks.extend(marks)
    drawn = axes.scatter(x, y, clip_on=False, **look)
    drawn.set_urls([f"mark-{start + place}" for place in range(len(marks))])
    return drawn


def svg(name: str, draw: Any, alt: str, links: Mapping[str, str] | None = None) -> str:
    """One figure as an SVG element; the same bytes every time.

    Args:
        name: Makes the ids in it unique on a page.
        draw: Gives the figure.
        alt: What it shows, for readers who do not see it.
        links: By the path of a run, where its folder is as seen from the page.
    """
    with rc_context({**_STYLE, "svg.hashsalt": name}):
        file = io.StringIO()
        figure = draw()
        _hold_text_to_itself(figure)
        _make_room(figure)
        figure.savefig(
            file, format="svg", transparent=True, metadata={"Date": None, "Creator": None}
        )
    text = file.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r"'?DejaVu Sans'?(, [^;\"]*)?", "system-ui, sans-serif", text)
    text = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), text)
    if isinstance(figure, Sheet):
        text = _with_marks(text, figure, links or {})
    # Ids without a hash (figure_1, axes_1) are the same in every figure of a page.
    text = re.sub(r'(?<=<g id=")', f"{name}-", text)
    label = escape(plain(alt))
    text = text.replace("<svg", f'<svg class="plot" role="img" aria-label="{label}"', 1)
    return text.replace(">", f">{_CSS}", 1)


def _with_marks(text: str, sheet: Sheet, links: Mapping[str, str]) -> str:
    """Marks that say what they are, and arms that can be told apart, in place of bare groups."""
    arms = [
        f'<g class="arm" data-arm="{escape(plain(arm))}" data-color="{color}"'
        for arm, color in sheet.arms.items()
    ]

    def mark(found: re.Match[str]) -> str:
        one = sheet.marks[int(found[1])]
        there = links.get(one.run)
        href = f' href="{escape(there)}" tabindex="-1"' if there else ""
        return f'<a class="mark"{href}><title>{escape(plain(one.tip))}</title>'

    text = re.sub(r'<g id="arm(\d+)"', lambda found: arms[int(found[1])], text)
    return re.sub(r'<a xlink:href="mark-(\d+)"[^>]*>', mark, text)


def _hold_text_to_itself(figure: Figure) -> None:
    """Let no dollar in a name begin a formula, and no control character reach the XML.

    The labels of ticks are made while drawing, and those of a logarithmic axis are formulas; who
    sets them from names passes these through `safe.tick`.
    """
    axes = [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]
    ticks = {text for axis in axes for text in axis.findobj(Text) if text is not axis.label}
    for text in figure.findobj(Text):
        if text not in ticks:
            assert isinstance(text, Text)
            text.set_text(plain(text.get_text()))
            text.set_parse_math(False)


EDGE = 1.5
"""Points that stay free between the label of a tick and either side of a figure."""


def _make_room(figure: Figure) -> None:
    """Draw plots in from the side of the figure that the label of a tick would cross."""
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    edge, width = EDGE * figure.dpi / 72, figure.bbox.width
    for axes in figure.axes:
        # Each lies about its own tick, beyond the end of the axis where the tick is near it.
        found = [
            axis.get_tightbbox(renderer, for_layout_only=True) for axis in (axes.xaxis, axes.yaxis)
        ]
        boxes = [box for box in found if box is not None]
        left = max([0.0, *(edge - box.x0 for box in boxes)]) / width
        right = max([0.0, *(box.x1 - width + edge for box in boxes)]) / width
        if left or right:
            place = axes.get_position()
            inside = place.x0 + left, place.y0, place.width - left - right, place.height
            axes.set_position(inside)


def make_axes(
    height: float, left: float = 0.56, legend: Sequence[str] = (), ticks: float = 0.0
) -> tuple[Sheet, Axes]:
    """A figure with one plot, `height` inches high, above room for a legend of these names.

    `ticks` are further inches for labels that are turned.

    Margins are fixed, but for labels of ticks that `svg` finds to need more.
    """
    below = (
        0.42 + ticks + (0.08 + 0.19 * -(-len(legend) // _legend_columns(legend)) if legend else 0)
    )
    above = 0.24 if legend else 0.05
    total = height + below + above
    figure = Sheet(figsize=(WIDTH, total))
    width = WIDTH - left - 0.14
    return figure, figure.add_axes(
        (left / WIDTH, below / total, width / WIDTH, height / total)
    )  # fmt: skip


def _legend_columns(names: Sequence[str]) -> int:
    return 2 if max(map(len, names), default=0) < 26 else 1


def look_at(place: int) -> dict[str, Any]:
    """Color, marker and dashes of the arm in this place."""
    # Beyond seven arms colors come again but for gray, with other markers and dashes.
    turn, color = divmod(place - 1, len(COLORS) - 1) if place else (0, -1)
    return {
        "color": COLORS[1 + color],
        "marker": MARKERS[place % len(MARKERS)],
        "linestyle": DASHES[(place + 2 * turn) % len(DASHES)],
    }


BARE = "none"
"""The arm without normalization, which is gray wherever it is."""


def looks_of(arms: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The look of each arm of a study, for all figures of it; the first is gray without `BARE`.

    Args:
        arms: All of them in the study's order, whether a figure draws them or not.
    """
    return {
        arm: look_at(place) for place, arm in enumerate(sorted(arms, key=lambda arm: arm != BARE))
    }


def add_legend(figure: Figure, axes: Axes) -> None:
    """Names below the plot, in the room that `make_axes` left for them."""
    handles, names = axes.get_legend_handles_labels()
    figure.legend(
        handles, names, loc="lower left", bbox_to_anchor=(0.0, 0.0), borderaxespad=0.0,
        ncols=_legend_columns(names), handlelength=3.2, labelspacing=0.4,
    )  # fmt: skip


def tick_at(axes: Axes, values: Sequence[float]) -> None:
    """Ticks of the horizontal axis at the values that were tried, and at no others."""
    # The axis now reaches to all of them, which sets how far apart they are.
    axes.set_xticks(values)
    labels = [f"{value:.3g}" for value in values]
    turned = sum(map(len, labels)) > MOST_LETTERS
    label_ticks(axes, "x", dict(zip(values, labels, strict=True)), turned=turned)


MOST_LETTERS = 34
"""Letters of ticks that fit side by side below a plot."""

TURNED, TURNED_SIZE = 45, 7.0
"""Degrees and points of labels of which there are more."""

APART = 3.0
"""Points between the labels of neighboring ticks."""


def label_ticks(
    axes: Axes, axis: str, labels: Mapping[float, str], size: float = 9.0, *, turned: bool = False
) -> None:
    """Ticks at these values and no others; without label where it would run into another's.

    Args:
        axes: Where; with its limits and scale.
        axis: `x` or `y`.
        labels: By value, all of them within the limits.
        size: Of the letters, in points.
        turned: Whether there are so many that they are turned, and small.
    """
    values = sorted(labels)
    if turned:
        size = TURNED_SIZE
        lengths = [size / math.sin(math.radians(TURNED))] * len(values)
        axes.tick_params(axis="x", labelrotation=TURNED)
    elif axis == "x":
        drawn = [TextPath((0, 0), labels[value], size=size) for value in values]
        lengths = [path.get_extents().width for path in drawn]
    else:
        lengths = [size] * len(values)
    fit = _that_fit(values, _places(axes, axis, values), lengths)
    own = axes.xaxis if axis == "x" else axes.yaxis
    own.set_ticks(values, [labels[value] * (at in fit) for at, value in enumerate(values)])
    own.set_minor_locator(NullLocator())
    own.set_tick_params(labelsize=size)


def _places(axes: Axes, axis: str, values: Sequence[float]) -> list[float]:
    """Where these values lie along an axis, in points."""
    sheet, zero = axes.figure, np.zeros(len(values))
    assert isinstance(sheet, Sheet)
    if axis == "x":
        found = axes.get_xaxis_transform().transform(np.column_stack([values, zero]))[:, 0]
    else:
        found = axes.get_yaxis_transform().transform(np.column_stack([zero, values]))[:, 1]
    return [float(at) * 72 / sheet.dpi for at in found]


def _that_fit(
    values: Sequence[float], places: Sequence[float], lengths: Sequence[float]
) -> set[int]:
    """Of labels about rising places those that leave room for each other.

    That of 0 comes first, then those with most room around them, and so the ends.
    """
    far = [-math.inf, *places, math.inf]
    room = [above - below for below, above in zip(far, far[2:], strict=False)]
    fit: set[int] = set()
    for one in sorted(range(len(places)), key=lambda at: (values[at] != 0, -room[at])):
        if all(
            abs(places[one] - places[other]) >= (lengths[one] + lengths[other]) / 2 + APART
            for other in fit
        ):
            fit.add(one)
    return fit


SPREAD = 3.0
"""An empty stretch this many times as long as all that lies beyond it is cut out of an axis."""


def cut(axes: Axes, axis: str, values: Sequence[float], apart: Sequence[float]) -> bool:
    """Keep values far from all others on the axis, and cut the empty stretch before them.

    Runs that guess would press the differences between those that learn into a tenth of a plot.
    Every value stays where the axis says that it is; the ticks on either side of the cut tell.

    Args:
        axes: Where.
        axis: `x` or `y`.
        values: What the plot is about.
        apart: Values, all on one side of these, that may lie far off.

    Returns:
        Whether the axis is cut.
    """
    if not len(values) or not len(apart):
        return False
    low, high = min(values), max(values)
    width = (high - low) or 0.05 * abs(high) or 1.0
    below = max(apart) < low
    gap = low - max(apart) if below else min(apart) - high
    if gap < SPREAD * width:
        return False
    start, end = (max(apart), low) if below else (high, min(apart))
    start, end = start + 0.12 * width, end - 0.12 * width
    shrunk = 0.12 * width

    longer = (end - start) / shrunk

    def there(at: NDArray[np.float64]) -> NDArray[np.float64]:
        inside = (np.clip(at, start, end) - start) / longer
        drawn: NDArray[np.float64] = np.minimum(at - start, 0) + inside + np.maximum(at - end, 0)
        return drawn

    def back(drawn: NDArray[np.float64]) -> NDArray[np.float64]:
        inside = start + np.clip(drawn, 0, shrunk) * longer
        at: NDArray[np.float64] = np.minimum(drawn, 0) + inside + np.maximum(drawn - shrunk, 0)
        return at

    (axes.set_xscale if axis == "x" else axes.set_yscale)("function", functions=(there, back))
    chosen = MaxNLocator(5).tick_values(low, high)
    kept = [tick for tick in chosen if (tick > end if below else tick < start)]
    least, most = axes.get_xlim() if axis == "x" else axes.get_ylim()
    ticks = [tick for tick in {*kept, *map(float, apart)} if least <= tick <= most]
    label_ticks(axes, axis, {tick: f"{tick:g}" for tick in ticks})
    (axes.axvspan if axis == "x" else axes.axhspan)(
        start, end, facecolor="none", edgecolor=INK, alpha=0.3, hatch="////", linewidth=0
    )
    middle = back(np.array([shrunk / 2]))[0]
    words: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 6.5}
    if axis == "x":
        across = axes.get_xaxis_transform()
        axes.text(middle, 0.5, "axis cut", transform=across, rotation=90, **words)
    else:
        axes.text(0.5, middle, "axis cut", transform=axes.get_yaxis_transform(), **words)
    return True
