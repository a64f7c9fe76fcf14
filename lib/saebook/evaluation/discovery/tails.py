"""Small p-values: counted over a null, and read from a tail fitted to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from saebook.errors import DataError

# Shares of the null taken for its tail, tried in turn until one looks generalised Pareto.
TAIL_SHARES = (0.1, 0.05, 0.025)
FEWEST_INDEPENDENT = 4.0
# 5 % point of Kolmogorov's distance times √n for an exponential whose scale was fitted.
LARGEST_DISTANCE = 1.09


@dataclass(frozen=True)
class TailP:
    """A p-value, how it was found, and the smallest that could have been.

    Attributes
    ----------
    p
        Probability of a score at least this large under the null.
    method
        "counted", or "tail" where a generalised Pareto tail was used.
    attainable
        What a perfect score would have got.
    counted
        The counted p in either case.
    """

    p: float
    method: Literal["counted", "tail"]
    attainable: float
    counted: float


def tail_p(
    observed: float, null: Any, *, run: int = 1, held_out: int = 1, best: float = 1.0
) -> TailP:
    """Probability that a null gives a score at least as large as the one observed.

    Where the score is at most the 90th percentile of the null, hits are counted:
    ``(held_out + hits) / (held_out + n)``. Beyond, the exceedances of a high threshold u are taken
    for a generalised Pareto tail, ``p = share * (1 + ξ (score - u) / σ)^(-1/ξ)``, with ξ and σ from
    probability-weighted moments. The larger p counts of this fit and of the same tail with ξ
    raised to 1/e, where e is the number of independent exceedances: an exponential tail whose
    scale is known from e values predicts just that, so that little evidence gives no tiny p. A
    tail that does not fit by Kolmogorov's distance is tried again further out, and then given up
    for the count.

    Parameters
    ----------
    observed
        The score.
    null : array
        [n] scores under the null. Neighbours may depend on each other.
    run
        Length over which they do: ``n / run`` values count as independent.
    held_out
        Values left out of the null because they lie too near the observed one; all are counted
        as hits. The observed one is among them.
    best
        A perfect score, for `TailP.attainable`.

    Returns
    -------
    TailP

    Raises
    ------
    DataError
        An empty null, or values that are not finite.

    References
    ----------
    Knijnenburg et al. (2009), Bioinformatics 25, i161. Hosking & Wallis (1987), Technometrics 29.

    Examples
    --------
    >>> null = np.random.default_rng(0).exponential(size=10_000)
    >>> small = tail_p(np.log(1e5), null, best=50.0)
    >>> small.method, bool(0.2e-5 < small.p < 5e-5), round(small.counted, 4)
    ('tail', True, 0.0001)
    >>> tail_p(0.0, null, best=50.0).p
    1.0
    """
    null = np.asarray(null, dtype=float)
    if null.ndim != 1 or not len(null) or not np.isfinite(null).all() or not np.isfinite(observed):
        raise DataError(
            f"score {observed} against a null of shape {null.shape}: give [n] finite values"
        )
    n, held_out = len(null), max(int(held_out), 1)
    # A rounding error must not turn a tie into a miss.
    hits = int((null >= observed - 1e-7 * max(abs(observed), 1e-3)).sum())
    counted = (held_out + hits) / (held_out + n)
    fewest = held_out / (held_out + n)
    tail = _fitted_tail(null, max(run, 1))
    if tail is None:
        return TailP(counted, "counted", fewest, counted)
    attainable = min(fewest, tail.beyond(best))
    if observed <= tail.threshold:
        return TailP(counted, "counted", attainable, counted)
    return TailP(min(tail.beyond(observed), counted), "tail", attainable, counted)


@dataclass(frozen=True)
class _Tail:
    threshold: float
    share: float
    shape: float
    mean_excess: float
    independent: float

    def survival(self, above: Any, shape: float) -> Any:
        """Generalised Pareto of this mean excess."""
        scale = self.mean_excess * (1.0 - min(shape, 0.9))
        if abs(shape) < 1e-9:
            return np.exp(-above / scale)
        return np.maximum(1.0 + shape * above / scale, 0.0) ** (-1.0 / shape)

    def beyond(self, score: float) -> float:
        above = max(score - self.threshold, 0.0)
        shapes = (self.shape, max(self.shape, 1.0 / self.independent))
        return float(self.share * max(self.survival(above, shape) for shape in shapes))


def _fitted_tail(null: np.ndarray, run: int) -> _Tail | None:
    """The tail at the first threshold beyond which it fits; None where none does."""
    n = len(null)
    for share in TAIL_SHARES:
        n_above = int(share * n)
        independent = n_above / run
        if n_above < 5 or independent < FEWEST_INDEPENDENT:
            return None
        ordered = np.partition(null, n - n_above - 1)
        threshold = float(ordered[n - n_above - 1])
        above = np.sort(ordered[n - n_above :]) - threshold
        # Ties leave nothing to fit.
        if above.mean() <= 1e-12:
            return None
        tail = _Tail(threshold, n_above / n, _pareto_shape(above), float(above.mean()), independent)
        expected = 1.0 - tail.survival(above, tail.shape)
        steps = np.arange(n_above + 1) / n_above
        distance = max(np.abs(steps[1:] - expected).max(), np.abs(steps[:-1] - expected).max())
        if distance * np.sqrt(independent) <= LARGEST_DISTANCE:
            return tail
    return None


def _pareto_shape(above: np.ndarray) -> float:
    """Shape ξ of sorted exceedances, by probability-weighted moments."""
    n = len(above)
    weight = (n - np.arange(1, n + 1)) / max(n - 1, 1)
    first, second = float(above.mean()), float((weight * above).mean())
    shape = 2.0 - first / max(first - 2.0 * second, 1e-12 * first)
    # From few values, moments give shapes that no correlation has.
    return float(np.clip(shape, -0.5, 0.5))
