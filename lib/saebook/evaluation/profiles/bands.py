"""What tuning curves would be without any tuning: 95 % bands from shifts and permutations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from saebook.errors import DataError

N_DRAWS = 200
# Fewer draws than this leave nothing outside a 95 % band.
FEWEST_DRAWS = 39
LEVELS = (0.025, 0.975)
CHUNK_VALUES = 1_000_000
# Drift may carry the labels of early and late trials apart, but hardly those of neighbours.
BLOCK_TRIALS = 16


@dataclass(frozen=True, eq=False)
class NullBand:
    """Pointwise 95 % of the mean activity that chance gives.

    Attributes
    ----------
    low, high
        [n_steps], NaN where nothing is known.
    made_by
        "circular shifts" or "permuted labels".
    n_draws
        How many of them.
    """

    low: np.ndarray
    high: np.ndarray
    made_by: str
    n_draws: int


def shifted_curves(rows: Any, values: Any, group: Any, n_groups: int, offsets: Any) -> np.ndarray:
    """Mean activity per group, with the activity moved round the end by each offset.

    Parameters
    ----------
    rows, values : array
        Rows [m] at which a latent isn't zero, and its values.
    group : array
        [n] int, -1 where unknown.
    n_groups : int
        Number of groups.
    offsets : array of int
        [s] shifts, rows, between 0 and n.

    Returns
    -------
    ndarray
        [s, n_groups]; NaN for a group without rows. The work grows with m, not with n.

    Examples
    --------
    >>> shifted_curves([0], [6.0], [0, 0, 1], 2, [0, 2]).tolist()
    [[3.0, 0.0], [0.0, 6.0]]
    """
    rows, values = np.asarray(rows), np.asarray(values, dtype=float)
    group, offsets = np.asarray(group), np.asarray(offsets)
    # A group more for rows without one; the array twice, so that no index has to wrap.
    place = np.where(group >= 0, group, n_groups)
    place = np.concatenate([place, place]).astype(np.int64)
    width = n_groups + 1
    sums = np.zeros((len(offsets), width))
    per_chunk = max(1, CHUNK_VALUES // max(len(rows), 1))
    for start in range(0, len(offsets), per_chunk):
        moved = offsets[start : start + per_chunk]
        at = place[rows[None, :] + moved[:, None]]  # [chunk, m]
        at += width * np.arange(len(moved))[:, None]
        weights = np.broadcast_to(values, at.shape).ravel()
        total = np.bincount(at.ravel(), weights, minlength=width * len(moved))
        sums[start : start + len(moved)] = total.reshape(len(moved), width)
    counts = np.bincount(place[: len(group)], minlength=width)[:n_groups]
    with np.errstate(invalid="ignore"):
        return sums[:, :n_groups] / np.where(counts > 0, counts, np.nan)


def shifted_band(
    rows: Any,
    values: Any,
    group: Any,
    n_groups: int,
    *,
    shortest: int,
    n_draws: int = N_DRAWS,
    seed: int = 0,
) -> NullBand | None:
    """Band of circular shifts: what slow activity and a slow variable have in common by chance.

    Parameters
    ----------
    rows, values, group, n_groups
        As for :func:`shifted_curves`.
    shortest : int
        Smallest shift, rows: at least the autocorrelation time.
    n_draws : int
        Shifts drawn, without repetition.
    seed : int
        Of the draw.

    Returns
    -------
    NullBand or None
        None where fewer than 39 shifts are possible.

    Examples
    --------
    >>> group = np.arange(400) % 4
    >>> rows = np.random.default_rng(0).permutation(400)[:100]
    >>> band = shifted_band(rows, np.ones(100), group, 4, shortest=5)
    >>> bool((band.low < 0.25).all() and (band.high > 0.25).all())
    True
    """
    offsets = np.arange(shortest, len(group) - shortest + 1)
    offsets = np.random.default_rng(seed).permutation(offsets)[:n_draws]
    if len(offsets) < FEWEST_DRAWS:
        return None
    curves = shifted_curves(rows, values, group, n_groups, offsets)
    low, high = np.quantile(curves, LEVELS, axis=0)
    return NullBand(low, high, "circular shifts", len(offsets))


def permuted_band(
    sums: Any, counts: Any, label: Any, n_labels: int, *, n_draws: int = N_DRAWS, seed: int = 0
) -> NullBand | None:
    """Band of permuted trial labels: how far conditions differ when they don't matter.

    Parameters
    ----------
    sums, counts : array
        [n_trials, n_steps] summed activity, and rows summed over; trials in the order of time.
    label : array
        [n_trials] int condition of each trial.
    n_labels : int
        Number of conditions.
    n_draws : int
        Permutations of the labels, each within blocks of 16 consecutive trials.
    seed : int
        Of the permutations.

    Returns
    -------
    NullBand or None
        The widest over conditions at each step; None for one condition, or for so few trials
        that a permutation is hardly ever another one (fewer than five).

    Raises
    ------
    DataError
        Shapes disagree.

    Examples
    --------
    >>> sums = np.repeat([[1.0], [3.0]], 10, axis=0)
    >>> band = permuted_band(sums, np.ones((20, 1)), np.repeat([0, 1], 10), 2)
    >>> bool(1.0 < band.low[0] < 2.0 < band.high[0] < 3.0)
    True
    """
    sums, counts, label = np.asarray(sums, float), np.asarray(counts, float), np.asarray(label)
    if sums.shape != counts.shape or sums.ndim != 2 or len(label) != len(sums):
        raise DataError(
            f"sums have shape {sums.shape}, counts {counts.shape}, labels {label.shape}: give "
            "[n_trials, n_steps] twice and [n_trials]"
        )
    size = np.bincount(label, minlength=n_labels)
    present = np.flatnonzero(size)
    if len(present) < 2 or len(label) < 5:
        return None
    begins = np.concatenate([[0], np.cumsum(size[present])[:-1]])
    rng = np.random.default_rng(seed)
    curves = np.empty((n_draws, len(present), sums.shape[1]))
    both = np.concatenate([sums, counts], axis=1)
    by_label = np.argsort(label, kind="stable")
    block = np.arange(len(label)) // BLOCK_TRIALS
    for draw in range(n_draws):
        order = np.lexsort((rng.random(len(label)), block))
        total = np.add.reduceat(both[order[by_label]], begins, axis=0)
        n = total[:, sums.shape[1] :]
        curves[draw] = total[:, : sums.shape[1]] / np.where(n > 0, n, np.nan)
    known = np.isfinite(curves).all(axis=(0, 1))
    low, high = np.full((2, sums.shape[1]), np.nan)
    if known.any():
        ends = np.quantile(curves[:, :, known], LEVELS, axis=0)
        low[known], high[known] = ends[0].min(axis=0), ends[1].max(axis=0)
    return NullBand(low, high, "permuted labels", n_draws)
