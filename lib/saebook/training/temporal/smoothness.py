"""Smoothness: a penalty on how far latents move between nearby times."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from saebook import losses
from saebook.training.temporal.base import PairedLatents, TemporalTerm


class Smoothness(TemporalTerm):
    """``‖f - f⁺‖²`` of the first latents, averaged over pairs.

    Nothing stops it from being met by latents that are never active, or always: look at how many
    of them are.
    """

    settings: ClassVar[dict[str, Any]] = {"coefficient": 1.0}

    def __call__(self, latents: PairedLatents) -> tuple[Tensor, dict[str, Tensor]]:
        """The term."""
        return losses.smoothness(latents.anchors, latents.positives, valid=latents.paired), {}
