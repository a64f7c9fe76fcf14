"""Figures of how training goes: one run's health, sweeps over k, stages of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator, ScalarFormatter

from saebook.plots.spikes import require_columns
from saebook.plots.style import (
    GREY,
    PAGE_WIDTH,
    PALETTE,
    horizontal_line,
    panels,
    styled,
    vertical_line,
)


@styled
def plot_run_health(
    history: pd.DataFrame,
    *,
    target_l0: float | None = None,
    raw_unit_fvu: float | None = None,
    clip_norm: float | None = None,
    borders: Mapping[str, float] | None = None,
) -> Figure:
    """Six curves to read before trusting a run.

    Parameters
    ----------
    history : DataFrame
        ``step``, ``fvu``, ``l0``, ``dead`` (share of latents), ``grad_norm``,
        ``learning_rate``, ``mse``, ``total``; also drawn where there: ``validation_fvu``,
        ``validation_l0``.
    target_l0 : float, optional
        The k asked for.
    raw_unit_fvu : float, optional
        FVU of as many raw units, on validation rows.
    clip_norm : float, optional
        Gradient norm above which the gradient is clipped.
    borders : mapping of str to float, optional
        Name of each border of the schedule to its step.

    Returns
    -------
    Figure

    Raises
    ------
    DataError
        The table lacks a column.

    Examples
    --------
    >>> names = ["fvu", "l0", "dead", "grad_norm", "learning_rate", "mse", "total"]
    >>> history = pd.DataFrame({"step": [1, 2]} | {name: [1.0, 0.5] for name in names})
    >>> len(plot_run_health(history).axes)
    6
    """
    needed = ["step", "fvu", "l0", "dead", "grad_norm", "learning_rate", "mse", "total"]
    require_columns(history, needed, "history")
    figure, axes = panels(2, 3, height=4.0, sharex=True)
    error, active, dead, gradient, rate, loss = axes
    step = history["step"]
    both = "validation_fvu" in history
    error.plot(step, history["fvu"], color=PALETTE["blue"], label="training batch")
    if both:
        error.plot(step, history["validation_fvu"], color=PALETTE["orange"], label="validation")
    top = float(history["fvu"].iloc[len(history) // 20 :].max())
    error.set_ylim(0, max(1.15, 1.1 * min(top, 2.0)))
    horizontal_line(error, 1.0, "")  # what the mean of the data scores
    if raw_unit_fvu is not None:
        error.axhline(
            raw_unit_fvu, color=GREY, linestyle=":", linewidth=1.4, label="raw units, same L0"
        )
    _title(error, "Variance unexplained", "FVU")

    active.plot(step, history["l0"], color=PALETTE["blue"])
    if "validation_l0" in history:
        active.plot(step, history["validation_l0"], color=PALETTE["orange"])
    if target_l0 is not None:
        horizontal_line(active, target_l0, "k")
    shown = history.filter(items=["l0", "validation_l0"]).to_numpy(float)[len(history) // 20 :]
    active.set_ylim(0, 1.25 * max(float(np.nanmax(shown)), target_l0 or 0.0, 1.0))
    _title(active, "Active latents", "L0")

    dead.plot(step, 100 * history["dead"], color=PALETTE["vermillion"])
    dead.set_ylim(0, max(10.0, 115 * max(history["dead"].tolist())))
    _title(dead, "Dead latents", "% of latents")

    gradient.plot(step, history["grad_norm"], color=PALETTE["purple"], linewidth=1.0)
    gradient.set_yscale("log")
    _plain_log(gradient)
    if clip_norm is not None:
        low = min(gradient.get_ylim()[0], 0.6 * clip_norm)
        gradient.set_ylim(bottom=low)
        below = history["grad_norm"].iloc[len(history) // 2 :].median() < clip_norm
        horizontal_line(gradient, clip_norm, "clipped above", above=bool(below))
    _title(gradient, "Gradient before clipping", "norm")

    rate.plot(step, 1e3 * history["learning_rate"], color=PALETTE["black"])
    rate.set_ylim(bottom=0)
    _title(rate, "Learning rate", "rate (10⁻³)")

    loss.plot(step, history["total"], color=PALETTE["black"], label="total")
    loss.plot(step, history["mse"], "--", color=PALETTE["sky"], label="mse")
    loss.set_yscale("log")
    _plain_log(loss)
    loss.legend(loc="upper right")
    _title(loss, "Loss (scaled units)", "loss")
    for panel in axes:
        for name, place in (borders or {}).items():
            vertical_line(panel, place, name if panel is rate else "", right=True, below=True)
    if both or raw_unit_fvu is not None:
        error.legend(loc="upper right", bbox_to_anchor=(1.0, 0.88))
    for panel in axes[3:]:
        panel.set_xlabel("step")
    figure.align_ylabels()
    return figure


@styled
def plot_sweep(
    curves: Mapping[str, Mapping[str, pd.DataFrame]],
    *,
    active_units: float,
    y_labels: Sequence[str],
    y_top: float = 1.05,
) -> Figure:
    """Scores over the number of active latents, one panel per score, against controls.

    Parameters
    ----------
    curves : mapping
        Panel title to lines; each line, by its label, is a table with columns ``k``, ``mean``,
        ``low``, ``high``. "SAE" is set off by colour; other labels keep one colour throughout.
    active_units : float
        Units that spike in a bin, on average: drawn where copying begins.
    y_labels : sequence of str
        One per panel.
    y_top : float
        Upper end of the score axes.

    Returns
    -------
    Figure

    Examples
    --------
    >>> line = pd.DataFrame({"k": [2, 4], "mean": [0.5, 0.3], "low": [0.4, 0.2], "high": [0.6, 0.4]})
    >>> len(plot_sweep({"FVU": {"SAE": line}}, active_units=3.0, y_labels=["FVU"]).axes)
    1
    """
    width = PAGE_WIDTH if len(curves) > 1 else 0.7 * PAGE_WIDTH
    figure, axes = panels(1, len(curves), width=width, height=3.1)
    others = ["vermillion", "green", "purple", "sky", "orange", "black"]
    labels = dict.fromkeys(name for lines in curves.values() for name in lines if name != "SAE")
    styles = dict(zip(labels, others, strict=False)) | {"SAE": "blue"}
    handles = {}
    for panel, (title, lines), y_label in zip(axes, curves.items(), y_labels, strict=True):
        for name, table in lines.items():
            color = PALETTE[styles[name]]
            mark = "o-" if name == "SAE" else "s--"
            (handle,) = panel.plot(
                table["k"],
                table["mean"],
                mark,
                color=color,
                linewidth=1.5 if name == "SAE" else 1.1,
                markersize=4.5 if name == "SAE" else 2.5,
            )
            handles[name] = handle
            panel.fill_between(
                table["k"].to_numpy(float), table["low"].to_numpy(float),
                table["high"].to_numpy(float), color=color, alpha=0.18, linewidth=0,
            )  # fmt: skip
        tables = list(lines.values())
        ks = sorted({float(k) for table in tables for k in table["k"]})
        highest = max(max(table["mean"].tolist()) for table in tables)
        panel.set_xscale("log", base=2)
        panel.set_xticks(ks, [f"{k:g}" if _has_room(k, ks) else "" for k in ks])
        panel.set_xlim(min(ks[0], active_units) / 1.2, max(ks[-1], active_units) * 1.2)
        panel.set_ylim(0, max(y_top, 1.1 * highest))
        panel.set_xlabel("k (latents active per bin)")
        vertical_line(panel, active_units, "active units" if panel is axes[0] else "")
        panel.grid(axis="y")
        _title(panel, title, y_label)
    figure.legend(
        list(handles.values()),
        list(handles),
        loc="outside lower center",
        ncols=len(handles),
        columnspacing=1.2,
    )
    return figure


@styled
def plot_stages(
    curves: Mapping[tuple[str, str], Mapping[str, tuple[np.ndarray, np.ndarray]]],
    *,
    borders: Mapping[str, Sequence[float]],
    breakpoints: Mapping[tuple[str, str], Mapping[str, np.ndarray]] | None = None,
    logarithmic: Sequence[str] = (),
) -> Figure:
    """Training curves on a logarithmic axis under several schedules.

    Parameters
    ----------
    curves : mapping
        (row, column) titles to, per schedule, fractions of the run [n] and one curve per seed
        [n_seeds, n].
    borders : mapping
        Schedule to the fractions of the run at which it changes; drawn as ticks in its colour.
    breakpoints : mapping, optional
        As ``curves``: places where a fit changes slope [n], as dots on the mean curve.
    logarithmic : sequence of str
        Columns with a logarithmic axis.

    Returns
    -------
    Figure

    Examples
    --------
    >>> curve = (np.array([0.01, 0.1, 1.0]), np.array([[1.0, 0.5, 0.2], [1.0, 0.4, 0.2]]))
    >>> figure = plot_stages({("relu", "FVU"): {"default": curve}}, borders={"default": [0.1]})
    >>> figure.axes[0].get_xscale()
    'log'
    """
    rows = list(dict.fromkeys(row for row, _ in curves))
    columns = list(dict.fromkeys(column for _, column in curves))
    figure, axes = panels(len(rows), len(columns), height=0.6 + 2.1 * len(rows), sharex=True)
    grid = dict(zip([(r, c) for r in rows for c in columns], axes, strict=True))
    colors = dict(zip(borders, ("blue", "vermillion", "green", "purple"), strict=False))
    handles = {}
    for place, panel in grid.items():
        row, column = place
        for name, (fraction, lines) in curves.get(place, {}).items():
            color = PALETTE[colors[name]]
            mean = lines.mean(axis=0)
            for line in lines:
                panel.plot(fraction, line, color=color, linewidth=0.5, alpha=0.5)
            (handles[name],) = panel.plot(fraction, mean, color=color, linewidth=1.4)
            found = (breakpoints or {}).get(place, {}).get(name)
            if found is not None and len(found):
                height = np.interp(np.log(found), np.log(fraction), mean)
                panel.plot(found, height, "o", color="white", markeredgecolor=color, markersize=5)
            for level in borders[name]:
                panel.axvline(level, ymax=0.05, color=color, linewidth=2.0)
        panel.set_xscale("log")
        drawn = [lines for _, lines in curves.get(place, {}).values()]
        if column in logarithmic and any((lines > 0).any() for lines in drawn):
            panel.set_yscale("log")
            _plain_log(panel)
        _title(panel, f"{row}: {column}", "")
        if row == rows[-1]:
            panel.set_xlabel("fraction of the run")
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=3)
    return figure


def _has_room(k: float, ks: Sequence[float]) -> bool:
    """Whether a label at k has room on a logarithmic axis; of two close ones the lower stays."""
    return not any(1 < k / other < 1.25 for other in ks)


def _title(panel: Axes, title: str, y_label: str) -> None:
    panel.set_title(title)
    panel.set_ylabel(y_label)


def _plain_log(panel: Axes) -> None:
    """Plain numbers on a logarithmic axis; between powers of ten only where it spans none."""
    low, high = panel.get_ylim()
    if low > 0 and high / low < 12:
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
        panel.yaxis.set_major_formatter(ScalarFormatter())
        panel.yaxis.set_minor_locator(NullLocator())
    else:
        panel.yaxis.set_minor_formatter(NullFormatter())
