"""Figures of a training run."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from saebook.plots.spikes import require_columns
from saebook.plots.style import PALETTE, horizontal_line, panels, styled, vertical_line


@styled
def plot_training_history(
    history: pd.DataFrame,
    *,
    target_l0: float | None = None,
    raw_unit_fvu: float | None = None,
    phases: dict[str, float] | None = None,
) -> Figure:
    """FVU, L0, dead latents and learning rate over training.

    Parameters
    ----------
    history : DataFrame
        ``step``, ``fvu``, ``l0``, ``dead`` (share of latents), ``learning_rate``; with a
        column ``seed``, one line per seed.
    target_l0 : float, optional
        The k asked for.
    raw_unit_fvu : float, optional
        FVU of copying as many raw units, the control that a count model must be set against.
    phases : dict, optional
        Name to step at which it begins, drawn as vertical lines.

    Returns
    -------
    Figure
        Four panels over steps.

    Raises
    ------
    DataError
        The table lacks a column.

    Examples
    --------
    >>> history = pd.DataFrame({"step": [1, 2], "fvu": [0.9, 0.5], "l0": [8.0, 8.0],
    ...     "dead": [0.0, 0.1], "learning_rate": [1e-3, 1e-3]})
    >>> len(plot_training_history(history, target_l0=8).axes)
    4
    """
    columns = {"fvu": "FVU", "l0": "L0", "dead": "dead (%)", "learning_rate": "learning rate"}
    titles = ("Variance unexplained", "Active latents", "Dead latents", "Learning rate")
    require_columns(history, ["step", *columns], "history")
    figure, axes = panels(2, 2, height=3.7, sharex=True)
    runs = history.groupby("seed", sort=False) if "seed" in history else [(0, history)]
    colors = ("blue", "green", "vermillion", "black")
    for panel, (column, label), title, color in zip(
        axes, columns.items(), titles, colors, strict=True
    ):
        scale = 100.0 if column == "dead" else 1.0
        for _, run in runs:
            many = "seed" in history
            panel.plot(
                run["step"], scale * run[column], color=PALETTE[color],
                alpha=0.55 if many else 1.0, linewidth=1.0 if many else 1.5,
            )  # fmt: skip
        panel.set_ylabel(label)
        panel.set_title(title)
        panel.grid(axis="y")
        if phases:
            for name, step in phases.items():
                vertical_line(panel, step, name if column == "learning_rate" else "")
    error, active, dead, rate = axes
    _set_error_limits(error, history["fvu"].to_numpy(dtype=float))
    if raw_unit_fvu is not None:
        horizontal_line(error, raw_unit_fvu, "raw units, same L0")
    high = max(history["l0"].tolist())
    if target_l0 is not None:
        horizontal_line(active, target_l0, "target")
        high = max(high, target_l0)
    active.set_ylim(0, 1.12 * high if high > 0 else 1.0)
    top = max(5.0, 115 * max(history["dead"].tolist()))
    dead.set_ylim(-0.03 * top, top)  # a line at zero stays visible
    rate.yaxis.set_major_formatter("{x:g}")
    rate.set_ylim(bottom=0)
    for panel in axes[2:]:
        panel.set_xlabel("step")
    figure.align_ylabels()
    return figure


def _set_error_limits(panel, values: np.ndarray) -> None:
    """From zero to a little above the mean predictor; a bad start is cut off, a bad end shown."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return
    top = max(1.05, 1.1 * float(finite[len(finite) // 2 :].max()))
    panel.set_ylim(0, top)
    horizontal_line(panel, 1.0, "mean of the data", above=False)
