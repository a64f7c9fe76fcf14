"""How much of a latent a variable explains, on rows that chose neither, against shifted time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from saebook.data.spikes.session import decorrelation_lag
from saebook.errors import DataError
from saebook.evaluation.variables import Variable


def tuning_curves(activity: Any, group: Any, n_groups: int) -> np.ndarray:
    """Mean activity in each group.

    Parameters
    ----------
    activity : array
        [n, m] or [n] of m latents or units.
    group : array
        [n] int, -1 where unknown.
    n_groups : int
        Number of groups.

    Returns
    -------
    ndarray
        [n_groups, m] or [n_groups] float64; NaN in a group without a row.

    Examples
    --------
    >>> tuning_curves([1.0, 3.0, 5.0], [0, 0, 1], 3).tolist()
    [2.0, 5.0, nan]
    """
    activity, group = _pair(activity, group)
    sums, counts = _group_sums(
        activity if activity.ndim == 2 else activity[:, None], group, n_groups
    )
    with np.errstate(invalid="ignore"):
        curves = sums / counts[:, None]
    return curves if activity.ndim == 2 else curves[:, 0]


def tuning_r2(curves: Any, activity: Any, group: Any) -> np.ndarray:
    """Share of variance that tuning curves fitted elsewhere explain.

    ``1 - Σ(a - curve[group])² / Σ(a - mean(a))²`` over the rows whose group is known.

    Parameters
    ----------
    curves : array
        [n_groups, m] or [n_groups], from other rows.
    activity : array
        [n, m] or [n].
    group : array
        [n] int, -1 where unknown.

    Returns
    -------
    ndarray
        [m] or a number; 0 for a mean predictor, negative where worse; NaN for constant activity.
        Groups whose curve is NaN predict the mean of the curve over the scored rows.

    Examples
    --------
    >>> float(tuning_r2([0.0, 4.0], [0.0, 0.0, 4.0, 4.0], [0, 0, 1, 1]))
    1.0
    >>> float(tuning_r2([2.0, 2.0], [0.0, 0.0, 4.0, 4.0], [0, 0, 1, 1]))
    0.0
    """
    curves = np.asarray(curves, dtype=float)
    activity, group = _pair(activity, group)
    known = group >= 0
    a, predicted = activity[known], curves[group[known]]
    if not len(a):
        return np.full(activity.shape[1:], np.nan)
    missing = np.isnan(predicted)
    if missing.any():
        fill = np.nanmean(np.where(missing.all(axis=0), 0.0, predicted), axis=0)
        predicted = np.where(missing, fill, predicted)
    total = ((a - a.mean(axis=0)) ** 2).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(total > 0, 1.0 - ((a - predicted) ** 2).sum(axis=0) / total, np.nan)


def tuning_table(
    activity: Any, variables: Sequence[Variable], rows: Any, *, n_folds: int = 5
) -> pd.DataFrame:
    """Score every latent against every variable, by cross-validation inside the rows given.

    The rows are cut into contiguous folds; each fold is predicted from the tuning curve of the
    others. A variable with many groups thus gains nothing by having them.

    Parameters
    ----------
    activity : array
        [n, m] over the rows given.
    variables : sequence of Variable
        Over every row of the store.
    rows : array of int
        [n] rows of the store, ascending: the training rows.
    n_folds : int
        Contiguous parts.

    Returns
    -------
    DataFrame
        [m, n_variables] share of variance explained, columns named after the variables.
        Constant latents score 0.

    Examples
    --------
    >>> step = np.arange(40) % 4
    >>> phase = Variable("phase", "continuous", step * 1.0, step, np.arange(4.0))
    >>> activity = np.stack([step * 1.0, np.ones(40)], axis=1)
    >>> tuning_table(activity, [phase], np.arange(40))["phase"].tolist()
    [1.0, 0.0]
    """
    activity, rows = np.asarray(activity, dtype=float), np.asarray(rows)
    if activity.ndim != 2 or len(activity) != len(rows):
        raise DataError(f"activity has shape {activity.shape} for {len(rows)} rows: give [n, m]")
    fold = np.arange(len(rows)) * n_folds // max(len(rows), 1)
    scores = {
        v.name: _cross_validated(activity, v.group[rows], v.n_groups, fold) for v in variables
    }
    return pd.DataFrame(scores)


def _cross_validated(
    activity: np.ndarray, group: np.ndarray, n_groups: int, fold: np.ndarray
) -> np.ndarray:
    known = group >= 0
    activity, group, fold = activity[known], group[known], fold[known]
    n_folds, m = int(fold.max(initial=0)) + 1, activity.shape[1]
    sums, counts = _group_sums(activity, fold * n_groups + group, n_folds * n_groups)
    sums, counts = sums.reshape(n_folds, n_groups, m), counts.reshape(n_folds, n_groups)
    others_n = counts.sum(0) - counts
    others = sums.sum(0) - sums
    overall = others.sum(1) / np.maximum(others_n.sum(1), 1)[:, None]
    curves = np.where(
        others_n[..., None] > 0, others / np.maximum(others_n, 1)[..., None], overall[:, None]
    )
    squares = (activity**2).sum(0)
    error = squares - 2 * (curves * sums).sum((0, 1)) + (curves**2 * counts[..., None]).sum((0, 1))
    total = squares - activity.sum(0) ** 2 / max(len(activity), 1)
    varies = total > 1e-12 * np.maximum(squares, 1e-300)
    return np.where(varies, 1.0 - error / np.where(varies, total, 1.0), 0.0)


@dataclass(frozen=True, eq=False)
class TuningScore:
    """A tuning curve from training rows, scored on test rows.

    Attributes
    ----------
    r2
        Share of test variance explained.
    r
        Correlation of prediction and activity on test rows: what is shifted, since it does not
        depend on how active the latent is at other times.
    low, high
        95 % interval of r2 over resampled stretches of the test rows.
    p
        ``(1 + hits) / (1 + n)`` over circular shifts of the test rows; NaN where the test rows
        are too short to shift.
    null
        r at each shift [n_shifts].
    resampled
        r2 of each resampling [n]; the same stretches at the same seed, so two scores on the same
        rows can be compared pair by pair.
    curve_train, curve_test
        Tuning curves [n_groups].
    null_curves
        Tuning curves on shifted test rows [n_shifts, n_groups].
    shortest_shift_s
        Smallest shift, s: twice the longer autocorrelation time of latent and prediction.
    """

    r2: float
    r: float
    low: float
    high: float
    p: float
    null: np.ndarray
    resampled: np.ndarray
    curve_train: np.ndarray
    curve_test: np.ndarray
    null_curves: np.ndarray
    shortest_shift_s: float


def score_tuning(
    train: Any,
    test: Any,
    variable: Variable,
    train_rows: Any,
    test_rows: Any,
    *,
    bin_size_s: float,
    n_shifts: int = 499,
    n_resamples: int = 500,
    stretch_s: float = 1.0,
    seed: int = 0,
) -> TuningScore:
    """Score one latent's tuning on test rows, against circular shifts of them.

    Parameters
    ----------
    train, test : array
        [n_train], [n_test] activity of one latent or unit.
    variable : Variable
        Over every row of the store.
    train_rows, test_rows : array of int
        Rows of the store, ascending.
    bin_size_s : float
        Width of a bin, s.
    n_shifts : int
        Shifts drawn, without repetition, of at least twice the autocorrelation time.
    n_resamples : int
        Resamplings of stretches of test rows, for the interval.
    stretch_s : float
        Length of a stretch, s; at least twice the autocorrelation time of the variable.
    seed : int
        Of shifts and resamplings.

    Returns
    -------
    TuningScore

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> step = rng.integers(0, 4, 4000)
    >>> place = Variable("place", "continuous", step * 1.0, step, np.arange(4.0))
    >>> latent, rows = step + rng.normal(size=4000), np.arange(4000)
    >>> score = score_tuning(
    ...     latent[:3000], latent[3000:], place, rows[:3000], rows[3000:], bin_size_s=0.05
    ... )
    >>> 0.4 < score.r2 < 0.7, score.p
    (True, 0.002)
    """
    train, test = np.asarray(train, dtype=float), np.asarray(test, dtype=float)
    group_train, group = (variable.group[np.asarray(rows)] for rows in (train_rows, test_rows))
    curve = tuning_curves(train, group_train, variable.n_groups)
    r2 = float(tuning_r2(curve, test, group))

    # Windows around events follow one another when what lies between is cut out, so a shift
    # among them alone would bring every trial back into place; elsewhere, a shift must not trade
    # rows where the variable is known, such as movements, for the others.
    whole = variable.kind == "event"
    moved, at = (test, group) if whole else _known(test, group)
    known_train = group_train >= 0
    predicted = np.where(
        known_train, curve[group_train], np.nanmean(curve[group_train[known_train]])
    )
    kept = slice(None) if whole else known_train
    slowest = 2 * max(decorrelation_lag(train[kept]), decorrelation_lag(predicted[kept]))
    offsets = np.arange(slowest, len(moved) - slowest + 1)
    offsets = np.random.default_rng(seed).permutation(offsets)[:n_shifts]
    null, null_curves = _shifted(curve, moved, at, offsets)
    observed, _ = _shifted(curve, moved, at, np.array([0]))
    r = float(observed[0])

    # A rounding error must not turn a tie into a miss.
    hits = int((null >= r - 1e-12).sum())
    p = (1 + hits) / (1 + len(null)) if len(null) >= 19 and np.isfinite(r) else float("nan")

    test, group = _known(test, group)
    # By the variable alone: the stretches of two signals have to be the same ones.
    pace = decorrelation_lag(variable.values[np.asarray(train_rows)][known_train])
    length = max(round(stretch_s / bin_size_s), 2 * pace)
    resampled = _resample(curve, test, group, length, n_resamples, seed)
    low, high = np.nanquantile(resampled, [0.025, 0.975]) if len(resampled) else (np.nan, np.nan)
    return TuningScore(
        r2=r2,
        r=r,
        low=float(low),
        high=float(high),
        p=p,
        null=null,
        resampled=resampled,
        curve_train=curve,
        curve_test=tuning_curves(test, group, len(curve)),
        null_curves=null_curves,
        shortest_shift_s=slowest * bin_size_s,
    )


def _shifted(
    curve: np.ndarray, test: np.ndarray, group: np.ndarray, offsets: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Correlation and tuning curves with rows rolled by each offset, by Fourier transform."""
    n_rows, n_groups = len(test), len(curve)
    known = group >= 0
    n = int(known.sum())
    if not len(offsets) or not n:
        return np.full(len(offsets), np.nan), np.full((len(offsets), n_groups), np.nan)

    def sums_over(rows: np.ndarray, values: np.ndarray) -> np.ndarray:
        # Entry s is the sum of values[t - s] over the rows t.
        product = np.fft.rfft(rows) * np.conj(np.fft.rfft(values))
        return np.fft.irfft(product, n_rows)[-offsets % n_rows]

    centred = test - test.mean()
    sums = np.stack([sums_over(group == g, centred) for g in range(n_groups)], axis=1)
    counts = np.bincount(group[known], minlength=n_groups)
    with np.errstate(invalid="ignore", divide="ignore"):
        curves = sums / counts + test.mean()
    filled = _filled(curve, counts)
    mean = sums.sum(axis=1) / n
    spread = np.clip(sums_over(known, centred**2) / n - mean**2, 0.0, None)
    of_curve = counts @ filled / n
    covariance = sums @ filled / n - mean * of_curve
    scale = np.sqrt(spread * (counts @ filled**2 / n - of_curve**2))
    varies = scale > 1e-12
    return np.where(varies, covariance / np.where(varies, scale, 1.0), 0.0), curves


def _resample(
    curve: np.ndarray, test: np.ndarray, group: np.ndarray, length: int, n: int, seed: int
) -> np.ndarray:
    """Bootstrap over stretches that follow one another; fewer than four bear no interval."""
    n_stretches = len(test) // length
    if n_stretches < 4:
        return np.empty(0)
    predicted = _filled(curve, np.bincount(group, minlength=len(curve)))[group]
    stretches = test[: n_stretches * length].reshape(n_stretches, length)
    error = (test - predicted)[: n_stretches * length].reshape(n_stretches, length)
    sums = np.stack([(error**2).sum(1), stretches.sum(1), (stretches**2).sum(1)], axis=1)
    drawn = np.random.default_rng([seed, 1]).integers(0, n_stretches, (n, n_stretches))
    squared_error, first, second = sums[drawn].sum(1).T
    total = second - first**2 / (n_stretches * length)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(total > 0, 1.0 - squared_error / total, np.nan)


def _filled(curve: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The curve, with its mean over the scored rows where training rows gave none."""
    known = np.isfinite(curve)
    n = counts[known].sum()
    return np.where(known, curve, (curve[known] * counts[known]).sum() / n if n else 0.0)


def _known(activity: np.ndarray, group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return activity[group >= 0], group[group >= 0]


def _pair(activity: Any, group: Any) -> tuple[np.ndarray, np.ndarray]:
    activity, group = np.asarray(activity, dtype=float), np.asarray(group)
    if activity.ndim not in (1, 2) or len(activity) != len(group):
        raise DataError(
            f"activity has shape {activity.shape}, group {group.shape}: give [n, m] and [n]"
        )
    return activity, group


def _group_sums(
    activity: np.ndarray, group: np.ndarray, n_groups: int
) -> tuple[np.ndarray, np.ndarray]:
    from scipy.sparse import csr_array

    known = np.flatnonzero(group >= 0)
    one_hot = csr_array((np.ones(len(known)), (group[known], known)), shape=(n_groups, len(group)))
    return one_hot @ activity, np.bincount(group[known], minlength=n_groups)
