"""Windows: runs of consecutive rows that one example spans."""

from __future__ import annotations

import numpy as np
import pandas as pd

from saebook.data.store.layout import SPLITS
from saebook.errors import ConfigError, DataError

_BORDERS = ("session", "segment", "trial", "split")


def windows(
    index: pd.DataFrame, seq_len: int, *, stride: int = 1, split: str | None = None
) -> np.ndarray:
    """Return the rows of every window, none crossing a segment, a trial or a split.

    Parameters
    ----------
    index : pandas.DataFrame [n rows]
        Index of a store, or a part of it: column row, and of session, segment, trial and split
        those that are there. Rows that don't follow one another end a window too.
    seq_len : int
        Rows per window.
    stride : int
        Rows from one window to the next within a run; windows overlap where it is less than
        `seq_len`.
    split : str, optional
        Windows of this split only; those of every label, guard included, without one.

    Returns
    -------
    numpy.ndarray [n_windows, seq_len] of int64
        Rows of the store, ascending within each window; ``[0, seq_len]`` if none fits.

    Raises
    ------
    ConfigError
        If `seq_len`, `stride` or `split` is out of its range.
    DataError
        If the index has no column row.

    Examples
    --------
    >>> import pandas as pd
    >>> from saebook.data.store import windows
    >>> index = pd.DataFrame({"row": range(6), "trial": [0, 0, 0, 1, 1, 1]})
    >>> windows(index, 2).tolist()
    [[0, 1], [1, 2], [3, 4], [4, 5]]
    """
    for name, value in (("seq_len", seq_len), ("stride", stride)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise ConfigError(f"{name}={value!r}: give a whole number of rows, at least 1")
    if "row" not in index.columns:
        raise DataError("the index has no column row; give the index of a store, or a part of it")
    if split is not None:
        if split not in SPLITS:
            raise ConfigError(f"split={split!r}; the splits are {', '.join(SPLITS)}")
        if "split" not in index.columns:
            raise DataError(f"the index has no column split, so none of its rows is {split!r}")
        index = index.loc[(index["split"] == split).to_numpy()]

    row = index["row"].to_numpy(dtype=np.int64)
    if not len(row):
        return np.empty((0, seq_len), np.int64)
    border = np.diff(row) != 1
    for name in _BORDERS:
        if name in index.columns:
            codes = pd.factorize(index[name])[0]
            border |= np.diff(codes) != 0
    starts = np.concatenate([[0], np.flatnonzero(border) + 1])
    lengths = np.diff(np.append(starts, len(row)))
    n_windows = np.maximum((lengths - seq_len) // stride + 1, 0)
    # Number of each window within its run: 0, 1, … anew for each run.
    number = np.arange(n_windows.sum()) - np.repeat(np.cumsum(n_windows) - n_windows, n_windows)
    first = np.repeat(starts, n_windows) + number * stride
    return row[first[:, None] + np.arange(seq_len)]
