"""How well batches are mixed: how often two of their examples come from the same place."""

from __future__ import annotations

import torch
from torch import Tensor


def same_group_pairs(groups: Tensor) -> float:
    """Share of pairs of examples that come from the same group.

    Of all examples of a data set, it is what a batch of a full shuffle has on average; a batch of
    a shuffle buffer has more, and the ratio of the two says how much is left to mix.

    Parameters
    ----------
    groups
        [n] whole numbers: the session, trial, document or chunk of each example, n ≥ 2.

    Returns
    -------
    float
        Σ nᵢ(nᵢ - 1) / (n(n - 1)), nᵢ examples in group i. NaN for fewer than two.

    Examples
    --------
    One of three pairs:

    >>> round(same_group_pairs(torch.tensor([7, 7, 3])), 4)
    0.3333
    """
    n = len(groups)
    if n < 2:
        return float("nan")
    sizes = torch.unique(groups, return_counts=True)[1].to(torch.float64)
    return float((sizes * (sizes - 1)).sum()) / (n * (n - 1))
