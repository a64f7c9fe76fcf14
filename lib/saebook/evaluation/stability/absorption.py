"""Absorption: the latent of a broad feature is silent where a narrow one inside it is active."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from torch import Tensor

from saebook.errors import DataError
from saebook.evaluation.stability.splitting import FEWEST_ROWS, check_rows
from saebook.metrics import correlation_matrix


@dataclass(frozen=True, eq=False)
class Absorption:
    """How often the latent of a broad feature is silent where a narrow one inside it is active.

    Parameters
    ----------
    pairs : DataFrame
        One row per pair: ``parent``, ``child``, ``judged``, ``parent_latent``, ``child_latent``,
        ``r`` (of the parent's latent, on training rows without a child); on test rows ``missed``
        (share of rows with the child on which the parent's latent is silent), ``missed_alone``
        (with no child), ``missed_beside`` (no child, but an unrelated feature, ``beside``, is
        active as well), ``absorbed`` (parent's latent silent and child's latent active), ``gap``
        = missed - missed_alone, and ``gap_beside`` = missed_beside - missed_alone.
    """

    pairs: pd.DataFrame

    def _mean(self, column: str) -> float:
        values = self.pairs[column].to_numpy(float)[self.pairs["judged"].to_numpy(bool)]
        values = values[np.isfinite(values)]
        return float(values.mean()) if len(values) else math.nan

    @property
    def rate(self) -> float:
        """Mean over judged pairs of the share of the child's rows that it absorbs."""
        return self._mean("absorbed")

    @property
    def gap(self) -> float:
        """Mean over judged pairs of how much oftener the parent is missed with its child."""
        return self._mean("gap")

    @property
    def gap_beside(self) -> float:
        """The same beside an unrelated feature: what crowding alone does."""
        return self._mean("gap_beside")

    @property
    def n_judged(self) -> int:
        """Pairs that could be judged."""
        return int(self.pairs["judged"].to_numpy(bool).sum())


def nested_pairs(parent: np.ndarray) -> list[tuple[int, int]]:
    """Pairs (parent, child) of a forest given as each feature's parent, -1 for none.

    Examples
    --------
    >>> nested_pairs(np.array([-1, 0, 0, 1]))
    [(0, 1), (0, 2), (1, 3)]
    """
    return [(int(parent[child]), int(child)) for child in np.flatnonzero(np.asarray(parent) >= 0)]


def absorption(
    latents_train: Tensor,
    features_train: Tensor,
    latents_test: Tensor,
    features_test: Tensor,
    pairs: Sequence[tuple[int, int]],
    *,
    active_above: float = 0.1,
    min_r: float = 0.3,
    fewest: int = FEWEST_ROWS,
) -> Absorption:
    """Score absorption of parents by their children.

    Parameters
    ----------
    latents_train, latents_test : Tensor
        [n, m] activity.
    features_train, features_test : Tensor
        [n, n_features] true features of the same rows, nonnegative.
    pairs : sequence of (int, int)
        Parent and child columns; the child is only ever active while its parent is.
    active_above : float
        A feature counts as active above this share of its largest training value.
    min_r : float
        A pair is judged where some latent follows the parent, on training rows without a child,
        with at least this correlation.
    fewest : int
        Test rows needed with the child, and with the parent alone.

    Returns
    -------
    Absorption
        Latents are chosen on training rows and scored on test rows. The parent's latent is the
        one that follows it best where no child is active; the child's is the one that tells best,
        among rows of the parent, where the child is.

    Raises
    ------
    DataError
        Shapes disagree, or a pair names a column that isn't there.

    Notes
    -----
    Source: Chanin et al. (2024), A is for absorption, arXiv 2409.14507, with truth in the place
    of a probe. Missing a parent oftener in company alone is no absorption: a sparse code is short
    of room there. ``gap_beside`` is that control.

    Examples
    --------
    The first latent is silent wherever the second is active, though its feature is on:

    >>> import torch
    >>> g = torch.Generator().manual_seed(0)
    >>> parent = (torch.rand(4000, generator=g) < 0.4).float()
    >>> child = parent * (torch.rand(4000, generator=g) < 0.4)
    >>> f, z = torch.stack([parent, child], 1), torch.stack([parent - child, child], 1)
    >>> found = absorption(z[:2000], f[:2000], z[2000:], f[2000:], [(0, 1)])
    >>> found.rate, found.gap
    (1.0, 1.0)
    """
    check_rows(latents_train, features_train, latents_test, features_test)
    n_features = features_train.shape[1]
    if outside := [pair for pair in pairs if not all(0 <= one < n_features for one in pair)]:
        raise DataError(f"pair {outside[0]} names a feature beyond the {n_features} given")
    floor = active_above * features_train.amax(0)
    on_train, on_test = features_train > floor, features_test > floor
    lit = latents_test != 0
    kin = _related(pairs, n_features)
    children = {p: [c for q, c in pairs if q == p] for p, _ in pairs}
    leading: dict[int, tuple[int, float]] = {}
    rows = []
    for parent, child in pairs:
        any_child = on_train[:, children[parent]].any(1)
        if parent not in leading:
            leading[parent] = _best(latents_train[~any_child], features_train[~any_child, parent])
        latent, r = leading[parent]
        inside = on_train[:, parent]
        own, _ = _best(latents_train[inside], on_train[inside, child].float())
        with_child = on_test[:, parent] & on_test[:, child]
        alone = on_test[:, parent] & ~on_test[:, children[parent]].any(1)
        silent = ~lit[:, latent]
        beside = _companion(on_train, parent, any_child, kin)
        with_other = alone & on_test[:, beside] if beside >= 0 else alone & False
        without = alone & ~on_test[:, beside] if beside >= 0 else alone
        missed_alone = _mean(silent, alone)
        takes = silent & lit[:, own] if own != latent else silent & False
        enough = min(int(with_child.sum()), int(alone.sum())) >= fewest
        rows.append(
            {
                "parent": parent,
                "child": child,
                "judged": bool(enough and r >= min_r),
                "parent_latent": latent,
                "child_latent": own,
                "r": r,
                "missed": _mean(silent, with_child),
                "missed_alone": missed_alone,
                "absorbed": _mean(takes, with_child),
                "gap": _mean(silent, with_child) - missed_alone,
                "beside": beside,
                "missed_beside": _mean(silent, with_other),
                "gap_beside": (
                    _mean(silent, with_other) - _mean(silent, without)
                    if min(int(with_other.sum()), int(without.sum())) >= fewest
                    else math.nan
                ),
            }
        )
    columns = ["parent", "child", "judged", "absorbed", "gap", "gap_beside"]
    return Absorption(pd.DataFrame(rows) if rows else pd.DataFrame(columns=columns))


def _best(latents: Tensor, feature: Tensor) -> tuple[int, float]:
    """The latent that follows a feature best, and its correlation."""
    if len(latents) < 2:
        return 0, math.nan
    r = correlation_matrix(latents, feature[:, None])[:, 0]
    return int(r.argmax()), float(r.max())


def _mean(values: Tensor, rows: Tensor) -> float:
    return float(values[rows].double().mean()) if bool(rows.any()) else math.nan


def _related(pairs: Iterable[tuple[int, int]], n_features: int) -> np.ndarray:
    """[n_features] number of the family of each feature."""
    family = np.arange(n_features)
    for parent, child in pairs:
        family[family == family[child]] = family[parent]
    return family


def _companion(on: Tensor, parent: int, any_child: Tensor, family: np.ndarray) -> int:
    """The unrelated feature that divides the parent's rows without a child most evenly."""
    rows = on[on[:, parent] & ~any_child]
    share = rows.double().mean(0).numpy() if len(rows) else np.zeros(on.shape[1])
    evenly = np.where(family == family[parent], -1.0, np.minimum(share, 1.0 - share))
    return int(evenly.argmax()) if evenly.max() > 0 else -1
