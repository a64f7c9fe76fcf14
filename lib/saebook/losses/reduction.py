"""The one rule by which a loss over a batch becomes a number."""

from __future__ import annotations

from torch import Tensor


def mean_of_sums(values: Tensor, weights: Tensor | None = None) -> Tensor:
    """Sum over the last axis, average over all others.

    Parameters
    ----------
    values
        Floats [..., d]: what each input or latent contributes, per example.
    weights
        Floats [d] multiplying each input's or latent's contribution. Default: all 1.

    Returns
    -------
    Tensor
        A 0-d tensor: ``mean_n Σ_j w_j v_nj``. Equal parts of a batch average to the whole.

    Examples
    --------
    >>> import torch
    >>> values = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    >>> mean_of_sums(values).item()  # (3 + 7) / 2
    5.0
    >>> mean_of_sums(values, torch.tensor([1.0, 0.5])).item()  # (2 + 5) / 2
    3.5
    """
    if weights is not None:
        values = values * weights
    return values.sum(dim=-1).mean()
