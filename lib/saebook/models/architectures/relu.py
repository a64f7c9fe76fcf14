"""ReLU: every positive pre-activation is a latent; an L1 term makes them few."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from saebook.models.architectures.base import Architecture

if TYPE_CHECKING:
    from saebook.models.sae import SAE


class ReLU(Architecture):
    """``f = ReLU(h)`` with the L1 × decoder-norm penalty (Templeton et al. 2024)."""

    default_decoder_norm = "free"
    sparsity_terms = ("l1_decoder_norm",)
    decoder_init_norm = 0.1

    def select(self, sae: SAE, pre_activations: Tensor) -> Tensor:
        """Keep what is positive."""
        return pre_activations.relu()
