"""Two ways of training at the same error: curves over sparsity, interpolated to matched FVU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from saebook.errors import DataError
from saebook.metrics import MeanInterval, mean_interval

MARGIN = 0.005


def score_at_fvu(
    fvu: Sequence[float] | np.ndarray,
    scores: Sequence[float] | np.ndarray,
    target: float,
    margin: float = MARGIN,
) -> float:
    """A score at a given FVU, between runs of one arm by a straight line.

    Parameters
    ----------
    fvu, scores : sequence of float
        [n] FVU and score of runs that differ in sparsity (k or λ).
    target : float
        FVU at which the score is wanted.
    margin : float
        How far outside its runs an arm may be judged: by its nearest run. Further away it was
        not trained, and is not compared.

    Returns
    -------
    float
        NaN where the target is out of reach.

    Examples
    --------
    >>> score_at_fvu([0.3, 0.1], [5.0, 7.0], 0.15)
    6.5
    >>> score_at_fvu([0.3, 0.1], [5.0, 7.0], 0.098), score_at_fvu([0.3, 0.1], [5.0, 7.0], 0.05)
    (7.0, nan)
    """
    at, values = np.asarray(fvu, float), np.asarray(scores, float)
    if at.shape != values.shape or at.ndim != 1:
        raise DataError(f"fvu has shape {at.shape}, scores {values.shape}: give one of each a run")
    known = np.isfinite(at) & np.isfinite(values)
    at, values = at[known], values[known]
    if not len(at) or not at.min() - margin <= target <= at.max() + margin:
        return float("nan")
    order = np.argsort(at)
    return float(np.interp(target, at[order], values[order]))


def compare_at_fvu(
    runs: pd.DataFrame,
    scores: Sequence[str],
    targets: Mapping[Any, float] | pd.Series,
    *,
    base: str,
    arm: str = "arm",
    seed: str = "seed",
    margin: float = MARGIN,
) -> pd.DataFrame:
    """Scores of every arm minus those of the base arm, seed by seed, at matched FVU.

    Parameters
    ----------
    runs : DataFrame
        One row per run: columns of arm and seed, ``fvu``, and the scores.
    scores : sequence of str
        Columns to compare.
    targets : mapping of seed to float
        FVU at which the arms of a seed are compared.
    base : str
        Arm that is subtracted.
    arm, seed : str
        Names of columns.
    margin : float
        As :func:`score_at_fvu` takes it.

    Returns
    -------
    DataFrame
        One row per arm, seed and score: ``value``, ``base`` and ``difference``, NaN where either
        curve does not reach the target.

    Raises
    ------
    DataError
        A column or the base arm is missing.

    Examples
    --------
    >>> runs = pd.DataFrame({"arm": ["a", "a", "b", "b"], "seed": 0,
    ...     "fvu": [0.1, 0.3, 0.2, 0.4], "found": [0.9, 0.5, 0.9, 0.5]})
    >>> compare_at_fvu(runs, ["found"], {0: 0.25}, base="a")[["arm", "difference"]].round(3)
      arm  difference
    0   b         0.2
    """
    missing = [name for name in (arm, seed, "fvu", *scores) if name not in runs]
    if missing or base not in set(runs[arm]):
        raise DataError(
            f"runs lack {missing or repr(base)}: give the columns arm, seed, fvu and {list(scores)}, "
            f"and runs of the base arm {base!r}"
        )
    wanted: dict[Any, Any] = dict(targets)
    curves: dict[Any, pd.DataFrame] = dict(list(runs.groupby([arm, seed], sort=False)))
    rows = []
    for which in sorted(set(runs[seed]) & set(wanted)):
        for name in dict.fromkeys(runs[arm]):
            if name == base:
                continue
            for score in scores:
                value, reference = (
                    score_at_fvu(
                        part["fvu"].to_numpy(), part[score].to_numpy(), wanted[which], margin
                    )
                    if (part := curves.get((of, which))) is not None
                    else float("nan")
                    for of in (name, base)
                )
                rows.append(
                    {
                        arm: name,
                        seed: which,
                        "score": score,
                        "fvu": wanted[which],
                        "value": value,
                        "base": reference,
                        "difference": value - reference,
                    }
                )
    return pd.DataFrame(rows)


def paired_intervals(compared: pd.DataFrame, arm: str = "arm") -> pd.DataFrame:
    """Mean paired difference and its 95 % interval over seeds, one row per arm and score.

    Parameters
    ----------
    compared : DataFrame
        From :func:`compare_at_fvu`.
    arm : str
        Name of its column of arms.

    Returns
    -------
    DataFrame
        ``value``, ``base``, ``difference``, ``low``, ``high`` and ``n``, the seeds that could be
        compared, of ``n_seeds``. n counts repetitions of data and weights, not animals.

    Examples
    --------
    >>> compared = pd.DataFrame({"arm": "b", "seed": [0, 1, 2], "score": "found",
    ...     "value": [0.6, 0.7, 0.8], "base": 0.5, "difference": [0.1, 0.2, 0.3]})
    >>> print(paired_intervals(compared).round(3).to_string(index=False))
    arm score  value  base  difference    low  high  n  n_seeds
      b found    0.7   0.5         0.2 -0.048 0.448  3        3
    """
    rows = []
    for key, part in compared.groupby([arm, "score"], sort=False):
        name, score = np.asarray(key, object)
        known = part.dropna(subset=["difference"])
        none = float("nan")
        found = (
            mean_interval(known["difference"]) if len(known) else MeanInterval(none, none, none, 0)
        )
        rows.append(
            {
                arm: name,
                "score": score,
                "value": known["value"].mean(),
                "base": known["base"].mean(),
                "difference": found.mean,
                "low": found.low,
                "high": found.high,
                "n": len(known),
                "n_seeds": len(part),
            }
        )
    return pd.DataFrame(rows)
