"""How well activity tells one kind of rows from another."""

from __future__ import annotations

from typing import Any

import numpy as np

from saebook.errors import DataError


def auroc(activity: Any, positive: Any) -> np.ndarray:
    """Probability that a positive row is more active than another, ties counted half.

    Parameters
    ----------
    activity : array
        [n, m] or [n].
    positive : array
        [n] bool.

    Returns
    -------
    ndarray
        [m] or a number; 0.5 where activity says nothing, NaN without rows of both kinds.

    Raises
    ------
    DataError
        Shapes disagree.

    Notes
    -----
    Sparse latents are 0 in most rows, positive ones included: without half credit for ties the
    area would depend on the order of rows.

    Examples
    --------
    >>> float(auroc([0.0, 0.0, 0.0, 2.0], [False, False, True, True]))
    0.75
    """
    from scipy.stats import rankdata

    values, kind = np.asarray(activity, dtype=float), np.asarray(positive, dtype=bool)
    if values.ndim not in (1, 2) or kind.shape != values.shape[:1]:
        raise DataError(
            f"activity has shape {values.shape}, positive {kind.shape}: give [n, m], [n]"
        )
    n_positive, n_other = int(kind.sum()), int((~kind).sum())
    if not n_positive or not n_other:
        return np.full(values.shape[1:], np.nan)
    ranks = rankdata(values, axis=0)[kind].sum(axis=0)
    return (ranks - n_positive * (n_positive + 1) / 2) / (n_positive * n_other)


def mutual_information(states: Any, groups: Any) -> float:
    """Mutual information of two discrete signals, corrected for the bias of few rows, in bits.

    Parameters
    ----------
    states, groups : array
        [n] whole numbers, at least 0.

    Returns
    -------
    float
        Plug-in estimate less ``(cells - rows - columns + 1) / (2 n ln 2)`` of the table, counting
        what occurs: about 0 for independent signals, so it may lie below.

    Raises
    ------
    DataError
        Shapes disagree, or no row.

    Notes
    -----
    The correction is for rows that are independent of each other; slow signals are worth fewer.

    References
    ----------
    Miller (1955); Panzeri & Treves (1996), Network 7, 87.

    Examples
    --------
    >>> round(mutual_information([0, 1] * 500, [0, 1] * 500), 3)
    1.001
    """
    states, groups = np.asarray(states), np.asarray(groups)
    if states.shape != groups.shape or states.ndim != 1 or not len(states):
        raise DataError(f"states have shape {states.shape}, groups {groups.shape}: give [n] each")
    n, width = len(states), int(groups.max()) + 1
    table = np.bincount(states * width + groups, minlength=(int(states.max()) + 1) * width)
    share = table.reshape(-1, width) / n
    rows, columns = share.sum(axis=1), share.sum(axis=0)
    there = share > 0
    plug_in = float(
        (share[there] * np.log2((share / np.outer(rows, columns).clip(1e-300))[there])).sum()
    )
    excess = int(there.sum()) - int((rows > 0).sum()) - int((columns > 0).sum()) + 1
    return plug_in - float(excess / (2 * n * np.log(2)))
