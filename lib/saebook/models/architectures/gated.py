"""Gated: one pre-activation decides whether a latent is active, another how strongly."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from saebook.models.architectures.base import Architecture
from saebook.models.entries import Entries

if TYPE_CHECKING:
    from saebook.models.config import SAEConfig
    from saebook.models.sae import SAE


class Gated(Architecture):
    """``f = H(h) · ReLU(m)`` with tied weights (Rajamanoharan et al. 2024, arXiv 2404.16014).

    ``h = x @ W_enc + b_enc`` is the gate and ``m = (x @ W_enc) · exp(r_mag) + b_mag`` the
    magnitude. The penalty falls on ReLU(h), so that it shrinks no magnitude, and a companion
    term has ReLU(h) reconstruct the target through a frozen decoder, which is all that the gate
    learns from.
    """

    sparsity_choices = ("l1_gate",)
    companion_terms = ("gated_auxiliary",)
    found_by = "floor"

    def parameters(self, config: SAEConfig) -> dict[str, Tensor]:
        """``r_mag`` and ``b_mag``, each [d_sae]."""
        return {"r_mag": torch.zeros(config.d_sae), "b_mag": torch.zeros(config.d_sae)}

    def latents_at(self, sae: SAE, pre_activations: Tensor, entries: Entries) -> Tensor:
        """Magnitudes where the gate is open."""
        gate, r_mag = pre_activations - entries.at(sae.b_enc), entries.at(sae.r_mag)
        magnitudes = gate * r_mag.exp() + entries.at(sae.b_mag)
        return magnitudes.relu() * (pre_activations > 0)

    def rescale(self, sae: SAE, factor: Tensor) -> None:
        """Scale magnitudes and gate alike, as both reconstruct."""
        super().rescale(sae, factor)
        sae.b_mag.mul_(factor)

    def move_b_enc(self, sae: SAE, by: Tensor) -> None:
        """Magnitudes have a bias of their own, and a scale."""
        super().move_b_enc(sae, by)
        sae.b_mag.add_(by * sae.r_mag.exp())

    def fit(self, sae: SAE, pre_activations: Tensor) -> None:
        """Let magnitudes begin where the gate does."""
        sae.b_mag.copy_(sae.b_enc)
