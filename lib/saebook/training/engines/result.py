"""What an engine hands back to the trainer."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class StepResult:
    """Terms and firing of one batch; the gradients lie in the parameters' ``grad``.

    For a stack of models every tensor has the members as its first axis.

    Attributes
    ----------
    losses
        Every term and ``total``, detached 0-d tensors.
    fired
        Booleans [d_sae]: active in at least one example.
    smallest_active
        [n]: the smallest active latent, per nested dictionary with a k of its own; infinite
        when none is active. None where the architecture doesn't follow it.
    l0
        0-d: active latents per example.
    squared_error
        0-d: mean summed squared error, in scaled units.
    density
        Share of all pre-activations at which latents were computed: 1 for a plain pass. For a
        stack, one for all or a list.
    contributions
        [3, d_sae], as :func:`saebook.training.retirement.contributions` sums them; None unless
        they were asked for.
    squared_errors
        [batch]: summed squared error of each example, in scaled units.
    """

    losses: dict[str, Tensor]
    fired: Tensor
    smallest_active: Tensor | None
    l0: Tensor
    squared_error: Tensor
    squared_errors: Tensor
    density: float | list[float]
    contributions: Tensor | None = None
