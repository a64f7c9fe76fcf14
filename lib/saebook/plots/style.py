"""One style sheet and one palette for every figure of the handbook."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ParamSpec

import matplotlib.pyplot as plt
from matplotlib import rc_params_from_file
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import blended_transform_factory

P = ParamSpec("P")

STYLE_SHEET = Path(__file__).with_name("saebook.mplstyle")

# Inches: one and two columns of a page; the site shows the wide one at its full text width.
COLUMN_WIDTH = 3.4
PAGE_WIDTH = 6.8

# Okabe & Ito (2008), told apart with every common colour vision.
PALETTE = {
    "blue": "#0072B2",
    "vermillion": "#D55E00",
    "green": "#009E73",
    "purple": "#CC79A7",
    "sky": "#56B4E9",
    "orange": "#E69F00",
    "black": "#000000",
    "yellow": "#F0E442",
}
GREY = "#8a8a8a"
LIGHT_GREY = "#c9c9c9"


def use_style() -> None:
    """Apply the style sheet to every figure made from here on.

    Examples
    --------
    >>> import matplotlib
    >>> with matplotlib.rc_context():
    ...     use_style()
    ...     matplotlib.rcParams["axes.spines.top"]
    False
    """
    plt.style.use(STYLE_SHEET)


def styled(plot: Callable[P, Figure]) -> Callable[P, Figure]:
    """Make a plotting function draw in the style whatever the caller's settings are."""

    @functools.wraps(plot)
    def draw(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with in_style():
            return plot(*args, **kwargs)

    return draw


def in_style() -> AbstractContextManager[None]:
    """Draw in the style while inside."""
    return plt.style.context(_sheet())


@functools.cache
def _sheet() -> dict[str, Any]:
    # Read once: parsing takes as long as drawing a panel's data.
    return {str(k): v for k, v in rc_params_from_file(STYLE_SHEET, False, False).items()}


def panels(
    n_rows: int = 1,
    n_columns: int = 1,
    *,
    width: float = PAGE_WIDTH,
    height: float = 2.6,
    **subplots: Any,
) -> tuple[Figure, list[Axes]]:
    """A figure and its axes in reading order.

    The figure is taken off pyplot's list of open ones: a notebook shows it once, where it is
    returned, and a long run does not pile figures up in memory.

    Parameters
    ----------
    n_rows, n_columns : int
        Grid of panels.
    width, height : float
        Size in inches.
    **subplots
        Further arguments of ``plt.subplots``.

    Returns
    -------
    figure : Figure
    axes : list of Axes

    Examples
    --------
    >>> figure, axes = panels(1, 2)
    >>> len(axes), plt.get_fignums()
    (2, [])
    """
    figure, axes = plt.subplots(
        n_rows, n_columns, figsize=(width, height), squeeze=False, **subplots
    )
    plt.close(figure)
    return figure, list(axes.flat)


def horizontal_line(axes: Axes, y: float, label: str, *, above: bool = True) -> None:
    """A dashed reference line, named at its right end."""
    axes.axhline(y, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    axes.annotate(
        label,
        (1.0, y),
        xycoords=blended_transform_factory(axes.transAxes, axes.transData),
        xytext=(0, 2 if above else -2),
        textcoords="offset points",
        ha="right",
        va="bottom" if above else "top",
        fontsize=7.5,
        color="#666666",
    )


def vertical_line(
    axes: Axes, x: float, label: str = "", *, right: bool = False, below: bool = False
) -> None:
    """A dashed reference line, named at its top or ``below``, on its left or ``right``, upwards."""
    axes.axvline(x, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    if label:
        axes.annotate(
            label,
            (x, 0.0 if below else 1.0),
            xycoords=blended_transform_factory(axes.transData, axes.transAxes),
            xytext=(2 if right else -2, 4 if below else -2),
            textcoords="offset points",
            ha="left" if right else "right",
            va="bottom" if below else "top",
            rotation=90,
            fontsize=7.5,
            color="#666666",
        )
