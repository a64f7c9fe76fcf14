"""The engine for one model on one device: autograd through one pass."""

from __future__ import annotations

import torch
from torch import Tensor

from saebook.models import SAE, Forward, Selecting, select_among_all
from saebook.training.auxiliary import AUXILIARY
from saebook.training.dead import Dead
from saebook.training.engines.result import StepResult
from saebook.training.retirement import contributions
from saebook.training.temporal.state import Paired


class Autograd:
    """Backpropagates ``Σ cᵢ · termᵢ`` of one batch.

    Parameters
    ----------
    selecting
        How the pass encodes and selects. Among all latents it is the plain way, and the
        reference for every other.
    """

    def __init__(self, selecting: Selecting = select_among_all):
        self._selecting = selecting

    def __call__(
        self,
        sae: SAE,
        x: Tensor,
        target: Tensor | None,
        coefficients: dict[str, float | Tensor],
        dead: Dead,
        measure_contributions: bool = False,
        pairs: Paired | None = None,
    ) -> StepResult:
        """Add the gradients of one batch to the model's parameters.

        Parameters
        ----------
        sae
            In training mode.
        x
            Examples [batch, ...], in the caller's units.
        target
            What a transcoder's examples should become, [batch, d_out].
        coefficients
            Weight of every term of the objective.
        dead
            Dead latents, for the auxiliary terms.
        measure_contributions
            Also measure how much each latent lowers the error.
        pairs
            Positives of the examples, and the term that compares them.
        """
        positive = None if pairs is None else pairs.positive
        forward = sae.pass_through(x, target, self._selecting, positive)
        terms = sae.losses(forward)
        for name in sae.config.objective.auxiliary:
            terms[name] = AUXILIARY[name](sae, forward, dead)
        logged: dict[str, Tensor] = {}
        if pairs is not None:
            terms[pairs.name], logged = pairs(forward)
        total = torch.stack([coefficients[name] * term for name, term in terms.items()]).sum()
        # Of several shares of a batch each adds its part to the mean.
        total.backward(None if sae.shares is None else total.new_tensor(1 / sae.shares.size))
        with torch.no_grad():
            known = {**terms, "total": total, **logged}
            return summary(sae, forward, known, measure_contributions)


def summary(
    sae: SAE, forward: Forward, terms: dict[str, Tensor], measure_contributions: bool
) -> StepResult:
    """What a trainer wants to know of a pass."""
    firings = forward.selected[-1].firings()
    n_examples = forward.entries.n_examples(forward.latents)
    missed = forward.target_scaled - forward.reconstruction_scaled
    squared_errors = torch.linalg.vector_norm(missed, dim=-1).square()
    return StepResult(
        losses={name: term.detach() for name, term in terms.items()},
        fired=firings > 0,
        smallest_active=_smallest_active(sae, forward),
        l0=firings.sum(dtype=torch.float64).div(n_examples).to(missed.dtype),
        squared_error=squared_errors.mean(),
        squared_errors=squared_errors,
        density=forward.latents.numel() / (n_examples * sae.config.d_sae),
        contributions=contributions(sae, forward) if measure_contributions else None,
    )


def _smallest_active(sae: SAE, forward: Forward) -> Tensor | None:
    """[n], one for each nested dictionary with a k of its own; infinite where none is active."""
    if not sae.config.selection.follows_smallest:
        return None
    chosen = forward.level_latents if sae.config.prefix_k else [forward.latents]
    return torch.stack([_smallest(part) for part in chosen])


def _smallest(latents: Tensor) -> Tensor:
    if latents.numel() == 0:
        return latents.new_full((), float("inf"))
    return latents.masked_fill(latents == 0, float("inf")).min()
