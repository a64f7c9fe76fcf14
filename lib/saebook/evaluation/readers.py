"""Linear readouts of behaviour from counts, reconstructions or latents."""

from __future__ import annotations

import numpy as np

from saebook.errors import SelectionError
from saebook.evaluation.variables import Variable
from saebook.metrics import ridge_path

# Penalties against sums over rows of standardised features.
ALPHAS = np.logspace(-1, 5, 7)
N_FOLDS = 5
# Kinds of variables whose group is read, not their value.
BY_GROUP = ("event", "categorical")


class Reader:
    """A linear readout of one variable: ridge regression on standardised features.

    The penalty is chosen by contiguous folds of the rows that it is fitted on. The score is R²
    for continuous variables, R² of cosine and sine for circular ones, and for events and categories
    the balanced accuracy, brought between chance (0) and 1.

    Parameters
    ----------
    variable : Variable
        What to read, over every row of the store.
    features : ndarray
        [n, m] of the rows that it is fitted on.
    rows : array of int
        [n], which rows of the store these are.

    Raises
    ------
    SelectionError
        The variable is known in too few of these rows.

    Examples
    --------
    >>> angle = np.linspace(-180, 180, 400, endpoint=False)
    >>> step = (angle // 90 + 2).astype(int)
    >>> heading = Variable("heading", "circular", angle, step, np.array([-135.0, -45, 45, 135]))
    >>> seen = np.stack([np.cos(np.radians(angle)), np.sin(np.radians(angle))], axis=1)
    >>> rows = np.arange(400)
    >>> Reader(heading, seen, rows).score(seen, rows) > 0.99
    True
    """

    def __init__(self, variable: Variable, features: np.ndarray, rows: np.ndarray) -> None:
        self.variable = variable
        known, target = self._target(rows)
        if known.sum() < 2 * N_FOLDS:
            raise SelectionError(
                f"{variable.name} is known in {int(known.sum())} training rows: too few to fit a "
                "readout"
            )
        self._mean = features.mean(axis=0)
        spread = features.std(axis=0)
        # What hardly varies here, such as a component of silent units, must not be blown up.
        least = np.maximum(1e-12 * np.abs(self._mean), 1e-6 * spread.max(initial=0.0))
        self._spread = np.where(spread > least, spread, 1.0)
        self._weights, self._offset = ridge(self._standardised(features[known]), target[known])

    def score(self, features: np.ndarray, rows: np.ndarray) -> float:
        """R², or balanced accuracy over chance, on other rows; 0 knows nothing."""
        known, target = self._target(rows)
        if not known.any():
            raise SelectionError(f"{self.variable.name} is unknown in all rows to be scored")
        made = self._standardised(features[known]) @ self._weights + self._offset
        target = target[known]
        if self.variable.kind in BY_GROUP:
            right = made.argmax(axis=1) == target.argmax(axis=1)
            present = target.sum(axis=0) > 0
            n = int(present.sum())
            if n < 2:
                raise SelectionError(f"{self.variable.name} has one group in the scored rows")
            per_group = (right[:, None] * target).sum(axis=0)[present]
            accuracy = float((per_group / target.sum(axis=0)[present]).mean())
            return (accuracy - 1 / n) / (1 - 1 / n)
        total = ((target - target.mean(axis=0)) ** 2).sum()
        if total == 0:
            raise SelectionError(f"{self.variable.name} is constant in the scored rows")
        return float(1 - ((target - made) ** 2).sum() / total)

    def _standardised(self, features: np.ndarray) -> np.ndarray:
        return (features - self._mean) / self._spread

    def _target(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which rows are known [n], and what to regress on [n, m]."""
        variable = self.variable
        values, group = variable.values[rows], variable.group[rows]
        known = (group >= 0) & np.isfinite(values)
        if variable.kind in BY_GROUP:
            return known, np.eye(variable.n_groups)[np.where(known, group, 0)]
        values = np.where(known, values, 0.0)
        if variable.kind == "circular":
            # The steps fill the circle, whatever its unit.
            turn = (variable.centres[1] - variable.centres[0]) * len(variable.centres)
            angle = 2 * np.pi * values / turn
            return known, np.stack([np.cos(angle), np.sin(angle)], axis=1)
        return known, values[:, None]


def ridge(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ridge regression with the penalty that predicts contiguous folds best.

    Parameters
    ----------
    x : ndarray
        [n, m] features, in the order of time.
    y : ndarray
        [n, t] targets.

    Returns
    -------
    weights : ndarray
        [m, t].
    offset : ndarray
        [t].

    Notes
    -----
    One eigendecomposition per fold serves every penalty and target: 5 to 40 times less work than
    scikit-learn's ``RidgeCV`` with the same folds, which sweeps that fit readers again need.

    Examples
    --------
    >>> x = np.arange(20.0)[:, None]
    >>> weights, offset = ridge(x, 3 * x + 1)
    >>> round(float(weights[0, 0]), 2), round(float(offset[0]), 1)
    (3.0, 1.0)
    """
    fold = np.arange(len(x)) * N_FOLDS // len(x)
    errors = np.zeros(len(ALPHAS))
    for i in range(N_FOLDS):
        held = fold == i
        for j, (weights, offset) in enumerate(ridge_path(x[~held], y[~held], ALPHAS)):
            errors[j] += ((x[held] @ weights + offset - y[held]) ** 2).sum()
    return list(ridge_path(x, y, ALPHAS))[int(errors.argmin())]
