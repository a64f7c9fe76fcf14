"""ReLU: every positive pre-activation is a latent; a penalty makes them few."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from saebook.models.architectures.base import Architecture
from saebook.models.entries import Entries

if TYPE_CHECKING:
    from saebook.models.sae import SAE


class ReLU(Architecture):
    """``f = ReLU(h)`` with the L1 × decoder-norm penalty (Templeton et al. 2024)."""

    sparsity_choices = ("l1_decoder_norm", "l1", "tanh")
    decoder_init_norm = 0.1
    fits_scale = False
    found_by = "floor"


class LeakyReLU(ReLU):
    """``f = h`` above zero and ``leak · h`` below.

    Latents are never exactly zero, so only those above zero count as active.
    """

    positive_only = True
    found_by = None

    def latents_at(self, sae: SAE, pre_activations: Tensor, entries: Entries) -> Tensor:
        """Let a little of the negative part through."""
        return torch.where(pre_activations > 0, pre_activations, sae.config.leak * pre_activations)
