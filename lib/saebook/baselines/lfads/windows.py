"""Trials as windows of equal length, and windows as trials again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

LONGEST_WINDOW = 150


def window_length(lengths: Iterable[int], asked: int | None = None) -> int:
    """Bins of a window: what was asked for, else the shortest trial, at most 150.

    Examples
    --------
    >>> window_length([50, 60]), window_length([5000]), window_length([50], 20)
    (50, 150, 20)
    """
    return asked if asked is not None else min(*lengths, LONGEST_WINDOW)


def chop(rows: slice, window: int, overlap: int) -> list[slice]:
    """Windows of equal length that cover a trial.

    Parameters
    ----------
    rows
        Rows of the trial.
    window
        Bins of a window. A trial that isn't longer is one window.
    overlap
        Bins that successive windows share at least, below `window`.

    Returns
    -------
    list of slice
        Evenly spread, the first at the trial's start and the last at its end.

    Examples
    --------
    >>> chop(slice(0, 10), 4, 1)
    [slice(0, 4, None), slice(3, 7, None), slice(6, 10, None)]
    """
    length = rows.stop - rows.start
    if length <= window:
        return [rows]
    n = -(-(length - window) // (window - overlap)) + 1
    starts = rows.start + np.linspace(0, length - window, n).round().astype(int)
    return [slice(start, start + window) for start in starts.tolist()]


def merge(windows: Sequence[slice], values: Sequence[np.ndarray], n: int) -> np.ndarray:
    """Rows from windows; where windows overlap, one fades into the next.

    Parameters
    ----------
    windows
        Rows of each window; together they cover all n.
    values
        Of each window, floats [length, columns].
    n
        Number of rows.

    Returns
    -------
    ndarray
        float32 [n, columns]: means, in which a window weighs the less the nearer its edge is.
        Windows that agree give exactly what they agree on.

    Examples
    --------
    >>> parts = [np.array([[1.0], [1.0], [1.0]]), np.array([[2.0], [2.0], [2.0]])]
    >>> merge([slice(0, 3), slice(1, 4)], parts, 4).ravel().round(2)
    array([1.  , 1.33, 1.67, 2.  ], dtype=float32)
    """
    total = np.zeros((n, values[0].shape[1]))
    weight = np.zeros((n, 1))
    for rows, value in zip(windows, values):
        place = np.arange(rows.stop - rows.start)
        near = np.minimum(place, place[::-1])[:, None] + 1.0
        total[rows] += near * value
        weight[rows] += near
    return (total / weight).astype(np.float32)
