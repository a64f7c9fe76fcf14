"""Panels of a latent's strongest moments, and of the latents active together with it."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

from saebook.evaluation.profiles import Closeup, Moments
from saebook.plots.lettering import UNKNOWN, heat_map, labels, note, say, ticks
from saebook.plots.style import PALETTE


def draw_moments(axes: Axes, piece: Moments) -> None:
    """Counts of the top units in windows around the strongest moments, side by side."""
    labels(axes, "Its strongest moments")
    if not piece.units:
        say(axes, "no spikes of its units are known")
        return
    if not len(piece.times_s):
        say(axes, "never active in these bins")
        return
    n_moments, n_units, n_lags = piece.counts.shape
    cells = np.full((n_units, n_moments * (n_lags + 1) - 1), np.nan)
    begins = np.arange(n_moments) * (n_lags + 1)
    for begin, counts in zip(begins, piece.counts):
        cells[:, begin : begin + n_lags] = counts
    heat_map(axes, cells, vmin=0, vmax=max(piece.counts.max(), 1.0))
    reach = -piece.lags_s[0]
    ticks(axes.xaxis, [], [])
    for i, (begin, time) in enumerate(zip(begins, piece.times_s)):
        axes.text(
            begin + (n_lags - 1) / 2, -0.03, f"{i + 1}: {time:.1f}", fontsize=6.5, ha="center",
            va="top", color="#222222", transform=axes.get_xaxis_transform(),
        )  # fmt: skip
    ticks(axes.yaxis, range(n_units), [str(unit)[:6] for unit in piece.units], size=6.5)
    note(axes, f"darkest: {max(piece.counts.max(), 1.0):.0f} spikes")
    labels(axes, "Its strongest moments", f"time (s), each ± {reach:.2g} s", "unit")


def draw_closeup(above: Axes, below: Axes, piece: Closeup | None) -> None:
    """One moment: activity above the spikes of the top units."""
    if piece is None:
        labels(above, "Close up")
        say(above, "never active in these bins")
        below.set_axis_off()
        return
    labels(above, "Close up", "", "activity")
    note(above, f"at {piece.time_s:.2f} s")
    edges = piece.edges - piece.time_s
    values = np.append(piece.activity, np.nan)
    above.fill_between(edges, 0.0, values, step="post", color=PALETTE["blue"], linewidth=0)
    unknown = np.append(np.isnan(piece.activity), False)
    above.fill_between(
        edges, 0.0, 1.0, where=np.convolve(unknown, [1, 1])[:-1] > 0, step="post", color=UNKNOWN,
        linewidth=0, transform=above.get_xaxis_transform(), zorder=0,
    )  # fmt: skip
    top = np.nanmax(piece.activity, initial=0.0)
    above.set_ylim(min(0.0, np.nanmin(piece.activity, initial=0.0)), 1.1 * top if top > 0 else 1.0)
    above.xaxis.set_major_formatter(NullFormatter())
    for axes in (above, below):
        axes.set_xlim(edges[0], edges[-1])
    n = len(piece.units)
    if piece.spikes is None and piece.counts is None:
        say(below, "no spikes were given")
        return
    below.set_ylim(n - 0.5, -0.5)
    if piece.spikes is not None:
        rows = np.repeat(np.arange(n), [len(train) for train in piece.spikes])
        times = np.concatenate([*piece.spikes, np.empty(0)]) - piece.time_s
        below.vlines(times, rows - 0.4, rows + 0.4, color="black", linewidth=0.8)
    elif piece.counts is not None:
        extent = (edges[0], edges[-1], n - 0.5, -0.5)
        heat_map(below, piece.counts, vmin=0, vmax=max(piece.counts.max(), 1.0), extent=extent)
    ticks(below.yaxis, [], [])
    labels(below, "", "time from the moment (s)", "the same units")


def draw_coactive(axes: Axes, table: Any) -> None:
    """Latents active together with this one: Jaccard index, and a mark for what chance gives."""
    labels(axes, "Active together with it", "Jaccard index", "latent")
    if not len(table):
        say(axes, "no other latent is active on its bins")
        return
    at = np.arange(len(table))
    note(axes, "black line: by chance")
    axes.barh(at, table["jaccard"], color=PALETTE["sky"], height=0.6)
    axes.vlines(table["jaccard_chance"], at - 0.4, at + 0.4, color="black", linewidth=1.5)
    ticks(axes.yaxis, at, [str(latent) for latent in table.index])
    axes.set_ylim(len(table) - 0.4, -0.6)
    axes.set_xlim(0, 1.08 * max(table["jaccard"].max(), table["jaccard_chance"].max()))
