"""How many latents are in use: L0, density, dead and dense latents."""

from __future__ import annotations

import torch
from torch import Tensor

from saebook.errors import DataError


def _flat(latents: Tensor) -> Tensor:
    if latents.ndim < 2:
        raise DataError(f"latents have shape {tuple(latents.shape)}: they must come as [n, d_sae]")
    flat = latents.detach().reshape(-1, latents.shape[-1])
    if not bool(torch.isfinite(flat).all()):
        n_bad = int((~torch.isfinite(flat)).sum())
        raise DataError(f"{n_bad} of {flat.numel()} latents are not finite: check the model")
    return flat


class LatentSums:
    """Streaming counts behind L0 and density; exact, whatever the batches.

    Parameters
    ----------
    positive_only : bool
        Count latents above zero instead of non-zero ones: for activation functions that let
        negative values through (LeakyReLU).

    Examples
    --------
    >>> import torch
    >>> sums = LatentSums()
    >>> sums.update(torch.tensor([[1.0, 0.0], [2.0, 3.0]])).tolist()
    [1, 2]
    >>> sums.l0(), sums.density()
    (1.5, tensor([1.0000, 0.5000], dtype=torch.float64))
    """

    def __init__(self, positive_only: bool = False) -> None:
        self.positive_only = positive_only
        self.n_examples = 0
        self._counts: Tensor | None = None

    def update(self, latents: Tensor) -> Tensor:
        """Add one batch [..., d_sae]; returns the number of active latents per example [n]."""
        flat = _flat(latents)
        active = flat > 0 if self.positive_only else flat != 0  # [n, d_sae]
        counts = active.sum(0)
        if self._counts is None:
            self._counts = counts
        elif self._counts.shape != counts.shape:
            raise DataError(
                f"a batch has d_sae = {len(counts)}, earlier ones {len(self._counts)}: "
                "use one accumulator per model"
            )
        else:
            self._counts = self._counts + counts.to(self._counts.device)
        self.n_examples += len(flat)
        return active.sum(1)

    def merge(self, other: LatentSums) -> LatentSums:
        """Add another accumulator's counts to this one; returns this object."""
        if other._counts is not None:
            mine = self._counts
            theirs = other._counts
            self._counts = theirs.clone() if mine is None else mine + theirs.to(mine.device)
            self.n_examples += other.n_examples
        return self

    def density(self) -> Tensor:
        """Share of examples on which each latent is active, [d_sae] float64."""
        if self._counts is None or not self.n_examples:
            raise DataError("no example was added: there is no density to report")
        return self._counts.to(torch.float64) / self.n_examples

    def l0(self) -> float:
        """Mean number of active latents per example."""
        if self._counts is None or not self.n_examples:
            raise DataError("no example was added: there is no L0 to report")
        return float(self._counts.sum()) / self.n_examples


def _sums(latents: Tensor, positive_only: bool) -> LatentSums:
    sums = LatentSums(positive_only)
    sums.update(latents)
    return sums


def l0(latents: Tensor, positive_only: bool = False) -> float:
    """Mean number of active latents per example.

    Parameters
    ----------
    latents : Tensor
        [..., d_sae], any dtype.
    positive_only : bool
        Count latents above zero (LeakyReLU) instead of non-zero ones.

    Returns
    -------
    float
        Between 0 and d_sae.

    Raises
    ------
    DataError
        No example, or a latent that is not finite.

    Examples
    --------
    >>> import torch
    >>> l0(torch.tensor([[0.5, 0.0, -0.1], [0.0, 0.0, 2.0]]))
    1.5
    >>> l0(torch.tensor([[0.5, 0.0, -0.1], [0.0, 0.0, 2.0]]), positive_only=True)
    1.0
    """
    return _sums(latents, positive_only).l0()


def density(latents: Tensor, positive_only: bool = False) -> Tensor:
    """Share of examples on which each latent is active.

    Parameters
    ----------
    latents : Tensor
        [..., d_sae], any dtype.
    positive_only : bool
        Count latents above zero (LeakyReLU) instead of non-zero ones.

    Returns
    -------
    Tensor
        [d_sae] float64, between 0 and 1.

    Raises
    ------
    DataError
        No example, or a latent that is not finite.

    Examples
    --------
    >>> import torch
    >>> density(torch.tensor([[1.0, 0.0], [2.0, 0.0]]))
    tensor([1., 0.], dtype=torch.float64)
    """
    return _sums(latents, positive_only).density()


def dead_fraction(density: Tensor) -> float:
    """Share of latents that were never active on the examples behind ``density``.

    Few examples make rare latents look dead, so state their number beside this one.

    Parameters
    ----------
    density : Tensor
        [d_sae], from ``density``.

    Returns
    -------
    float
        Between 0 and 1.

    Examples
    --------
    >>> import torch
    >>> dead_fraction(torch.tensor([0.0, 0.2, 0.9, 0.0]))
    0.5
    """
    return float((density == 0).double().mean())


def dense_fraction(density: Tensor, threshold: float = 0.5) -> float:
    """Share of latents active on more than ``threshold`` of the examples.

    Parameters
    ----------
    density : Tensor
        [d_sae], from ``density``.
    threshold : float
        Share of examples above which a latent is called dense.

    Returns
    -------
    float
        Between 0 and 1.

    Examples
    --------
    >>> import torch
    >>> dense_fraction(torch.tensor([0.0, 0.2, 0.9, 0.5]))
    0.25
    """
    return float((density > threshold).double().mean())
