"""Recovery of known tuning: does one latent have the profile of each true field?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment

from saebook.errors import DataError
from saebook.evaluation.tuning import tuning_curves

RECOVERED = 0.9


@dataclass(frozen=True, eq=False)
class FieldRecovery:
    """Which true fields have a latent of their own, on rows that did not choose it.

    Parameters
    ----------
    table : DataFrame
        One row per field: ``latent``, its correlation with the field on the rows that chose it
        (``r_train``) and on others (``r_test``), the same for the best unit (``unit``,
        ``unit_r_test``), for the best unit that does not carry the field (``chance``), and
        ``recovered``.
    """

    table: pd.DataFrame

    @property
    def n_recovered(self) -> int:
        """Fields with a latent of their own."""
        return int(self.table["recovered"].to_numpy().sum())


def profiles(activity: Any, group: Any, n_groups: int) -> np.ndarray:
    """Tuning curves [n_groups, m], with empty groups at the mean of their neighbours."""
    curves = pd.DataFrame(tuning_curves(np.asarray(activity, float), group, n_groups))
    return curves.interpolate(limit_direction="both").to_numpy()


def correlations(curves: np.ndarray, fields: np.ndarray) -> np.ndarray:
    """Pearson r of every curve [n_groups, m] with every field [n_groups, f], as [f, m].

    A curve without variance correlates with nothing: 0.
    """
    a = curves - curves.mean(axis=0)
    b = fields - fields.mean(axis=0)
    norms = np.linalg.norm(b, axis=0)[:, None] * np.linalg.norm(a, axis=0)[None, :]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(norms > 1e-12, b.T @ a / norms, 0.0)


def recover_fields(
    latents: Any,
    units: Any,
    group: Any,
    fields: pd.DataFrame,
    carriers: pd.Series,
    train: Any,
    test: Any,
) -> FieldRecovery:
    """Match latents to true fields one-to-one on some rows, and judge them on others.

    A field counts as recovered when the latent chosen for it on the training rows has, on the
    test rows, a profile with r ≥ 0.9 to the true one, and more than the best unit that does
    not carry the field reaches (chance: chosen and judged in the same way).

    Parameters
    ----------
    latents, units : array
        [n, d_sae] latents and [n, n_units] counts, over all rows.
    group : array
        [n] int, the place of each row, 0 … n_groups - 1; -1 where unknown.
    fields : DataFrame
        [n_groups, n_fields] true fields at the centres of the groups.
    carriers : Series
        Column of ``units`` that carries each field, by the field's name.
    train, test : array of int
        Rows that choose latents, and rows that judge them.

    Raises
    ------
    DataError
        The test rows visit too few groups to correlate anything.

    Examples
    --------
    >>> group = np.tile(np.arange(4), 20)
    >>> fields = pd.DataFrame({"a": [0.0, 1.0, 0.0, 0.0], "b": [0.0, 0.0, 0.0, 1.0]})
    >>> units = np.stack([group == 1, group == 3, group % 2 == 0], axis=1) * 1.0
    >>> found = recover_fields(
    ...     units[:, :2], units, group, fields, pd.Series({"a": 0, "b": 1}),
    ...     train=np.arange(40), test=np.arange(40, 80),
    ... )
    >>> found.n_recovered, found.table["latent"].tolist()
    (2, [0, 1])
    """
    group, n_groups = np.asarray(group), len(fields)
    visited = np.unique(group[test][group[test] >= 0])
    if len(visited) < 3:
        raise DataError(
            f"the test rows visit {len(visited)} of {n_groups} groups: no profile can be "
            "correlated; use longer blocks, or wider groups"
        )
    truth = fields.to_numpy()

    def r(activity: Any, rows: Any) -> np.ndarray:
        return correlations(profiles(np.asarray(activity)[rows], group[rows], n_groups), truth)

    latents_train, latents_test = r(latents, train), r(latents, test)
    units_train, units_test = r(units, train), r(units, test)
    _, chosen = linear_sum_assignment(-latents_train)
    own = carriers.loc[list(fields.columns)].to_numpy()
    rows = []
    for i, (name, latent) in enumerate(zip(fields.columns, chosen)):
        others = units_train[i].copy()
        others[own] = -np.inf
        unit, other = int(units_train[i].argmax()), int(others.argmax())
        r_test, chance = latents_test[i, latent], units_test[i, other]
        rows.append(
            {
                "field": name,
                "latent": int(latent),
                "r_train": latents_train[i, latent],
                "r_test": r_test,
                "unit": unit,
                "unit_r_test": units_test[i, unit],
                "chance": chance,
                "recovered": bool(r_test >= RECOVERED and r_test > chance),
            }
        )
    return FieldRecovery(pd.DataFrame(rows).set_index("field"))
