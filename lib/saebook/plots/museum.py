"""Figures of the failure museum: what a fix changed, and curves of several runs."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from saebook.plots.losses import COLOURS
from saebook.plots.spikes import require_columns
from saebook.plots.style import (
    GREY,
    LIGHT_GREY,
    PAGE_WIDTH,
    PALETTE,
    horizontal_line,
    panels,
    styled,
)

WORST_SHOWN = 2.0
DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (4, 1, 1, 1)), (0, (8, 2)), (0, (2, 1)))
NAMED_BY = {"error": "vermillion", "warning": "orange", "note": "sky"}


@styled
def plot_before_after(exhibits: pd.DataFrame, label: str = "FVU") -> Figure:
    """A score before and after each fix, one line per exhibit.

    Parameters
    ----------
    exhibits : DataFrame
        One row per exhibit: ``exhibit``, ``before``, ``after``, and ``severity`` of the finding
        that named it ("error", "warning", "note"; empty: no detector).
    label : str
        Of the axis. Values above 2 are drawn at its end, with their number.

    Returns
    -------
    Figure

    Raises
    ------
    DataError
        The table lacks a column.

    Examples
    --------
    >>> exhibits = pd.DataFrame({"exhibit": ["zero weights"], "before": [1.9], "after": [0.2],
    ...     "severity": ["error"]})
    >>> plot_before_after(exhibits).axes[0].get_xlabel()
    'FVU'
    """
    require_columns(exhibits, ["exhibit", "before", "after", "severity"], "exhibits")
    figure, (axes,) = panels(1, 1, height=0.9 + 0.27 * len(exhibits))
    for y, row in enumerate(exhibits.to_dict("records")):
        before, after = (min(float(row[name]), WORST_SHOWN) for name in ("before", "after"))
        colour = PALETTE[NAMED_BY[row["severity"]]] if row["severity"] in NAMED_BY else GREY
        axes.plot([before, after], [y, y], color=LIGHT_GREY, linewidth=1.6, zorder=1)
        axes.plot(before, y, "X", color=colour, markersize=6)
        axes.plot(after, y, "o", color=PALETTE["green"], markersize=5)
        if row["before"] > WORST_SHOWN:
            axes.annotate(
                f"{row['before']:.3g}", (before, y), xytext=(5, 0), va="center",
                textcoords="offset points", fontsize=7.5,
            )  # fmt: skip
    axes.axvline(1.0, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
    axes.set_yticks(range(len(exhibits)), list(exhibits["exhibit"]))
    axes.set_ylim(len(exhibits) - 0.4, -0.6)
    axes.set_xlim(left=0)
    axes.set_xlabel(label)
    severities = set(exhibits["severity"])
    handles = [
        Line2D([], [], color=PALETTE[hue], marker="X", linestyle="none", label=f"before: {name}")
        for name, hue in NAMED_BY.items()
        if name in severities
    ]
    if severities - set(NAMED_BY):
        handles.append(
            Line2D([], [], color=GREY, marker="X", linestyle="none", label="before: no detector")
        )
    handles += [
        Line2D([], [], color=PALETTE["green"], marker="o", linestyle="none", label="after"),
        Line2D([], [], color=GREY, linewidth=0.8, linestyle=(0, (4, 3)), label="mean of the data"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, columnspacing=1.2)
    return figure


@styled
def plot_curves(
    panels_of_curves: Mapping[str, Mapping[str, pd.DataFrame]],
    *,
    x: str,
    y: str,
    labels: tuple[str, str],
    scales: tuple[str, str] = ("linear", "linear"),
    top: float | None = None,
    reference: tuple[float, str] | None = None,
) -> Figure:
    """Curves of several runs, one panel per group.

    Parameters
    ----------
    panels_of_curves : mapping of str to mapping of str to DataFrame
        Title of a panel to its curves by name; a table with a column ``seed`` gives one line per
        seed. The same name has the same colour in every panel.
    x, y : str
        Columns along the axes.
    labels : tuple of str
        Of both axes.
    scales : tuple of str
        Of both axes, as matplotlib names them.
    top : float, optional
        Upper end of the vertical axis.
    reference : tuple of float and str, optional
        A horizontal line and its name.

    Returns
    -------
    Figure

    Raises
    ------
    DataError
        A table lacks a column.

    Examples
    --------
    >>> run = pd.DataFrame({"step": [1, 2], "fvu": [1.0, 0.5]})
    >>> figure = plot_curves({"Adam": {"λ = 1": run}}, x="step", y="fvu", labels=("step", "FVU"))
    >>> figure.axes[0].get_xlabel()
    'step'
    """
    names = list(dict.fromkeys(name for curves in panels_of_curves.values() for name in curves))
    style = {
        name: {"color": PALETTE[hue], "linestyle": dashes}
        for name, hue, dashes in zip(names, COLOURS, DASHES, strict=False)
    }
    width = PAGE_WIDTH if len(panels_of_curves) > 1 else 0.75 * PAGE_WIDTH
    figure, axes = panels(1, len(panels_of_curves), width=width, height=2.9, sharey=True)
    for panel, (title, curves) in zip(axes, panels_of_curves.items(), strict=True):
        for name, table in curves.items():
            require_columns(table, [x, y], name)
            runs = table.groupby("seed") if "seed" in table else [(0, table)]
            for _, run in runs:
                panel.plot(run[x], run[y], linewidth=1.3, **style[name])
        panel.set_xscale(scales[0])
        panel.set_yscale(scales[1])
        panel.set_title(title)
        panel.set_xlabel(labels[0])
        panel.grid(axis="y")
        if reference is not None:
            horizontal_line(panel, *reference)
    if top is not None:
        axes[0].set_ylim(top=top)
    axes[0].set_ylabel(labels[1])
    handles = [Line2D([], [], label=name, **style[name]) for name in names]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(names)))
    return figure
