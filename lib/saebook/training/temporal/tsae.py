"""T-SAE: the published temporal SAE, with negatives from the batch alone."""

from __future__ import annotations

from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from saebook import losses
from saebook.training.temporal.base import PairedLatents, TemporalTerm


class TSAE(TemporalTerm):
    """Cross-entropy of anchors against positives: :func:`saebook.losses.paired_cross_entropy`.

    Products are raw as in the released code, or of unit rows (``similarity="cosine"``); there is
    no temperature, and rows of one sequence count as negatives of each other. The
    published model is a nested BatchTopK SAE (``prefixes``) whose first dictionary, 20 % of the
    latents, the term sees, trained on pairs of neighbours (``window=1``) with α = 0.1.
    """

    settings: ClassVar[dict[str, Any]] = {"coefficient": 0.1, "similarity": "dot"}

    def __call__(self, latents: PairedLatents) -> tuple[Tensor, dict[str, Tensor]]:
        """The term, and the same as a share of what chance would give."""
        anchors, positives = latents.anchors, latents.positives
        if self.config.similarity == "cosine":
            anchors, positives = F.normalize(anchors, dim=1), F.normalize(positives, dim=1)
        term = losses.paired_cross_entropy(anchors, positives, valid=latents.paired)
        chance = latents.paired.sum().clamp_min(2).to(term).log()
        return term, {"temporal_over_chance": term.detach() / chance}
