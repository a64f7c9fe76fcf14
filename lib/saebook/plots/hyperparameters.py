"""Figures of settings: a score over a grid of two of them, and what happens along a run."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogFormatter

from saebook.plots.losses import legend_columns
from saebook.plots.spikes import require_columns
from saebook.plots.style import GREY, PAGE_WIDTH, PALETTE, panels, styled

COLOURS = ("blue", "vermillion", "green", "purple", "orange", "sky", "black")
LINES = ("-", (0, (5, 1.5)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)), (0, (3, 1, 1, 1, 1, 1)))
MARKS = ("o", "s", "D", "^", "v", "P")
MARK_COLOURS = ("vermillion", "orange", "sky", "purple", "black", "yellow")
# Places of marks within a cell, in cells: the corners first.
CORNERS = ((0.33, -0.31), (-0.33, -0.31), (0.33, 0.31), (-0.33, 0.31), (0.0, -0.36), (0.0, 0.36))
DARK_BELOW = 0.6

Cell = tuple[Hashable, Hashable, Hashable]


@styled
def plot_grid(
    cells: pd.DataFrame,
    *,
    x: str,
    y: str,
    score: str,
    label: str,
    panel: str,
    x_label: str = "",
    y_label: str = "",
    panel_label: str = "{}",
    marks: Mapping[str, Sequence[Cell]] | None = None,
    limits: tuple[float, float] | None = None,
) -> Figure:
    """One score over a grid of two settings, a panel for each value of a third.

    Parameters
    ----------
    cells : DataFrame
        One row per run: the three settings and the score. Runs of one cell are averaged; a cell
        without any stays empty.
    x, y, panel : str
        Columns of the settings. Values of x and y are sorted; panels keep the order of the table.
    score : str
        Column of the score, whose mean is written in each cell.
    label : str
        Of the score.
    x_label, y_label : str
        Of the axes; the columns' names by default.
    panel_label : str
        Title of a panel, with ``{}`` for its value.
    marks : mapping, optional
        Name of a choice to the cells (panel, x, y) that it falls on.
    limits : tuple of float, optional
        Scores at the ends of the colours; those of the table by default.

    Returns
    -------
    Figure

    Raises
    ------
    DataError
        The table lacks a column.

    Examples
    --------
    >>> cells = pd.DataFrame({"lr": [1, 2], "k": [4, 4], "d": [8, 8], "recall": [0.25, 0.75]})
    >>> figure = plot_grid(cells, x="lr", y="k", score="recall", label="recall", panel="d")
    >>> [text.get_text() for text in figure.axes[0].texts]
    ['0.25', '0.75']
    """
    require_columns(cells, [x, y, panel, score], "cells")
    places = list(dict.fromkeys(cells[panel]))
    columns, rows = (sorted(set(cells[name])) for name in (x, y))
    scores = cells[score].to_numpy(float)
    low, high = limits or (float(np.nanmin(scores)), float(np.nanmax(scores)))
    height = 1.25 + 0.34 * len(rows)
    figure, axes = panels(1, len(places), width=PAGE_WIDTH, height=height, sharey=True)
    image = None
    for axis, place in zip(axes, places, strict=True):
        part = cells[cells[panel] == place]
        table = part.pivot_table(index=y, columns=x, values=score, aggfunc="mean", dropna=False)
        values = table.reindex(index=rows, columns=columns).to_numpy(float)
        image = axis.imshow(
            values, origin="lower", aspect="auto", cmap="viridis", vmin=low, vmax=high
        )
        for (row, column), value in np.ndenumerate(values):
            if np.isfinite(value):
                dark = value < low + DARK_BELOW * (high - low)
                axis.text(
                    column, row, f"{value:.2f}", ha="center", va="center", fontsize=7,
                    color="white" if dark else "black",
                )  # fmt: skip
        for name, mark, hue, (dx, dy) in zip(marks or {}, MARKS, MARK_COLOURS, CORNERS):
            for where, at_x, at_y in (marks or {})[name]:
                if where == place and at_x in columns and at_y in rows:
                    axis.plot(
                        columns.index(at_x) + dx, rows.index(at_y) + dy, mark, markersize=6,
                        color=PALETTE[hue], markeredgecolor="white", markeredgewidth=0.8,
                    )  # fmt: skip
        axis.set_xticks(range(len(columns)), [f"{value:g}" for value in columns])
        axis.set_yticks(range(len(rows)), [f"{value:g}" for value in rows])
        axis.tick_params(length=0)
        axis.set_xlabel(x_label or x)
        axis.set_title(panel_label.format(place), fontsize=8)
        for side in axis.spines.values():
            side.set_visible(False)
    axes[0].set_ylabel(y_label or y)
    if image is not None:
        figure.colorbar(image, ax=axes, label=label, fraction=0.04, pad=0.02)
    handles = [
        Line2D([], [], marker=mark, color=PALETTE[hue], linestyle="none", markersize=6, label=name)
        for name, mark, hue in zip(marks or {}, MARKS, MARK_COLOURS)
    ]
    if handles:
        figure.legend(
            handles=handles, loc="outside lower center", ncols=legend_columns(len(handles))
        )
    return figure


@styled
def plot_advice(settings: pd.DataFrame, label: str = "r with features") -> Figure:
    """What was advised beside the best of a grid, a line for each setting.

    Parameters
    ----------
    settings : DataFrame
        Columns n_units, n_examples, mean_rate (Hz), recommended, best and raw_units: scores.
    label : str
        Of the scores.

    Returns
    -------
    Figure

    Examples
    --------
    >>> scores = {"recommended": 0.5, "best": 0.6, "raw_units": 0.2}
    >>> row = pd.DataFrame([{"n_units": 20, "n_examples": 2000, "mean_rate": 5.0, **scores}])
    >>> plot_advice(row).axes[0].get_yticklabels()[0].get_text()
    '20 units, 2,000 bins, 5.0 Hz'
    """
    table = settings.sort_values("n_units").reset_index(drop=True)
    figure, (axis,) = panels(width=PAGE_WIDTH, height=0.9 + 0.17 * len(table))
    rows = table.index.to_numpy()
    ends = table[["recommended", "best"]].to_numpy(float)
    axis.hlines(rows, ends[:, 0], ends[:, 1], color=GREY, linewidth=1.2, zorder=1)
    for column, name, mark, colour in (
        ("raw_units", "raw units", "x", GREY),
        ("best", "best of the grid", "|", PALETTE["black"]),
        ("recommended", "recommended", "o", PALETTE["blue"]),
    ):
        axis.plot(
            table[column].to_numpy(float), rows, mark, color=colour, label=name, linestyle="none",
            markersize=8 if mark == "|" else 4.5, markeredgewidth=1.4 if mark in "|x" else 0.0,
        )  # fmt: skip
    names = [
        f"{row['n_units']} units, {row['n_examples']:,} bins, {row['mean_rate']:.1f} Hz"
        for row in table.to_dict("records")
    ]
    axis.set_yticks(rows, names)
    axis.set_ylim(len(table) - 0.5, -0.5)
    axis.set_xlabel(label)
    axis.grid(axis="x")
    axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


@styled
def plot_traces(
    histories: Mapping[str, pd.DataFrame],
    curves: Mapping[str, str],
    *,
    x: str = "step",
    x_label: str = "step",
    logarithmic: Sequence[str] = (),
    spans: Mapping[str, tuple[float, float]] | None = None,
) -> Figure:
    """What changes along several runs, a panel for each curve.

    Parameters
    ----------
    histories : mapping of str to DataFrame
        Name of a run to its history.
    curves : mapping of str to str
        Column of the histories to the label of its axis; a history without it has no line.
    x, x_label : str
        Column along the horizontal axis, and its label.
    logarithmic : sequence of str
        Curves on a logarithmic axis.
    spans : mapping, optional
        Name of a part of the run to its ends, shaded.

    Returns
    -------
    Figure

    Examples
    --------
    >>> history = pd.DataFrame({"step": [1, 2], "total": [3.0, 2.0]})
    >>> figure = plot_traces({"constant": history}, {"total": "total loss"})
    >>> figure.axes[0].lines[0].get_ydata().tolist()
    [3.0, 2.0]
    """
    figure, axes = panels(1, len(curves), height=2.7)
    handles = {}
    for axis, (curve, label) in zip(axes, curves.items(), strict=True):
        for n, (name, history) in enumerate(histories.items()):
            if curve not in history:
                continue
            (handles[name],) = axis.plot(
                history[x].to_numpy(float),
                history[curve].to_numpy(float),
                color=PALETTE[COLOURS[n % len(COLOURS)]],
                linestyle=LINES[n % len(LINES)],
                linewidth=1.3,
            )
        if curve in logarithmic:
            axis.set_yscale("log")
            axis.yaxis.set_major_formatter(LogFormatter())
            axis.yaxis.set_minor_formatter(LogFormatter())
        for name, (start, end) in (spans or {}).items():
            _shade(axis, start, end, name if axis is axes[0] else "")
        axis.set_xlabel(x_label)
        axis.set_ylabel(label)
        axis.grid(axis="y")
    figure.legend(
        list(handles.values()), list(handles), loc="outside lower center",
        ncols=legend_columns(len(handles)),
    )  # fmt: skip
    return figure


def _shade(axis: Axes, start: float, end: float, name: str) -> None:
    axis.axvspan(start, end, color=GREY, alpha=0.15, linewidth=0, zorder=0)
    if name:
        axis.annotate(
            name, ((start + end) / 2, 1.0), xycoords=axis.get_xaxis_transform(), xytext=(0, -3),
            textcoords="offset points", ha="center", va="top", fontsize=7.5, color="#666666",
        )  # fmt: skip
