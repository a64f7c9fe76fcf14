"""Intervals over seeds: a mean never travels without its uncertainty."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from saebook.errors import DataError


@dataclass(frozen=True)
class MeanInterval:
    """A mean with its t-interval; ``low`` and ``high`` are NaN for a single value.

    Parameters
    ----------
    mean, low, high : float
        Mean and the ends of its interval, in the unit of the values.
    n : int
        Number of values, usually seeds.
    confidence : float
        Coverage of the interval, between 0 and 1.
    """

    mean: float
    low: float
    high: float
    n: int
    confidence: float = 0.95

    def __str__(self) -> str:
        if math.isnan(self.low):
            return f"{self.mean:.3f} (n = {self.n}, no interval)"
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}] (n = {self.n})"


def mean_interval(values: Iterable[float], confidence: float = 0.95) -> MeanInterval:
    """Mean of independent values with Student's t-interval.

    Parameters
    ----------
    values : iterable of float
        One value per independent repetition (seed, session); at least one.
    confidence : float
        Coverage, between 0 and 1 (both excluded).

    Returns
    -------
    MeanInterval
        With one value, ``low`` and ``high`` are NaN: one seed has no spread.

    Raises
    ------
    DataError
        No value, a value that is not finite, or a confidence outside (0, 1).

    Notes
    -----
    Source: Student (1908), ``mean ± t_{n-1} · s / √n`` with the unbiased s.

    Examples
    --------
    >>> print(mean_interval([1.0, 2.0, 3.0]))
    2.000 [-0.484, 4.484] (n = 3)
    >>> print(mean_interval([0.25]))
    0.250 (n = 1, no interval)
    """
    # Lazy: a training node imports this room and seldom needs scipy.
    from scipy.special import stdtrit

    if not 0.0 < confidence < 1.0:
        raise DataError(f"confidence is {confidence}: give a number between 0 and 1, such as 0.95")
    points = [float(value) for value in values]
    if not points:
        raise DataError("mean_interval got no value: give at least one per seed")
    bad = [value for value in points if not math.isfinite(value)]
    if bad:
        raise DataError(
            f"{len(bad)} of {len(points)} values are not finite (first: {bad[0]}): "
            "drop undefined repetitions first and say how many"
        )
    n = len(points)
    mean = math.fsum(points) / n
    if n == 1:
        return MeanInterval(mean, math.nan, math.nan, 1, confidence)
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in points) / (n - 1))
    half = float(stdtrit(n - 1, 0.5 + confidence / 2)) * spread / math.sqrt(n)
    return MeanInterval(mean, mean - half, mean + half, n, confidence)


def pairwise_interval(values: Sequence[Sequence[float]], confidence: float = 0.95) -> MeanInterval:
    """Mean over all pairs of repetitions, with an interval over the repetitions.

    Every repetition is in many pairs, so pairs are not independent and their spread would promise
    too much. The jackknife leaves one repetition out with all its pairs.

    Parameters
    ----------
    values : sequence of sequence of float
        [n, n], the value of each pair; the diagonal is not read. Where the value of (a, b) is not
        that of (b, a), both count.
    confidence : float
        Coverage, between 0 and 1 (both excluded).

    Returns
    -------
    MeanInterval
        ``n`` is the number of repetitions; ``low`` and ``high`` are NaN for two, which make one
        pair.

    Raises
    ------
    DataError
        Not square, fewer than two repetitions, or a value of a pair that is not finite.

    Notes
    -----
    Source: Arvesen (1969), jackknifing U-statistics: pseudo-values
    ``n · θ - (n - 1) · θ₍₋ᵢ₎`` and Student's t-interval over them.

    Examples
    --------
    >>> print(pairwise_interval([[0, 1.0, 2.0], [1.0, 0, 3.0], [2.0, 3.0, 0]]))
    2.000 [-2.968, 6.968] (n = 3)
    >>> print(pairwise_interval([[0, 0.5], [0.7, 0]]))
    0.600 (n = 2, no interval)
    """
    rows = [[float(value) for value in row] for row in values]
    n = len(rows)
    if n < 2 or any(len(row) != n for row in rows):
        raise DataError(
            f"values have rows of lengths {[len(row) for row in rows]}: give one row and one "
            "column per repetition, at least two"
        )
    pair = {(i, j): rows[i][j] for i in range(n) for j in range(n) if i != j}
    if bad := [where for where, value in pair.items() if not math.isfinite(value)]:
        raise DataError(f"the value of pair {bad[0]} is not finite: leave that repetition out")
    whole = math.fsum(pair.values()) / len(pair)
    if n == 2:
        return MeanInterval(whole, math.nan, math.nan, n, confidence)
    left_out = [
        math.fsum(value for where, value in pair.items() if i not in where) / ((n - 1) * (n - 2))
        for i in range(n)
    ]
    spread = mean_interval([n * whole - (n - 1) * one for one in left_out], confidence)
    half = spread.high - spread.mean
    return MeanInterval(whole, whole - half, whole + half, n, confidence)
