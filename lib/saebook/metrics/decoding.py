"""How well behaviour is read from latents: ridge regression, and nearest neighbours."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from saebook.errors import ConfigError, DataError

# The grids of the Neural Latents Benchmark, and of CEBRA's decoders (squares).
ALPHAS = tuple(float(alpha) for alpha in np.logspace(-4, 0, 9))
NEIGHBOURS = tuple(k * k for k in range(1, 11))
N_FOLDS = 5
_ROWS_AT_ONCE = 1024

Average = Literal["uniform", "variance_weighted"]


def r2(values: np.ndarray, predicted: np.ndarray, *, average: Average = "uniform") -> float:
    """Coefficient of determination, averaged over dimensions.

    Parameters
    ----------
    values : ndarray
        [n, d], what is true.
    predicted : ndarray
        [n, d], in the same units.
    average : {"uniform", "variance_weighted"}
        Every dimension alike, as the Neural Latents Benchmark has it, or each by its variance,
        which is the explained variance of all together.

    Returns
    -------
    float
        1 is perfect, 0 what the mean of ``values`` scores. Constant dimensions are left out; NaN
        where there is no other.

    Raises
    ------
    DataError
        Shapes differ, no row, or a value that is not finite.

    Examples
    --------
    >>> values = np.array([[0.0, 0.0], [2.0, 4.0]])
    >>> predicted = np.array([[0.0, 1.0], [2.0, 3.0]])
    >>> r2(values, predicted), r2(values, predicted, average="variance_weighted")
    (0.875, 0.8)
    """
    if average not in ("uniform", "variance_weighted"):
        raise ConfigError(f"average = {average!r}: give 'uniform' or 'variance_weighted'")
    values, predicted = _rows(values, "values"), _rows(predicted, "predicted values")
    if values.shape != predicted.shape:
        raise DataError(f"values have shape {values.shape}, predicted ones {predicted.shape}")
    varies = values.min(axis=0) < values.max(axis=0)
    if not varies.any():
        return math.nan
    spread = np.square(values - values.mean(axis=0)).sum(axis=0)[varies]
    errors = np.square(values - predicted).sum(axis=0)[varies]
    if average == "variance_weighted":
        return float(1 - errors.sum() / spread.sum())
    return float((1 - errors / spread).mean())


@dataclass(frozen=True, eq=False)
class LinearDecoder:
    """Behaviour as a weighted sum of latents.

    Parameters
    ----------
    weights : ndarray
        [n_latents, d].
    offset : ndarray
        [d].
    alpha : float
        The penalty that was chosen.
    """

    weights: np.ndarray
    offset: np.ndarray
    alpha: float

    def __call__(self, latents: np.ndarray) -> np.ndarray:
        """Behaviour [n, d] of latents [n, n_latents]."""
        return np.asarray(latents, float) @ self.weights + self.offset


def ridge_decoder(
    latents: np.ndarray,
    behaviour: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    alphas: Sequence[float] = ALPHAS,
    n_folds: int = N_FOLDS,
) -> LinearDecoder:
    """Fit ridge regression with the penalty that predicts left-out trials best.

    Parameters
    ----------
    latents : ndarray
        [n, n_latents] of training rows, in the order of time.
    behaviour : ndarray
        [n, d], at the lag at which it is to be read. Rows with NaN are left out.
    groups : ndarray, optional
        [n] trial of each row; folds are made of whole trials, neighbours together. Without it of
        neighbouring rows.
    alphas : sequence of float
        Penalties on the squared weights, against the sum of squared errors.
    n_folds : int
        Folds; fewer where there are fewer trials.

    Returns
    -------
    LinearDecoder

    Raises
    ------
    DataError
        Shapes disagree, a latent is not finite, or fewer than two groups.

    Notes
    -----
    Source: Pei et al. (2021), Neural Latents Benchmark, which has this model and grid, but whose
    folds may cut trials. Latents are taken as they are: at this grid the penalty is weak, and a
    method with many latents pays for them.

    Examples
    --------
    >>> latents = np.arange(20.0)[:, None]
    >>> decoder = ridge_decoder(latents, 3 * latents + 1)
    >>> round(float(decoder.weights[0, 0]), 3), round(r2(3 * latents + 1, decoder(latents)), 3)
    (3.0, 1.0)
    """
    x, y, known = _pair(latents, behaviour)
    group = np.arange(len(known)) if groups is None else np.asarray(groups)
    if group.shape != known.shape:
        raise DataError(f"groups have shape {group.shape}: give one per row, of {len(known)}")
    fold = _folds(group[known], n_folds)
    scores = np.zeros(len(alphas))
    for i in range(fold.max() + 1):
        held = fold == i
        for j, (weights, offset) in enumerate(ridge_path(x[~held], y[~held], alphas)):
            scores[j] += np.nan_to_num(r2(y[held], x[held] @ weights + offset))
    best = int(scores.argmax())
    weights, offset = list(ridge_path(x, y, alphas))[best]
    return LinearDecoder(weights, offset, float(alphas[best]))


def ridge_path(
    x: np.ndarray, y: np.ndarray, alphas: Sequence[float] | np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Weights and offset of ridge regression under each penalty.

    One eigendecomposition serves all penalties and targets.

    Parameters
    ----------
    x : ndarray
        [n, m] float64.
    y : ndarray
        [n, d] float64.
    alphas : sequence of float
        Penalties on the squared weights, against the sum of squared errors.

    Yields
    ------
    weights : ndarray
        [m, d].
    offset : ndarray
        [d].

    Examples
    --------
    >>> x = np.array([[-1.0], [1.0]])
    >>> [float(weights[0, 0]) for weights, _ in ridge_path(x, 3 * x, (0.0, 2.0))]
    [3.0, 1.5]
    """
    mean_x, mean_y = x.mean(axis=0), y.mean(axis=0)
    centred = x - mean_x
    variances, directions = np.linalg.eigh(centred.T @ centred)
    # Directions that do not vary hold rounding, which no penalty of 0 may divide by.
    floor = len(x) * np.finfo(float).eps * max(float(variances[-1]), 0.0)
    variances = variances.clip(0)
    projected = directions.T @ (centred.T @ (y - mean_y))
    projected[variances <= floor] = 0.0
    variances[variances <= floor] = 1.0
    for alpha in alphas:
        weights = directions @ (projected / (variances + alpha)[:, None])
        yield weights, mean_y - mean_x @ weights


@dataclass(frozen=True, eq=False)
class NeighbourDecoder:
    """Behaviour as the mean over the nearest training rows, by cosine.

    Parameters
    ----------
    directions : ndarray
        [n, n_latents] training rows at length 1.
    behaviour : ndarray
        [n, d] of these rows.
    k : int
        Neighbours.
    """

    directions: np.ndarray
    behaviour: np.ndarray
    k: int

    def __call__(self, latents: np.ndarray) -> np.ndarray:
        """Behaviour [m, d] of latents [m, n_latents]."""
        return next(self.path(latents, (self.k,)))

    def path(self, latents: np.ndarray, ks: Sequence[int]) -> Iterator[np.ndarray]:
        """Behaviour [m, d] under each number of neighbours; one search serves all."""
        unit, most = _unit(_rows(latents, "latents")), max(ks)
        sums = np.empty((len(unit), most, self.behaviour.shape[1]))
        for start in range(0, len(unit), _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            near = unit[rows] @ self.directions.T
            first = np.argpartition(-near, most - 1, axis=1)[:, :most]
            order = np.take_along_axis(near, first, axis=1).argsort(axis=1)[:, ::-1]
            first = np.take_along_axis(first, order, axis=1)
            sums[rows] = self.behaviour[first].cumsum(axis=1)
        for k in ks:
            yield sums[:, k - 1] / k


def knn_decoder(
    latents: np.ndarray,
    behaviour: np.ndarray,
    validation: tuple[np.ndarray, np.ndarray],
    *,
    ks: Sequence[int] = NEIGHBOURS,
) -> NeighbourDecoder:
    """Make a nearest-neighbour decoder with the k that reads validation rows best.

    Parameters
    ----------
    latents : ndarray
        [n, n_latents] of training rows.
    behaviour : ndarray
        [n, d]. Rows with NaN are left out.
    validation : (ndarray, ndarray)
        Latents and behaviour of other rows.
    ks : sequence of int
        Numbers of neighbours to choose among; those above the number of rows are left out.

    Returns
    -------
    NeighbourDecoder

    Raises
    ------
    DataError
        Shapes disagree, or a latent is not finite.

    Notes
    -----
    Source: Schneider, Lee & Mathis (2023), whose embeddings lie on a sphere, hence the cosine. A
    row without any active latent has no direction: it is equally far from every other.

    Examples
    --------
    >>> angle = np.linspace(0, 6, 60)
    >>> circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    >>> decoder = knn_decoder(circle, angle[:, None], (circle[::7], angle[::7, None]))
    >>> decoder.k, r2(angle[:, None], decoder(circle))
    (1, 1.0)
    """
    x, y, _ = _pair(latents, behaviour)
    seen, wanted, _ = _pair(*validation)
    ks = sorted({k for k in ks if 1 <= k <= len(x)})
    if not ks or seen.shape[1] != x.shape[1] or wanted.shape[1] != y.shape[1]:
        raise DataError(
            f"{len(x)} training rows of {x.shape[1]} latents and {y.shape[1]} columns, validation "
            f"of {seen.shape[1]} and {wanted.shape[1]}: give the same columns, and a k of at least "
            "1 that is no larger than the number of rows"
        )
    whole = NeighbourDecoder(_unit(x), y, ks[0])
    scores = [np.nan_to_num(r2(wanted, made)) for made in whole.path(seen, ks)]
    return NeighbourDecoder(whole.directions, y, ks[int(np.argmax(scores))])


def _unit(rows: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(length > 0, length, 1.0)


def _rows(values: np.ndarray, name: str) -> np.ndarray:
    values = np.asarray(values, dtype=float)
    if values.ndim != 2 or not values.size:
        raise DataError(f"{name} have shape {values.shape}: give [n, d], with at least one of each")
    bad = int((~np.isfinite(values)).sum())
    if bad:
        raise DataError(f"{bad} of {values.size} {name} are not finite: drop those rows first")
    return values


def _pair(latents: np.ndarray, behaviour: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows with known behaviour, and which they are."""
    x, y = _rows(latents, "latents"), np.asarray(behaviour, dtype=float)
    if y.ndim != 2 or len(y) != len(x):
        raise DataError(
            f"latents have shape {x.shape}, behaviour {y.shape}: give [n, n_latents] and [n, d]"
        )
    known = np.asarray(np.isfinite(y).all(axis=1))
    if not known.any():
        raise DataError(f"behaviour is unknown in all {len(y)} rows: there is nothing to decode")
    return x[known], y[known], known


def _folds(group: np.ndarray, n_folds: int) -> np.ndarray:
    """Fold of each row: whole groups, neighbours in time together."""
    names, first, code = np.unique(group, return_index=True, return_inverse=True)
    if len(names) < 2:
        raise DataError("all rows are of one trial: cross-validation needs at least two")
    rank = first.argsort().argsort()
    n_folds = min(n_folds, len(names))
    return (rank * n_folds // len(names))[code.reshape(-1)]
