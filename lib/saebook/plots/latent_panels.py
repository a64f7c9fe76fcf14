"""Panels of a latent's profile, each drawn into axes that may have held another latent before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import (
    FixedFormatter,
    FixedLocator,
    MaxNLocator,
    NullFormatter,
    ScalarFormatter,
)

from saebook.evaluation.profiles import Closeup, Moments, OverTime, OverTrials, Tuning, Weights
from saebook.plots.style import GREY, LIGHT_GREY, PALETTE, vertical_line

COLORS = tuple(PALETTE.values())
NOTE = "#666666"
UNKNOWN = "#e8eef4"
MOST_ROWS = 300
MOST_NAMED_UNITS = 24
MOST_NAMED_REGIONS = 8


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
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(4))
        axis.set_major_formatter(ScalarFormatter())


def _labels(axes: Axes, title: str, x: str = "", y: str = "") -> None:
    # Places that are given needn't be found, which would take most of the drawing.
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


def _ticks(
    axis: Axis, at: Any, names: list[str], *, size: float | None = None, turned: float = 0.0
) -> None:
    axis.set_major_locator(FixedLocator(list(at)))
    axis.set_major_formatter(FixedFormatter(names))
    wanted: dict[str, Any] = {
        "labelrotation": turned,
        **({} if size is None else {"labelsize": size}),
    }
    # Setting them goes through all ticks, so only where they differ.
    if any(axis.get_tick_params().get(key) != value for key, value in wanted.items()):
        axis.set_tick_params(**wanted)


def _note(axes: Axes, words: str) -> None:
    axes.text(
        1.0, 1.02, words, transform=axes.transAxes, ha="right", va="bottom", color=NOTE, fontsize=7
    )


def _say(axes: Axes, words: str) -> None:
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.text(0.0, 0.9, words, color=NOTE, va="top")


def draw_time(axes: Axes, piece: OverTime) -> None:
    """Activity over the whole time, its strongest moments numbered."""
    _labels(axes, "When it is active", "time (s)", "activity")
    axes.fill_between(
        piece.edges[:-1], piece.low, piece.high, step="post", color=PALETTE["blue"], linewidth=0.4
    )
    top = np.nanmax(piece.high, initial=0.0)
    bottom = min(np.nanmin(piece.low, initial=0.0), 0.0)
    axes.set_xlim(piece.edges[0], piece.edges[-1])
    axes.set_ylim(bottom, 1.2 * top if top > 0 else 1.0)
    for i, (at, value) in enumerate(zip(piece.moments_s, piece.moment_values)):
        # A number as a marker is a path, which is drawn ten times faster than a text.
        axes.plot(
            [at], [value + 0.1 * top], marker=f"${i + 1}$", markersize=5, linewidth=0,
            color=PALETTE["vermillion"], markeredgewidth=0.3,
        )  # fmt: skip
    if not piece.density:
        axes.text(piece.edges[0], 0.5, " never active in these bins", color=NOTE)


def draw_trials(axes: Axes, piece: OverTrials | None) -> None:
    """Activity around an event as a map, trials sorted by condition."""
    if piece is None:
        _labels(axes, "Trial by trial")
        _say(axes, "no trial event is known here")
        return
    rows = _merged(piece.activity)
    top = np.nanmax(rows, initial=0.0)
    half = (piece.lags_s[1] - piece.lags_s[0]) / 2 if len(piece.lags_s) > 1 else 0.5
    n = len(piece.label)
    axes.imshow(
        rows, aspect="auto", vmin=0, vmax=top or 1.0,
        cmap=matplotlib.colormaps["Greys"].with_extremes(bad=UNKNOWN),
        extent=(piece.lags_s[0] - half, piece.lags_s[-1] + half, n, 0),
    )  # fmt: skip
    vertical_line(axes, 0.0)
    _note(axes, f"darkest: {top:.2g}" if top > 0 else "never active")
    _labels(axes, "Trial by trial", f"time from {piece.event} (s)", "trial")
    if len(piece.conditions) < 2:
        return
    axes.set_ylabel("trial, by condition")
    begins = np.flatnonzero(np.diff(piece.label, prepend=-1))
    for begin, end in zip(begins, np.append(begins[1:], n)):
        kind = piece.label[begin]
        axes.add_patch(_side_bar(axes, int(begin), int(end - begin), COLORS[kind % len(COLORS)]))


def draw_tuning(axes: Axes, piece: Tuning | None) -> None:
    """Mean activity over a variable, within the band that chance gives."""
    if piece is None:
        _labels(axes, "What it follows")
        _say(axes, "no variable was given")
        return
    about, curves, band = piece.variable, piece.curves, piece.band
    centres = np.asarray(about.centres, dtype=float)
    if about.kind == "categorical":
        curves, centres = curves.reshape(1, -1), np.arange(curves.size, dtype=float)
    if band is not None:
        axes.fill_between(centres, band.low, band.high, color=LIGHT_GREY, alpha=0.6, linewidth=0)
    names = about.conditions if len(curves) > 1 else ()
    for i, curve in enumerate(curves):
        color = COLORS[i % len(COLORS)]
        axes.plot(centres, curve, "o-", color=color, label=names[i] if names else None)
    half = (centres[1] - centres[0]) / 2 if len(centres) > 1 else 0.5
    axes.set_xlim(centres[0] - half, centres[-1] + half)
    tops = [curves, [0.0]] if band is None else [curves, band.high]
    top = max(np.nanmax(values, initial=0.0) for values in tops)
    bottom = min(0.0, np.nanmin(curves, initial=0.0))
    axes.set_ylim(bottom, (1.3 if names else 1.1) * top if top > 0 else 1.0)
    _labels(axes, "What it follows", about.axis, "mean activity")
    _note(axes, f"no null: {piece.why_no_band}" if band is None else f"grey: {band.made_by}, 95 %")
    if about.kind == "event":
        vertical_line(axes, 0.0)
    if about.kind == "circular":
        _ticks(axes.xaxis, [-180, -90, 0, 90, 180], ["-180", "-90", "0", "90", "180"])
    if about.kind == "categorical":
        _ticks(axes.xaxis, centres, list(about.conditions) or [f"{c:g}" for c in about.centres])
    if names:
        axes.legend(
            loc="upper left", fontsize=6.5, ncols=min(len(names), 8), handlelength=0.8,
            columnspacing=0.7, borderaxespad=0,
        )  # fmt: skip


def draw_weights(axes: Axes, piece: Weights | None) -> None:
    """What the latent adds to each unit; of windows, every unit at every lag."""
    if piece is None:
        _labels(axes, "Units that make it")
        _say(axes, "no decoder was given")
        return
    n = len(piece.units)
    axes.set_xlim(-0.6, n - 0.4)
    sorted_by = "unit, by region and weight" if piece.regions else "unit, by weight"
    if piece.per_lag is not None:
        size = np.abs(piece.per_lag).max() or 1.0
        axes.imshow(piece.per_lag, aspect="auto", cmap="PuOr_r", vmin=-size, vmax=size)
        n_lags = len(piece.per_lag)
        axes.set_ylim(n_lags - 0.5, -0.5)
        _ticks(axes.yaxis, [0, n_lags - 1], [f"{1 - n_lags}", "0"])
        _note(axes, f"{piece.per_lag_of}, darkest: ±{size:.2g}")
        _labels(axes, "Units at each lag", sorted_by, "bin of window")
    else:
        regions = np.asarray(piece.regions if piece.regions else [""] * n)
        kinds = list(dict.fromkeys(regions.tolist()))
        codes = np.array([kinds.index(region) for region in regions])
        colors = [COLORS[code % len(COLORS)] for code in codes]
        axes.vlines(
            np.arange(n), 0.0, piece.values, color=colors, linewidth=max(0.6, 200 / max(n, 20))
        )
        axes.axhline(0.0, color=GREY, linewidth=0.7)
        low, high = piece.values.min(initial=0.0), piece.values.max(initial=0.0)
        margin = 0.08 * max(high - low, 1e-12)
        axes.set_ylim(low - margin, high + (3 if piece.regions else 1) * margin)
        _labels(axes, "Units that make it", sorted_by, "weight (spikes)")
    if n <= MOST_NAMED_UNITS:
        names = [str(unit) for unit in piece.units]
        turned = 90 if n > 12 or max(map(len, names)) > 3 else 0
        _ticks(axes.xaxis, range(n), names, size=6.5, turned=turned)
    if piece.regions:
        begins = np.flatnonzero([a != b for a, b in zip(piece.regions, ["", *piece.regions])])
        for i, begin in enumerate(begins[:MOST_NAMED_REGIONS]):
            axes.text(
                begin - 0.4, 1.0, piece.regions[begin][:12], fontsize=6.5, va="top",
                color=COLORS[i % len(COLORS)], transform=axes.get_xaxis_transform(),
            )  # fmt: skip


def draw_moments(axes: Axes, piece: Moments) -> None:
    """Counts of the top units in windows around the strongest moments, side by side."""
    _labels(axes, "Its strongest moments")
    if not piece.units:
        _say(axes, "no decoder was given, so no unit stands out")
        return
    if not len(piece.times_s):
        _say(axes, "never active in these bins")
        return
    n_moments, n_units, n_lags = piece.counts.shape
    cells = np.full((n_units, n_moments * (n_lags + 1) - 1), np.nan)
    begins = np.arange(n_moments) * (n_lags + 1)
    for begin, counts in zip(begins, piece.counts):
        cells[:, begin : begin + n_lags] = counts
    axes.imshow(
        cells, aspect="auto", vmin=0, vmax=max(piece.counts.max(), 1.0),
        cmap=matplotlib.colormaps["Greys"].with_extremes(bad=UNKNOWN),
    )  # fmt: skip
    reach = -piece.lags_s[0]
    _ticks(axes.xaxis, [], [])
    for i, (begin, time) in enumerate(zip(begins, piece.times_s)):
        axes.text(
            begin + (n_lags - 1) / 2, n_units - 0.3, f"{i + 1}: {time:.1f}", fontsize=6.5,
            ha="center", va="top", color="#222222",
        )  # fmt: skip
    _ticks(axes.yaxis, range(n_units), [str(unit)[:6] for unit in piece.units], size=6.5)
    _note(axes, f"darkest: {max(piece.counts.max(), 1.0):.0f} spikes")
    _labels(axes, "Its strongest moments", f"time (s), each ± {reach:.2g} s", "unit")


def draw_closeup(above: Axes, below: Axes, piece: Closeup | None) -> None:
    """One moment: activity above the spikes of the top units."""
    if piece is None:
        _labels(above, "Close up")
        _say(above, "never active in these bins")
        below.set_axis_off()
        return
    _labels(above, "Close up", "", "activity")
    _note(above, f"at {piece.time_s:.2f} s")
    edges = piece.edges - piece.time_s
    values = np.append(piece.activity, np.nan)
    above.fill_between(edges, 0.0, values, step="post", color=PALETTE["blue"], linewidth=0)
    top = np.nanmax(piece.activity, initial=0.0)
    above.set_ylim(min(0.0, np.nanmin(piece.activity, initial=0.0)), 1.1 * top if top > 0 else 1.0)
    above.xaxis.set_major_formatter(NullFormatter())
    for axes in (above, below):
        axes.set_xlim(edges[0], edges[-1])
    n = len(piece.units)
    if piece.spikes is None and piece.counts is None:
        _say(below, "no spikes were given")
        return
    below.set_ylim(n - 0.5, -0.5)
    if piece.spikes is not None:
        rows = np.repeat(np.arange(n), [len(train) for train in piece.spikes])
        times = np.concatenate([*piece.spikes, np.empty(0)]) - piece.time_s
        below.vlines(times, rows - 0.4, rows + 0.4, color="black", linewidth=0.8)
    elif piece.counts is not None:
        below.imshow(
            piece.counts, aspect="auto", cmap="Greys", vmin=0, vmax=max(piece.counts.max(), 1.0),
            extent=(edges[0], edges[-1], n - 0.5, -0.5),
        )  # fmt: skip
    _ticks(below.yaxis, range(n), [str(unit)[:6] for unit in piece.units], size=6.5)
    _labels(below, "", "time from the moment (s)", "unit")


def draw_coactive(axes: Axes, table: Any) -> None:
    """Latents active together with this one: Jaccard index, and a mark for what chance gives."""
    _labels(axes, "Active together with it", "Jaccard index", "latent")
    if not len(table):
        _say(axes, "no other latent is active on its bins")
        return
    at = np.arange(len(table))
    _note(axes, "black line: by chance")
    axes.barh(at, table["jaccard"], color=PALETTE["sky"], height=0.6)
    axes.vlines(table["jaccard_chance"], at - 0.4, at + 0.4, color="black", linewidth=1.5)
    _ticks(axes.yaxis, at, [str(latent) for latent in table.index])
    axes.set_ylim(len(table) - 0.4, -0.6)
    axes.set_xlim(0, 1.08 * max(table["jaccard"].max(), table["jaccard_chance"].max()))


# Of every panel, inches; and the places of its axes: left, bottom, width, height, inches.
SIZE = (4.2, 2.3)
WHOLE = ((0.62, 0.42, 3.46, 1.62),)
PANELS: dict[str, tuple[tuple[float, float, float, float], ...]] = {
    "time": WHOLE,
    "tuning": WHOLE,
    "trials": WHOLE,
    "weights": ((0.62, 0.52, 3.46, 1.52),),
    "moments": WHOLE,
    "closeup": ((0.62, 1.46, 3.46, 0.58), (0.62, 0.42, 3.46, 0.98)),
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


def _merged(rows: np.ndarray) -> np.ndarray:
    """At most 300 rows: neighbours are averaged, so that each trial has its part in the map."""
    step = -(-len(rows) // MOST_ROWS)
    if step <= 1:
        return rows
    begins = np.arange(0, len(rows), step)
    known = np.isfinite(rows)
    n = np.add.reduceat(known, begins, axis=0)
    total = np.add.reduceat(np.where(known, rows, 0.0), begins, axis=0)
    return np.where(n > 0, total / np.maximum(n, 1), np.nan)


def _side_bar(axes: Axes, begin: int, length: int, color: str) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle(
        (1.01, begin), 0.02, length, color=color, lw=0, clip_on=False,
        transform=axes.get_yaxis_transform(),
    )  # fmt: skip
