"""Many tests at once: false-discovery rates."""

from __future__ import annotations

from typing import Any

import numpy as np

from saebook.errors import DataError


def benjamini_hochberg(p: Any) -> np.ndarray:
    """Adjust p-values so that those at most q hold a share q of false discoveries at most.

    ``q_(i) = min over j ≥ i of m p_(j) / j`` for the m p-values in rising order.

    Parameters
    ----------
    p : array
        [n] p-values; NaN where nothing was tested, which does not count as a test.

    Returns
    -------
    ndarray
        [n] float64; NaN where p is.

    Raises
    ------
    DataError
        A p-value outside 0 to 1.

    Notes
    -----
    Holds for independent tests and for positively dependent ones, such as those of latents that
    follow each other.

    References
    ----------
    Benjamini & Hochberg (1995), J. R. Stat. Soc. B 57, 289.

    Examples
    --------
    >>> benjamini_hochberg([0.01, 0.04, 0.03, np.nan]).round(3).tolist()
    [0.03, 0.04, 0.04, nan]
    """
    p = np.asarray(p, dtype=float)
    tested = np.flatnonzero(np.isfinite(p))
    if len(tested) and (p[tested].min() < 0 or p[tested].max() > 1):
        raise DataError(f"p-values from {p[tested].min()} to {p[tested].max()}: give 0 to 1")
    order = tested[np.argsort(p[tested], kind="stable")]
    m = len(order)
    raised = p[order] * m / np.arange(1, m + 1)
    q = np.full(p.shape, np.nan)
    q[order] = np.minimum(np.minimum.accumulate(raised[::-1])[::-1], 1.0)
    return q


def hits_needed(attainable: Any, level: float) -> int | None:
    """Fewest tests that must reach their smallest possible p for any of them to be discovered.

    Parameters
    ----------
    attainable : array
        [n] smallest p that each test could give; NaN where nothing was tested.
    level : float
        False-discovery rate.

    Returns
    -------
    int or None
        None where not even all of them would do.

    Examples
    --------
    >>> hits_needed([0.02] * 10, 0.05), hits_needed([0.2] * 10, 0.05)
    (4, None)
    """
    lowest = np.sort(np.asarray(attainable, dtype=float))
    lowest = lowest[np.isfinite(lowest)]
    m = len(lowest)
    enough = lowest <= level * np.arange(1, m + 1) / max(m, 1)
    return int(enough.argmax()) + 1 if enough.any() else None
