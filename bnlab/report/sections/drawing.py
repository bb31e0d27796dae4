"""Figures for later: matplotlib takes a second to load, and the terminal shows none."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.figure import Figure


def drawing(name: str, *arguments: object) -> "Callable[[], Figure]":
    """A function of `plots.comparison` with its arguments, to be called when a figure is wanted."""

    def draw() -> "Figure":
        from bnlab.report.plots import comparison

        figure: Figure = getattr(comparison, name)(*arguments)
        return figure

    return draw
