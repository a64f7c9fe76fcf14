"""Panels of a latent's profile, each drawn into axes that may have held another latent before."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.path import Path
from matplotlib.textpath import TextPath
from matplotlib.transforms import Affine2D

from saebook.evaluation.profiles import OverTime, OverTrials, Tuning, Weights
from saebook.plots.lettering import FRAME, NOTE, heat_map, labels, note, say, ticks
from saebook.plots.style import GREY, LIGHT_GREY, PALETTE, vertical_line

COLORS = tuple(PALETTE.values())
MOST_ROWS = 300
MOST_NAMED_UNITS = 24
MOST_NAMED_REGIONS = 8


def draw_time(axes: Axes, piece: OverTime) -> None:
    """Activity over the whole time, its strongest moments numbered."""
    labels(axes, "When it is active", "time (s)", "activity")
    axes.fill_between(
        piece.edges[:-1], piece.low, piece.high, step="post", color=PALETTE["blue"], linewidth=0.4
    )
    top = np.nanmax(piece.high, initial=0.0)
    bottom = min(np.nanmin(piece.low, initial=0.0), 0.0)
    axes.set_xlim(piece.edges[0], piece.edges[-1])
    axes.set_ylim(bottom, 1.2 * top if top > 0 else 1.0)
    digits = PathCollection(
        [_digit(i + 1) for i in range(len(piece.moments_s))],
        offsets=np.stack([piece.moments_s, piece.moment_values + 0.04 * top], axis=1),
        offset_transform=axes.transData, color=PALETTE["vermillion"], linewidth=0,
    )  # fmt: skip
    digits.set_transform(Affine2D().scale(axes.figure.dpi / 72))
    axes.add_collection(digits, autolim=False)
    if not piece.density:
        axes.text(piece.edges[0], 0.5, " never active in these bins", color=NOTE)


@functools.cache
def _digit(number: int) -> Path:
    # A path is drawn ten times faster than a text.
    path = TextPath((0, 0), str(number), size=8)
    return path.transformed(Affine2D().translate(-path.get_extents().width / 2, 0))


def draw_trials(axes: Axes, piece: OverTrials | None) -> None:
    """Activity around an event as a map, trials sorted by condition."""
    if piece is None:
        labels(axes, "Trial by trial")
        say(axes, "no trial event is known here")
        return
    rows = _merged(piece.activity)
    top = np.nanmax(rows, initial=0.0)
    half = (piece.lags_s[1] - piece.lags_s[0]) / 2 if len(piece.lags_s) > 1 else 0.5
    n = len(piece.label)
    extent = (piece.lags_s[0] - half, piece.lags_s[-1] + half, n, 0)
    heat_map(axes, rows, vmin=0, vmax=top or 1.0, extent=extent)
    vertical_line(axes, 0.0)
    note(axes, f"darkest: {top:.2g}" if top > 0 else "never active")
    labels(axes, "Trial by trial", f"time from {piece.event} (s)", "trial")
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
        labels(axes, "What it follows")
        say(axes, "no variable was given")
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
        axes.plot(centres, curve, "o-", color=color)
    half = (centres[1] - centres[0]) / 2 if len(centres) > 1 else 0.5
    axes.set_xlim(centres[0] - half, centres[-1] + half)
    tops = [curves, [0.0]] if band is None else [curves, band.high]
    top = max(np.nanmax(values, initial=0.0) for values in tops)
    bottom = min(0.0, np.nanmin(curves, initial=0.0))
    axes.set_ylim(bottom, (1.3 if names else 1.1) * top if top > 0 else 1.0)
    labels(axes, "What it follows", about.axis, "mean activity")
    note(axes, f"no null: {piece.why_no_band}" if band is None else f"grey: {band.made_by}, 95 %")
    if about.kind == "event":
        vertical_line(axes, 0.0)
    if about.kind == "circular":
        ticks(axes.xaxis, [-180, -90, 0, 90, 180], ["-180", "-90", "0", "90", "180"])
    if about.kind == "categorical":
        ticks(axes.xaxis, centres, list(about.conditions) or [f"{c:g}" for c in about.centres])
    for i, name in enumerate(names):
        # Part of the frame, which other latents share.
        axes.text(
            0.01 + i % 4 * 0.25, 0.99 - i // 4 * 0.08, f"– {name}"[:14], color=COLORS[i % len(COLORS)],
            fontsize=6.5, fontweight="bold", va="top", transform=axes.transAxes, gid=FRAME,
        )  # fmt: skip


def draw_weights(axes: Axes, piece: Weights | None) -> None:
    """What the latent adds to each unit; of windows, every unit at every lag."""
    if piece is None:
        labels(axes, "Units that make it")
        say(axes, "no decoder was given")
        return
    n = len(piece.units)
    axes.set_xlim(-0.6, n - 0.4)
    sorted_by = "unit, by region and weight" if piece.regions else "unit, by weight"
    if piece.per_lag is not None:
        size = np.abs(piece.per_lag).max() or 1.0
        heat_map(axes, piece.per_lag, cmap="PuOr_r", vmin=-size, vmax=size)
        n_lags = len(piece.per_lag)
        axes.set_ylim(n_lags - 0.5, -0.5)
        ticks(axes.yaxis, [0, n_lags - 1], [f"{1 - n_lags}", "0"])
        note(axes, f"{piece.per_lag_of}, darkest: ±{size:.2g}")
        labels(axes, "Units at each lag", sorted_by, "bin of window")
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
        labels(axes, "Units that make it", sorted_by, "weight (spikes)")
    if n <= MOST_NAMED_UNITS:
        names = [str(unit) for unit in piece.units]
        turned = 90 if n > 12 or max(map(len, names)) > 3 else 0
        ticks(axes.xaxis, range(n), names, size=6.5, turned=turned)
    if piece.regions:
        begins = np.flatnonzero([a != b for a, b in zip(piece.regions, ["", *piece.regions])])
        for i, begin in enumerate(begins[:MOST_NAMED_REGIONS]):
            axes.text(
                begin - 0.4, 1.0, piece.regions[begin][:12], fontsize=6.5, va="top",
                color=COLORS[i % len(COLORS)], transform=axes.get_xaxis_transform(),
            )  # fmt: skip


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
