"""What a latent does to the rates, where the output is not linear."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from saebook.errors import DataError

if TYPE_CHECKING:
    from saebook.models import SAE

CHUNK_ROWS = 1024


@torch.no_grad()
def effect_directions(sae: SAE, x: Tensor) -> Tensor:
    """What each latent adds to the reconstruction, per unit of activity, where it is active.

    Parameters
    ----------
    sae : SAE
        A model of single rows whose decoding needs no context (``seq_len`` 1, no scaling per
        example).
    x : Tensor
        [n, d_in], training rows in the caller's units.

    Returns
    -------
    Tensor
        [d_sae, d_out], in the units of the data: the reconstruction minus the one with this
        latent switched off, summed over the rows on which it is active, over its summed
        activity. 0 for a latent that is never active.

    Raises
    ------
    DataError
        The model takes windows.

    Notes
    -----
    With a linear decoder and no output function these are the decoder's rows. Under a ReLU or
    softplus output they are not: an entry that would push a rate below zero changes nothing,
    costs nothing, and is left wherever training began. Two models with the same
    reconstructions can then differ in every row of ``W_dec``; by their effects they agree.

    Examples
    --------
    >>> import torch
    >>> from saebook.models import SAE, SAEConfig
    >>> sae = SAE(SAEConfig(d_in=2, d_sae=4, architecture="topk", k=1), seed=0)
    >>> x = torch.rand(64, 2, generator=torch.Generator().manual_seed(0))
    >>> sae.fit_inputs(x)
    >>> alive = (sae.encode(x) > 0).any(dim=0)
    >>> linear = sae.target_scaling.invert(sae.W_dec) - sae.target_scaling.invert(0 * sae.W_dec)
    >>> bool((effect_directions(sae, x)[alive] - linear[alive]).abs().max() < 1e-4)
    True
    """
    if sae.config.seq_len > 1:
        raise DataError(
            f"seq_len = {sae.config.seq_len}: effects are defined for models of single rows"
        )
    total = activity = 0.0
    for rows in x.split(CHUNK_ROWS):
        latents = sae.encode(rows.to(sae.W_dec))
        effects = torch.zeros(sae.config.d_sae, sae.config.d_target, device=latents.device)
        row, latent = (latents > 0).nonzero(as_tuple=True)
        without = latents[row]  # [n_active, d_sae]
        without[torch.arange(len(row)), latent] = 0.0
        change = sae.decode(latents)[row] - sae.decode(without)  # [n_active, d_out]
        total = total + effects.index_add_(0, latent, change)
        activity = activity + latents.clamp_min(0).sum(dim=0)
    if not isinstance(total, Tensor) or not isinstance(activity, Tensor):
        raise DataError("no row was given: effects are averages over rows")
    return torch.where(activity[:, None] > 0, total / activity.clamp_min(1e-12)[:, None], 0.0)
