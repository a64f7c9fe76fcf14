"""A latent in figures: where it is active, how selectively, and what it tells of its variable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from saebook.errors import DataError
from saebook.evaluation.discovery.findings import Discovery
from saebook.evaluation.tuning import tuning_curves
from saebook.evaluation.variables import Variable
from saebook.metrics.association import auroc, mutual_information

# Activity in silence and thirds of what remains: enough for a sparse latent.
ACTIVE_LEVELS = 3


def describe_latents(discovery: Discovery, latents: Sequence[int] | None = None) -> pd.DataFrame:
    """Describe latents by their variables, on test rows.

    The *preferred* groups of a latent are those in which its training curve lies in the upper
    half of its range.

    Parameters
    ----------
    discovery : Discovery
        From `discover`.
    latents : sequence of int, optional
        Which; the discovered ones by default.

    Returns
    -------
    DataFrame
        One row per latent, index ``latent``: ``variable``, ``preferred``; ``coverage``, the share
        of preferred rows in which it is active; ``specificity``, the share of the others in which
        it is not; ``selectivity``, (peak - mean) / (peak + mean) of the curve over groups;
        ``auroc`` of its activity for preferred rows against the others, ties half; and
        ``information``, bits of its activity (silent, or in which third) about the variable's
        groups, corrected for bias.

    Examples
    --------
    >>> from saebook.evaluation.discovery import discover
    >>> step = np.tile(np.arange(4), 500)
    >>> place = Variable("place", "continuous", step * 1.0, step, np.arange(4.0))
    >>> rows = np.arange(2000)
    >>> found = discover(
    ...     (step == 2)[:, None] * 1.0, [place], rows[:1400], rows[1400:], bin_size_s=0.05,
    ...     progress=False,
    ... )
    >>> describe_latents(found, [0])[["coverage", "specificity", "selectivity", "auroc"]].values
    array([[1. , 1. , 0.6, 1. ]])
    """
    which = list(discovery.found.index if latents is None else latents)
    records = []
    for latent in which:
        variable = discovery.variable(latent)
        activity, rows = discovery.activity(latent)
        curve = tuning_curves(
            activity[rows["train"]], variable.group[rows["train"]], variable.n_groups
        )
        group = variable.group[rows["test"]]
        known = group >= 0
        seen, group = activity[rows["test"]][known], group[known]
        low, high = np.nanmin(curve), np.nanmax(curve)
        is_preferred = np.nan_to_num(curve, nan=low) >= (low + high) / 2
        inside, active = is_preferred[group], seen != 0
        mean = float(np.nanmean(curve))
        records.append(
            {
                "variable": variable.name,
                "preferred": discovery.table.loc[latent, "preferred"],
                "coverage": float(active[inside].mean()) if inside.any() else np.nan,
                "specificity": float((~active[~inside]).mean()) if (~inside).any() else np.nan,
                "selectivity": float((high - mean) / (high + mean)) if high + mean else np.nan,
                "auroc": float(auroc(seen, inside)),
                "information": mutual_information(_levels(seen), group),
            }
        )
    columns = (
        "variable", "preferred", "coverage", "specificity", "selectivity", "auroc", "information",
    )  # fmt: skip
    return pd.DataFrame(records, columns=columns, index=pd.Index(which, name="latent"))


def _levels(activity: np.ndarray) -> np.ndarray:
    active = activity != 0
    if not active.any():
        return np.zeros(len(activity), dtype=int)
    edges = np.quantile(activity[active], np.arange(1, ACTIVE_LEVELS) / ACTIVE_LEVELS)
    return np.where(active, 1 + np.searchsorted(edges, activity), 0)


def peri_event(activity: Any, variable: Variable, rows: Any) -> tuple[np.ndarray, np.ndarray]:
    """A latent's activity around each event, trial by trial.

    Parameters
    ----------
    activity : array
        [n] of one latent in the rows given.
    variable : Variable
        Of kind "event".
    rows : array of int
        [n] rows of the store.

    Returns
    -------
    matrix : ndarray
        [n_trials, n_lags] mean activity; NaN where a trial does not reach. Its lags are
        ``variable.centres``.
    condition : ndarray
        [n_trials] index of each trial's condition, 0 where there are none.

    Raises
    ------
    DataError
        The variable is no event, or no row lies near one.

    Examples
    --------
    >>> lag = np.array([0, 1, -1, 0, 1])
    >>> go = Variable("go_time", "event", lag * 0.1, lag, np.array([0.0, 0.1]), "s",
    ...     trial=np.array([0, 0, -1, 1, 1]))
    >>> peri_event([1.0, 2.0, 9.0, 3.0, 4.0], go, np.arange(5))[0].tolist()
    [[1.0, 2.0], [3.0, 4.0]]
    """
    if variable.kind != "event" or variable.trial is None:
        raise DataError(f"{variable.name} is of kind {variable.kind!r}: give an event with trials")
    activity, rows = np.asarray(activity, dtype=float), np.asarray(rows)
    group, trial = variable.group[rows], variable.trial[rows]
    known = (group >= 0) & (trial >= 0)
    if not known.any():
        raise DataError(f"no row given lies near {variable.name}")
    n_lags = len(variable.centres)
    _, first, place = np.unique(trial[known], return_index=True, return_inverse=True)
    cell = place * n_lags + group[known] % n_lags
    size = (int(place.max()) + 1) * n_lags
    counts = np.bincount(cell, minlength=size)
    sums = np.bincount(cell, activity[known], minlength=size)
    with np.errstate(invalid="ignore"):
        matrix = (sums / np.where(counts, counts, np.nan)).reshape(-1, n_lags)
    return matrix, group[known][first] // n_lags
