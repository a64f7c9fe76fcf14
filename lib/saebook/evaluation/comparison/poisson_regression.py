"""Poisson regression of many units at once, under several penalties."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MOST_ITERATIONS = 500
# Largest gradient at which the search ends, in units of a unit's mean count.
TOLERANCE = 1e-4
# The largest drive at which the search may look, so that no exponential overflows.
MOST_DRIVE = 30.0


def poisson_path(
    x: np.ndarray, y: np.ndarray, alphas: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Weights and offsets of log-linear Poisson regressions, for each penalty.

    Parameters
    ----------
    x : ndarray
        [n, m] float64, standardised.
    y : ndarray
        [n, n_units] counts; every unit has a spike.
    alphas : sequence of float
        Penalties on half the squared weights, against the mean over rows; the offset is free.
        Each search begins where the last one ended, so give the strongest first.

    Returns
    -------
    weights : ndarray
        [len(alphas), m, n_units].
    offsets : ndarray
        [len(alphas), n_units].

    Notes
    -----
    What scikit-learn's ``PoissonRegressor`` minimises, by scipy's L-BFGS, but for all units in one
    search: 3 to 13 times faster for 10 to 15 units with 8 to 128 latents. Each unit's part is
    divided by its mean count, which leaves its minimum where it is and makes all of them alike.

    Examples
    --------
    >>> x = np.array([[-1.0], [-1.0], [1.0], [1.0]])
    >>> weights, offsets = poisson_path(x, np.array([[1.0], [1.0], [3.0], [3.0]]), (0.0,))
    >>> np.exp(offsets[0, 0] + weights[0, 0, 0] * np.array([-1, 1])).round(3).tolist()
    [1.0, 3.0]
    """
    from scipy.optimize import minimize

    n, m = x.shape
    mean = y.mean(axis=0)
    share = y / mean  # [n, n_units], mean 1
    found = np.vstack([np.zeros((m, len(mean))), np.zeros((1, len(mean)))])
    products = np.vstack([x.T @ share, share.sum(axis=0)]) / n
    weights, offsets = np.empty((len(alphas), m, len(mean))), np.empty((len(alphas), len(mean)))

    def loss(flat: np.ndarray, penalty: np.ndarray) -> tuple[float, np.ndarray]:
        w = flat.reshape(m + 1, -1)
        rates = np.exp(np.minimum(x @ w[:-1] + w[-1], MOST_DRIVE))  # in units of the mean
        value = rates.sum() / n - (products * w).sum() + (penalty * w[:-1] ** 2).sum() / 2
        slope = np.vstack([x.T @ rates, rates.sum(axis=0)]) / n - products
        slope[:-1] += penalty * w[:-1]
        return float(value), slope.ravel()

    for i, alpha in enumerate(alphas):
        result = minimize(
            loss,
            found.ravel(),
            (alpha / mean,),
            "L-BFGS-B",
            jac=True,
            options={"maxiter": MOST_ITERATIONS, "gtol": TOLERANCE, "ftol": 1e-10},
        )
        found = result.x.reshape(m + 1, -1)
        weights[i], offsets[i] = found[:-1], found[-1] + np.log(mean)
    return weights, offsets
