"""The linear decoder: a reconstruction is a sum of directions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from saebook.models.decoders.base import Decoder

if TYPE_CHECKING:
    from saebook.models.sae import SAE


class Linear(Decoder):
    """``x̂ = f @ W_dec + b_dec``."""

    def finish(self, sae: SAE, projected: Tensor) -> Tensor:
        """Add the bias."""
        return projected + sae.b_dec
