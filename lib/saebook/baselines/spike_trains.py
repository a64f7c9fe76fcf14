"""Counts as spike trains, for packages that want nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np

from saebook.baselines.method import Trials, import_package
from saebook.errors import DataError


def spike_trains(x: np.ndarray, trials: Trials, bin_size_s: float) -> list[list[Any]]:
    """Counts as spike trains that the package bins to the same counts.

    Parameters
    ----------
    x
        Whole numbers [n, n_units], spikes per bin.
    trials
        Rows of each trial.
    bin_size_s
        Width of a bin, s.

    Returns
    -------
    list of lists of neo.SpikeTrain
        One list per trial, one train per unit, each from 0 to the end of the trial.

    Raises
    ------
    DataError
        A count that is not whole.

    Examples
    --------
    >>> trains = spike_trains(np.array([[2.0], [0.0], [1.0]]), {0: slice(0, 3)}, 0.1)
    >>> trains[0][0].times
    array([ 50.,  50., 250.]) * ms
    """
    if (x != np.round(x)).any():
        row, unit = np.argwhere(x != np.round(x))[0]
        raise DataError(
            f"x is {x[row, unit]} in row {row}, unit {unit}: GPFA needs whole numbers of spikes"
        )
    pq, neo = import_package("quantities"), import_package("neo")
    bin_size_ms = bin_size_s * 1000
    trains = []
    for rows in trials.values():
        counts = x[rows].astype(np.int64)
        middles = (np.arange(len(counts)) + 0.5) * bin_size_ms
        end = len(counts) * bin_size_ms * pq.ms
        trains.append(
            [neo.SpikeTrain(np.repeat(middles, unit) * pq.ms, t_stop=end) for unit in counts.T]
        )
    return trains
