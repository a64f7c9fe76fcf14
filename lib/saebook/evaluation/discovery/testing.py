"""One test of a latent: its tuning from training rows, scored on test rows, against a null."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from saebook.evaluation.discovery.labels import label_scores
from saebook.evaluation.discovery.shifts import FEWEST_ROWS, shifted_scores, without_drift
from saebook.evaluation.discovery.tails import TailP, tail_p
from saebook.evaluation.tuning import tuning_curves, tuning_r2
from saebook.evaluation.variables import Variable

DRIFT_DEGREE = 3
FEWEST_TRIALS = 4
UNTESTED = TailP(float("nan"), "counted", float("nan"), float("nan"))


@dataclass(frozen=True, eq=False)
class LatentScore:
    """What a variable says of one latent on test rows.

    Attributes
    ----------
    r2
        Share of test variance that the training curve explains.
    r
        What is compared with the null: the correlation of latent and prediction, without drift
        where shifts are the null.
    p, method, attainable
        See :class:`~saebook.evaluation.discovery.TailP`; of two nulls, those of the larger p.
    null
        r at each circular offset, or under each permutation of labels.
    null_kind
        "shifts" or "labels".
    guard_s
        Smallest offset, s; NaN for labels.
    curve
        [n_groups] tuning curve of the training rows.
    n_rows
        Test rows in which the variable is known.
    """

    r2: float
    r: float
    p: float
    method: str
    attainable: float
    null: np.ndarray
    null_kind: str
    guard_s: float
    curve: np.ndarray
    n_rows: int


def score_latents(
    train: Any,
    test: Any,
    variable: Variable,
    train_rows: Any,
    test_rows: Any,
    *,
    bin_size_s: float,
    least_guard_s: float = 0.0,
    drift_degree: int = DRIFT_DEGREE,
    n_permutations: int = 1000,
    seed: int = 0,
) -> list[LatentScore]:
    """Score latents against one variable on test rows, each with its p-value.

    Continuous and circular variables, and categories that change at any time: test rows in which
    the variable is known are put end to end, and the prediction is moved against them by every
    circular offset beyond the guard.

    Events: the whole train of events is moved, over all test rows. Trials that are moved one by
    one would count as independent, which they are not: two trains of events of about the same
    pace stay in step over several of them. Where events come at strictly regular times, a shift
    by one brings them back, and p is too large.

    Labels of trials, alone or as conditions of an event: labels are permuted within blocks of
    trials. An event split by conditions has to pass both: the latent is locked to the event, and
    the condition matters.

    Parameters
    ----------
    train, test : array
        [n_train, m], [n_test, m] activity.
    variable : Variable
        Over every row of the store.
    train_rows, test_rows : array of int
        Rows of the store, ascending.
    bin_size_s : float
        Width of a bin, s.
    least_guard_s : float
        Guard at least, s.
    drift_degree : int
        Degree of the polynomial in time that is taken out of both signals before they are
        shifted; -1 for none.
    n_permutations, seed : int
        Of labels.

    Returns
    -------
    list of LatentScore
        One per latent.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> step, rows = rng.integers(0, 4, 4000), np.arange(4000)
    >>> place = Variable("place", "continuous", step * 1.0, step, np.arange(4.0))
    >>> latents = np.stack([step + rng.normal(size=4000), rng.normal(size=4000)], axis=1)
    >>> follows, noise = score_latents(
    ...     latents[:3000], latents[3000:], place, rows[:3000], rows[3000:], bin_size_s=0.05
    ... )
    >>> follows.p < 1e-6, noise.p > 0.05, 0.4 < follows.r2 < 0.7
    (True, True, True)
    """
    train, test = np.asarray(train), np.asarray(test)
    train_rows, test_rows = np.asarray(train_rows), np.asarray(test_rows)
    curves = tuning_curves(train, variable.group[train_rows], variable.n_groups)
    group = variable.group[test_rows]
    r2 = tuning_r2(curves, test, group)
    filled = _filled(curves, group)
    nulls = []
    if variable.kind == "event" or not _of_trials(variable):
        nulls.append(
            _by_shifts(
                test, filled, variable, test_rows,
                least_guard=int(np.ceil(least_guard_s / bin_size_s)), drift_degree=drift_degree,
            )
        )  # fmt: skip
    if _of_trials(variable):
        nulls.append(
            _by_labels(test, filled, variable, test_rows, n_permutations=n_permutations, seed=seed)
        )
    scores = []
    for column, found in enumerate(zip(*nulls, strict=True)):
        # No test counts as the larger p.
        r, tail, null, kind, guard = max(found, key=lambda one: (np.isnan(one[1].p), one[1].p))
        attainable = max(one[1].attainable for one in found)
        scores.append(
            LatentScore(
                float(r2[column]), r, tail.p, tail.method, attainable, null, kind,
                guard * bin_size_s, curves[:, column], int((group >= 0).sum()),
            )
        )  # fmt: skip
    return scores


def _of_trials(variable: Variable) -> bool:
    return variable.trial is not None and bool(variable.conditions)


def _by_shifts(
    test: np.ndarray,
    curves: np.ndarray,
    variable: Variable,
    rows: np.ndarray,
    *,
    least_guard: int,
    drift_degree: int,
) -> list[tuple]:
    group = variable.group[rows]
    known = group >= 0
    predicted = np.where(known[:, None], curves[np.maximum(group, 0)], 0.0)
    if variable.kind == "event":
        # Nothing is predicted outside the windows, and within them only what differs in time.
        mean = predicted[known].mean(axis=0) if known.any() else 0.0
        moved = np.where(known[:, None], predicted - mean, 0.0)
        time, activity = rows, test
    else:
        # A shift must not trade rows where the variable is known, such as movements, for others.
        time, activity, moved = rows[known], test[known], predicted[known]
    if len(time) < FEWEST_ROWS:
        nothing = np.full(0, np.nan, np.float32)
        return [(float("nan"), UNTESTED, nothing, "shifts", float("nan"))] * test.shape[1]
    if drift_degree >= 0 and variable.kind != "time":
        activity = without_drift(activity, time, drift_degree)
        moved = without_drift(moved, time, drift_degree)
    shifted = shifted_scores(activity, moved, least_guard=least_guard)
    found = []
    for column, guard in enumerate(shifted.guard):
        null, r = shifted.null(column), float(shifted.r[0, column])
        tail = tail_p(r, null, run=int(guard), held_out=2 * int(guard) - 1)
        found.append((r, tail, null, "shifts", float(guard)))
    return found


def _by_labels(
    test: np.ndarray,
    curves: np.ndarray,
    variable: Variable,
    rows: np.ndarray,
    *,
    n_permutations: int,
    seed: int,
) -> list[tuple]:
    scores = label_scores(test, curves, variable, rows, n_permutations=n_permutations, seed=seed)
    found = []
    for column, r in enumerate(scores.observed):
        null = scores.null[:, column]
        if scores.n_trials < FEWEST_TRIALS or not len(null):
            tail = UNTESTED
        else:
            tail = tail_p(float(r), null)
            # The order that was is one of so many.
            fewest = 1.0 / scores.distinct
            p, attainable = max(tail.p, fewest), max(tail.attainable, fewest)
            tail = TailP(p, tail.method, attainable, tail.counted)
        found.append((float(r), tail, null.astype(np.float32), "labels", float("nan")))
    return found


def _filled(curves: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Curves with their mean over the scored rows where training rows gave none."""
    counts = np.bincount(group[group >= 0], minlength=len(curves))[:, None]
    known = np.isfinite(curves)
    weight = np.where(known, counts, 0)
    mean = np.where(known, curves, 0.0) * weight
    mean = mean.sum(axis=0) / np.maximum(weight.sum(axis=0), 1)
    return np.where(known, curves, mean)
