"""Whether rates have the right average course: R² of peri-stimulus time histograms."""

from __future__ import annotations

import numpy as np

from saebook.errors import DataError
from saebook.metrics.decoding import Average, r2


def psth(values: np.ndarray, condition: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Average over trials, for each condition and step of a trial.

    Parameters
    ----------
    values : ndarray
        [n, n_units], counts or rates.
    condition : ndarray
        [n] int, condition of each row's trial; rows below 0 are left out.
    step : ndarray
        [n] int, step within its trial; rows below 0 are left out.

    Returns
    -------
    ndarray
        [n_conditions, n_steps, n_units] float64, NaN where there is no row.

    Raises
    ------
    DataError
        Lengths differ, or no row is left.

    Examples
    --------
    >>> counts = np.array([[0.0], [2.0], [4.0], [6.0]])
    >>> psth(counts, np.array([0, 0, 0, 0]), np.array([0, 1, 0, 1]))[0, :, 0].tolist()
    [2.0, 4.0]
    """
    values = np.asarray(values, dtype=float)
    condition, step = np.asarray(condition), np.asarray(step)
    if values.ndim != 2 or condition.shape != step.shape or condition.shape != (len(values),):
        raise DataError(
            f"values have shape {values.shape}, condition {condition.shape}, step {step.shape}: "
            "give [n, n_units] and one condition and step per row"
        )
    used = (condition >= 0) & (step >= 0)
    if not used.any():
        raise DataError(
            f"none of {len(values)} rows has a condition and a step: nothing to average"
        )
    shape = int(condition[used].max()) + 1, int(step[used].max()) + 1
    cell = condition[used] * shape[1] + step[used]
    n = np.bincount(cell, minlength=shape[0] * shape[1])
    sums = np.zeros((len(n), values.shape[1]))
    np.add.at(sums, cell, values[used])
    with np.errstate(invalid="ignore"):
        return (sums / n[:, None]).reshape(*shape, -1)


def psth_r2(
    counts: np.ndarray,
    rates: np.ndarray,
    condition: np.ndarray,
    step: np.ndarray,
    *,
    smoothing: float = 0.0,
    average: Average = "uniform",
) -> float:
    """R² between the average course of counts and that of rates.

    Parameters
    ----------
    counts : ndarray
        [n, n_units] spikes per bin, of trials that the model was not fitted on.
    rates : ndarray
        [n, n_units] expected spikes per bin, of the same rows.
    condition, step : ndarray
        [n] int each, as for :func:`psth`.
    smoothing : float
        Standard deviation of a Gaussian over steps, in steps, for the course of the counts; rates
        are taken as they are. The benchmark smooths with 70 ms on MC_Maze.
    average : {"uniform", "variance_weighted"}
        Over units: see :func:`r2`.

    Returns
    -------
    float
        Each unit's R² over conditions and steps, averaged over units; units whose course is
        constant are left out. Averages over few trials are noisy, so the true rates too stay
        below 1: give their score beside it.

    Raises
    ------
    DataError
        Shapes differ, or a value is not finite.

    Notes
    -----
    Source: Pei et al. (2021), Neural Latents Benchmark. There the courses are made of all trials,
    here of those given.

    Examples
    --------
    >>> counts = np.array([[0.0], [2.0], [4.0], [6.0]])
    >>> condition, step = np.array([0, 0, 0, 0]), np.array([0, 1, 0, 1])
    >>> psth_r2(counts, np.array([[2.0], [4.0], [2.0], [4.0]]), condition, step)
    1.0
    """
    made, seen = psth(rates, condition, step), psth(counts, condition, step)
    if made.shape != seen.shape:
        raise DataError(
            f"counts {np.shape(counts)} and rates {np.shape(rates)} must agree in shape"
        )
    if smoothing > 0:
        seen = _smoothed(seen, smoothing)
    known = np.isfinite(seen).all(axis=2)
    return r2(seen[known], made[known], average=average)


def _smoothed(course: np.ndarray, sigma: float) -> np.ndarray:
    """Smooth over steps; weights beyond the ends and over missing steps are left out."""
    step = np.arange(course.shape[1])
    weights = np.exp(-0.5 * ((step[:, None] - step) / sigma) ** 2)
    known = np.asarray(np.isfinite(course).all(axis=2))  # [n_conditions, n_steps]
    total = np.einsum("st,ct->cs", weights, known.astype(float))
    sums = np.einsum("st,ctu->csu", weights, np.where(known[..., None], course, 0.0))
    return np.where(known[..., None], sums / np.where(total > 0, total, 1.0)[..., None], np.nan)
