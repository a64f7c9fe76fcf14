"""The stateless terms of a model's objective, as functions of one forward pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from saebook import losses


@dataclass(frozen=True)
class Forward:
    """Everything one pass through an SAE computes.

    ``x`` and ``reconstruction`` are in the caller's units, ``x_scaled`` and
    ``reconstruction_scaled`` in scaled ones; ``pre_activations`` and ``latents`` are
    [..., d_sae], ``decoder_norms`` [d_sae].
    """

    x: Tensor
    x_scaled: Tensor
    pre_activations: Tensor
    latents: Tensor
    reconstruction_scaled: Tensor
    reconstruction: Tensor
    decoder_norms: Tensor


SPARSITIES: dict[str, Callable[[Forward], Tensor]] = {
    "l1": lambda forward: losses.l1(forward.latents),
    "l1_decoder_norm": lambda forward: losses.l1_decoder_norm(
        forward.latents, forward.decoder_norms
    ),
}


def term(name: str, forward: Forward) -> Tensor:
    """One stateless term of an objective, by its name, as a 0-d tensor."""
    if name in losses.RECONSTRUCTIONS:
        return losses.RECONSTRUCTIONS[name](forward.x_scaled, forward.reconstruction_scaled)
    return SPARSITIES[name](forward)
