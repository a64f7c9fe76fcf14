"""Would single units or principal components have shown the same?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import gammaln

from saebook.evaluation.discovery.findings import columns_of
from saebook.evaluation.discovery.testing import score_latents
from saebook.evaluation.tuning import tuning_curves, tuning_r2, tuning_table
from saebook.evaluation.variables import Variable


def compare_codes(
    codes: Mapping[str, Any],
    variables: Sequence[Variable],
    train_rows: Any,
    test_rows: Any,
    *,
    bin_size_s: float,
    seed: int = 0,
) -> pd.DataFrame:
    """For each variable, the best dimension of each code, chosen on training rows.

    The best of many candidates is better than the best of few, even if chosen on other rows.
    So each code is scored a second time at equal numbers: the score that its best dimension would
    have on average, were it chosen from as many of its dimensions as the smallest code has.

    Parameters
    ----------
    codes : mapping of str to array
        Name and [n_rows, m] activity in every row of the store: latents, units, components.
    variables : sequence of Variable
        Over every row of the store.
    train_rows, test_rows : array of int
        Rows of the store, ascending.
    bin_size_s : float
        Width of a bin, s.
    seed : int
        Of permuted labels.

    Returns
    -------
    DataFrame
        One row per variable and code: ``variable``, ``kind``, ``code``, ``dimension``,
        ``candidates``, ``score_train``, ``score_test``, ``p`` (see
        :func:`~saebook.evaluation.discovery.score_latents`; not corrected for the number of
        variables), and ``score_equal``, the test score at equal numbers of candidates.
        Dimensions that are constant in training rows are no candidates.

    Examples
    --------
    >>> rng, rows = np.random.default_rng(0), np.arange(4000)
    >>> step = rng.integers(0, 4, 4000)
    >>> place = Variable("place", "continuous", step * 1.0, step, np.arange(4.0))
    >>> codes = {"clean": np.eye(4)[step], "noise": rng.normal(size=(4000, 2))}
    >>> table = compare_codes(codes, [place], rows[:3000], rows[3000:], bin_size_s=0.05)
    >>> table[["code", "candidates"]].values.tolist(), bool(table.loc[0, "score_equal"] > 0.9)
    ([['clean', 4], ['noise', 2]], True)
    """
    train_rows, test_rows = np.asarray(train_rows), np.asarray(test_rows)
    parts, candidates = {}, {}
    for name, code in codes.items():
        activity = columns_of(code, np.arange(code.shape[1]))
        parts[name] = activity[train_rows], activity[test_rows]
        span = np.ptp(parts[name][0], axis=0)
        candidates[name] = np.flatnonzero(span > 1e-6 * span.max(initial=0.0))
    fewest = max(min(len(columns) for columns in candidates.values()), 1)
    scores = {
        name: tuning_table(train[:, candidates[name]], variables, train_rows).to_numpy()
        for name, (train, _) in parts.items()
    }
    records = []
    for number, variable in enumerate(variables):
        for name, (train, test) in parts.items():
            own = scores[name][:, number]
            if not len(own):
                continue
            best = int(own.argmax())
            column = candidates[name][best]
            score = score_latents(
                train[:, [column]], test[:, [column]], variable, train_rows, test_rows,
                bin_size_s=bin_size_s, seed=seed,
            )[0]  # fmt: skip
            curves = tuning_curves(train, variable.group[train_rows], variable.n_groups)
            on_test = tuning_r2(curves, test, variable.group[test_rows])[candidates[name]]
            records.append(
                {
                    "variable": variable.name,
                    "kind": variable.kind,
                    "code": name,
                    "dimension": int(column),
                    "candidates": len(own),
                    "score_train": float(own[best]),
                    "score_test": score.r2,
                    "score_equal": best_of_fewer(own, np.nan_to_num(on_test), fewest),
                    "p": score.p,
                }
            )
    return pd.DataFrame(records)


def best_of_fewer(chosen_by: np.ndarray, score: np.ndarray, n: int) -> float:
    """Mean score of the one that is best by another score, among n drawn at random.

    Parameters
    ----------
    chosen_by, score : ndarray
        [m].
    n : int
        Drawn without repetition, at most m.

    Examples
    --------
    >>> best_of_fewer(np.array([3.0, 2.0, 1.0]), np.array([1.0, 0.5, 0.0]), 3)
    1.0
    >>> round(best_of_fewer(np.array([3.0, 2.0, 1.0]), np.array([1.0, 0.5, 0.0]), 1), 6)
    0.5
    """
    order = np.argsort(-chosen_by, kind="stable")
    m, n = len(order), min(n, len(order))
    # Rank i is best of those drawn if it is drawn, with the others all from below it.
    below = m - 1.0 - np.arange(m)
    possible = below >= n - 1
    log = np.full(m, -np.inf)
    log[possible] = (
        gammaln(below[possible] + 1) - gammaln(below[possible] - n + 2) - gammaln(n)
        - (gammaln(m + 1) - gammaln(m - n + 1) - gammaln(n + 1))
    )  # fmt: skip
    return float(np.exp(log) @ score[order])
