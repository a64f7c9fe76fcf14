"""Does a code know the time? Elapsed session time, decoded with blocks left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from saebook.errors import DataError

FEWEST_STRETCHES = 20


@dataclass(frozen=True, eq=False)
class ClockScore:
    """How well elapsed time can be read from a code.

    Parameters
    ----------
    r2 : float
        Of left-out stretches, against the mean of those fitted on: 1 reads the clock, 0 and
        below knows nothing of it.
    null : ndarray
        [n_shifts] the same, of the code shifted circularly in time.
    p : float
        Share of shifts that do as well, this one included; NaN with fewer than 19 shifts.
    n_stretches : int
        Stretches that the code was averaged over.
    """

    r2: float
    null: np.ndarray
    p: float
    n_stretches: int


def decode_clock(
    activity: Any,
    time: Any,
    *,
    stretch_s: float = 5.0,
    n_folds: int = 5,
    blocks_per_fold: int = 2,
    penalty: float = 0.1,
    n_shifts: int = 99,
    seed: int = 0,
) -> ClockScore:
    """Decode elapsed time from the mean activity of stretches, by ridge regression.

    Parameters
    ----------
    activity : array
        [n, d] latents or units, rows in the order of time.
    time : array
        [n] s, rising.
    stretch_s : float
        Length of a stretch, s. Where the session is too short for forty of them, a fortieth of it.
    n_folds, blocks_per_fold : int
        The session is cut into ``n_folds * blocks_per_fold`` blocks of consecutive stretches;
        each fold leaves out every ``n_folds``-th. Neighbours in time are left out together, so
        that what is decoded is not the stretch beside it; blocks of a fold lie apart, so that
        most lie between fitted ones.
    penalty : float
        Ridge penalty on standardised activity, as a share of the number of stretches.
    n_shifts : int
        Circular shifts of the activity, evenly spread between a tenth and nine tenths of the
        session.
    seed : int
        Where they begin.

    Returns
    -------
    ClockScore

    Raises
    ------
    DataError
        Shapes disagree, a value is not finite, time does not rise, or fewer than 20 stretches.

    Notes
    -----
    A shift keeps the activity's own autocorrelation. It also keeps most of a steady drift (all
    but one jump), so that drift beats its shifts by little: read ``r2`` beside that of the raw
    units first, ``p`` second.

    Examples
    --------
    >>> time = np.arange(0, 400, 0.5)
    >>> noise = np.random.default_rng(0).normal(size=(800, 3))
    >>> drifting = noise + np.outer(time / 100, [1, 0, 0])
    >>> decode_clock(drifting, time).r2 > 0.8, decode_clock(noise, time).r2 < 0.1
    (True, True)
    """
    z, t = np.asarray(activity, float), np.asarray(time, float)
    if z.ndim != 2 or t.shape != (len(z),):
        raise DataError(f"activity has shape {z.shape}, time {t.shape}: give [n, d] and [n]")
    if not np.isfinite(z).all() or not np.isfinite(t).all():
        raise DataError("activity or time holds values that are not finite: drop those rows first")
    if (np.diff(t) <= 0).any():
        raise DataError("time does not rise from row to row: order rows by time")
    if len(t) < FEWEST_STRETCHES:
        raise DataError(f"{len(t)} rows: decoding the clock needs {FEWEST_STRETCHES} stretches")
    length = min(stretch_s, (t[-1] - t[0]) / (2 * FEWEST_STRETCHES))
    number = np.unique(((t - t[0]) / length).astype(int), return_inverse=True)[1]
    counts = np.bincount(number)
    sums = np.zeros((len(counts), z.shape[1]))
    np.add.at(sums, number, z)
    means = sums / counts[:, None]
    clock = np.bincount(number, t) / counts
    n = len(clock)
    if n < FEWEST_STRETCHES:
        raise DataError(
            f"{n} stretches of {length:.3g} s hold rows: decoding the clock needs "
            f"{FEWEST_STRETCHES}; give a shorter stretch_s"
        )
    fold = (np.arange(n) * n_folds * blocks_per_fold // n) % n_folds
    r2 = _left_out(means, clock, fold, penalty)
    first, span = n // 10, n - 2 * (n // 10)
    start = np.random.default_rng(seed).uniform()
    offsets = first + np.unique(
        ((np.arange(n_shifts) + start) / max(n_shifts, 1) * span).astype(int)
    )
    null = np.array([_left_out(np.roll(means, o, 0), clock, fold, penalty) for o in offsets])
    enough = len(null) >= 19
    p = (1 + int((null >= r2).sum())) / (1 + len(null)) if enough else float("nan")
    return ClockScore(float(r2), null, p, n)


def _left_out(x: np.ndarray, y: np.ndarray, fold: np.ndarray, penalty: float) -> float:
    """R² of left-out folds; whatever is fitted is fitted on the others."""
    error = baseline = 0.0
    for left in np.unique(fold):
        fit, test = fold != left, fold == left
        mean, scale = x[fit].mean(0), x[fit].std(0)
        moves = scale > 1e-12
        a = (x[fit][:, moves] - mean[moves]) / scale[moves]
        b = (x[test][:, moves] - mean[moves]) / scale[moves]
        centre = y[fit].mean()
        gram = a.T @ a + penalty * len(a) * np.eye(a.shape[1])
        predicted = centre + b @ np.linalg.solve(gram, a.T @ (y[fit] - centre))
        error += float(((y[test] - predicted) ** 2).sum())
        baseline += float(((y[test] - centre) ** 2).sum())
    return 1 - error / baseline
