"""One latent on one card: when it is active, what it follows, which units make it."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import AutoLocator, ScalarFormatter

from saebook.plots.style import GREY, LIGHT_GREY, PALETTE, styled, vertical_line

CARD_SIZE = (8.4, 5.0)
COLUMNS = 600
MOST_UNITS = 10
MOST_CURVES = 8


def top_moments(activity: Any, n: int = 6, apart: int = 10) -> np.ndarray:
    """Rows of the largest activity, at least ``apart`` rows from one another, largest first.

    Parameters
    ----------
    activity : array
        [n_rows] of one latent, in the order of time.
    n : int
        At most this many; rows without activity never count.
    apart : int
        Smallest distance in rows.

    Returns
    -------
    ndarray
        [≤ n] int64.

    Examples
    --------
    >>> top_moments([0.0, 5.0, 4.0, 0.0, 3.0], n=2, apart=2).tolist()
    [1, 4]
    """
    activity = np.asarray(activity, dtype=float)
    chosen: list[int] = []
    for row in np.argsort(-activity, kind="stable"):
        if len(chosen) == n or not activity[row] > 0:
            break
        if all(abs(row - other) >= apart for other in chosen):
            chosen.append(int(row))
    return np.array(chosen, dtype=np.int64)


def card_figure() -> Figure:
    """An empty figure for cards to be drawn into.

    Examples
    --------
    >>> len(card_figure().axes)
    0
    """
    figure = Figure(figsize=CARD_SIZE, dpi=100)
    # The places are fixed: laying out anew at every choice would take most of the time.
    figure.set_layout_engine("none")
    return figure


@styled
def plot_latent_card(
    activity: Any,
    time: Any,
    counts: Any,
    weights: Any,
    *,
    bin_size_s: float,
    unit_names: Any,
    tuning: tuple[Any, Any, str] | None = None,
    curve_names: tuple[str, ...] = (),
    title: str = "",
    figure: Figure | None = None,
) -> Figure:
    """A latent's activity, tuning, decoder weights and strongest moments.

    Parameters
    ----------
    activity : array
        [n_rows] of the latent, in the order of time.
    time : array
        [n_rows] start of each bin, s.
    counts : array
        [n_rows, n_units] spikes per bin.
    weights : array
        [n_units] what the latent adds to the reconstruction per unit of activity, spikes.
    bin_size_s : float
        Width of a bin, s.
    unit_names : sequence
        [n_units] ids of the units.
    tuning : tuple, optional
        Centres [n_steps], curves [n_curves, n_steps], label of the axis.
    curve_names : tuple of str
        One per curve where there are several.
    title : str
        Heading.
    figure : Figure, optional
        Drawn into after clearing it, which is faster than a new one.

    Returns
    -------
    Figure
        Left: activity over the rows given, pauses between them left out, and tuning. Right: the
        units with the largest weights, above their spikes at the strongest moments.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> figure = plot_latent_card(rng.random(100), np.arange(100) * 0.05, rng.poisson(1, (100, 5)),
    ...     rng.normal(size=5), bin_size_s=0.05, unit_names=range(5))
    >>> len(figure.axes)
    4
    """
    activity, time = np.asarray(activity, dtype=float), np.asarray(time, dtype=float)
    counts, weights = np.asarray(counts), np.asarray(weights, dtype=float)
    figure = card_figure() if figure is None else figure
    over_time, units, follows, moments = _places(figure)
    figure.suptitle(title, x=0.012, y=0.985, ha="left", fontsize=10, fontweight="bold")
    strongest = top_moments(activity, apart=max(1, round(0.5 / bin_size_s)))
    shown = np.argsort(-np.abs(weights), kind="stable")[:MOST_UNITS]
    _draw_activity(over_time, activity, strongest, bin_size_s)
    _draw_tuning(follows, tuning, curve_names)
    _draw_weights(units, weights[shown])
    _draw_moments(moments, counts, time, strongest, shown)
    names = [str(unit_names[i]) for i in shown]
    moments.set_xticks(range(len(shown)), names, rotation=90 if max(map(len, names)) > 3 else 0)
    return figure


def _places(figure: Figure) -> list[Any]:
    """Four empty axes; those of a figure drawn before are emptied, twice as fast as new ones."""
    if len(figure.axes) == 4:
        for axes in figure.axes:
            _empty(axes)
        return list(figure.axes)
    figure.clear()
    grid = figure.add_gridspec(
        2, 2, left=0.075, right=0.985, top=0.885, bottom=0.105, wspace=0.24, hspace=0.5,
        width_ratios=[1.25, 1.0],
    )  # fmt: skip
    return [figure.add_subplot(place) for place in grid]


def _empty(axes: Any) -> None:
    for artists in (axes.lines, axes.collections, axes.patches, axes.images, axes.texts):
        for artist in list(artists):
            artist.remove()
    axes.containers.clear()
    if axes.get_legend() is not None:
        axes.get_legend().remove()
    axes.set_axis_on()
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(AutoLocator())
        axis.set_major_formatter(ScalarFormatter())


def _draw_activity(axes: Any, activity: np.ndarray, strongest: np.ndarray, width: float) -> None:
    # The largest value per pixel, so that no short peak is lost.
    per_column = max(1, -(-len(activity) // COLUMNS))
    padded = np.pad(activity, (0, -len(activity) % per_column))
    top = padded.reshape(-1, per_column).max(axis=1)
    at = (np.arange(len(top)) + 0.5) * per_column * width
    axes.fill_between(at, top, step="mid", color=PALETTE["blue"], linewidth=0)
    axes.plot(
        (strongest + 0.5) * width, activity[strongest], "v", color=PALETTE["vermillion"],
        markersize=4, clip_on=False, label="strongest moments",
    )  # fmt: skip
    axes.set_xlim(0, max(len(activity), 1) * width)
    axes.set_ylim(0, 1.08 * activity.max() if len(activity) and activity.max() > 0 else 1.0)
    axes.set_xlabel("time, pauses left out (s)")
    axes.set_ylabel("activity")
    axes.set_title("When it is active")
    if len(strongest):
        axes.legend(loc="lower right", bbox_to_anchor=(1.0, 0.96))


def _draw_tuning(axes: Any, tuning: tuple[Any, Any, str] | None, names: tuple[str, ...]) -> None:
    axes.set_title("What it follows")
    if tuning is None:
        axes.set_axis_off()
        axes.text(0.0, 0.8, "no variable was given", color="#666666")
        return
    centres, curves, label = np.asarray(tuning[0]), np.atleast_2d(tuning[1]), tuning[2]
    colors = list(PALETTE.values())
    for i, curve in enumerate(curves[:MOST_CURVES]):
        axes.plot(centres, curve, "o-", color=colors[i], label=names[i] if names else None)
    half = (centres[1] - centres[0]) / 2 if len(centres) > 1 else 0.5
    axes.set_xlim(centres[0] - half, centres[-1] + half)
    highest = np.nanmax(curves) if np.isfinite(curves).any() else 0.0
    axes.set_ylim(0, 1.1 * highest if highest > 0 else 1.0)
    axes.set_xlabel(label)
    axes.set_ylabel("mean activity")
    if label.startswith("time from"):
        vertical_line(axes, 0.0)
    if label.endswith("(°)"):
        axes.set_xticks([-180, -90, 0, 90, 180])
    if len(names) > 1:
        axes.legend(loc="upper right", fontsize=6.5, ncols=2, handlelength=0.8, borderaxespad=0)


def _draw_weights(axes: Any, weights: np.ndarray) -> None:
    colors = [PALETTE["blue"] if weight >= 0 else PALETTE["vermillion"] for weight in weights]
    axes.bar(range(len(weights)), weights, color=colors, width=0.7)
    axes.axhline(0.0, color=GREY, linewidth=0.7)
    size = np.abs(weights).max() or 1.0
    lowest, highest = weights.min(initial=0.0), weights.max(initial=0.0)
    axes.set_ylim(lowest - 0.08 * size, highest + 0.08 * size)
    axes.set_xlim(-0.6, len(weights) - 0.4)
    # The units are named once, below the spikes.
    axes.set_xticks(range(len(weights)), [])
    axes.set_ylabel("weight (spikes)")
    axes.set_title("Units that make it")


def _draw_moments(
    axes: Any, counts: np.ndarray, time: np.ndarray, strongest: np.ndarray, shown: np.ndarray
) -> None:
    axes.set_title("Their spikes at the strongest moments")
    axes.set_ylabel("at (s)")
    axes.set_xlabel("unit")
    axes.set_xlim(-0.6, len(shown) - 0.4)
    if not len(strongest):
        axes.set_ylim(0.0, 1.0)
        axes.text(0.0, 0.8, "never active in these rows", color="#666666")
        axes.set_yticks([])
        return
    cells = counts[np.ix_(strongest, shown)].astype(float)
    axes.imshow(cells, aspect="auto", cmap="Greys", vmin=0, vmax=max(cells.max() * 1.25, 1.0))
    axes.set_xlim(-0.6, len(shown) - 0.4)
    axes.set_ylim(len(strongest) - 0.5, -0.5)
    for row, column in zip(*np.nonzero(cells), strict=True):
        dark = cells[row, column] > 0.6 * cells.max()
        axes.text(
            column, row, f"{cells[row, column]:.0f}", ha="center", va="center", fontsize=6.5,
            color="white" if dark else "#222222",
        )  # fmt: skip
    axes.set_yticks(range(len(strongest)), [f"{time[row]:.2f}" for row in strongest], fontsize=7)
    for spine in axes.spines.values():
        spine.set_color(LIGHT_GREY)
