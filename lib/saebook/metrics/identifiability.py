"""Whether latents are the true factors, one each: MCC, and disentanglement (DCI)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from saebook.errors import ConfigError, DataError
from saebook.metrics.decoding import r2
from saebook.metrics.matching import match_one_to_one

# Shares of the smallest penalty under which a lasso keeps nothing.
LASSO_SHARES = (0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
_LASSO_STEPS = 200


def mean_correlation_coefficient(
    latents: np.ndarray,
    factors: np.ndarray,
    *,
    method: Literal["pearson", "spearman"] = "pearson",
    matched_on: tuple[np.ndarray, np.ndarray] | None = None,
) -> float:
    """Mean absolute correlation of factors with their latents, matched one-to-one (MCC).

    Parameters
    ----------
    latents : ndarray
        [n, n_latents].
    factors : ndarray
        [n, n_factors], the true ones. Those that are constant are left out.
    method : {"pearson", "spearman"}
        Correlation of values, or of ranks, which any monotone map of a factor leaves alone.
    matched_on : (ndarray, ndarray), optional
        Latents and factors of other rows, for choosing the pairs. Without them the pairs are
        chosen on the rows that are scored, which flatters methods with many latents.

    Returns
    -------
    float
        Between 0 and 1. A factor for which no latent is left counts 0; NaN where no factor varies.

    Raises
    ------
    DataError
        Shapes disagree, or a value is not finite.

    Notes
    -----
    Source: Hyvärinen & Morioka (2016); pairs by the Hungarian method.

    Examples
    --------
    >>> factors = np.random.default_rng(0).normal(size=(1000, 2))
    >>> turned = np.stack([-np.exp(factors[:, 1]), factors[:, 0]], axis=1)
    >>> round(mean_correlation_coefficient(turned, factors, method="spearman"), 3)
    1.0
    >>> mean_correlation_coefficient(turned, factors) < 0.95
    True
    """
    if method not in ("pearson", "spearman"):
        raise ConfigError(f"method = {method!r}: give 'pearson' or 'spearman'")
    scored, varies = _correlations(latents, factors, method)
    if not varies.any():
        return math.nan
    chosen = scored if matched_on is None else _correlations(*matched_on, method)[0]
    if chosen.shape != scored.shape:
        raise DataError(
            f"matched_on has {chosen.shape[0]} latents and {chosen.shape[1]} factors, the scored "
            f"rows {scored.shape[0]} and {scored.shape[1]}"
        )
    rows, columns = match_one_to_one(torch.from_numpy(chosen[:, varies]))
    return float(scored[:, varies][rows, columns].sum() / varies.sum())


def _correlations(
    latents: np.ndarray, factors: np.ndarray, method: str
) -> tuple[np.ndarray, np.ndarray]:
    """Absolute correlations [n_latents, n_factors], 0 of what is constant; which factors vary."""
    sides = []
    for name, values in (("latents", latents), ("factors", factors)):
        values = np.asarray(values, dtype=float)
        if values.ndim != 2 or len(values) != len(latents) or len(values) < 2:
            raise DataError(
                f"latents {np.shape(latents)} and factors {np.shape(factors)}: give [n, n_latents] "
                "and [n, n_factors] of the same rows, at least two"
            )
        if not np.isfinite(values).all():
            raise DataError(f"{name} hold values that are not finite: drop those rows first")
        varies = values.min(axis=0) < values.max(axis=0)
        if method == "spearman":
            from scipy.stats import rankdata

            values = rankdata(values, axis=0)
        values = values - values.mean(axis=0)
        length = np.linalg.norm(values, axis=0)
        sides.append((values / np.where(varies & (length > 0), length, np.inf), varies))
    (left, _), (right, varies) = sides
    return np.abs(left.T @ right).clip(max=1.0), varies


@dataclass(frozen=True)
class DCI:
    """Disentanglement and completeness of latents.

    Parameters
    ----------
    disentanglement : float
        1: each latent matters for one factor only.
    completeness : float
        1: each factor needs one latent only.
    """

    disentanglement: float
    completeness: float


def dci(importance: np.ndarray) -> DCI:
    """Disentanglement and completeness from how much each latent matters for each factor.

    Parameters
    ----------
    importance : ndarray
        [n_latents, n_factors], ≥ 0, such as ``FactorPrediction.importance``.

    Returns
    -------
    DCI
        1 minus the entropy of a latent's importance over factors (of a factor's over latents),
        in units of the largest possible, averaged with the total importance as weight. NaN where
        nothing matters, or where there is one factor (one latent) only.

    Raises
    ------
    DataError
        Not a matrix, or a value is negative or not finite.

    Notes
    -----
    Source: Eastwood & Williams (2018). The third of their scores, informativeness, does not come
    from importances: it is how well the factors are predicted.

    Examples
    --------
    >>> dci(np.eye(3))
    DCI(disentanglement=1.0, completeness=1.0)
    >>> dci(np.array([[1.0, 1.0], [0.0, 0.0]]))  # one latent for both factors
    DCI(disentanglement=0.0, completeness=1.0)
    """
    matrix = np.asarray(importance, dtype=float)
    if matrix.ndim != 2 or not matrix.size or not (np.isfinite(matrix) & (matrix >= 0)).all():
        raise DataError(
            f"importance of shape {matrix.shape} must be [n_latents, n_factors], finite and not "
            "negative"
        )
    return DCI(_concentration(matrix), _concentration(matrix.T))


def _concentration(matrix: np.ndarray) -> float:
    """Mean over rows, by weight, of 1 minus their relative entropy."""
    total = matrix.sum(axis=1)
    if not total.any() or matrix.shape[1] < 2:
        return math.nan
    kept = total > 0
    shares = matrix[kept] / total[kept, None]
    logs = np.log(np.where(shares > 0, shares, 1.0))
    concentration = 1 + (shares * logs).sum(axis=1) / math.log(matrix.shape[1])
    return float((concentration * total[kept]).sum() / total.sum())


@dataclass(frozen=True, eq=False)
class FactorPrediction:
    """Factors predicted from latents.

    Parameters
    ----------
    importance : ndarray
        [n_latents, n_factors], ≥ 0, how much each latent matters for each factor; every factor
        that could be predicted at all sums to 1.
    r2 : ndarray
        [n_factors] on the scored rows, NaN where a factor is constant there.
    """

    importance: np.ndarray
    r2: np.ndarray

    @property
    def informativeness(self) -> float:
        """Mean R² over factors, none below 0; NaN where every factor is constant."""
        known = self.r2[np.isfinite(self.r2)]
        return float(known.clip(min=0.0).mean()) if len(known) else math.nan


def predict_factors(
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    *,
    model: Literal["lasso", "boosting"] = "lasso",
    validation: tuple[np.ndarray, np.ndarray] | None = None,
    random_state: int = 0,
) -> FactorPrediction:
    """Predict each factor from all latents, for :func:`dci` and informativeness.

    Parameters
    ----------
    train, test : (ndarray, ndarray)
        Latents [n, n_latents] and factors [n, n_factors] to fit on, and to score on.
    model : {"lasso", "boosting"}
        Linear with an L1 penalty: importance is the absolute weight on standardised latents. Or
        gradient-boosted trees: importance is the share of error that splits on a latent took,
        which also sees what is not linear, and takes far longer.
    validation : (ndarray, ndarray), optional
        Rows for choosing the lasso's penalty; the training rows by default, which choose the
        smallest of the grid.
    random_state : int
        Of the trees.

    Returns
    -------
    FactorPrediction

    Raises
    ------
    DataError
        Shapes disagree, or a value is not finite.

    Notes
    -----
    Source: Eastwood & Williams (2018), which has lasso and random forests; boosted trees as in
    Locatello et al. (2019).

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> factors = rng.normal(size=(400, 2))
    >>> mixed = np.stack([factors[:, 0], factors.sum(axis=1)], axis=1)
    >>> found = predict_factors((mixed, factors), (mixed, factors))
    >>> bool(found.informativeness > 0.99), bool(dci(found.importance).disentanglement < 0.7)
    (True, True)
    """
    if model not in ("lasso", "boosting"):
        raise ConfigError(f"model = {model!r}: give 'lasso' or 'boosting'")
    x, y = _checked(*train)
    x_test, y_test = _checked(*test)
    x_choice, y_choice = (x, y) if validation is None else _checked(*validation)
    widths = {(a.shape[1], b.shape[1]) for a, b in ((x, y), (x_test, y_test), (x_choice, y_choice))}
    if len(widths) > 1:
        raise DataError(f"latents and factors have widths {sorted(widths)} in the parts given")
    centre, spread = x.mean(axis=0), x.std(axis=0)
    varies = spread > 1e-12 * np.abs(centre)
    scale = np.where(varies, spread, np.inf)  # a constant latent is 0 and can't matter
    x, x_test, x_choice = ((part - centre) / scale for part in (x, x_test, x_choice))
    importance = np.zeros((x.shape[1], y.shape[1]))
    scores = np.full(y.shape[1], math.nan)
    for j in range(y.shape[1]):
        if y[:, j].min() == y[:, j].max():
            continue
        if model == "lasso":
            weights, made = _lasso(x, y[:, j], x_choice, y_choice[:, j], x_test)
        else:
            weights, made = _boosted(x, y[:, j], x_test, random_state)
        scores[j] = r2(y_test[:, [j]], made[:, None])
        if weights.sum() > 0:
            importance[:, j] = weights / weights.sum()
    return FactorPrediction(importance, scores)


def _checked(latents: np.ndarray, factors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(latents, dtype=float), np.asarray(factors, dtype=float)
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or len(x) < 2:
        raise DataError(
            f"latents {x.shape} and factors {y.shape}: give [n, n_latents] and [n, n_factors] of "
            "the same rows, at least two"
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise DataError("latents or factors hold values that are not finite: drop those rows first")
    return x, y


def _lasso(x, y, x_choice, y_choice, x_test) -> tuple[np.ndarray, np.ndarray]:
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import lasso_path

    mean = y.mean()
    largest = np.abs(x.T @ (y - mean)).max() / len(x)
    if largest == 0:
        return np.zeros(x.shape[1]), np.full(len(x_test), mean)
    with warnings.catch_warnings():
        # A weight that still moves in its fourth digit changes no importance worth naming.
        warnings.simplefilter("ignore", ConvergenceWarning)
        _, weights, _ = lasso_path(
            x, y - mean, alphas=largest * np.array(LASSO_SHARES), max_iter=_LASSO_STEPS
        )
    errors = np.square(x_choice @ weights + mean - y_choice[:, None]).sum(axis=0)
    best = weights[:, int(errors.argmin())]
    return np.abs(best), x_test @ best + mean


def _boosted(x, y, x_test, random_state) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.ensemble import GradientBoostingRegressor

    trees = GradientBoostingRegressor(random_state=random_state).fit(x, y)
    return np.asarray(trees.feature_importances_), trees.predict(x_test)
