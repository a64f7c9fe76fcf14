"""How two subspaces lie to one another: principal angles, and the share they have in common."""

from __future__ import annotations

import torch
from torch import Tensor

from saebook.errors import DataError


def spanning_basis(directions: Tensor, energy: float = 1.0) -> Tensor:
    """Orthonormal basis of the subspace that carries a share of the directions' squared length.

    Parameters
    ----------
    directions : Tensor
        [n, d] directions; their lengths weigh them.
    energy : float
        Share of ``Σ‖direction‖²`` to keep, in (0, 1]. With 1 the whole span is kept.

    Returns
    -------
    Tensor
        [d, r] float64, columns from the most to the least energy; r is 0 where all are zero.

    Raises
    ------
    DataError
        Not a matrix, a value that is not finite, or an energy outside (0, 1].

    Examples
    --------
    >>> import torch
    >>> spanning_basis(torch.tensor([[3.0, 0.0, 0.0], [0.0, 0.1, 0.0]])).shape
    torch.Size([3, 2])
    >>> spanning_basis(torch.tensor([[3.0, 0.0, 0.0], [0.0, 0.1, 0.0]]), energy=0.9).shape
    torch.Size([3, 1])
    """
    if not 0.0 < energy <= 1.0:
        raise DataError(f"energy is {energy}: give a share above 0 and up to 1")
    if directions.ndim != 2 or not bool(torch.isfinite(directions).all()):
        raise DataError(
            f"directions of shape {tuple(directions.shape)} must be a matrix of finite values"
        )
    wide = directions.detach().cpu().to(torch.float64)
    if not wide.numel() or not bool(wide.any()):
        return wide.new_zeros(wide.shape[1], 0)
    _, values, rows = torch.linalg.svd(wide, full_matrices=False)
    # As numpy's matrix_rank: what rounding alone can leave is no dimension.
    smallest = values[0] * max(wide.shape) * torch.finfo(torch.float32).eps
    rank = int((values > smallest).sum())
    if energy < 1.0:
        kept = values.square().cumsum(0) / values.square().sum()
        rank = min(rank, int((kept < energy - 1e-12).sum()) + 1)
    return rows[:rank].T.contiguous()


def principal_angles(a: Tensor, b: Tensor) -> Tensor:
    """Angles between two subspaces, from the smallest to the largest.

    Parameters
    ----------
    a, b : Tensor
        [d, p] and [d, q], columns that span the subspaces, linearly independent.

    Returns
    -------
    Tensor
        [min(p, q)] float64, degrees between 0 (a common direction) and 90 (orthogonal).

    Raises
    ------
    DataError
        Different d, or a subspace without a direction.

    Notes
    -----
    Source: Björck and Golub (1973); scipy's ``subspace_angles``, exact for small angles too.

    Examples
    --------
    >>> import torch
    >>> plane, tilted = torch.eye(3)[:, :2], torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    >>> principal_angles(plane, tilted).tolist()
    [0.0, 90.0]
    """
    # Lazy: a training node imports this room and never needs scipy.linalg.
    from scipy.linalg import subspace_angles

    if a.ndim != 2 or b.ndim != 2 or len(a) != len(b) or not a.shape[1] or not b.shape[1]:
        raise DataError(
            f"subspaces of shapes {tuple(a.shape)} and {tuple(b.shape)}: give [d, p] and [d, q] "
            "with at least one column each"
        )
    angles = subspace_angles(*(m.detach().cpu().to(torch.float64).numpy() for m in (a, b)))
    return torch.rad2deg(torch.from_numpy(angles[::-1].copy()))


def subspace_overlap(a: Tensor, b: Tensor) -> float:
    """Share of the smaller subspace that lies in the larger one.

    The mean squared cosine of the principal angles: 1 where one contains the other, 0 where they
    are orthogonal. For subspaces of p and q dimensions drawn at random in d dimensions its mean is
    ``max(p, q) / d``.

    Parameters
    ----------
    a, b : Tensor
        [d, p] and [d, q], as for :func:`principal_angles`.

    Returns
    -------
    float

    Examples
    --------
    >>> import torch
    >>> subspace_overlap(torch.eye(4)[:, :2], torch.eye(4)[:, 1:4])
    0.5
    """
    return float(torch.deg2rad(principal_angles(a, b)).cos().square().mean())
