"""How far a reconstruction is from its input."""

from __future__ import annotations

from torch import Tensor


def mse(x: Tensor, reconstruction: Tensor) -> Tensor:
    """Squared error, summed over ``d_in``, averaged over examples.

    Parameters
    ----------
    x, reconstruction
        Floats [..., d_in], of the same shape.

    Returns
    -------
    Tensor
        A 0-d tensor: ``mean_n Σ_d (x_nd - x̂_nd)²``.

    Notes
    -----
    Many libraries average over ``d_in`` as well, which makes every sparsity coefficient
    ``d_in`` times as strong as the same number here.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    >>> mse(x, torch.tensor([[1.0, 0.0], [0.0, 4.0]])).item()  # (4 + 9) / 2
    6.5
    """
    return (x - reconstruction).square().sum(dim=-1).mean()
