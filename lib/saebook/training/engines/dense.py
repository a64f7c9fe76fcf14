"""The plain engine: autograd through dense matrices. The reference for every other one."""

from __future__ import annotations

import torch
from torch import Tensor

from saebook.losses import mse
from saebook.models import SAE
from saebook.training.auxiliary import AUXILIARY
from saebook.training.engines.result import StepResult
from saebook.training.retirement import contributions


def dense(
    sae: SAE,
    x: Tensor,
    target: Tensor | None,
    coefficients: dict[str, float | Tensor],
    dead: Tensor,
    measure_contributions: bool = False,
) -> StepResult:
    """Backpropagate ``Σ cᵢ · termᵢ`` of one batch.

    Parameters
    ----------
    sae
        In training mode; gradients are added to its parameters.
    x
        Examples [batch, ...], in the caller's units.
    target
        What a transcoder's examples should become, [batch, d_out].
    coefficients
        Weight of every term of the objective.
    dead
        Booleans [d_sae], for the auxiliary terms.
    measure_contributions
        Also measure how much each latent lowers the error.
    """
    forward = sae.pass_through(x, target)
    terms = sae.losses(forward)
    for name in sae.config.objective.auxiliary:
        terms[name] = AUXILIARY[name](sae, forward, dead)
    total = torch.stack([coefficients[name] * term for name, term in terms.items()]).sum()
    total.backward()

    with torch.no_grad():
        active = sae.config.selection.active(forward.latents)
        return StepResult(
            losses={name: term.detach() for name, term in {**terms, "total": total}.items()},
            fired=active.any(dim=0),
            smallest_active=_smallest_active(sae, forward.level_latents),
            l0=active.sum(dim=-1).to(total.dtype).mean(),
            squared_error=mse(forward.target_scaled, forward.reconstruction_scaled),
            squared_errors=(forward.target_scaled - forward.reconstruction_scaled)
            .square()
            .sum(dim=-1),
            contributions=contributions(sae, forward) if measure_contributions else None,
        )


def _smallest_active(sae: SAE, level_latents) -> Tensor:
    """[n], one for each nested dictionary with a k of its own; infinite where none is active."""
    chosen = level_latents if sae.config.prefix_k else level_latents[-1:]
    return torch.stack(
        [latents.masked_fill(latents == 0, float("inf")).min() for latents in chosen]
    )
