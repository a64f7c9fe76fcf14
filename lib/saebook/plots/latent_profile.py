"""A latent's profile: one panel by itself, or all of them on one page."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from saebook.errors import DataError
from saebook.plots.latent_panels import draw_time, draw_trials, draw_tuning, draw_weights
from saebook.plots.lettering import FRAME, empty
from saebook.plots.moment_panels import draw_closeup, draw_coactive, draw_moments
from saebook.plots.style import in_style, styled

# Of every panel, inches; and the places of its axes: left, bottom, width, height, inches.
SIZE = (4.0, 2.2)
WHOLE = ((0.62, 0.42, 3.14, 1.52),)
PANELS: dict[str, tuple[tuple[float, float, float, float], ...]] = {
    "time": WHOLE,
    "tuning": WHOLE,
    "trials": WHOLE,
    "weights": ((0.62, 0.52, 3.14, 1.42),),
    "moments": WHOLE,
    "closeup": ((0.62, 1.42, 3.14, 0.52), (0.62, 0.42, 3.14, 0.94)),
    "coactive": WHOLE,
}
DRAWN_BY: dict[str, Callable[..., None]] = {
    "time": draw_time,
    "tuning": draw_tuning,
    "trials": draw_trials,
    "weights": draw_weights,
    "moments": draw_moments,
    "closeup": draw_closeup,
    "coactive": draw_coactive,
}
HEADING = 0.3
MOST_FRAMES = 16


@styled
def plot_latent_panel(name: str, piece: Any, *, figure: Figure | None = None) -> Figure:
    """One piece of a latent's profile, such as its tuning.

    Parameters
    ----------
    name : str
        "time", "trials", "tuning", "weights", "moments", "closeup" or "coactive".
    piece
        The part of the same name that `LatentProfiles` makes; None where there is none, which the
        panel then says.
    figure : Figure, optional
        One that this function made for the same panel: it is drawn into anew, which takes half
        the time.

    Returns
    -------
    Figure
        Without a layout engine: places are fixed.

    Raises
    ------
    DataError
        No such panel.

    Examples
    --------
    >>> plot_latent_panel("tuning", None).axes[0].get_title(loc="left")
    'What it follows'
    """
    if name not in PANELS:
        raise DataError(f"no panel {name!r}; there are: {', '.join(PANELS)}")
    if figure is None:
        figure = Figure(figsize=SIZE, dpi=100)
        figure.set_layout_engine("none")
    _draw(name, piece, figure)
    return figure


@styled
def plot_latent_profile(pieces: Mapping[str, Any], *, title: str = "") -> Figure:
    """All that is to be seen of one latent, on one page.

    Parameters
    ----------
    pieces : mapping
        Panels by name, as for :func:`plot_latent_panel`.
    title : str
        Heading.

    Returns
    -------
    Figure
        Activity over time across the page, the other panels in two columns.

    Examples
    --------
    >>> figure = plot_latent_profile({"tuning": None, "trials": None}, title="Latent 3")
    >>> len(figure.axes)
    2
    """
    names = [name for name in PANELS if name in pieces]
    # Time gets the whole width.
    first = [names[:1]] if names[:1] == ["time"] else []
    rest = names[len(first) :]
    lines = first + [rest[i : i + 2] for i in range(0, len(rest), 2)]
    heights = [HEADING, *[SIZE[1]] * len(lines)]
    figure = Figure(figsize=(2 * SIZE[0], sum(heights)), dpi=100)
    figure.set_layout_engine("none")
    figure.suptitle(title, x=0.012, y=1 - 0.12 / sum(heights), ha="left", fontweight="bold")
    grid = figure.add_gridspec(len(heights), 2, height_ratios=heights, hspace=0, wspace=0)
    for i, line in enumerate(lines):
        for j, name in enumerate(line):
            place = grid[i + 1, :] if line in first else grid[i + 1, j]
            _draw(name, pieces[name], figure.add_subfigure(place), wide=line in first)
    return figure


class LivePanel:
    """One panel that shows one latent after another; what they share is drawn once.

    Parameters
    ----------
    name : str
        As for :func:`plot_latent_panel`.

    Notes
    -----
    Lettering takes most of the time of drawing. The frame (title, border, horizontal axis) is
    kept as an image until one of them changes; data and vertical axis are drawn over it.

    Examples
    --------
    >>> LivePanel("tuning").png(None)[1:4]
    b'PNG'
    """

    def __init__(self, name: str) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        if name not in PANELS:
            raise DataError(f"no panel {name!r}; there are: {', '.join(PANELS)}")
        self._name = name
        self._figure = Figure(figsize=SIZE, dpi=100)
        self._figure.set_layout_engine("none")
        self._canvas = FigureCanvasAgg(self._figure)
        self._frames: dict[Any, Any] = {}

    def png(self, piece: Any) -> bytes:
        """The panel for this piece, as PNG."""
        from PIL import Image

        with in_style():
            _draw(self._name, piece, self._figure)
            self._render()
        stream = io.BytesIO()
        pixels = np.asarray(self._canvas.buffer_rgba())[..., :3]
        Image.fromarray(pixels).save(stream, "png", compress_level=1)
        return stream.getvalue()

    def _render(self) -> None:
        own = [(axes, artist) for axes in self._figure.axes for artist in _of_this_piece(axes)]
        shared = tuple(_shared_of(axes) for axes in self._figure.axes)
        if shared not in self._frames:
            for _, artist in own:
                artist.set_animated(True)
            self._canvas.draw()
            if len(self._frames) == MOST_FRAMES:
                self._frames.pop(next(iter(self._frames)))
            self._frames[shared] = self._canvas.copy_from_bbox(self._figure.bbox)
        self._canvas.restore_region(self._frames[shared])
        for axes, artist in own:
            axes.draw_artist(artist)


def _of_this_piece(axes: Any) -> list[Any]:
    """What changes with the latent, lowest first."""
    if not axes.axison:
        return list(axes.texts)
    texts = [text for text in axes.texts if text.get_gid() != FRAME]
    artists = [*axes.images, *axes.patches, *axes.collections, *axes.lines, *texts]
    return [*sorted(artists, key=lambda artist: artist.zorder), axes.yaxis]


def _shared_of(axes: Any) -> tuple[Any, ...]:
    """What the frame shows, by which another latent's is known to be the same."""
    ticks, names = axes.xaxis.get_major_locator(), axes.xaxis.get_major_formatter()
    return (
        axes.axison,
        axes.get_title(loc="left"),
        axes.get_xlabel(),
        axes.get_xlim(),
        tuple(text.get_text() for text in axes.texts if text.get_gid() == FRAME),
        tuple(getattr(ticks, "locs", ())),
        tuple(getattr(names, "seq", ())),
    )


def _draw(name: str, piece: Any, figure: Any, *, wide: bool = False) -> None:
    (width, height), more = SIZE, SIZE[0] * wide
    if not figure.axes:
        for left, bottom, across, up in PANELS[name]:
            inside = (across + more) / (width + more)
            figure.add_axes((left / (width + more), bottom / height, inside, up / height))
    for axes in figure.axes:
        empty(axes)
    DRAWN_BY[name](*figure.axes, piece)
