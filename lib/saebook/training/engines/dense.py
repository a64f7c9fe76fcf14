"""The plain engine: autograd through dense matrices. The reference for every other one."""

from __future__ import annotations

import torch
from torch import Tensor

from saebook.losses import mse
from saebook.models import SAE
from saebook.training.auxiliary import AUXILIARY
from saebook.training.engines.result import StepResult


def dense(sae: SAE, x: Tensor, coefficients: dict[str, float], dead: Tensor) -> StepResult:
    """Backpropagate ``Σ cᵢ · termᵢ`` of one batch.

    Parameters
    ----------
    sae
        In training mode; gradients are added to its parameters.
    x
        Examples [batch, d_in], in the caller's units.
    coefficients
        Weight of every term of the objective.
    dead
        Booleans [d_sae], for the auxiliary terms.
    """
    forward = sae.pass_through(x)
    terms = sae.losses(forward)
    for name in sae.config.objective.auxiliary:
        terms[name] = AUXILIARY[name](sae, forward, dead)
    total = torch.stack([coefficients[name] * term for name, term in terms.items()]).sum()
    total.backward()

    with torch.no_grad():
        latents = forward.latents
        active = latents != 0
        return StepResult(
            losses={name: term.detach() for name, term in {**terms, "total": total}.items()},
            fired=active.any(dim=0),
            smallest_active=latents.masked_fill(~active, float("inf")).min(),
            l0=active.sum(dim=-1).to(latents.dtype).mean(),
            squared_error=mse(forward.x_scaled, forward.reconstruction_scaled),
        )
