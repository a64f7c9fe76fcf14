"""Are the stable latents the true ones? What each latent follows, on rows that did not choose it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from saebook.errors import DataError
from saebook.metrics import correlation_matrix


def followed_features(
    latents_train: Tensor,
    features_train: Tensor,
    latents_test: Tensor,
    features_test: Tensor,
    names: Sequence[Any] | None = None,
    *,
    either_sign: bool = False,
) -> pd.DataFrame:
    """The true feature that each latent follows best.

    Parameters
    ----------
    latents_train, latents_test : Tensor
        [n, m] activity.
    features_train, features_test : Tensor
        [n, n_features] of the same rows.
    names : sequence, optional
        Of the features; 0, 1, … by default.
    either_sign : bool
        The sign of a component is arbitrary.

    Returns
    -------
    DataFrame
        One row per latent: ``feature``, chosen on training rows; ``r_train`` and ``r_test``,
        the correlation with it. Many latents may follow one feature.

    Raises
    ------
    DataError
        Widths of training and test rows differ, or names don't fit.

    Examples
    --------
    >>> import torch
    >>> features = torch.rand(200, 3, generator=torch.Generator().manual_seed(0))
    >>> latents = features[:, [2, 0]]
    >>> table = followed_features(latents[:100], features[:100], latents[100:], features[100:])
    >>> table["feature"].tolist(), table["r_test"].round(2).tolist()
    ([2, 0], [1.0, 1.0])
    """
    names = range(features_train.shape[1]) if names is None else list(names)
    if (
        latents_train.shape[1:] != latents_test.shape[1:]
        or features_train.shape[1:] != features_test.shape[1:]
        or len(names) != features_train.shape[1]
    ):
        raise DataError(
            f"latents {tuple(latents_train.shape)} and {tuple(latents_test.shape)}, features "
            f"{tuple(features_train.shape)} and {tuple(features_test.shape)}, {len(names)} names: "
            "training and test rows must agree in width"
        )
    on_train = correlation_matrix(latents_train, features_train)
    on_test = correlation_matrix(latents_test, features_test)
    if either_sign:
        sign = torch.where(on_train < 0, -1.0, 1.0).double()
        on_train, on_test = on_train * sign, on_test * sign
    chosen = on_train.argmax(1)
    row = torch.arange(len(chosen))
    return pd.DataFrame(
        {
            "feature": np.array(list(names), dtype=object)[chosen.numpy()],
            "r_train": on_train[row, chosen].numpy(),
            "r_test": on_test[row, chosen].numpy(),
        }
    )
