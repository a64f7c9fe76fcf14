"""Rates of units that a model never saw, read from its latents: co-smoothing."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saebook.errors import DataError

N_ITERATIONS = 60
# Of a unit's mean rate, what is left to it when no latent is active.
SMALLEST_OFFSET = 0.05


@dataclass(frozen=True, eq=False)
class PoissonReadout:
    """Rates as an offset plus what each latent adds, all of them nonnegative.

    Parameters
    ----------
    weights : Tensor
        [n_latents, n_units], spikes per bin and unit of activity.
    offset : Tensor
        [n_units], spikes per bin without any active latent.
    """

    weights: Tensor
    offset: Tensor

    def __call__(self, latents: Tensor) -> Tensor:
        """Rates [n, n_units], spikes per bin, of latents [n, n_latents]."""
        return latents.to(self.weights) @ self.weights + self.offset


@torch.no_grad()
def poisson_readout(
    latents: Tensor, counts: Tensor, *, n_iterations: int = N_ITERATIONS
) -> PoissonReadout:
    """Fit the counts of units as a nonnegative sum of latents, by Poisson likelihood.

    Parameters
    ----------
    latents : Tensor
        [n, n_latents], ≥ 0, of training rows.
    counts : Tensor
        [n, n_units], spikes per bin of the same rows, of units that the model did not see.
    n_iterations : int
        Steps, none of which lowers the likelihood. Few of them also regularise: weights start
        equal.

    Returns
    -------
    PoissonReadout
        What an SAE's decoder would be for these units. A unit without a spike gets rate 0.

    Raises
    ------
    DataError
        Shapes disagree, or a value is negative or not finite.

    Notes
    -----
    Source: Lee and Seung (2001), multiplicative updates for the divergence, with one factor
    held (in optics: Richardson-Lucy). The problem is convex.

    Examples
    --------
    >>> import torch
    >>> latents = torch.tensor([[0.0], [0.0], [2.0], [2.0]])
    >>> readout = poisson_readout(latents, torch.tensor([[1.0], [1.0], [5.0], [5.0]]))
    >>> round(float(readout.weights), 2), round(float(readout.offset), 2)
    (2.0, 1.0)
    """
    if latents.ndim != 2 or counts.ndim != 2 or len(latents) != len(counts) or not len(counts):
        raise DataError(
            f"latents {tuple(latents.shape)} and counts {tuple(counts.shape)}: give "
            "[n, n_latents] and [n, n_units] for the same rows"
        )
    for name, values in (("latents", latents), ("counts", counts)):
        if not bool((torch.isfinite(values) & (values >= 0)).all()):
            raise DataError(f"{name} hold negative or non-finite values: give none below 0")
    counts, latents = counts.to(torch.float32), latents.to(torch.float32)
    scale = latents.mean(dim=0)
    used = scale > 0
    f = latents[:, used] / scale[used]  # mean 1: every latent starts alike
    mean = counts.mean(dim=0)
    floor = SMALLEST_OFFSET * mean
    offset = mean / 2
    weights = (mean / (2 * max(1, f.shape[1]))).expand(f.shape[1], -1).clone()
    for _ in range(n_iterations):
        excess = counts / (f @ weights + offset).clamp_min(1e-12)  # [n, n_units]
        weights *= f.T @ excess / len(f)
        offset = torch.maximum(offset * excess.mean(dim=0), floor)
    whole = latents.new_zeros(latents.shape[1], counts.shape[1])
    whole[used] = weights / scale[used, None]
    return PoissonReadout(whole, offset)
