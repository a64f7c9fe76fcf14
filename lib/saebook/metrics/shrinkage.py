"""Whether reconstructions are too small as a whole: the shrinkage factor γ."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from saebook.errors import DataError


class ShrinkageSums:
    """Streaming sums behind ``shrinkage``; the result does not depend on the batches.

    Examples
    --------
    >>> x = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    >>> sums = ShrinkageSums()
    >>> for row in x.split(1):
    ...     sums.update(row, 0.8 * row)
    >>> round(sums.shrinkage(), 6)
    0.8
    """

    def __init__(self) -> None:
        self._squares = 0.0
        self._products = 0.0

    def update(self, x: Tensor, reconstruction: Tensor) -> None:
        """Add one batch: x and its reconstruction [..., d_in], in the same units."""
        if x.shape != reconstruction.shape:
            raise DataError(
                f"x has shape {tuple(x.shape)} and its reconstruction "
                f"{tuple(reconstruction.shape)}: they must be equal"
            )
        made = reconstruction.detach().to(torch.float64)
        self._squares += float(made.square().sum())
        self._products += float((made * x.detach().to(torch.float64)).sum())

    def shrinkage(self) -> float:
        """γ of everything added so far; see :func:`shrinkage`."""
        return self._squares / self._products if self._products > 0 else math.nan


def shrinkage(x: Tensor, reconstruction: Tensor) -> float:
    """Relative size of reconstructions: the factor γ by which they should be divided.

    Parameters
    ----------
    x, reconstruction : Tensor
        [..., d_in], in the same units.

    Returns
    -------
    float
        ``Σ‖x̂‖² / Σ x̂·x``, the γ that minimises ``Σ‖x̂/γ - x‖²``: 1 is unbiased, below 1 means
        shrinkage. NaN where reconstructions are zero, or on the whole point away from x.

    Raises
    ------
    DataError
        Shapes differ.

    Notes
    -----
    The ratio of norms falls below 1 for any imperfect reconstruction, a projection among them;
    γ does not, and so tells a bias in size from an error in direction.

    References
    ----------
    Rajamanoharan et al. 2024, "Improving Dictionary Learning with Gated Sparse Autoencoders"
    (arXiv 2404.16014), equation 10.

    Examples
    --------
    >>> x = torch.tensor([[3.0, 4.0]])
    >>> projected = torch.tensor([[3.0, 0.0]])  # shorter, and yet of the best size
    >>> shrinkage(x, projected), round(shrinkage(x, 0.5 * projected), 6)
    (1.0, 0.5)
    """
    sums = ShrinkageSums()
    sums.update(x, reconstruction)
    return sums.shrinkage()
