"""Figures of single latents: what they follow in time and in behaviour."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from saebook.errors import DataError
from saebook.plots.style import COLUMN_WIDTH, PALETTE, panels, styled, vertical_line


@styled
def plot_latent_peth(
    activity: Any,
    lags_s: Any,
    *,
    condition: Any = None,
    event: str = "event",
    title: str = "",
    max_conditions: int = 8,
) -> Figure:
    """A latent's activity around an event: each trial, and the mean per condition.

    Parameters
    ----------
    activity : array
        [n_trials, n_lags] of one latent; NaN where a trial does not reach.
    lags_s : array
        [n_lags] time from the event, s.
    condition : array, optional
        [n_trials] labels; trials are grouped by them and each gets its own mean.
    event : str
        Name of the event, for the axis.
    title : str
        Heading, such as the latent's number.
    max_conditions : int
        More distinct conditions than this are refused: the palette ends there.

    Returns
    -------
    Figure
        Left, trials as rows; right, mean ± standard error over trials.

    Raises
    ------
    DataError
        Shapes disagree, or too many conditions.

    Examples
    --------
    >>> figure = plot_latent_peth(np.ones((4, 3)), [-0.1, 0.0, 0.1], event="go cue")
    >>> figure.axes[1].get_xlabel()
    'time from go cue (s)'
    """
    values, lags = np.asarray(activity, dtype=float), np.asarray(lags_s, dtype=float)
    if values.ndim != 2 or values.shape[1] != len(lags) or not values.size:
        raise DataError(
            f"activity has shape {values.shape}, lags {lags.shape}: give [trials, lags]"
        )
    labels = np.zeros(len(values), dtype=int) if condition is None else np.asarray(condition)
    if len(labels) != len(values):
        raise DataError(f"{len(labels)} conditions for {len(values)} trials")
    kinds = list(dict.fromkeys(sorted(labels.tolist())))
    if len(kinds) > max_conditions:
        raise DataError(f"{len(kinds)} conditions, at most {max_conditions} can be told apart")
    order = np.concatenate([np.flatnonzero(labels == kind) for kind in kinds])
    figure, (trials, mean) = panels(1, 2, height=2.6, width_ratios=[1.15, 1.0])
    half = (lags[1] - lags[0]) / 2 if len(lags) > 1 else 0.5
    top = float(np.nanquantile(values, 0.995)) or float(np.nanmax(values)) or 1.0
    image = trials.imshow(
        values[order], aspect="auto", cmap="Greys", vmin=0.0, vmax=top,
        extent=(lags[0] - half, lags[-1] + half, len(values), 0),
    )  # fmt: skip
    bar = figure.colorbar(image, ax=trials, fraction=0.05, pad=0.06)
    bar.set_label("latent activity")
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    colors = list(PALETTE.values())
    begin = 0
    for kind, color in zip(kinds, colors, strict=False):
        rows = values[labels == kind]
        if len(kinds) > 1:
            trials.add_patch(_side_bar(trials, begin, len(rows), color))
            begin += len(rows)
        counts = np.isfinite(rows).sum(0)
        safe = np.maximum(counts, 1)
        average = np.where(counts > 0, np.nansum(rows, axis=0) / safe, np.nan)
        spread = np.nansum((rows - average) ** 2, axis=0) / np.maximum(safe - 1, 1)
        error = np.where(counts > 1, np.sqrt(spread / safe), 0.0)
        mean.plot(lags, average, color=color, label=str(kind))
        mean.fill_between(lags, average - error, average + error, color=color, alpha=0.2, lw=0)
    for axes in (trials, mean):
        vertical_line(axes, 0.0)
        axes.set_xlabel(f"time from {event} (s)")
        axes.locator_params(axis="x", nbins=5)
        axes.set_xlim(lags[0] - half, lags[-1] + half)
    trials.set_ylabel("trial" if len(kinds) == 1 else "trial, by condition", labelpad=9)
    mean.set_ylabel("mean activity ± s.e.")
    mean.set_ylim(bottom=0)
    if len(kinds) > 1:
        mean.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    if title:
        trials.set_title(title)
    return figure


def _side_bar(axes: Any, begin: int, length: int, color: str) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle(
        (-0.035, begin), 0.022, length, color=color, lw=0, clip_on=False,
        transform=axes.get_yaxis_transform(),
    )  # fmt: skip


@styled
def plot_latent_tuning(
    variable: Any,
    activity: Any,
    *,
    name: str,
    unit: str = "",
    n_bins: int = 16,
    circular: bool = False,
    title: str = "",
) -> Figure:
    """A latent's mean activity as a function of a behavioural variable.

    Parameters
    ----------
    variable : array
        [n] value per bin (position, direction, speed, …); NaN where unknown.
    activity : array
        [n] of one latent.
    name, unit : str
        For the axis; the unit may be empty.
    n_bins : int
        Equal steps between the smallest and largest value, or around the circle.
    circular : bool
        The variable is an angle in radians; drawn from -180 to 180 degrees, ends joined.
    title : str
        Heading, such as the latent's number.

    Returns
    -------
    Figure
        Mean ± standard error above, time spent below. Neighbouring time bins are not
        independent, so the error bars are too short by the autocorrelation.

    Raises
    ------
    DataError
        Shapes disagree, or no finite value.

    Examples
    --------
    >>> figure = plot_latent_tuning(np.linspace(0, 1, 50), np.ones(50), name="position", unit="m")
    >>> figure.axes[1].get_xlabel()
    'position (m)'
    """
    x, y = np.asarray(variable, dtype=float), np.asarray(activity, dtype=float)
    if x.ndim != 1 or x.shape != y.shape:
        raise DataError(f"variable has shape {x.shape}, activity {y.shape}: give [n] each")
    known = np.isfinite(x) & np.isfinite(y)
    if not known.any():
        raise DataError(f"no bin has a finite {name} and activity")
    x, y = x[known], y[known]
    if circular:
        x, unit = (np.degrees(x) + 180) % 360 - 180, "°"
        edges = np.linspace(-180, 180, n_bins + 1)
    else:
        low, high = float(x.min()), float(x.max())
        edges = np.linspace(low, high if high > low else low + 1.0, n_bins + 1)
    place = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, n_bins - 1)
    counts = np.bincount(place, minlength=n_bins)
    safe = np.maximum(counts, 1)
    average = np.where(counts > 0, np.bincount(place, y, n_bins) / safe, np.nan)
    deviation = (y - average[place]) ** 2
    spread = np.bincount(place, deviation, n_bins) / np.maximum(counts - 1, 1)
    error = np.where(counts > 1, np.sqrt(spread / safe), 0.0)
    centres = (edges[:-1] + edges[1:]) / 2
    figure, (tuning, time) = panels(
        2, 1, width=COLUMN_WIDTH, height=2.9, sharex=True, height_ratios=[3, 1]
    )
    if circular:
        shown = np.r_[centres[-1] - 360, centres, centres[0] + 360]
        average, error = np.r_[average[-1], average, average[0]], np.r_[error[-1], error, error[0]]
    else:
        shown = centres
    tuning.errorbar(shown, average, error, fmt="o-", color=PALETTE["blue"], elinewidth=1.0)
    tuning.set_ylim(bottom=0 if np.nanmin(average) >= 0 else None)
    tuning.set_ylabel("mean activity ± s.e.")
    if title:
        tuning.set_title(title)
    time.stairs(100 * counts / counts.sum(), edges, fill=True, color=PALETTE["sky"])
    time.set_ylabel("time (%)")
    time.set_xlabel(f"{name} ({unit})" if unit else name)
    time.set_xlim(edges[0], edges[-1])
    if circular:
        time.set_xticks([-180, -90, 0, 90, 180])
    figure.align_ylabels()
    return figure
