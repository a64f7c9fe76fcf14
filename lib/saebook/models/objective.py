"""The stateless terms of a model's objective, as functions of one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from saebook import losses

if TYPE_CHECKING:
    from saebook.models.sae import SAE


@dataclass(frozen=True)
class Forward:
    """Everything one pass through an SAE computes.

    Attributes
    ----------
    x, target, reconstruction
        In the caller's units: the input, what it should become, and what it became.
    x_scaled
        [..., seq_len · d_in], as the encoder sees it.
    pre_activations, latents
        [..., d_sae].
    level_latents
        Latents of each nested dictionary, [..., size]; the last are ``latents``.
    level_reconstructions
        [..., d_target] of each nested dictionary, in scaled units; the last is the whole's.
    target_scaled
        [..., d_target].
    decoder_norms
        [d_sae].
    """

    x: Tensor
    target: Tensor
    reconstruction: Tensor
    x_scaled: Tensor
    pre_activations: Tensor
    latents: Tensor
    level_latents: Sequence[Tensor]
    level_reconstructions: Sequence[Tensor]
    target_scaled: Tensor
    decoder_norms: Tensor

    @property
    def reconstruction_scaled(self) -> Tensor:
        """[..., d_target], of the whole dictionary."""
        return self.level_reconstructions[-1]


Term = Callable[["SAE", Forward], Tensor]


def _error(sae: SAE, forward: Forward, reconstruction: Tensor) -> Tensor:
    """The reconstruction term that the settings name, of one reconstruction."""
    name = sae.config.objective.reconstruction
    settings = {"tau": sae.config.lmse_tau} if name == "lmse" else {}
    return losses.RECONSTRUCTIONS[name](forward.target_scaled, reconstruction, **settings)


def _reconstruction(sae: SAE, forward: Forward) -> Tensor:
    """Errors of all nested dictionaries, by their weights."""
    errors = [_error(sae, forward, level) for level in forward.level_reconstructions]
    if len(errors) == 1:
        return errors[0]
    weights = sae.config.prefix_weights or (1.0,) * len(errors)
    return torch.stack([w / sum(weights) * e for w, e in zip(weights, errors)]).sum()


def _gated_auxiliary(sae: SAE, forward: Forward) -> Tensor:
    """Error of what the gate alone would reconstruct, through a decoder that does not learn."""
    frozen = cast("SAE", SimpleNamespace(**{n: p.detach() for n, p in sae.named_parameters()}))
    projected = forward.pre_activations.relu() @ frozen.W_dec
    alone = sae.config.decoding.finish(frozen, projected)
    return _error(sae, forward, sae.with_output(alone, sae.context(forward.x)))


TERMS: dict[str, Term] = {
    **dict.fromkeys(losses.RECONSTRUCTIONS, _reconstruction),
    "l1": lambda sae, forward: losses.l1(forward.latents, weights=sae.latent_weights),
    "l1_decoder_norm": lambda sae, forward: losses.l1_decoder_norm(
        forward.latents, forward.decoder_norms, weights=sae.latent_weights
    ),
    "l1_gate": lambda sae, forward: losses.l1_decoder_norm(
        forward.pre_activations.relu(), forward.decoder_norms, weights=sae.latent_weights
    ),
    "tanh": lambda sae, forward: losses.tanh(
        forward.latents,
        forward.decoder_norms,
        sae.config.tanh_a,
        sae.config.tanh_b,
        weights=sae.latent_weights,
    ),
    "l0_step": lambda sae, forward: losses.l0_step(
        forward.pre_activations, sae.threshold, sae.bandwidth, weights=sae.latent_weights
    ),
    "l0_quadratic": lambda sae, forward: losses.l0_quadratic(
        forward.pre_activations, sae.threshold, sae.bandwidth, sae.config.target_l0 or 1.0
    ),
    "gated_auxiliary": _gated_auxiliary,
}
