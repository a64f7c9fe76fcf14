"""JumpReLU: a latent is its pre-activation wherever that exceeds a learned threshold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from saebook.losses import step
from saebook.models.architectures.base import Architecture
from saebook.models.architectures.cut import cut_between
from saebook.models.entries import Entries

if TYPE_CHECKING:
    from saebook.models.config import SAEConfig
    from saebook.models.sae import SAE

# Pre-activations that the initial threshold and the bandwidth are read from.
FIT_ENTRIES = 2**24


class JumpReLU(Architecture):
    """``f = h · H(h - θ)`` with θ learned per latent, in data units.

    The straight-through derivative to θ is ``-(h / ε) · 1[|h - θ| < ε / 2]``. Rajamanoharan et
    al. 2024 (arXiv 2407.14435, equation 11) write θ for that h, from which it differs by less
    than ε / 2; to h it is that of the identity where active.
    """

    begins_as_topk = True
    found_by = "floor"
    sparsity_choices = ("l0_quadratic", "l0_step", "tanh", "l1", "l1_decoder_norm")

    def default_coefficient(self, sparsity: str, d_in: int) -> float:
        """L0 coefficients scale with d_in, since the squared error does."""
        if sparsity == "l0_quadratic":
            return float(d_in)
        if sparsity == "l0_step":
            return 0.01 * d_in
        return super().default_coefficient(sparsity, d_in)

    def parameters(self, config: SAEConfig) -> dict[str, Tensor]:
        """``threshold`` [d_sae], in scaled units."""
        return {"threshold": torch.full((config.d_sae,), config.threshold_init or 0.0)}

    def buffers(self, config: SAEConfig) -> dict[str, Tensor]:
        """Width of the straight-through estimator, 0-d, in scaled units."""
        return {"bandwidth": torch.tensor(config.bandwidth)}

    def latents_at(self, sae: SAE, pre_activations: Tensor, entries: Entries) -> Tensor:
        """Keep what exceeds the threshold."""
        return pre_activations * step(pre_activations, entries.at(sae.threshold), sae.bandwidth)

    def floor(self, sae: SAE) -> Tensor:
        """The threshold hears of everything within half a bandwidth of it."""
        return sae.threshold - sae.bandwidth / 2

    def rescale(self, sae: SAE, factor: Tensor) -> None:
        """Scale latents, and what is compared with them."""
        super().rescale(sae, factor)
        sae.threshold.mul_(factor)
        sae.bandwidth.mul_(factor.mean())

    def fit(self, sae: SAE, pre_activations: Tensor) -> None:
        """Tie the bandwidth to the spread of h; begin at the threshold that meets the target."""
        spread = pre_activations.std(correction=0)
        # A single pre-activation has no spread, and a bandwidth of zero no gradient.
        sae.bandwidth.copy_(sae.config.bandwidth * spread.where(spread > 0, 1.0))
        if sae.config.threshold_init is None:
            wanted = sae.config.target_l0 or 1.0
            positive = pre_activations.relu().flatten()[:FIT_ENTRIES]
            n_active = max(1, round(wanted * len(positive) / sae.config.d_sae))
            sae.threshold.fill_(float(cut_between(positive, n_active)))

    def constrain(self, sae: SAE) -> None:
        """Thresholds below zero would let negative latents through."""
        sae.threshold.clamp_(min=0.0)
