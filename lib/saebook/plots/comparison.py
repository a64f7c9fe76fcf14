"""Figures of methods compared: one panel per score, single-bin and temporal methods apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from saebook.evaluation.comparison import GROUPS, groups
from saebook.metrics import mean_interval
from saebook.plots.spikes import require_columns
from saebook.plots.style import GREY, LIGHT_GREY, PAGE_WIDTH, PALETTE, panels, styled

COLORS = {"single bin": "blue", "temporal": "vermillion", "transductive": "purple"}
# Points further left than this share of the span, at least this value, would squeeze all others.
LOWEST, LEAST_SPAN = -0.25, 0.4


@styled
def plot_comparison(
    table: pd.DataFrame,
    scores: Mapping[str, str],
    *,
    ceiling: str = "true rates",
    highlight: str = "SAE",
    title: str = "",
) -> Figure:
    """Scores of every method: a point per seed, the mean and its interval over seeds.

    Parameters
    ----------
    table : DataFrame
        From :func:`saebook.evaluation.compare_methods`.
    scores : mapping
        From columns to axis labels, one panel each; those that no row has are left out.
    ceiling : str
        The method that is drawn as a line, not as a row.
    highlight : str
        Methods with this in their name are written bold.
    title : str
        Heading.

    Returns
    -------
    Figure
        Groups stand one below the other with a rule between them. Values far below 0 are drawn
        at the left edge as arrows.

    Raises
    ------
    DataError
        The table lacks a column.

    Examples
    --------
    >>> table = pd.DataFrame({"method": ["PCA", "GPFA"], "seed": 0, "temporal": [False, True],
    ...                       "transductive": False, "co_bps": [0.1, 0.2]})
    >>> figure = plot_comparison(table, {"co_bps": "co-smoothing (bits/spike)"})
    >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
    ['PCA', 'GPFA']
    """
    require_columns(table, ["method", "seed", "temporal", "transductive"], "comparison")
    grouped: Any = table.assign(group=groups(table))
    top = grouped[grouped["method"] == ceiling]
    shown = grouped[(grouped["group"] != "") & (grouped["method"] != ceiling)]
    scores = {name: text for name, text in scores.items() if shown[name].notna().any()}
    place: dict[str, float] = {}
    borders, y = [], 0.0
    for group in GROUPS:
        names = list(dict.fromkeys(shown.loc[shown["group"] == group, "method"]))
        if names and place:
            borders.append(y - 0.25)
            y += 0.5
        for name in names:
            place[name] = y
            y += 1.0
    n = max(1, len(scores))
    columns = min(3, n)
    n_rows = -(-n // columns)
    height = n_rows * (0.155 * max(y, 4) + 0.62) + 0.3
    figure, axes = panels(n_rows, columns, width=PAGE_WIDTH, height=height, sharey=True)
    for ax, (score, label) in zip(axes, scores.items()):
        known = top[score].dropna()
        _panel(ax, shown, score, place, float(known.mean()) if len(known) else 0.0)
        if len(known):
            ax.axvline(float(known.mean()), color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
        for border in borders:
            ax.axhline(border, color=LIGHT_GREY, linewidth=0.6)
        ax.set_xlabel(label)
    for ax in axes[len(scores) :]:
        ax.set_visible(False)
    first = axes[0]
    first.set_ylim(y - 0.5, -0.5)
    first.set_yticks(list(place.values()), list(place))
    for ax in axes[::columns]:
        for tick in ax.get_yticklabels():
            tick.set_fontsize(7.5)
            tick.set_fontweight("bold" if highlight in tick.get_text() else "normal")
    from matplotlib.lines import Line2D

    present = [g for g in GROUPS if (shown["group"] == g).any()]
    handles = [
        Line2D([], [], marker="o", linestyle="", color=PALETTE[COLORS[g]], label=g) for g in present
    ]
    if len(top):
        handles.append(Line2D([], [], color=GREY, linestyle=(0, (4, 3)), label=ceiling))
    figure.legend(
        handles=handles,
        loc="outside upper center",
        ncols=len(handles),
        frameon=False,
        title=title or None,
    )
    return figure


def _panel(ax: Axes, table: Any, score: str, place: Mapping[str, float], top: float) -> None:
    values = table[score].dropna()
    high = max(float(values.max()), top)
    of = {
        name: table[(table["method"] == name) & table[score].notna()]
        for name in place
        if ((table["method"] == name) & table[score].notna()).any()
    }
    intervals = {name: mean_interval(rows[score]) for name, rows in of.items()}
    ends = [i.low for i in intervals.values() if i.n > 1]
    low = max(min([float(values.min()), *ends]), LOWEST * max(high, LEAST_SPAN))
    for name, rows in of.items():
        y, interval = place[name], intervals[name]
        color = PALETTE[COLORS[rows["group"].iloc[0]]]
        seen = rows[score].to_numpy()
        inside = seen >= low
        ax.plot(seen[inside], np.full(inside.sum(), y), "o", ms=2.5, color=color, alpha=0.45)
        if not inside.all():
            ax.plot([low], [y], marker="<", ms=4, color=color, clip_on=False)
        if interval.n > 1:
            ends = [max(interval.low, low), max(interval.high, low)]
            ax.plot(ends, [y, y], color=color, linewidth=1.2)
        if interval.mean >= low:
            ax.plot([interval.mean], [y], "o", ms=5, color=color)
    if low < 0 < high:
        ax.axvline(0.0, color=LIGHT_GREY, linewidth=0.6, zorder=0)
    ax.tick_params(axis="y", length=0)
