"""Auxiliary terms that need a trainer's state: which latents are dead."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from saebook import losses
from saebook.models import SAE, Forward


def auxk(sae: SAE, forward: Forward, dead: Tensor) -> Tensor:
    """Let the strongest dead latents reconstruct the residual (Gao et al. 2024).

    Parameters
    ----------
    sae
        The model.
    forward
        Its last pass, on a batch of examples.
    dead
        Booleans [d_sae].

    Returns
    -------
    Tensor
        0-d; exactly 0 while no latent is dead.

    Notes
    -----
    On a CPU only the dead latents are computed. On a GPU their number is never read back to the
    host: living ones are masked to -inf, so that where there are fewer dead latents than
    ``k_aux`` the rest decode to 0. The two agree to rounding.
    """
    if dead.device.type == "cpu":
        rows = dead.nonzero().flatten()
        if not len(rows):
            return forward.pre_activations.new_zeros(())
        h, directions = forward.pre_activations_of(sae, rows), sae.W_dec[rows]
    else:
        h, directions = forward.pre_activations.masked_fill(~dead, float("-inf")), sae.W_dec
    latents = h.clamp_min(0.0)  # also turns -inf into 0
    k_aux = sae.config.k_aux or 1
    if k_aux < h.shape[-1]:
        values, indices = latents.topk(k_aux, dim=-1, sorted=False)
        latents = torch.zeros_like(latents).scatter(-1, indices, values)
    term = losses.auxk(_residual(forward), _decode_alone(sae, latents, directions))
    return term * dead.any()


def ghost(sae: SAE, forward: Forward, dead: Tensor) -> Tensor:
    """Ghost gradients: dead latents reconstruct the residual through exp(h) (Jermyn 2024)."""
    latents = forward.pre_activations.masked_fill(~dead, float("-inf")).exp()
    term = losses.ghost(_residual(forward), _decode_alone(sae, latents, sae.W_dec))
    return term * dead.any()


def preactivation(sae: SAE, forward: Forward, dead: Tensor) -> Tensor:
    """Pull the pre-activations of dead latents up to their thresholds (Conerly et al. 2025)."""
    norms = sae.W_dec.norm(dim=1)
    return losses.preactivation(forward.pre_activations, sae.threshold, norms, dead)


def _residual(forward: Forward) -> Tensor:
    return forward.target_scaled - forward.reconstruction_scaled


def _decode_alone(sae: SAE, latents: Tensor, directions: Tensor) -> Tensor:
    """What latents add to a reconstruction by themselves, without its biases."""
    finish = sae.config.decoding.finish
    projected = latents @ directions
    return finish(sae, projected) - finish(sae, projected.new_zeros(projected.shape[-1:]))


AUXILIARY: dict[str, Callable[[SAE, Forward, Tensor], Tensor]] = {
    "auxk": auxk,
    "ghost": ghost,
    "preactivation": preactivation,
}
