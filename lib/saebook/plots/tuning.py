"""Figures of one tuning claim: the curve with its null, and the score beside its rivals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from saebook.plots.spikes import require_columns
from saebook.plots.style import (
    COLUMN_WIDTH,
    GREY,
    LIGHT_GREY,
    PALETTE,
    panels,
    styled,
    vertical_line,
)


@styled
def plot_tuning_claim(
    score: Any,
    variable: Any,
    rivals: pd.DataFrame,
    *,
    title: str = "",
) -> Figure:
    """A tuning curve on test rows within its null, and its score beside the rivals'.

    Parameters
    ----------
    score : TuningScore
        From ``score_tuning``.
    variable : Variable
        The variable scored.
    rivals : DataFrame
        One row per signal scored in the same way, index its name; columns ``r2``, ``low``,
        ``high`` (NaN for no interval) and ``p``. The first row is set off.
    title : str
        Heading of the left panel.

    Returns
    -------
    Figure
        Left, mean activity per step: test rows, training rows dashed, and the 95 % band of
        circular shifts. Right, variance explained on test rows.

    Raises
    ------
    DataError
        The table lacks a column.

    Examples
    --------
    >>> from saebook.evaluation.tuning import score_tuning
    >>> from saebook.evaluation.variables import Variable
    >>> step = np.arange(400) % 4
    >>> phase = Variable("phase", "continuous", step * 1.0, step, np.arange(4.0))
    >>> rows = np.arange(400)
    >>> score = score_tuning(step[:200], step[200:], phase, rows[:200], rows[200:], bin_size_s=1.0)
    >>> table = pd.DataFrame({"r2": [1.0], "low": [0.9], "high": [1.0], "p": [0.01]}, ["latent"])
    >>> len(plot_tuning_claim(score, phase, table).axes)
    2
    """
    require_columns(rivals, ["r2", "low", "high", "p"], "rivals")
    figure, (curve, points) = panels(1, 2, height=2.7, width_ratios=[1.2, 1.0])
    _draw_curves(curve, score, variable)
    curve.set_title(title or "Tuning on test rows")
    _draw_rivals(points, rivals)
    return figure


def _draw_curves(axes: Axes, score: Any, variable: Any) -> None:
    centres = np.asarray(variable.centres)
    names = variable.conditions or ("",)
    test = score.curve_test.reshape(len(names), -1)
    train = score.curve_train.reshape(len(names), -1)
    with np.errstate(all="ignore"):
        shifted = score.null_curves.reshape(-1, len(names), len(centres))
        # Over conditions as well: chance does not know them.
        shifted = shifted.reshape(-1, len(centres))
        known = np.isfinite(shifted).any(axis=0) if len(shifted) else np.zeros(len(centres), bool)
    if known.any():
        low, high = np.nanquantile(shifted[:, known], [0.025, 0.975], axis=0)
        axes.fill_between(
            centres[known], low, high, color=LIGHT_GREY, alpha=0.6, lw=0, label="shifted (95 %)"
        )
    for i, (name, color) in enumerate(zip(names, PALETTE.values(), strict=False)):
        axes.plot(centres, test[i], "o-", color=color, label=name or "test")
        axes.plot(centres, train[i], "--", color=color, lw=0.9, label=None if name else "training")
    # Room for the legend above the curves.
    axes.set_ylim(0, 1.3 * axes.get_ylim()[1])
    axes.set_xlabel(variable.axis)
    axes.set_ylabel("mean activity")
    if variable.kind == "event":
        vertical_line(axes, 0.0)
    if variable.kind == "circular":
        axes.set_xticks([-180, -90, 0, 90, 180])
    axes.legend(loc="upper left", fontsize=7, ncols=3, columnspacing=1.0)


def _draw_rivals(axes: Axes, rivals: pd.DataFrame) -> None:
    rows = np.arange(len(rivals))
    r2 = rivals["r2"].to_numpy(dtype=float)
    ends = rivals[["low", "high"]].to_numpy(dtype=float)
    for row in rows:
        color = PALETTE["blue"] if row == 0 else GREY
        if np.isfinite(ends[row]).all():
            axes.plot(ends[row], [row, row], color=color, lw=1.4)
        axes.plot(r2[row], row, "o", color=color, markersize=6 if row == 0 else 5)
    p = rivals["p"].to_numpy(dtype=float)
    labels = [f"{n}\np = {v:.3f}" if np.isfinite(v) else str(n) for n, v in zip(rivals.index, p)]
    axes.set_yticks(rows, labels)
    axes.set_ylim(len(rivals) - 0.5, -0.5)
    shown = np.r_[r2, ends.ravel(), 0.0]
    low, high = max(np.nanmin(shown), -1.0), np.nanmax(shown)
    margin = max(0.05 * (high - low), 0.005)
    axes.set_xlim(low - margin, high + margin)
    vertical_line(axes, 0.0)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("test variance explained")
    axes.set_title("Beside its rivals")


@styled
def plot_decoder_weights(
    weights: Any, unit_names: Any, *, truth: Any = None, truth_name: str = "", title: str = ""
) -> Figure:
    """What a latent adds to each unit, largest first, and where known what its feature truly does.

    Parameters
    ----------
    weights : array
        [n_units] decoder direction in spikes per unit of activity.
    unit_names : sequence
        [n_units] ids of the units.
    truth : array, optional
        [n_units] planted weights of one feature; drawn at the same largest absolute value.
    truth_name : str
        Name of that feature.
    title : str
        Heading.

    Returns
    -------
    Figure
        One bar per unit, at most 30, and one ring per planted weight.

    Examples
    --------
    >>> len(plot_decoder_weights([0.1, -0.3], ["a", "b"]).axes[0].patches)
    2
    """
    weights = np.asarray(weights, dtype=float)
    truth = None if truth is None else np.asarray(truth, dtype=float)
    size = np.abs(weights)
    if truth is not None and np.abs(truth).max() > 0 and size.max() > 0:
        truth = truth * size.max() / np.abs(truth).max()
        size = np.maximum(size, np.abs(truth))
    order = np.argsort(-size, kind="stable")[:30]
    width = float(np.clip(0.9 + 0.2 * len(order), COLUMN_WIDTH, 6.8))
    figure, (axes,) = panels(width=width, height=2.4)
    axes.bar(range(len(order)), weights[order], color=PALETTE["blue"], width=0.7, label="decoder")
    if truth is not None:
        axes.plot(
            range(len(order)), truth[order], "o", color=PALETTE["vermillion"], mfc="none",
            label=f"planted: {truth_name} (rescaled)",
        )  # fmt: skip
        axes.legend(loc="upper right")
    axes.axhline(0.0, color=GREY, lw=0.7)
    axes.set_xticks(range(len(order)), [str(unit_names[i]) for i in order], rotation=90)
    axes.set_xlim(-0.7, len(order) - 0.3)
    axes.set_xlabel("unit, largest weight first")
    axes.set_ylabel("weight (spikes)")
    axes.set_title(title or "Units that define the latent")
    return figure
