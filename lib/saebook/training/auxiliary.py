"""Auxiliary terms that need a trainer's state: which latents are dead."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from saebook import losses
from saebook.models import SAE, Forward
from saebook.models.shares import variance_over
from saebook.training.dead import Dead


def auxk(sae: SAE, forward: Forward, dead: Dead) -> Tensor:
    """Let the strongest dead latents reconstruct the residual (Gao et al. 2024).

    Parameters
    ----------
    sae
        The model.
    forward
        Its last pass, on a batch of examples.
    dead
        Only these latents are computed.

    Returns
    -------
    Tensor
        0-d; exactly 0 while no latent is dead.
    """
    if not max(dead.at_most):
        return forward.target_scaled.new_zeros(())
    rows, are_dead = dead.rows()
    h = forward.pre_activations_of(sae, rows).masked_fill(~are_dead, float("-inf"))
    latents = h.clamp_min(0.0)  # also turns -inf into 0
    k_aux = sae.config.k_aux or 1
    if k_aux < h.shape[-1]:
        values, indices = latents.topk(k_aux, dim=-1, sorted=False)
        latents = torch.zeros_like(latents).scatter(-1, indices, values)
    residual = _residual(forward).detach()
    made = _decode_alone(sae, latents, sae.W_dec.index_select(0, rows))
    shares = sae.shares
    variance = None if shares is None else variance_over(shares, residual)
    return losses.auxk(residual, made, variance=variance) * dead.mask.any()


def ghost(sae: SAE, forward: Forward, dead: Dead) -> Tensor:
    """Ghost gradients: dead latents reconstruct the residual through exp(h) (Jermyn 2024)."""
    latents = forward.pre_activations.masked_fill(~dead.mask, float("-inf")).exp()
    term = losses.ghost(_residual(forward), _decode_alone(sae, latents, sae.W_dec))
    return term * dead.mask.any()


def preactivation(sae: SAE, forward: Forward, dead: Dead) -> Tensor:
    """Pull the pre-activations of dead latents up to their thresholds (Conerly et al. 2025)."""
    norms = sae.W_dec.norm(dim=1)
    return losses.preactivation(forward.pre_activations, sae.threshold, norms, dead.mask)


def _residual(forward: Forward) -> Tensor:
    return forward.target_scaled - forward.reconstruction_scaled


def _decode_alone(sae: SAE, latents: Tensor, directions: Tensor) -> Tensor:
    """What latents add to a reconstruction by themselves, without its biases."""
    finish = sae.config.decoding.finish
    projected = latents @ directions
    return finish(sae, projected) - finish(sae, projected.new_zeros(projected.shape[-1:]))


Auxiliary = Callable[[SAE, Forward, Dead], Tensor]
AUXILIARY: dict[str, Auxiliary] = {"auxk": auxk, "ghost": ghost, "preactivation": preactivation}
