"""What all figures share: the sheet they are drawn on, the look of an arm, and SVG as text."""

import io
import re
from collections.abc import Sequence
from typing import Any

from markupsafe import escape
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

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
        figure = draw()
        _hold_text_to_itself(figure)
        figure.savefig(
            file, format="svg", transparent=True, metadata={"Date": None, "Creator": None}
        )
    text = file.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r"'?DejaVu Sans'?(, [^;\"]*)?", "system-ui, sans-serif", text)
    # Ids without a hash (figure_1, axes_1) are the same in every figure of a page.
    text = re.sub(r'(?<=<g id=")', f"{name}-", text)
    label = escape(plain(alt))
    text = text.replace("<svg", f'<svg class="plot" role="img" aria-label="{label}"', 1)
    return text.replace(">", f">{_CSS}", 1)


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


def make_axes(
    height: float, left: float = 0.56, legend: Sequence[str] = (), ticks: float = 0.0
) -> tuple[Figure, Axes]:
    """A figure with one plot, `height` inches high, above room for a legend of these names.

    `ticks` are further inches for labels that are turned.

    Margins are fixed: to fit them to the labels would take as long as drawing does.
    """
    below = (
        0.42 + ticks + (0.08 + 0.19 * -(-len(legend) // _legend_columns(legend)) if legend else 0)
    )
    above = 0.24 if legend else 0.05
    total = height + below + above
    figure = Figure(figsize=(WIDTH, total))
    width = WIDTH - left - 0.14
    return figure, figure.add_axes(
        (left / WIDTH, below / total, width / WIDTH, height / total)
    )  # fmt: skip


def _legend_columns(names: Sequence[str]) -> int:
    return 2 if max(map(len, names), default=0) < 26 else 1


def look_at(place: int) -> dict[str, Any]:
    """Color, marker and dashes of the arm in this place."""
    # Beyond seven arms colors come again, with other markers and dashes.
    turn = place // len(COLORS)
    return {
        "color": COLORS[place % len(COLORS)],
        "marker": MARKERS[(place + turn) % len(MARKERS)],
        "linestyle": DASHES[(place + 2 * turn) % len(DASHES)],
    }


def add_legend(figure: Figure, axes: Axes) -> None:
    """Names below the plot, in the room that `make_axes` left for them."""
    handles, names = axes.get_legend_handles_labels()
    figure.legend(
        handles, names, loc="lower left", bbox_to_anchor=(0.0, 0.0), borderaxespad=0.0,
        ncols=_legend_columns(names), handlelength=3.2, labelspacing=0.4,
    )  # fmt: skip
