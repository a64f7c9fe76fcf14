"""``discover``: which latents follow which variable, with statistics that can say none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from saebook.errors import DataError
from saebook.evaluation.discovery.findings import Discovery, columns_of
from saebook.evaluation.discovery.testing import DRIFT_DEGREE, LatentScore, score_latents
from saebook.evaluation.tuning import tuning_table
from saebook.evaluation.variables import Variable
from saebook.metrics import benjamini_hochberg

# Latents at a time: their rows in float64 stay within a few hundred megabytes.
CHUNK = 64


def discover(
    latents: Any,
    variables: Sequence[Variable],
    train_rows: Any,
    test_rows: Any,
    *,
    bin_size_s: float,
    trials: Any = None,
    q: float = 0.05,
    least_guard_s: float = 0.0,
    drift_degree: int = DRIFT_DEGREE,
    n_permutations: int = 1000,
    seed: int = 0,
    notes: Sequence[str] = (),
    progress: bool = True,
) -> Discovery:
    """Find the variable that each latent follows, and whether it does.

    One test per latent: its variable is the one that explains most of it on training rows,
    cross-validated; its tuning curve is that of the training rows; both are then judged on test
    rows, which chose nothing. The null is every circular offset, or labels permuted within blocks
    of trials (see :func:`~saebook.evaluation.discovery.score_latents`), and false discoveries are
    controlled over latents by Benjamini-Hochberg.

    Parameters
    ----------
    latents : array, Tensor or sparse matrix
        [n_rows, m] activity in every row of the store: latents, units or components.
    variables : sequence of Variable
        Over every row of the store, from `discovery_variables`.
    train_rows, test_rows : array of int
        Rows of the store, ascending, without a common one.
    bin_size_s : float
        Width of a bin, s.
    trials : array of int, optional
        [n_rows] trial of each row, -1 outside. Categories that keep one value throughout each
        trial are then permuted by trial, where the variable does not know its trials itself.
    q : float
        False-discovery rate.
    least_guard_s : float
        Circular offsets are at least this, s, and at least twice the autocorrelation time.
    drift_degree : int
        Degree of the polynomial in time that is taken out before signals are shifted; -1: none.
    n_permutations, seed : int
        Of labels.
    notes : sequence of str
        Lines for the report, from `discovery_variables`.
    progress : bool
        Show progress bars.

    Returns
    -------
    Discovery

    Raises
    ------
    DataError
        Shapes disagree, rows overlap or are not in order, two variables share a name, or there
        is none.

    Notes
    -----
    A p-value says that activity and variable go together in time; not that one causes the other,
    nor that the variable is what the latent follows rather than something that goes with it.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> step = rng.integers(0, 4, 4000)
    >>> place = Variable("place", "continuous", step * 1.0, step, np.arange(4.0), "m")
    >>> latents = rng.normal(size=(4000, 8))
    >>> latents[:, 3] += step == 2
    >>> found = discover(
    ...     latents, [place], np.arange(2800), np.arange(2800, 4000), bin_size_s=0.05,
    ...     progress=False,
    ... )
    >>> found.table.index[found.table["discovered"]].tolist(), found.table.loc[3, "preferred"]
    ([3], '2 m')
    """
    train_rows, test_rows = _checked(latents, variables, train_rows, test_rows, q)
    variables = [_with_trials(variable, trials) for variable in variables]
    settings: dict[str, Any] = {
        "bin_size_s": bin_size_s,
        "least_guard_s": least_guard_s,
        "drift_degree": drift_degree,
        "n_permutations": n_permutations,
        "seed": seed,
    }
    m = latents.shape[1]
    scores, density, varies = _choose(latents, variables, train_rows, test_rows, progress)
    chosen = np.where(varies, scores.argmax(axis=1), -1)
    records: list[dict[str, Any]] = [{} for _ in range(m)]
    with tqdm(total=int(varies.sum()), unit="latent", desc="test", disable=not progress) as bar:
        for number, variable in enumerate(variables):
            members = np.flatnonzero(chosen == number)
            for part in np.array_split(members, -(-len(members) // CHUNK)) if len(members) else []:
                activity = columns_of(latents, part)
                found = score_latents(
                    activity[train_rows], activity[test_rows], variable, train_rows, test_rows,
                    **settings,
                )  # fmt: skip
                for latent, score in zip(part, found, strict=True):
                    records[latent] = _record(variable, score, scores[latent, number])
                bar.update(len(part))
    table = _table(records, density, q)
    columns = [variable.name for variable in variables]
    scores_train = pd.DataFrame(scores, index=table.index, columns=columns)
    inputs = {
        "latents": latents,
        "rows": {"train": train_rows, "test": test_rows},
        "settings": settings,
    }
    return Discovery(table, scores_train, tuple(variables), q, tuple(notes), inputs)


def _choose(
    latents: Any, variables: list[Variable], train: np.ndarray, test: np.ndarray, progress: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores on training rows [m, n_variables], density [m], and whether a latent varies [m]."""
    m = latents.shape[1]
    scores, density = np.zeros((m, len(variables))), np.zeros(m)
    varies = np.zeros(m, dtype=bool)
    with tqdm(total=m, unit="latent", desc="choose", disable=not progress) as bar:
        for begin in range(0, m, CHUNK):
            part = np.arange(begin, min(begin + CHUNK, m))
            activity = columns_of(latents, part)
            on_train, on_test = activity[train], activity[test]
            if not (np.isfinite(on_train).all() and np.isfinite(on_test).all()):
                raise DataError(
                    f"latents {part[0]} to {part[-1]} hold NaN or infinite values: discovery needs "
                    "finite activity in all training and test rows"
                )
            scores[part] = tuning_table(on_train, variables, train).to_numpy()
            density[part] = (activity[np.r_[train, test]] != 0).mean(axis=0)
            varies[part] = (np.ptp(on_train, axis=0) > 0) & (np.ptp(on_test, axis=0) > 0)
            bar.update(len(part))
    return scores, density, varies


def _record(variable: Variable, score: LatentScore, score_train: float) -> dict[str, Any]:
    return {
        "variable": variable.name,
        "kind": variable.kind,
        "preferred": preferred(variable, score.curve),
        "score_train": float(score_train),
        "score_test": score.r2,
        "r": score.r,
        "p": score.p,
        "method": score.method,
        "attainable": score.attainable,
        "guard_s": score.guard_s,
        "rows": score.n_rows,
    }


def _table(records: list[dict[str, Any]], density: np.ndarray, q: float) -> pd.DataFrame:
    columns = (
        "variable", "kind", "preferred", "score_train", "score_test", "r", "p", "method",
        "attainable", "guard_s", "rows",
    )  # fmt: skip
    table = pd.DataFrame(
        {name: [record.get(name) for record in records] for name in columns},
        index=pd.RangeIndex(len(records), name="latent"),
    )
    for name in ("variable", "kind", "preferred", "method"):
        table[name] = table[name].fillna("").astype(object)
    for name in ("score_train", "score_test", "r", "p", "attainable", "guard_s"):
        table[name] = table[name].astype(float)
    table["rows"] = table["rows"].fillna(0).astype(int)
    adjusted = benjamini_hochberg(table["p"].to_numpy())
    table.insert(7, "q", adjusted)
    table.insert(8, "discovered", np.nan_to_num(adjusted, nan=np.inf) <= q)
    table["density"] = density
    return table


def preferred(variable: Variable, curve: np.ndarray) -> str:
    """Where a tuning curve peaks, in words.

    Parameters
    ----------
    variable : Variable
        What the curve is over.
    curve : ndarray
        [n_groups] mean activity; NaN in groups without a row.

    Examples
    --------
    >>> side = Variable("side", "categorical", np.zeros(1), np.zeros(1, int), np.arange(2.0), "",
    ...     ("left", "right"))
    >>> preferred(side, np.array([0.1, 0.4]))
    'right'
    """
    if not np.isfinite(curve).any():
        return ""
    group = int(np.nanargmax(curve))
    if variable.kind == "categorical":
        return variable.conditions[group]
    centre = variable.centres[group % len(variable.centres)]
    unit = "°" if variable.kind == "circular" else f" {variable.unit}" if variable.unit else ""
    place = f"{centre:.3g}{unit}"
    if variable.conditions:
        return f"{variable.conditions[group // len(variable.centres)]}, {place}"
    return place


def _with_trials(variable: Variable, trials: Any) -> Variable:
    """The variable with its trials, where it is a category that keeps its value through each."""
    if trials is None or variable.trial is not None or variable.kind != "categorical":
        return variable
    trials = np.asarray(trials)
    known = (trials >= 0) & (variable.group >= 0)
    groups: Any = pd.Series(variable.group[known]).groupby(trials[known])
    if not known.any() or not (groups.min() == groups.max()).all():
        return variable
    inside = np.where(known, variable.group, -1)
    return Variable(
        variable.name, variable.kind, variable.values, inside, variable.centres, variable.unit,
        variable.conditions, trials,
    )  # fmt: skip


def _checked(
    latents: Any, variables: Sequence[Variable], train_rows: Any, test_rows: Any, q: float
) -> tuple[np.ndarray, np.ndarray]:
    shape = getattr(latents, "shape", ())
    if len(shape) != 2 or not all(shape):
        raise DataError(f"latents have shape {tuple(shape)}: give [n_rows, m]")
    if not variables:
        raise DataError(
            "no variable: give what discovery_variables lists, or variables of your own"
        )
    names = [variable.name for variable in variables]
    if len(set(names)) < len(names):
        raise DataError(f"two variables share a name: {sorted(names)}")
    for variable in variables:
        if len(variable.group) != shape[0]:
            raise DataError(
                f"{variable.name} has {len(variable.group)} rows and the latents {shape[0]}: both "
                "cover every row of the store"
            )
    rows = [np.asarray(one, dtype=np.int64) for one in (train_rows, test_rows)]
    for name, one in zip(("train_rows", "test_rows"), rows, strict=True):
        if one.ndim != 1 or not len(one) or (np.diff(one) <= 0).any():
            raise DataError(f"{name} has shape {one.shape}: give ascending rows of the store")
        if one[0] < 0 or one[-1] >= shape[0]:
            raise DataError(f"{name} go from {one[0]} to {one[-1]}, but there are {shape[0]} rows")
    common = np.intersect1d(rows[0], rows[1])
    if len(common):
        raise DataError(
            f"{len(common)} rows are in both train_rows and test_rows: what chose a "
            "variable can't judge it"
        )
    if not 0 < q < 1:
        raise DataError(f"q = {q}: give a rate between 0 and 1")
    return rows[0], rows[1]
