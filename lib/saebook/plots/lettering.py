"""What panels share that are drawn again and again, which has to be quick."""

from __future__ import annotations

from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import (
    FixedFormatter,
    FixedLocator,
    MaxNLocator,
    ScalarFormatter,
)

NOTE = "#666666"
UNKNOWN = "#e8eef4"
# Marks what all latents share of a panel, and so has to be drawn only once.
FRAME = "frame"


def empty(axes: Axes) -> None:
    """Take everything off axes but their place, several times faster than making new ones."""
    for artists in (axes.lines, axes.collections, axes.patches, axes.images, axes.texts):
        for artist in list(artists):
            artist.remove()
    axes.containers.clear()
    legend = axes.get_legend()
    if legend is not None:
        legend.remove()
    axes.set_axis_on()
    for axis, n_ticks in ((axes.xaxis, 4), (axes.yaxis, 3)):
        axis.set_major_locator(MaxNLocator(n_ticks))
        axis.set_major_formatter(ScalarFormatter())


def labels(axes: Axes, title: str, x: str = "", y: str = "") -> None:
    """Title and names of the axes, at given places: finding them takes most of the drawing."""
    axes.set_title(title, y=1.0)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    box = axes.get_position()
    width, height = (
        box.width * axes.figure.bbox.width / axes.figure.dpi,
        box.height * axes.figure.bbox.height / axes.figure.dpi,
    )
    axes.xaxis.set_label_coords(0.5, -0.28 / height)
    axes.yaxis.set_label_coords(-0.46 / width, 0.5)


def ticks(
    axis: Axis, at: Any, names: list[str], *, size: float | None = None, turned: float = 0.0
) -> None:
    """Ticks with names; what is set already is left alone."""
    axis.set_major_locator(FixedLocator(list(at)))
    axis.set_major_formatter(FixedFormatter(names))
    wanted: dict[str, Any] = {
        "labelrotation": turned,
        **({} if size is None else {"labelsize": size}),
    }
    # Setting them goes through all ticks, so only where they differ.
    if any(axis.get_tick_params().get(key) != value for key, value in wanted.items()):
        axis.set_tick_params(**wanted)


def heat_map(axes: Axes, values: Any, *, cmap: str = "Greys", **look: Any) -> None:
    """An image that fills the axes; what is NaN is pale blue."""
    colors = matplotlib.colormaps[cmap].with_extremes(bad=UNKNOWN)
    shown = axes.imshow(values, aspect="auto", cmap=colors, **look)
    # Axes that had limits before would keep them.
    left, right, bottom, top = shown.get_extent()
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)


def note(axes: Axes, words: str) -> None:
    """A remark at the right above the axes."""
    axes.text(
        1.0, 1.02, words, transform=axes.transAxes, ha="right", va="bottom", color=NOTE, fontsize=7
    )


def say(axes: Axes, words: str) -> None:
    """Words in place of a drawing."""
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.text(0.0, 0.9, words, color=NOTE, va="top")
