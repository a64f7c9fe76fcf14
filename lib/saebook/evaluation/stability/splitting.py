"""Splitting: one true feature covered by several latents that take turns."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor

from saebook.errors import DataError
from saebook.metrics import correlation_matrix

FEWEST_ROWS = 20


def splitting(
    latents_train: Tensor,
    features_train: Tensor,
    latents_test: Tensor,
    features_test: Tensor,
    *,
    active_above: float = 0.1,
    min_precision: float = 0.5,
    min_gain: float = 0.1,
    max_overlap: float = 0.2,
    fewest: int = FEWEST_ROWS,
) -> pd.DataFrame:
    """Which true features are covered by several latents that take turns?

    Parameters
    ----------
    latents_train, latents_test : Tensor
        [n, m] activity.
    features_train, features_test : Tensor
        [n, n_features] true features of the same rows, nonnegative.
    active_above : float
        A feature counts as active above this share of its largest training value.
    min_precision : float
        A latent can belong to a feature that is active on at least this share of the latent's own
        rows; of several it belongs to the one it agrees with best (phi coefficient).
    min_gain : float
        Share of the feature's rows that a further latent has to add.
    max_overlap : float
        Share of a further latent's rows, within the feature's, that others may cover already.
    fewest : int
        Rows needed with the feature, of training and of test.

    Returns
    -------
    DataFrame
        One row per feature: ``judged`` (enough rows, and a latent that belongs to it), ``latents``
        (those chosen on training rows), ``n_latents`` (that hold up on test rows), ``best`` and
        ``covered`` (share of the feature's test rows on which the first, and any of these, is
        active), ``split`` (two or more). The rate is the mean of ``split`` over judged features.

    Notes
    -----
    The latent of a child belongs to the child, not to its parent, so that a nested pair with one
    latent each is not split.

    Examples
    --------
    >>> import torch
    >>> g = torch.Generator().manual_seed(0)
    >>> f = (torch.rand(2000, 1, generator=g) < 0.3).float()
    >>> turn = torch.rand(2000, 1, generator=g) < 0.5
    >>> z = torch.cat([f * turn, f * ~turn], 1)
    >>> table = splitting(z[:1000], f[:1000], z[1000:], f[1000:])
    >>> table["n_latents"].tolist(), table["split"].tolist()
    ([2], [True])
    """
    check_rows(latents_train, features_train, latents_test, features_test)
    floor = active_above * features_train.amax(0)
    on_train, on_test = features_train > floor, features_test > floor
    lit_train, lit_test = latents_train != 0, latents_test != 0
    together = lit_train.double().T @ on_train.double()  # [m, n_features]
    precision = together / lit_train.double().sum(0).clamp_min(1.0)[:, None]
    phi = correlation_matrix(lit_train.double(), on_train.double())
    phi = torch.where(precision >= min_precision, phi, -1.0)
    belongs = torch.where(phi.amax(1) > 0, phi.argmax(1), -1)
    rows = []
    for feature in range(features_train.shape[1]):
        own = torch.nonzero(belongs == feature).flatten()
        own = own[together[own, feature].argsort(descending=True)]
        here = {name: on[:, feature] for name, on in (("train", on_train), ("test", on_test))}
        chosen = _taking_turns(lit_train[here["train"]], own.tolist(), min_gain, max_overlap)
        kept = _taking_turns(lit_test[here["test"]], chosen, min_gain, max_overlap)
        lit = lit_test[here["test"]]
        enough = min(int(rows_on.sum()) for rows_on in here.values()) >= fewest
        rows.append(
            {
                "feature": feature,
                "judged": bool(enough and chosen),
                "latents": chosen,
                "n_latents": len(kept),
                "best": float(lit[:, chosen[0]].double().mean())
                if chosen and len(lit)
                else math.nan,
                "covered": float(lit[:, kept].any(1).double().mean()) if kept else math.nan,
                "split": len(kept) > 1,
            }
        )
    return pd.DataFrame(rows)


def check_rows(
    latents_train: Tensor, features_train: Tensor, latents_test: Tensor, features_test: Tensor
) -> None:
    """Refuse latents and features that are not of the same rows, or not alike in width."""
    if (
        len(latents_train) != len(features_train)
        or len(latents_test) != len(features_test)
        or latents_train.shape[1:] != latents_test.shape[1:]
        or features_train.shape[1:] != features_test.shape[1:]
        or min(len(latents_train), len(latents_test)) < 2
    ):
        raise DataError(
            f"training rows {tuple(latents_train.shape)} and {tuple(features_train.shape)}, test "
            f"rows {tuple(latents_test.shape)} and {tuple(features_test.shape)}: give latents and "
            "features of the same rows, alike in width"
        )


def _taking_turns(
    lit: Tensor, candidates: Sequence[int], min_gain: float, max_overlap: float
) -> list[int]:
    """Latents, in this order, that each add rows that those before them leave."""
    covered = torch.zeros(len(lit), dtype=torch.bool)
    kept: list[int] = []
    for latent in candidates:
        rows = lit[:, latent]
        n = int(rows.sum())
        new = int((rows & ~covered).sum())
        if n and new >= min_gain * len(lit) and n - new <= max_overlap * n:
            kept.append(int(latent))
            covered |= rows
    return kept
