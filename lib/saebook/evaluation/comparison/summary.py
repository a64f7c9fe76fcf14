"""A comparison in a few numbers: means over seeds, paired differences, consistency."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from saebook.errors import DataError
from saebook.evaluation.comparison.comparing import kept_latents
from saebook.evaluation.comparison.data import ComparisonData
from saebook.evaluation.comparison.scoring import SCORES
from saebook.metrics import MeanInterval, consistency_between_sessions, mean_interval

GROUPS = ("single bin", "temporal", "transductive")


def groups(table: pd.DataFrame) -> pd.Series:
    """In which of ``GROUPS`` each row belongs; they are not to be compared with each other.

    Parameters
    ----------
    table : DataFrame
        From :func:`compare_methods`. Rows of methods that were left out have no group: "".

    Returns
    -------
    Series

    Examples
    --------
    >>> table = pd.DataFrame({"temporal": [False, True, True, None],
    ...                       "transductive": [False, False, True, None]})
    >>> groups(table).tolist()
    ['single bin', 'temporal', 'transductive', '']
    """
    names = []
    for temporal, transductive in zip(table["temporal"], table["transductive"]):
        if temporal is None or transductive is None or pd.isna(temporal):
            names.append("")
        else:
            names.append(GROUPS[2] if transductive else GROUPS[1] if temporal else GROUPS[0])
    return pd.Series(names, index=table.index)


def summarise(table: pd.DataFrame, scores: Sequence[str] = tuple(SCORES)) -> pd.DataFrame:
    """Mean and interval over seeds of every method and score.

    Parameters
    ----------
    table : DataFrame
        From :func:`compare_methods`.
    scores : sequence of str
        Columns of it.

    Returns
    -------
    DataFrame
        One row per method and score in the order of the table: ``method``, ``group``,
        ``n_components``, ``score``, ``mean``, ``low``, ``high`` (NaN for one seed), ``n`` seeds.
        Scores that no seed has are left out.

    Examples
    --------
    >>> table = pd.DataFrame({"method": "PCA", "seed": [0, 1, 2], "temporal": False,
    ...     "transductive": False, "n_components": 8, "co_bps": [0.1, 0.2, 0.3]})
    >>> summarise(table, ["co_bps"])[["method", "group", "mean", "n"]].round(3).values.tolist()
    [['PCA', 'single bin', 0.2, 3]]
    """
    rows: list[dict[str, Any]] = []
    group = groups(table)
    for method in dict.fromkeys(table["method"]):
        of = (table["method"] == method) & (group != "")
        for score in scores:
            values = table.loc[of, score].dropna()
            if len(values):
                interval = mean_interval(values)
                rows.append(
                    {
                        "method": method,
                        "group": str(np.asarray(group)[np.asarray(of)][0]),
                        "n_components": int(table.loc[of, "n_components"].max()),
                        "score": score,
                        "mean": interval.mean,
                        "low": interval.low,
                        "high": interval.high,
                        "n": interval.n,
                    }
                )
    columns = ["method", "group", "n_components", "score", "mean", "low", "high", "n"]
    return pd.DataFrame(rows, columns=columns)


def paired_difference(table: pd.DataFrame, one: str, other: str, score: str) -> MeanInterval:
    """How much more one method scores than another, seed by seed.

    Parameters
    ----------
    table : DataFrame
        From :func:`compare_methods`.
    one, other : str
        Methods.
    score : str
        A column.

    Returns
    -------
    MeanInterval
        Of the differences, over seeds that both have.

    Raises
    ------
    DataError
        They have no seed in common.

    Examples
    --------
    >>> table = pd.DataFrame({"method": ["a", "b"] * 3, "seed": [0, 0, 1, 1, 2, 2],
    ...                       "co_bps": [0.3, 0.1, 0.5, 0.2, 0.4, 0.2]})
    >>> print(paired_difference(table, "a", "b", "co_bps"))
    0.233 [0.090, 0.377] (n = 3)
    """
    by_seed = table.pivot_table(score, "seed", "method", dropna=False)
    if one not in by_seed or other not in by_seed:
        raise DataError(f"{one} or {other} is not in the table: it has {', '.join(by_seed)}")
    differences = (by_seed[one] - by_seed[other]).dropna()
    if differences.empty:
        raise DataError(f"{one} and {other} have no seed in common with a {score}")
    return mean_interval(differences)


def consistency_table(
    out: str | Path,
    data: Callable[[int], ComparisonData],
    methods: Sequence[str],
    seeds: Sequence[int],
    *,
    n_shuffles: int = 5,
) -> pd.DataFrame:
    """Whether methods find the same in different sessions, beside what chance would give.

    Validation and test rows are averaged by condition and step of the trial, and each session's
    averages are fitted linearly to each other's: see
    :func:`~saebook.metrics.consistency_between_sessions`.

    Parameters
    ----------
    out : path
        Where :func:`compare_methods` kept its results.
    data : callable
        As given there; the seeds must be different sessions of one task.
    methods : sequence of str
        Names; those without results are left out.
    seeds : sequence of int
        At least two.
    n_shuffles : int
        Shuffles of the labels of each session behind ``chance``: a linear fit of many dimensions
        is never at 0.

    Returns
    -------
    DataFrame
        One row per method: ``method``, ``n_components``, ``consistency`` and ``chance`` (means
        over ordered pairs of sessions), ``n_pairs``.

    Raises
    ------
    DataError
        Fewer than two seeds, or data without conditions.
    """
    if len(seeds) < 2:
        raise DataError(f"{len(seeds)} session: consistency needs at least two")
    labels = []
    for seed in seeds:
        session = data(seed)
        held = session.split != "train"
        if session.condition is None:
            raise DataError(f"{session.name} has no conditions to bring sessions together by")
        condition, step = session.condition[held], session.step[held]
        labels.append(np.where(condition >= 0, condition * (session.step.max() + 1) + step, -1))
    rows = []
    for method in methods:
        try:
            latents = [kept_latents(out, method, seed) for seed in seeds]
            found = consistency_between_sessions(latents, labels)
        except DataError:
            continue
        shuffled = []
        for shuffle in range(n_shuffles):
            rng = np.random.default_rng([shuffle, 61])
            mixed = [rng.permutation(label) for label in labels]
            shuffled.append(np.nanmean(consistency_between_sessions(latents, mixed)))
        pairs = found[np.isfinite(found)]
        rows.append(
            {
                "method": method,
                "n_components": latents[0].shape[1],
                "consistency": float(pairs.mean()) if len(pairs) else math.nan,
                "chance": float(np.mean(shuffled)),
                "n_pairs": len(pairs),
            }
        )
    return pd.DataFrame(
        rows, columns=["method", "n_components", "consistency", "chance", "n_pairs"]
    )
