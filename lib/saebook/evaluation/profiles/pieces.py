"""What is to be seen of one latent, piece by piece, each able to say itself in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from saebook.evaluation.profiles.bands import NullBand
from saebook.evaluation.variables import Variable

MOST_NAMED = 3


@dataclass(frozen=True, eq=False)
class OverTime:
    """Activity over the whole time, as the smallest and largest value per pixel.

    Attributes
    ----------
    edges
        [n + 1] borders of the pixels, s.
    low, high
        [n], NaN where no bin was looked at.
    moments_s, moment_values
        The strongest moments: their times and activities.
    density
        Share of bins on which the latent is active.
    """

    edges: np.ndarray
    low: np.ndarray
    high: np.ndarray
    moments_s: np.ndarray
    moment_values: np.ndarray
    density: float

    @property
    def words(self) -> str:
        """The piece in words."""
        span = f"from {self.edges[0]:.0f} to {self.edges[-1]:.0f} s"
        if not self.density:
            return f"Activity over time, {span}: never active"
        return (
            f"Activity over time, {span}: active on {100 * self.density:.2g} % of the bins, most "
            f"at {self.moments_s[0]:.2f} s ({self.moment_values[0]:.3g})"
        )


@dataclass(frozen=True, eq=False)
class OverTrials:
    """Activity around an event, one row per trial, sorted by condition.

    Attributes
    ----------
    event, conditions
        Names.
    lags_s
        [n_lags] time from the event, s.
    activity
        [n_trials, n_lags], NaN where a trial doesn't reach.
    label
        [n_trials] condition of each row, rising.
    """

    event: str
    conditions: tuple[str, ...]
    lags_s: np.ndarray
    activity: np.ndarray
    label: np.ndarray

    @property
    def words(self) -> str:
        """The piece in words."""
        n = len(self.label)
        kinds = f", by {len(self.conditions)} conditions" if self.conditions else ""
        what = f"Activity around {self.event} in {n} trial{'s' if n != 1 else ''}{kinds}"
        mean = _column_means(self.activity)
        if not np.nanmax(mean, initial=0.0) > 0:
            return f"{what}: none"
        return f"{what}: highest on average {self.lags_s[np.nanargmax(mean)]:+.2f} s from it"


@dataclass(frozen=True, eq=False)
class Tuning:
    """Mean activity per step of a variable, beside what chance gives.

    Attributes
    ----------
    variable
        Which one.
    curves
        [n_curves, n_steps], one curve per condition; NaN for a step without bins.
    band
        95 % of what chance gives, or None.
    why_no_band
        Why there is none.
    """

    variable: Variable
    curves: np.ndarray
    band: NullBand | None
    why_no_band: str = ""

    @property
    def words(self) -> str:
        """The piece in words."""
        what = f"Mean activity over {self.variable.axis}"
        if not np.nanmax(self.curves, initial=0.0) > 0:
            return f"{what}: none"
        _, step = np.unravel_index(np.nanargmax(self.curves), self.curves.shape)
        at = f"{self.variable.centres[step]:.3g}"
        if self.variable.kind == "categorical" and self.variable.conditions:
            at = self.variable.conditions[step]
        words = f"{what}: highest at {at}"
        if self.band is None:
            return f"{words}; no null ({self.why_no_band})"
        with np.errstate(invalid="ignore"):
            outside = (self.curves > self.band.high) | (self.curves < self.band.low)
        n = int(np.isfinite(self.curves).sum())
        return (
            f"{words}; {int(outside.sum())} of {n} steps lie outside 95 % of "
            f"{self.band.n_draws} {self.band.made_by}"
        )


@dataclass(frozen=True, eq=False)
class Weights:
    """What a latent adds to each unit, and where it looks at windows, each unit at each lag.

    Attributes
    ----------
    units
        [n_units] ids, by region where known, then by falling weight.
    regions
        [n_units] region of each, or None.
    values
        [n_units] decoder weights, spikes per unit of activity; of windows the largest over lags.
    per_lag
        [seq_len, n_units] for windows, last bin of the window last, else None.
    per_lag_of
        "decoder" or "encoder": which weights `per_lag` are.
    """

    units: list[Any]
    regions: list[str] | None
    values: np.ndarray
    per_lag: np.ndarray | None = None
    per_lag_of: str = "decoder"

    @property
    def words(self) -> str:
        """The piece in words."""
        top = np.argsort(-np.abs(self.values), kind="stable")[:MOST_NAMED]
        named = [f"{self.units[i]} ({self.values[i]:+.2g})" for i in top if self.values[i]]
        what = f"Decoder weights over {len(self.units)} units"
        if self.per_lag is not None:
            what += f", and {self.per_lag_of} weights at {len(self.per_lag)} lags"
        return f"{what}: largest for {', '.join(named)}" if named else f"{what}: all zero"


@dataclass(frozen=True, eq=False)
class Moments:
    """Spikes of the top units around the strongest moments, strongest first.

    Attributes
    ----------
    units
        [n_top] ids of the units.
    times_s, values
        Time and activity of each moment.
    counts
        [n_moments, n_top, n_lags] spikes per bin.
    lags_s
        [n_lags] start of each bin from the moment's bin, s.
    """

    units: list[Any]
    times_s: np.ndarray
    values: np.ndarray
    counts: np.ndarray
    lags_s: np.ndarray

    @property
    def words(self) -> str:
        """The piece in words."""
        if not len(self.times_s):
            return "Strongest moments: none, since it is never active"
        at = ", ".join(f"{time:.2f}" for time in self.times_s)
        of = f"spikes of {len(self.units)} units around " if self.units else ""
        return f"Strongest moments: {of}{at} s"


@dataclass(frozen=True, eq=False)
class Closeup:
    """One moment: the latent's activity and the spikes of its top units around it.

    Attributes
    ----------
    time_s
        The moment.
    edges
        [n + 1] borders of the bins, s.
    activity
        [n] of the latent, NaN on bins not looked at.
    units
        [n_top] ids.
    spikes
        [n_top] times of each unit's spikes, s, where known.
    counts
        [n_top, n] spikes per bin where only these are known, else None.
    """

    time_s: float
    edges: np.ndarray
    activity: np.ndarray
    units: list[Any]
    spikes: list[np.ndarray] | None
    counts: np.ndarray | None

    @property
    def words(self) -> str:
        """The piece in words."""
        what = f"Around {self.time_s:.2f} s"
        if self.spikes is not None:
            n = sum(len(train) for train in self.spikes)
        elif self.counts is not None:
            n = int(self.counts.sum())
        else:
            return f"{what}: the latent's activity"
        return f"{what}: {n} spikes of the {len(self.units)} units with the largest weights"


def coactive_words(coactive: pd.DataFrame) -> str:
    """Latents active together with one, in words.

    Examples
    --------
    >>> table = pd.DataFrame({"jaccard": [0.5], "jaccard_chance": [0.1]}, index=[7])
    >>> coactive_words(table)
    'Active together with latent 7 (Jaccard 0.5, by chance 0.1)'
    """
    if not len(coactive):
        return "No other latent is active together with it"
    named = [
        f"{latent} (Jaccard {found:.2g}, by chance {chance:.2g})"
        for latent, found, chance in zip(
            coactive.index, coactive["jaccard"], coactive["jaccard_chance"]
        )
    ]
    return f"Active together with latent {', '.join(named[:MOST_NAMED])}"


def _column_means(values: np.ndarray) -> np.ndarray:
    known = np.isfinite(values)
    n = known.sum(axis=0)
    total = np.where(known, values, 0.0).sum(axis=0)
    return np.where(n > 0, total / np.maximum(n, 1), np.nan)
