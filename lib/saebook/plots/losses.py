"""Figures that compare losses: what each is smallest at, and how models trained by it score."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from saebook.metrics import mean_interval
from saebook.plots.spikes import require_columns
from saebook.plots.style import GREY, LIGHT_GREY, PAGE_WIDTH, PALETTE, panels, styled

COLOURS = ("blue", "vermillion", "green", "purple", "orange", "black")
MARKS = ("o", "s", "^", "D", "v", "P")
CONTROL_STYLES = ((0, (4, 3)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), "solid")


@styled
def plot_minimisers(
    means: np.ndarray, best: Mapping[str, np.ndarray], weights: Mapping[str, np.ndarray]
) -> Figure:
    """What a constant rate becomes under each loss, and how much each unit counts in it.

    Parameters
    ----------
    means : ndarray
        [n] Poisson means, spikes per bin.
    best : mapping of str to ndarray
        Loss to the constants that minimise it, [n], spikes per bin.
    weights : mapping of str to ndarray
        Loss to its curvature at a rate equal to the mean, [n]: what a small error costs.

    Returns
    -------
    Figure

    Examples
    --------
    >>> means = np.array([0.1, 1.0])
    >>> figure = plot_minimisers(means, {"MSE": means}, {"MSE": np.ones(2)})
    >>> [axes.get_xscale() for axes in figure.axes]
    ['log', 'log']
    """
    figure, (left, right) = panels(1, 2, height=2.9)
    colours = dict(zip(dict.fromkeys((*weights, *best)), COLOURS, strict=False))
    for n, (name, values) in enumerate(best.items()):
        style = "-" if n == 0 else (0, (5, 1 + n))
        left.plot(means, values / means, linestyle=style, color=PALETTE[colours[name]], label=name)
    for name, values in weights.items():
        relative = values / values[len(values) // 2]
        right.plot(means, relative, color=PALETTE[colours[name]], label=name)
    left.set_yscale("log")
    left.set_yticks([0.25, 0.5, 1, 2, 4, 8], ["0.25", "0.5", "1", "2", "4", "8"])
    left.minorticks_off()
    left.set_ylabel("best constant / mean count")
    left.set_title("What the loss asks for")
    right.set_yscale("log")
    right.set_ylabel("curvature, relative")
    right.set_title("What an error costs")
    for panel in (left, right):
        panel.set_xscale("log")
        panel.set_xlabel("mean count (spikes/bin)")
        panel.grid(axis="y")
    left.legend(loc="upper left")
    right.legend(loc="lower left")
    return figure


@styled
def plot_judged(
    scores: pd.DataFrame,
    judges: Mapping[str, str],
    *,
    place: str,
    colour: str,
    controls: Mapping[str, Mapping[str, float]] | None = None,
    targets: Mapping[str, float] | None = None,
    n_columns: int = 3,
) -> Figure:
    """Points over seeds, their mean and interval, one panel per judge.

    Parameters
    ----------
    scores : DataFrame
        One row per run: columns ``place`` and ``colour``, and one per judge.
    judges : mapping of str to str
        Column to the label of its axis.
    place : str
        Column along the horizontal axis.
    colour : str
        Column that is told by colour.
    controls : mapping, optional
        Name of a control to its score by judge; drawn as lines where it has one.
    targets : mapping of str to float, optional
        By judge, the value that is right: a thin solid line.
    n_columns : int
        Panels per row.

    Returns
    -------
    Figure
        Intervals (95 %, of the mean) only from three seeds on.

    Raises
    ------
    DataError
        The table lacks a column.

    Examples
    --------
    >>> scores = pd.DataFrame({"rule": ["a", "b"], "loss": ["mse", "mse"], "r2": [0.1, 0.2]})
    >>> figure = plot_judged(scores, {"r2": "R²"}, place="rule", colour="loss")
    >>> figure.axes[0].get_ylabel()
    'R²'
    """
    require_columns(scores, [place, colour, *judges], "scores")
    places, colours = (list(dict.fromkeys(scores[name])) for name in (place, colour))
    n_rows = -(-len(judges) // n_columns)
    n_columns = min(n_columns, len(judges))
    width = PAGE_WIDTH if n_columns > 1 else 0.7 * PAGE_WIDTH
    figure, axes = panels(n_rows, n_columns, width=width, height=0.7 + 2.15 * n_rows)
    offsets = np.linspace(-0.26, 0.26, len(colours)) if len(colours) > 1 else [0.0]
    controls = controls or {}
    for panel, (judge, label) in zip(axes, judges.items(), strict=False):
        for name, offset, hue, mark in zip(colours, offsets, COLOURS, MARKS, strict=False):
            part = scores[scores[colour] == name]
            for x, where in enumerate(places):
                values = part.loc[part[place] == where, judge].dropna().to_numpy(float)
                _points(panel, x + offset, values, PALETTE[hue], mark)
        for style, levels in zip(CONTROL_STYLES, controls.values(), strict=False):
            if np.isfinite(levels.get(judge, np.nan)):
                panel.axhline(levels[judge], color=GREY, linewidth=1.0, linestyle=style, zorder=1)
        if judge in (targets or {}):
            panel.axhline((targets or {})[judge], color=LIGHT_GREY, linewidth=1.6, zorder=0)
        crowded = len(places) > 3
        panel.set_xticks(
            range(len(places)),
            [str(name) for name in places],
            rotation=30 if crowded else 0,
            ha="right" if crowded else "center",
            rotation_mode="anchor" if crowded else "default",
        )
        panel.set_xlim(-0.55, len(places) - 0.45)
        panel.set_ylabel(label)
        panel.grid(axis="y")
    for panel in axes[len(judges) :]:
        panel.set_axis_off()
    handles = [
        Line2D([], [], color=PALETTE[hue], marker=mark, linestyle="none", label=str(name))
        for name, hue, mark in zip(colours, COLOURS, MARKS, strict=False)
    ]
    handles += [
        Line2D([], [], color=GREY, linewidth=1.0, linestyle=style, label=name)
        for name, style in zip(controls, CONTROL_STYLES, strict=False)
    ]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=legend_columns(len(handles)),
        columnspacing=1.2,
    )  # fmt: skip
    return figure


def legend_columns(n: int) -> int:
    """Columns of a legend of n entries: one row of up to four, or rows of nearly equal length.

    Examples
    --------
    >>> [legend_columns(n) for n in (1, 4, 5, 6, 7, 9)]
    [1, 4, 3, 3, 4, 3]
    """
    n_rows = max(1, -(-n // 4))
    return max(1, -(-n // n_rows))


def _points(panel: Axes, x: float, values: np.ndarray, colour: str, mark: str) -> None:
    if not len(values):
        return
    panel.plot([x] * len(values), values, mark, color=colour, alpha=0.35, markersize=3)
    panel.plot([x], [values.mean()], mark, color=colour, markersize=5)
    if len(values) >= 3:
        interval = mean_interval(values)
        panel.plot([x, x], [interval.low, interval.high], color=colour, linewidth=1.2)


@styled
def plot_populations(
    scores: pd.DataFrame,
    score: str,
    label: str,
    *,
    x: str = "spikes",
    x_label: str = "spikes per bin of the population",
    panel: str = "units",
    colour: str = "loss",
    control: str = "raw units",
) -> Figure:
    """One score over the spikes of a bin, one panel per kind of population.

    Parameters
    ----------
    scores : DataFrame
        One row per run, with a column for each of the other arguments.
    score : str
        Column along the vertical axis.
    label : str
        Of that axis.
    x, x_label : str
        Column along the horizontal axis, positive, and its label.
    panel, colour : str
        Columns told by panel, titled with their values, and by colour.
    control : str
        The value of ``colour`` that is drawn grey and dashed.

    Returns
    -------
    Figure
        Intervals (95 %, of the mean) only from three seeds on.

    Raises
    ------
    DataError
        The table lacks a column.

    Examples
    --------
    >>> scores = pd.DataFrame({"units": "4 units", "loss": ["MSE", "LMSE"], "spikes": 2.0, "r": 0.5})
    >>> [panel.get_title("left") for panel in plot_populations(scores, "r", "r").axes]
    ['4 units']
    """
    require_columns(scores, [x, panel, colour, score], "scores")
    kinds = list(dict.fromkeys(scores[panel]))
    names = sorted(dict.fromkeys(scores[colour]), key=lambda name: name == control)
    width = PAGE_WIDTH if len(kinds) > 1 else 0.6 * PAGE_WIDTH
    figure, axes = panels(1, len(kinds), width=width, height=2.8, sharey=True, sharex=True)
    handles = []
    for n, name in enumerate(names):
        drawn, mark = (GREY, "d") if name == control else (PALETTE[COLOURS[n]], MARKS[n])
        dashes = (0, (3, 2)) if name == control else "-"
        shift = 1.03 ** (n - (len(names) - 1) / 2)  # intervals side by side, not on each other
        handles.append(Line2D([], [], color=drawn, marker=mark, linestyle=dashes, label=str(name)))
        for axis, kind in zip(axes, kinds, strict=True):
            chosen = (scores[colour] == name) & (scores[panel] == kind)
            places, values = scores.loc[chosen, [x, score]].to_numpy(float).T
            at = np.unique(places[np.isfinite(values)])
            groups = [values[(places == place) & np.isfinite(values)] for place in at]
            means = [group.mean() for group in groups]
            axis.plot(at * shift, means, linestyle=dashes, color=drawn, linewidth=1.2)
            for place, group in zip(at, groups, strict=True):
                _points(axis, place * shift, group, drawn, mark)
    at = np.unique(scores[x].to_numpy(float))
    for axis, kind in zip(axes, kinds, strict=True):
        axis.set_title(str(kind))
        axis.set_xscale("log")
        axis.set_xticks(at, [f"{value:.3g}" for value in at])
        axis.minorticks_off()
        axis.set_xlim(at.min() / 1.5, at.max() * 1.5)
        axis.set_xlabel(x_label)
        axis.grid(axis="y")
    axes[0].set_ylabel(label)
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), handlelength=3)
    return figure


@styled
def plot_count_response(
    counts: np.ndarray,
    responses: Mapping[str, np.ndarray],
    asked: Mapping[str, np.ndarray],
    *,
    undone: Mapping[str, np.ndarray] | None = None,
) -> Figure:
    """Mean reconstruction of each count beside what its loss asks for.

    Parameters
    ----------
    counts : ndarray
        [n] counts, spikes per bin.
    responses, asked : mapping of str to ndarray
        Setting to mean reconstructions, and to what the loss is smallest at, [n].
    undone : mapping, optional
        As ``responses``, after the bias was taken back; in a second panel.

    Returns
    -------
    Figure

    Examples
    --------
    >>> counts = np.arange(3)
    >>> plot_count_response(counts, {"τ = 1": counts}, {"τ = 1": counts}).axes[0].get_yscale()
    'symlog'
    """
    shown = [responses] if undone is None else [responses, undone]
    titles = ["As trained", "Bias taken back"]
    figure, axes = panels(1, len(shown), width=PAGE_WIDTH, height=2.9, sharey=True)
    for panel, lines, title in zip(axes, shown, titles, strict=False):
        for (name, values), hue, mark in zip(lines.items(), COLOURS, MARKS, strict=False):
            panel.plot(counts, values, mark, color=PALETTE[hue], label=name)
            target = asked[name] if lines is responses else counts
            panel.plot(counts, target, linestyle=(0, (4, 3)), color=PALETTE[hue], linewidth=1.0)
        panel.set_yscale("symlog", linthresh=1.0)
        panel.set_yticks([0, 1, 3, 10, 30], ["0", "1", "3", "10", "30"])
        panel.minorticks_off()
        panel.set_xlabel("count in the bin (spikes)")
        panel.set_title(title)
        panel.grid(axis="y")
    axes[0].set_ylabel("mean reconstruction (spikes)")
    axes[0].legend(loc="upper left")
    return figure


@styled
def plot_against_coefficient(
    scores: pd.DataFrame, curves: Mapping[str, str], *, coefficient: str = "coefficient"
) -> Figure:
    """Scores over the sparsity coefficient, one panel each, the best value ringed.

    Parameters
    ----------
    scores : DataFrame
        One row per run: the coefficient and one column per curve.
    curves : mapping of str to str
        Column to the label of its axis. A label that ends in "↓" marks a score to be small.
    coefficient : str
        Column along the horizontal axis.

    Returns
    -------
    Figure

    Raises
    ------
    DataError
        The table lacks a column.

    Examples
    --------
    >>> scores = pd.DataFrame({"coefficient": [1.0, 2.0], "total": [3.0, 5.0]})
    >>> len(plot_against_coefficient(scores, {"total": "total loss ↓"}).axes)
    1
    """
    require_columns(scores, [coefficient, *curves], "scores")
    figure, axes = panels(1, len(curves), height=2.5)
    for panel, (column, label) in zip(axes, curves.items(), strict=True):
        panel.plot(scores[coefficient], scores[column], "o", color=PALETTE["blue"], alpha=0.35)
        at = scores[coefficient].to_numpy(float)
        levels = np.unique(at)
        means = np.array([scores[column].to_numpy(float)[at == level].mean() for level in levels])
        panel.plot(levels, means, "-", color=PALETTE["blue"])
        best = int(np.argmin(means) if label.endswith("↓") else np.argmax(means))
        panel.plot(
            levels[best], means[best], "o", markersize=11, markerfacecolor="none",
            markeredgecolor=PALETTE["vermillion"], markeredgewidth=1.4,
        )  # fmt: skip
        panel.set_xscale("log")
        panel.set_xticks(levels, [f"{level:g}" for level in levels])
        panel.minorticks_off()
        panel.set_xlabel("sparsity coefficient λ")
        panel.set_ylabel(label)
        panel.grid(axis="y")
    return figure
