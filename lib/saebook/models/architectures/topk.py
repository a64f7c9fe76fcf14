"""TopK: the k largest positive pre-activations of each example."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from saebook.models.architectures.base import Architecture

if TYPE_CHECKING:
    from saebook.models.sae import SAE


class TopK(Architecture):
    """``f = TopK(ReLU(h))`` (Gao et al. 2024): L0 is at most k for every example."""

    uses_k = True
    default_auxiliary = "auxk"
    found_by = "row"

    def select(self, sae: SAE, pre_activations: Tensor, level: int = -1) -> Tensor:
        """Keep the k largest of each example."""
        k = sae.k_of_level(level)
        values, indices = pre_activations.relu().topk(k, dim=-1, sorted=False)
        return torch.zeros_like(pre_activations).scatter(-1, indices, values)
