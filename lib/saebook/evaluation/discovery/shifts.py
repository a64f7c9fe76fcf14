"""The null of every circular offset: one signal moved against another, all offsets at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from saebook.errors import DataError

FEWEST_ROWS = 40


@dataclass(frozen=True, eq=False)
class ShiftedScores:
    """Correlation of pairs of signals at every circular offset.

    Attributes
    ----------
    r
        [n, m] correlation with the second signal moved by 0 … n-1 rows; row 0 is as recorded.
    guard
        [m] int: offsets nearer to 0 than this belong to the observed score, not to its null.
    """

    r: np.ndarray
    guard: np.ndarray

    def null(self, column: int) -> np.ndarray:
        """Correlations at the offsets of one pair's null."""
        n, guard = len(self.r), int(self.guard[column])
        return self.r[guard : n - guard + 1, column]


def shifted_scores(activity: Any, predicted: Any, *, least_guard: int = 1) -> ShiftedScores:
    """Correlate m pairs of signals at every circular offset, by Fourier transform.

    The guard is twice the longer autocorrelation time of the two, which is where the
    autocorrelation has fallen to 1/e of that at lag 1, as in
    :func:`saebook.data.spikes.session.decorrelation_lag`; nearer offsets are no independent draw.

    Parameters
    ----------
    activity, predicted : array
        [n, m] rows in the order of time.
    least_guard : int
        Rows that the guard holds at least.

    Returns
    -------
    ShiftedScores

    Raises
    ------
    DataError
        Shapes disagree.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> wave = rng.normal(size=(400, 1))
    >>> scores = shifted_scores(wave + rng.normal(size=(400, 1)), wave)
    >>> bool(scores.r[0, 0] > 0.6), bool(scores.null(0).max() < 0.3), len(scores.null(0))
    (True, True, 397)
    """
    from scipy import fft

    first, second = (np.asarray(x, dtype=np.float32) for x in (activity, predicted))
    if first.ndim != 2 or first.shape != second.shape:
        raise DataError(
            f"activity has shape {first.shape}, predicted {second.shape}: give [n, m] each"
        )
    n = len(first)
    # Time last: each transform then reads memory in order.
    a, b = (np.ascontiguousarray((x - x.mean(axis=0)).T) for x in (first, second))
    scale = np.sqrt((a**2).sum(axis=1, dtype=float) * (b**2).sum(axis=1, dtype=float))
    of_a, of_b = (np.asarray(fft.rfft(x, axis=1)) for x in (a, b))
    product = np.asarray(fft.irfft(of_a * of_b.conj(), n, axis=1))
    varies = scale > 1e-12
    r = np.where(varies[:, None], product / np.where(varies, scale, 1.0)[:, None], 0.0)
    lag_a, lag_b = (
        _falling_lag(np.asarray(fft.irfft(np.abs(of) ** 2, n, axis=1)), n) for of in (of_a, of_b)
    )
    guard = np.maximum(2 * np.maximum(lag_a, lag_b), least_guard)
    return ShiftedScores(r.T, np.minimum(guard, (n - 1) // 2).astype(int))


def _falling_lag(autocorrelation: np.ndarray, n: int) -> np.ndarray:
    """Lag [m] at which each autocorrelation [m, n] has fallen by 1/e from lag 1."""
    half = autocorrelation[:, 1 : max(n // 2, 2)]
    start = half[:, :1]
    below = half < start / np.e
    lag = np.where(below.any(axis=1), 1 + below.argmax(axis=1), half.shape[1])
    white = start[:, 0] < 3 * autocorrelation[:, 0] / np.sqrt(n)
    return np.where(white, 1, lag)


def without_drift(values: Any, time: Any, degree: int) -> np.ndarray:
    """Take slow change out of signals: the residual of a polynomial in time.

    Two signals that both change once in a session agree at offset 0 and at hardly any other, so
    that shifts alone would take any two drifts for related.

    Parameters
    ----------
    values : array
        [n, m].
    time : array
        [n] s.
    degree : int
        Of the polynomial; 0 takes out the mean alone.

    Returns
    -------
    ndarray
        [n, m] float32.

    Examples
    --------
    >>> time = np.arange(5.0)
    >>> np.abs(without_drift(3 * time[:, None] + 1, time, 1)).max() < 1e-6
    np.True_
    """
    values = np.asarray(values, dtype=np.float32)
    time = np.asarray(time, dtype=float)
    spread = max(float(np.ptp(time)), 1e-12) if len(time) else 1.0
    basis = np.polynomial.legendre.legvander(
        2 * (time - time.min()) / spread - 1, min(degree, max(len(time) - 2, 0))
    )
    basis, _ = np.linalg.qr(basis)
    basis = basis.astype(np.float32)
    return values - basis @ (basis.T @ values)
