"""Figures that compare architectures: every run a point, controls beside them, laws of size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator, ScalarFormatter

from saebook.metrics import mean_interval
from saebook.plots.spikes import require_columns
from saebook.plots.style import GREY, PAGE_WIDTH, PALETTE, panels, styled, vertical_line

COLORS = ("blue", "vermillion", "green", "purple", "sky", "orange", "black")
# Beyond this ratio of largest to smallest value an axis is logarithmic.
WIDE_RANGE = 12.0


@styled
def plot_contestants(
    runs: pd.DataFrame,
    scores: Mapping[str, str],
    *,
    controls: Sequence[str] = (),
    targets: Mapping[str, float] | None = None,
    title: str = "",
    intervals: bool = False,
    width: float = PAGE_WIDTH,
) -> Figure:
    """Several scores of several models, one row per model, every run a point.

    Parameters
    ----------
    runs : DataFrame
        One row per run: ``model``, one column per score, and optionally ``matched`` (False
        where the run missed what was to be equal: its points are hollow). Models keep the order
        of their first row; a score that is NaN is not drawn.
    scores : mapping of str to str
        Column to panel title.
    controls : sequence of str
        Models that are drawn in grey.
    targets : mapping of str to float, optional
        Value of a score that was asked for, as a dashed line.
    title : str
        Of the figure.
    intervals : bool
        Draw the 95 % interval of each mean, from three runs on, as a pale bar.
    width : float
        Of the figure, inches.

    Returns
    -------
    Figure
        One panel per score; a vertical tick is the mean over a model's runs.

    Raises
    ------
    DataError
        A column is missing.

    Examples
    --------
    >>> runs = pd.DataFrame({"model": ["topk", "topk", "relu"], "fvu": [0.2, 0.3, 0.5]})
    >>> [label.get_text() for label in plot_contestants(runs, {"fvu": "FVU"}).axes[0].get_yticklabels()]
    ['topk', 'relu']
    """
    require_columns(runs, ["model", *scores], "runs")
    models = list(dict.fromkeys(runs["model"]))
    height = 0.75 + 0.2 * len(models) + (0.25 if title else 0.0)
    figure, axes = panels(1, len(scores), width=width, height=height, sharey=True)
    matched = runs["matched"].to_numpy(bool) if "matched" in runs else np.ones(len(runs), bool)
    place = np.array([models.index(model) for model in runs["model"]], float)
    is_control = runs["model"].isin(controls).to_numpy()
    for panel, (score, name) in zip(axes, scores.items(), strict=True):
        values = runs[score].to_numpy(float)
        drawn = np.isfinite(values)
        ends: list[float] = []
        for row, model in enumerate(models):
            own = values[(runs["model"] == model).to_numpy() & drawn]
            if len(own):
                color = GREY if model in controls else PALETTE["blue"]
                panel.plot([own.mean()] * 2, [row - 0.3, row + 0.3], color=color, linewidth=1.4)
                if intervals and len(own) > 2:
                    over = mean_interval(own)
                    ends += [over.low, over.high]
                    panel.plot([over.low, over.high], [row, row], color=color, linewidth=2.6,
                               alpha=0.35, solid_capstyle="butt")  # fmt: skip
        for control, color in ((False, PALETTE["blue"]), (True, GREY)):
            for full in (True, False):
                at = drawn & (is_control == control) & (matched == full)
                panel.plot(
                    values[at], place[at], "o", color=color, markersize=3.8, markeredgewidth=0.9,
                    markerfacecolor=color if full else "white",
                )  # fmt: skip
        wanted = (targets or {}).get(score)
        if wanted is not None:
            panel.axvline(wanted, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
        shown = np.append(values[drawn], ends)
        _score_axis(panel, shown, wanted, n_ticks=3 if len(scores) < 7 else 2)
        for row in range(len(models)):
            panel.axhline(row, color="#eeeeee", linewidth=0.6, zorder=0)
        panel.set_title(name, fontsize=8)
        panel.tick_params(axis="y", length=0)
    axes[0].set_yticks(range(len(models)), models)
    axes[0].set_ylim(len(models) - 0.5, -0.5)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=9)
    return figure


def _score_axis(panel: Axes, values: np.ndarray, wanted: float | None, n_ticks: int) -> None:
    """From 0, or logarithmic where the values span more than a decade."""
    known = values if wanted is None else np.append(values, wanted)
    if not len(known):
        return
    if known.min() > 0 and known.max() > WIDE_RANGE * known.min() and known.max() > 2:
        panel.set_xscale("log")
        narrow = known.max() < 100 * known.min()
        panel.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0) if narrow else (1.0,), numticks=4))
        panel.xaxis.set_major_formatter(ScalarFormatter())
        panel.xaxis.set_minor_locator(NullLocator())
        return
    low, high = min(0.0, float(known.min())), max(float(known.max()), 1e-3)
    # A score close to 0 for every model is drawn as such.
    high = max(high, 0.02)
    room = 0.07 * (high - low)
    panel.set_xlim(low - room, high + room)
    # Labels of three decimals are as wide as two others.
    panel.xaxis.set_major_locator(MaxNLocator(1 if high < 0.05 else n_ticks))


@styled
def plot_against_size(
    runs: pd.DataFrame,
    size: str,
    scores: Mapping[str, str],
    *,
    size_label: str,
    marked: Mapping[float, str] | None = None,
) -> Figure:
    """Scores over the size of a model, one line per model, every run a point.

    Parameters
    ----------
    runs : DataFrame
        One row per run: ``model``, the size, one column per score.
    size : str
        Column of the size; its axis is logarithmic.
    scores : mapping of str to str
        Column to the label of its axis.
    size_label : str
        Label of the common axis.
    marked : mapping of float to str, optional
        Sizes at which something is true, and what.

    Returns
    -------
    Figure

    Raises
    ------
    DataError
        A column is missing.

    Examples
    --------
    >>> runs = pd.DataFrame({"model": ["topk"] * 2, "d_sae": [64, 128], "dead": [0.0, 0.3]})
    >>> len(plot_against_size(runs, "d_sae", {"dead": "dead"}, size_label="latents").axes)
    1
    """
    require_columns(runs, ["model", size, *scores], "runs")
    figure, axes = panels(1, len(scores), height=2.7)
    handles = {}
    for panel, (score, label) in zip(axes, scores.items(), strict=True):
        for color, (model, part) in zip(COLORS, runs.groupby("model", sort=False), strict=False):
            x, y = part[size].to_numpy(float), part[score].to_numpy(float)
            sizes = np.unique(x)
            means = [y[x == one].mean() for one in sizes]
            (handles[str(model)],) = panel.plot(
                sizes, means, "-", color=PALETTE[color], linewidth=1.3
            )
            panel.plot(x, y, "o", color=PALETTE[color], markersize=3)
        _size_axis(panel, sorted(runs[size].unique()))
        top = float(np.nanmax(runs[score].to_numpy(float)))
        panel.set_ylim(-0.03 * max(top, 0.1), 1.08 * max(top, 0.1))
        for place, name in (marked or {}).items():
            vertical_line(panel, place, name if panel is axes[0] else "", right=True)
        panel.set_xlabel(size_label)
        panel.set_ylabel(label)
        panel.grid(axis="y")
    figure.legend(
        list(handles.values()), list(handles), loc="outside lower center", ncols=len(handles)
    )
    return figure


def _size_axis(panel: Axes, sizes: Sequence[float]) -> None:
    panel.set_xscale("log")
    panel.set_xticks(list(sizes), [f"{size:,g}" for size in sizes])
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_minor_formatter(NullFormatter())


@styled
def plot_power_laws(
    laws: Mapping[str, Mapping[str, Any]], *, y_label: str, width: float = PAGE_WIDTH
) -> Figure:
    """Points and fitted power laws ``y = a · x ** exponent``, one panel per law.

    Parameters
    ----------
    laws : mapping
        Label of the x axis to ``x`` [n] and ``y`` [n], one point per run, and where a law was
        fitted ``fitted`` (a function of x) and ``text`` (what to write in the panel).
    y_label : str
        Of the common logarithmic axis.
    width : float
        Inches.

    Returns
    -------
    Figure

    Examples
    --------
    >>> law = {"x": np.array([1.0, 2.0, 4.0]), "y": np.array([1.0, 0.5, 0.25]),
    ...     "fitted": lambda x: 1 / x, "text": "exponent -1"}
    >>> plot_power_laws({"latents": law}, y_label="error").axes[0].get_yscale()
    'log'
    """
    figure, axes = panels(1, len(laws), width=width, height=2.5, sharey=True)
    for panel, (label, law) in zip(axes, laws.items(), strict=True):
        x, y = np.asarray(law["x"], float), np.asarray(law["y"], float)
        panel.plot(x, y, "o", color=PALETTE["blue"], markersize=3.5)
        panel.set_yscale("log")
        _size_axis(panel, sorted(set(x.tolist())))
        if law.get("fitted") is not None:
            line = np.geomspace(x.min(), x.max(), 50)
            panel.plot(line, law["fitted"](line), color=PALETTE["vermillion"], linewidth=1.2)
        panel.set_title(law.get("text", ""), fontsize=8, fontweight="normal")
        panel.set_xlabel(label)
        panel.grid(axis="y")
    axes[0].set_ylabel(y_label)
    axes[0].yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes[0].yaxis.set_major_formatter(ScalarFormatter())
    axes[0].yaxis.set_minor_formatter(NullFormatter())
    return figure
