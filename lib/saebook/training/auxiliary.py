"""Auxiliary terms that need a trainer's state: which latents are dead."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from saebook import losses
from saebook.models import SAE, Forward
from saebook.models.shares import variance_over


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
    Only the dead latents are computed, which reads back to the host which they are.
    """
    rows = dead.nonzero().flatten()
    if not len(rows):
        return forward.pre_activations.new_zeros(())
    return _auxk(sae, forward, forward.pre_activations_of(sae, rows), sae.W_dec[rows])


def auxk_masked(sae: SAE, forward: Forward, dead: Tensor) -> Tensor:
    """:func:`auxk`, but for rounding, without reading anything back to the host.

    Living latents are masked to -inf, so that where there are fewer dead latents than ``k_aux``
    the rest decode to 0.
    """
    masked = forward.pre_activations.masked_fill(~dead, float("-inf"))
    return _auxk(sae, forward, masked, sae.W_dec) * dead.any()


def _auxk(sae: SAE, forward: Forward, h: Tensor, directions: Tensor) -> Tensor:
    latents = h.clamp_min(0.0)  # also turns -inf into 0
    k_aux = sae.config.k_aux or 1
    if k_aux < h.shape[-1]:
        values, indices = latents.topk(k_aux, dim=-1, sorted=False)
        latents = torch.zeros_like(latents).scatter(-1, indices, values)
    residual, made = _residual(forward).detach(), _decode_alone(sae, latents, directions)
    shares = sae.shares
    variance = None if shares is None else variance_over(shares, residual)
    return losses.auxk(residual, made, variance=variance)


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


Auxiliary = Callable[[SAE, Forward, Tensor], Tensor]
AUXILIARY: dict[str, Auxiliary] = {"auxk": auxk, "ghost": ghost, "preactivation": preactivation}
# The same where nothing may be read back to the host: on a GPU, and over a stack.
AUXILIARY_MASKED: dict[str, Auxiliary] = AUXILIARY | {"auxk": auxk_masked}
