"""Figures of latents in time: curves at equal error, paired differences, autocorrelations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from saebook.plots.losses import legend_columns
from saebook.plots.spikes import require_columns
from saebook.plots.style import GREY, PAGE_WIDTH, PALETTE, panels, styled

COLOURS = ("blue", "vermillion", "green", "purple", "orange", "sky", "black")
MARKS = ("o", "s", "^", "D", "v", "P", "X")
CONTROL_STYLES = ((0, (4, 3)), (0, (1, 2)), "-.", (0, (6, 2, 1, 2)))


@styled
def plot_at_fvu(
    runs: pd.DataFrame,
    scores: Mapping[str, str],
    *,
    setting: str,
    arm: str = "arm",
    target: float | None = None,
    n_columns: int = 3,
) -> Figure:
    """Scores over FVU, one line per arm: at the same abscissa arms explain the same.

    Parameters
    ----------
    runs : DataFrame
        One row per run: ``fvu``, the arm, the setting that moves along its curve (k or λ), and
        one column per score.
    scores : mapping of str to str
        Column to the label of its axis.
    setting : str
        Column whose equal values are averaged over seeds to a point of the line.
    arm : str
        Column that is told by colour.
    target : float, optional
        FVU at which arms are compared: a dashed line.
    n_columns : int
        Panels per row.

    Returns
    -------
    Figure
        Faint points are single runs.

    Raises
    ------
    DataError
        A column is missing.

    Examples
    --------
    >>> runs = pd.DataFrame({"arm": "a", "k": [1, 2], "fvu": [0.3, 0.2], "r": [0.1, 0.2]})
    >>> plot_at_fvu(runs, {"r": "r"}, setting="k").axes[0].get_xlabel()
    'FVU'
    """
    require_columns(runs, [arm, setting, "fvu", *scores], "runs")
    arms = list(dict.fromkeys(runs[arm]))
    n_columns = min(n_columns, len(scores))
    n_rows = -(-len(scores) // n_columns)
    figure, axes = panels(n_rows, n_columns, width=PAGE_WIDTH, height=0.7 + 2.2 * n_rows)
    for panel, (score, label) in zip(axes, scores.items(), strict=False):
        for name, hue, mark in zip(arms, COLOURS, MARKS, strict=False):
            part = runs[runs[arm] == name]
            colour = PALETTE[hue]
            panel.plot(part["fvu"], part[score], mark, color=colour, alpha=0.25, markersize=2.5)
            steps, at_runs, of_runs = (np.asarray(part[c], float) for c in (setting, "fvu", score))
            levels = np.unique(steps)
            at = np.array([at_runs[steps == level].mean() for level in levels])
            values = np.array([_mean(of_runs[steps == level]) for level in levels])
            order = np.argsort(at)
            panel.plot(at[order], values[order], "-", marker=mark, color=colour, markersize=4.5)
        if target is not None:
            panel.axvline(target, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
        panel.xaxis.set_major_locator(MaxNLocator(4))
        panel.set_xlabel("FVU")
        panel.set_ylabel(label)
        panel.grid(axis="y")
    for panel in axes[len(scores) :]:
        panel.set_axis_off()
    _legend(figure, arms)
    return figure


def _mean(values: np.ndarray) -> float:
    """Mean of what is known."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def _legend(figure: Figure, arms: Sequence[str]) -> None:
    handles = [
        Line2D([], [], color=PALETTE[hue], marker=mark, markersize=4.5, label=str(name))
        for name, hue, mark in zip(arms, COLOURS, MARKS, strict=False)
    ]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=legend_columns(len(handles)),
        columnspacing=1.2,
    )  # fmt: skip


@styled
def plot_paired_differences(
    table: pd.DataFrame, scores: Mapping[str, str], *, arm: str = "arm"
) -> Figure:
    """Mean paired differences with their intervals, one row per arm, one panel per score.

    Parameters
    ----------
    table : DataFrame
        From :func:`saebook.evaluation.paired_intervals`: arm, ``score``, ``difference``, ``low``,
        ``high`` and ``n``.
    scores : mapping of str to str
        Score to the label of its axis.
    arm : str
        Column of arms, drawn from top to bottom.

    Returns
    -------
    Figure
        An arm that could not be compared says so in place of a point.

    Raises
    ------
    DataError
        A column is missing.

    Examples
    --------
    >>> table = pd.DataFrame({"arm": ["a"], "score": "r", "difference": 0.2, "low": 0.1,
    ...     "high": 0.3, "n": 8})
    >>> plot_paired_differences(table, {"r": "difference in r"}).axes[0].get_xlabel()
    'difference in r'
    """
    require_columns(table, [arm, "score", "difference", "low", "high", "n"], "table")
    arms = list(dict.fromkeys(table[arm]))
    figure, axes = panels(
        1, len(scores), width=PAGE_WIDTH, height=0.9 + 0.3 * len(arms), sharey=True
    )
    for panel, (score, label) in zip(axes, scores.items(), strict=True):
        panel.axvline(0.0, color=GREY, linewidth=0.8, zorder=1)
        part = table[table["score"] == score].set_index(arm)
        for y, name in enumerate(arms):
            row = part.loc[name]
            if not np.isfinite(row["difference"]):
                panel.annotate(
                    "no matched FVU", (0.5, y), xycoords=("axes fraction", "data"), ha="center",
                    va="center", fontsize=7, color=GREY,
                )  # fmt: skip
                continue
            if np.isfinite(row["low"]):
                panel.plot([row["low"], row["high"]], [y, y], color=PALETTE["blue"], linewidth=1.4)
            panel.plot([row["difference"]], [y], "o", color=PALETTE["blue"], markersize=4.5)
        panel.set_yticks(range(len(arms)), [str(name) for name in arms])
        panel.set_ylim(len(arms) - 0.5, -0.5)
        panel.xaxis.set_major_locator(MaxNLocator(4))
        panel.set_xlabel(label)
        panel.grid(axis="x")
    return figure


@styled
def plot_autocorrelations(
    curves: Mapping[str, np.ndarray],
    *,
    step: float = 1.0,
    unit: str = "rows",
    controls: Mapping[str, np.ndarray] | None = None,
) -> Figure:
    """Mean autocorrelation over lag, controls dashed and grey.

    Parameters
    ----------
    curves, controls : mapping of str to ndarray
        Name to [max_lag + 1] values, lag 0 first.
    step : float
        Time from a lag to the next.
    unit : str
        Of that time.

    Returns
    -------
    Figure

    Examples
    --------
    >>> figure = plot_autocorrelations({"latents": np.array([1.0, 0.5])}, unit="ms", step=50)
    >>> figure.axes[0].get_xlabel()
    'lag (ms)'
    """
    figure, (panel,) = panels(1, 1, width=0.72 * PAGE_WIDTH, height=2.7)
    for (name, curve), hue in zip(curves.items(), COLOURS, strict=False):
        lags = step * np.arange(len(curve))
        panel.plot(lags[1:], np.asarray(curve)[1:], color=PALETTE[hue], label=name)
    for (name, curve), style in zip((controls or {}).items(), CONTROL_STYLES, strict=False):
        lags = step * np.arange(len(curve))
        panel.plot(lags[1:], np.asarray(curve)[1:], color=GREY, linestyle=style, label=name)
    panel.axhline(0.0, color=GREY, linewidth=0.6)
    panel.set_xlabel(f"lag ({unit})")
    panel.set_ylabel("autocorrelation, mean over latents")
    panel.grid(axis="y")
    figure.legend(loc="outside right center")
    return figure
