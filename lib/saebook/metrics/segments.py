"""Does a curve have stages? Continuous piecewise-linear fits, judged on repetitions left out."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from saebook.errors import DataError

FEWEST_POINTS_PER_SEGMENT = 3


@dataclass(frozen=True, eq=False)
class SegmentFit:
    """A continuous line of straight pieces.

    Parameters
    ----------
    knots : ndarray
        [n_segments - 1] places where the slope changes, in the unit of x.
    fitted : ndarray
        [n] values of the line at x.
    """

    knots: np.ndarray
    fitted: np.ndarray


@dataclass(frozen=True, eq=False)
class SegmentChoice:
    """How many straight pieces repetitions left out can bear.

    Parameters
    ----------
    n_segments : int
        The fewest whose left-out error is within one standard error of the smallest.
    errors : ndarray
        [max_segments, n_curves] mean squared error on each curve left out.
    unexplained : ndarray
        [max_segments] mean left-out error as a share of the variance of the mean curve; NaN
        where that is constant.
    """

    n_segments: int
    errors: np.ndarray
    unexplained: np.ndarray

    @property
    def at_edge(self) -> bool:
        """Whether the most pieces tried won: a smooth bend, of which no number is special."""
        return self.n_segments == len(self.errors)


def fit_segments(x: np.ndarray, y: np.ndarray, n_segments: int, n_knots: int = 16) -> SegmentFit:
    """The best continuous piecewise-linear fit with a number of segments.

    Every placement of the knots on an even grid is tried, so the result is the global optimum
    on that grid.

    Parameters
    ----------
    x : ndarray
        [n] increasing.
    y : ndarray
        [n] values.
    n_segments : int
        Straight pieces, at least 1.
    n_knots : int
        Places a knot can take, evenly spaced strictly inside x.

    Returns
    -------
    SegmentFit

    Raises
    ------
    DataError
        Lengths differ, x does not increase, a value is not finite, or there are too few points.

    Examples
    --------
    >>> x = np.linspace(0, 17, 103)
    >>> fit_segments(x, np.maximum(x - 5, 0), 2).knots.round(6).tolist()
    [5.0]
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    _check(x, y[None], n_segments)
    bases, knots = _bases(tuple(x.tolist()), n_segments, n_knots)
    best = int(_explained(bases, y).argmax())
    return SegmentFit(knots[best], bases[best] @ (bases[best].T @ y))


def choose_segments(
    x: np.ndarray, curves: np.ndarray, max_segments: int = 5, n_knots: int = 16
) -> SegmentChoice:
    """Choose a number of segments by leaving out one repetition at a time.

    The line is fitted to the mean of all other curves and scored on the one left out, so noise
    that repetitions don't share, autocorrelated or not, cannot pay for a further piece.

    Parameters
    ----------
    x : ndarray
        [n] increasing.
    curves : ndarray
        [n_curves, n], one repetition (seed) each; at least two.
    max_segments : int
        Most pieces tried.
    n_knots : int
        As for ``fit_segments``.

    Returns
    -------
    SegmentChoice

    Raises
    ------
    DataError
        Fewer than two curves, or as ``fit_segments`` says.

    Examples
    --------
    >>> x = np.linspace(0, 17, 103)
    >>> noise = np.random.default_rng(0).normal(0, 0.05, (4, 103))
    >>> choose_segments(x, np.maximum(x - 5, 0) + noise).n_segments
    2
    """
    x, curves = np.asarray(x, float), np.asarray(curves, float)
    if curves.ndim != 2 or len(curves) < 2:
        raise DataError(
            f"curves have shape {curves.shape}: give [n_curves, n] with at least two, so that one "
            "can be left out"
        )
    _check(x, curves, max_segments)
    errors = np.empty((max_segments, len(curves)))
    for out in range(len(curves)):
        others = np.delete(curves, out, axis=0).mean(axis=0)
        for n_segments in range(1, max_segments + 1):
            fitted = fit_segments(x, others, n_segments, n_knots).fitted
            errors[n_segments - 1, out] = np.mean((fitted - curves[out]) ** 2)
    behind = errors - errors[errors.mean(axis=1).argmin()]
    spread = behind.std(axis=1, ddof=1) / np.sqrt(len(curves))
    variance = curves.mean(axis=0).var()
    unexplained = (
        errors.mean(axis=1) / variance
        if curves.std(axis=1).any()
        else np.full(max_segments, np.nan)
    )
    rounding = 1e-24 * np.mean(curves**2)  # a constant curve leaves nothing but this
    near = behind.mean(axis=1) <= spread + rounding
    return SegmentChoice(int(near.argmax()) + 1, errors, unexplained)


def _check(x: np.ndarray, curves: np.ndarray, n_segments: int) -> None:
    if x.ndim != 1 or curves.shape[1:] != x.shape:
        raise DataError(f"x has shape {x.shape}, y {curves.shape}: give as many values as places")
    if not (np.isfinite(x).all() and np.isfinite(curves).all()):
        raise DataError("x or y hold values that are not finite: drop those points first")
    if (np.diff(x) <= 0).any():
        raise DataError("x does not increase: sort the points and merge equal places")
    if n_segments < 1 or len(x) < FEWEST_POINTS_PER_SEGMENT * n_segments:
        raise DataError(
            f"{len(x)} points for {n_segments} segments: give at least one segment, and "
            f"{FEWEST_POINTS_PER_SEGMENT} points for each"
        )


def _explained(bases: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Squared length of y inside the span of each basis: the larger, the better the fit."""
    return np.square(np.einsum("cns,n->cs", bases, y, optimize=True)).sum(axis=1)


@lru_cache(maxsize=64)
def _bases(x: tuple[float, ...], n_segments: int, n_knots: int) -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal bases of all lines with these knots [c, n, n_segments + 1], and the knots.

    They depend on x alone, and curves over one x are fitted hundreds of times.
    """
    places = np.asarray(x)
    grid = np.linspace(places[0], places[-1], n_knots + 2)
    bases, knots = [], []
    for inner in itertools.combinations(range(1, n_knots + 1), n_segments - 1):
        nodes = grid[[0, *inner, n_knots + 1]]
        held = np.diff(np.searchsorted(places, nodes))
        if n_segments > 1 and held.min() < FEWEST_POINTS_PER_SEGMENT - 1:
            continue
        tents = [np.interp(places, nodes, row) for row in np.eye(len(nodes))]
        bases.append(np.stack(tents, axis=1))
        knots.append(nodes[1:-1])
    if not bases:
        raise DataError(
            f"no place on {n_knots} knots leaves {FEWEST_POINTS_PER_SEGMENT - 1} points to each of "
            f"{n_segments} segments; give more points or fewer segments"
        )
    return np.linalg.qr(np.stack(bases))[0], np.stack(knots)
