"""Bins sorted into trials and times from an event, so that a latent's trials are a lookup."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from saebook.evaluation.variables import Variable

# Times of one event, read off different bins, agree to rounding.
DECIMALS = 5


@dataclass(frozen=True, eq=False)
class EventGrid:
    """Which trial and which time from the event each bin belongs to.

    Attributes
    ----------
    event
        Name of the event.
    trial
        [n] trial of each bin, -1 outside of every window.
    lag
        [n] column of each bin.
    lags_s
        [n_lags] middle of each column, s from the event.
    label
        [n_trials] condition of each trial; 0 without conditions.
    conditions
        Names of the conditions.
    known
        [n_trials, n_lags] whether there is such a bin.
    """

    event: str
    trial: np.ndarray
    lag: np.ndarray
    lags_s: np.ndarray
    label: np.ndarray
    conditions: tuple[str, ...]
    known: np.ndarray

    @classmethod
    def of(cls, variable: Variable, time: np.ndarray, bin_size_s: float) -> EventGrid:
        """Trials around an event, from a variable of kind "event" on the bins given.

        Parameters
        ----------
        variable : Variable
            Its `values` and `group` over these bins: time from the event, and step (and
            condition).
        time : ndarray
            [n] start of each bin, s.
        bin_size_s : float
            Width of a bin, s.

        Examples
        --------
        >>> since = np.array([-0.05, 0.05, np.nan, -0.05, 0.05])
        >>> group = np.array([0, 1, -1, 0, 1])
        >>> go = Variable("go_time", "event", since, group, np.array([-0.05, 0.05]), "s")
        >>> grid = EventGrid.of(go, np.arange(5) * 0.1, 0.1)
        >>> grid.trial.tolist(), grid.lag.tolist(), grid.known.tolist()
        ([0, 0, -1, 1, 1], [0, 1, -1, 0, 1], [[True, True], [True, True]])
        """
        n_steps = len(variable.centres)
        inside = (variable.group >= 0) & np.isfinite(variable.values)
        at = np.round(time[inside] + bin_size_s / 2 - variable.values[inside], DECIMALS)
        events, trial_inside = np.unique(at, return_inverse=True)
        half = (variable.centres[1] - variable.centres[0]) / 2 if n_steps > 1 else bin_size_s / 2
        begin = float(variable.centres[0]) - half
        n_lags = max(1, round((variable.centres[-1] + half - begin) / bin_size_s))
        lag_inside = np.floor((variable.values[inside] - begin) / bin_size_s + 1e-6)
        trial, lag = np.full((2, len(time)), -1)
        trial[inside] = trial_inside.ravel()
        lag[inside] = np.clip(lag_inside, 0, n_lags - 1)
        label = np.zeros(len(events), dtype=np.int64)
        label[trial[inside]] = variable.group[inside] // n_steps
        known = np.zeros((len(events), n_lags), dtype=bool)
        known[trial[inside], lag[inside]] = True
        return cls(
            event=variable.name.split(", by ")[0].removesuffix("_time"),
            trial=trial,
            lag=lag,
            lags_s=begin + (np.arange(n_lags) + 0.5) * bin_size_s,
            label=label,
            conditions=variable.conditions,
            known=known,
        )

    def __len__(self) -> int:
        return len(self.label)

    def matrix(self, rows: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Activity [n_trials, n_lags] of a latent given where it isn't zero; NaN where unknown."""
        found = np.where(self.known, 0.0, np.nan)
        inside = self.trial[rows] >= 0
        rows, values = rows[inside], values[inside]
        found[self.trial[rows], self.lag[rows]] = values
        return found


def labelled_runs(group: np.ndarray, trial: np.ndarray | None) -> np.ndarray:
    """Stretch of equal labels that each bin belongs to, none crossing a trial; -1 where unknown.

    Examples
    --------
    >>> labelled_runs(np.array([0, 0, 1, -1, 1, 1]), np.array([0, 0, 0, 0, 1, 2])).tolist()
    [0, 0, 1, -1, 2, 3]
    """
    known = group >= 0
    changes = np.diff(group[known]) != 0
    # Bins that are unknown lie between two stretches, and so does the border of a trial.
    changes |= np.diff(np.flatnonzero(known)) > 1
    if trial is not None:
        changes |= np.diff(trial[known]) != 0
    run = np.full(len(group), -1)
    if known.any():
        run[known] = np.concatenate([[0], np.cumsum(changes)])
    return run
