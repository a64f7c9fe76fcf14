"""A decoder with one hidden layer, for features that are embedded non-linearly."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from saebook.models.decoders.base import Decoder

if TYPE_CHECKING:
    from saebook.models.config import SAEConfig
    from saebook.models.sae import SAE


class MLP(Decoder):
    """``x̂ = ReLU(f @ W_dec + b_hidden) @ W_out + b_dec``.

    A latent has no single direction here. Its effective one is the local Jacobian
    ``∂x̂/∂f_j``, averaged over the examples on which the latent is active; as ReLU is piecewise
    linear, that average needs only the share of them for which each hidden unit is on.
    """

    def width(self, config: SAEConfig) -> int:
        """Hidden units."""
        return config.d_hidden or config.d_target

    def parameters(self, config: SAEConfig) -> dict[str, Tensor]:
        """``b_hidden`` [d_hidden] and ``W_out`` [d_hidden, d_target] (He et al. 2015)."""
        hidden = self.width(config)
        # Fixed by the sizes alone: the model's seed decides W_dec.
        generator = torch.Generator().manual_seed(hidden)
        scale = math.sqrt(2 / hidden)
        return {
            "b_hidden": torch.zeros(hidden),
            "W_out": torch.randn(hidden, config.d_target, generator=generator) * scale,
        }

    def buffers(self, config: SAEConfig) -> dict[str, Tensor]:
        """Share of a latent's active examples with each hidden unit on, [d_sae, d_hidden]."""
        return {"hidden_share": torch.full((config.d_sae, self.width(config)), 0.5)}

    def finish(self, sae: SAE, projected: Tensor) -> Tensor:
        """The hidden layer's output through the second matrix."""
        return (projected + sae.b_hidden).relu() @ sae.W_out + sae.b_dec

    @torch.no_grad()
    def settle(self, sae: SAE, latents: Tensor) -> None:
        """Measure for which share of its active examples each latent finds a hidden unit on."""
        on = (latents @ sae.W_dec + sae.b_hidden > 0).to(latents.dtype)  # [n, d_hidden]
        active = sae.config.selection.active(latents).to(latents.dtype)  # [n, d_sae]
        count = active.sum(dim=0)[:, None]
        share = active.T @ on / count.clamp_min(1)
        # A latent that never fired is described where all are silent.
        at_rest = (sae.b_hidden > 0).to(latents.dtype)
        sae.hidden_share.copy_(torch.where(count > 0, share, at_rest))

    def directions(self, sae: SAE) -> Tensor:
        """Local Jacobian, averaged over the active examples that `settle` saw."""
        return (sae.W_dec * sae.hidden_share) @ sae.W_out
