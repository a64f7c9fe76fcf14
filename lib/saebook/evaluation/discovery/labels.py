"""The null of trial labels: which kind each trial was, permuted among its neighbours."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from saebook.errors import DataError
from saebook.evaluation.variables import Variable

# Drift may carry the labels of early and late trials apart, but hardly those of neighbours.
BLOCK_TRIALS = 16


@dataclass(frozen=True, eq=False)
class LabelScores:
    """Scores of labelled trials, as they were and with labels permuted.

    Attributes
    ----------
    observed
        [m] correlation of activity and prediction.
    null
        [n_permutations, m].
    distinct
        How many orders of the labels there are; p can't lie below its inverse.
    n_trials
        Trials that were permuted.
    """

    observed: np.ndarray
    null: np.ndarray
    distinct: float
    n_trials: int


def label_scores(
    activity: Any,
    curves: Any,
    variable: Variable,
    rows: Any,
    *,
    n_permutations: int = 1000,
    block_trials: int = BLOCK_TRIALS,
    seed: int = 0,
) -> LabelScores:
    """Correlate latents with what the labels of trials predict, labels permuted within blocks.

    Each trial keeps its rows and its time from the event; what is permuted is which condition's
    curve it gets. A latent that follows the event alike in all trials thus gains nothing.

    Parameters
    ----------
    activity : array
        [n, m] of the rows given.
    curves : array
        [n_groups, m] tuning curves from other rows, without NaN.
    variable : Variable
        With `trial` and `conditions`; rows outside its trials are left out.
    rows : array of int
        [n] rows of the store, ascending.
    n_permutations : int
        Permutations drawn.
    block_trials : int
        Trials in a block; consecutive ones, in the order of time.
    seed : int
        Of the permutations.

    Returns
    -------
    LabelScores

    Raises
    ------
    DataError
        The variable knows no trials.

    Examples
    --------
    >>> side, rows = np.arange(40) // 2 % 2, np.arange(40)
    >>> sides = Variable(
    ...     "side", "categorical", side * 1.0, side, np.arange(2.0), "", ("l", "r"), rows // 2
    ... )
    >>> scores = label_scores(side[:, None] * 1.0, np.array([[0.0], [1.0]]), sides, rows)
    >>> round(float(scores.observed[0]), 6), scores.n_trials, bool((scores.null < 0.99).mean() > 0.98)
    (1.0, 20, True)
    """
    if variable.trial is None or not variable.conditions:
        raise DataError(f"{variable.name} knows no labelled trials: it can't be permuted by trial")
    rows, activity, curves = np.asarray(rows), np.asarray(activity), np.asarray(curves)
    group, trial = variable.group[rows], variable.trial[rows]
    known = (group >= 0) & (trial >= 0)
    activity, group, trial = activity[known], group[known], trial[known]
    m, n_kinds = activity.shape[1], len(variable.conditions)
    if not len(group):
        return LabelScores(np.zeros(m), np.zeros((0, m)), 1.0, 0)
    n_steps = len(variable.centres) if variable.kind == "event" else 1
    label, step = group // n_steps, group % n_steps
    # Trials in the order of time; a trial's rows lie together.
    first = np.flatnonzero(np.r_[True, np.diff(trial) != 0])
    label = label[first]
    n_rows = np.diff(np.r_[first, len(trial)])

    activity = activity - activity.mean(axis=0)
    size = np.sqrt((activity.astype(float) ** 2).sum(axis=0))
    sums, squares, totals = (np.empty((len(first), n_kinds, m)) for _ in range(3))
    for kind in range(n_kinds):
        made = curves[kind * n_steps + step]
        sums[:, kind] = np.add.reduceat(activity * made, first, axis=0)
        squares[:, kind] = np.add.reduceat(made**2, first, axis=0)
        totals[:, kind] = np.add.reduceat(made, first, axis=0)

    block = np.arange(len(first)) // block_trials
    orders = _orders(label, block, n_permutations, seed)
    picked = np.zeros((len(orders), len(first), n_kinds))
    picked[np.arange(len(orders))[:, None], np.arange(len(first))[None], orders] = 1.0
    picked = picked.reshape(len(orders), -1)
    covariance, square, total = (picked @ part.reshape(-1, m) for part in (sums, squares, totals))
    spread = np.sqrt(np.clip(square - total**2 / n_rows.sum(), 0.0, None)) * size
    varies = spread > 1e-12
    r = np.where(varies, covariance / np.where(varies, spread, 1.0), 0.0)
    return LabelScores(r[0], r[1:], distinct_orders(label, block), len(first))


def _orders(label: np.ndarray, block: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Labels [1 + n, n_trials]: as they were, then permuted within blocks."""
    drawn = np.random.default_rng(seed).random((n, len(label))) + block
    return np.vstack([label[None], label[np.argsort(drawn, axis=1, kind="stable")]])


def distinct_orders(label: np.ndarray, block: np.ndarray) -> float:
    """How many different orders permutation within blocks can give.

    Parameters
    ----------
    label, block : ndarray
        [n] int.

    Examples
    --------
    >>> distinct_orders(np.array([0, 0, 1, 0, 1]), np.array([0, 0, 0, 1, 1]))
    6.0
    """
    log = 0.0
    for b in np.unique(block):
        counts = np.bincount(label[block == b])
        log += math.lgamma(counts.sum() + 1) - sum(math.lgamma(c + 1) for c in counts)
    return float(round(math.exp(log))) if log < 30 else float(math.exp(min(log, 700.0)))
