"""Auxiliary terms that need a trainer's state: which latents are dead."""

from __future__ import annotations

from collections.abc import Callable

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
    The number of dead latents is never read back to the host: living ones are masked to
    -inf, so that where there are fewer dead latents than ``k_aux`` the rest decode to 0.
    """
    k_aux = min(sae.config.k_aux or 1, sae.config.d_sae)
    h = forward.pre_activations.masked_fill(~dead, float("-inf"))
    values, indices = h.topk(k_aux, dim=-1, sorted=False)
    values = values.clamp_min(0.0)  # also turns -inf into 0
    latents = values.new_zeros(h.shape).scatter(-1, indices, values)
    residual = forward.x_scaled - forward.reconstruction_scaled
    term = losses.auxk(residual, latents @ sae.W_dec)
    return term * dead.any()


AUXILIARY: dict[str, Callable[[SAE, Forward, Tensor], Tensor]] = {"auxk": auxk}
