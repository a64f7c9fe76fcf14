"""What a selection rule has to say about itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from torch import Tensor

if TYPE_CHECKING:
    from saebook.models.config import SAEConfig
    from saebook.models.sae import SAE


class Architecture:
    """Turns pre-activations into latents; holds no state of its own.

    State that belongs to a model (a threshold, say) is a buffer of the SAE, declared by
    :meth:`buffers` and saved with it.
    """

    uses_k: bool = False
    default_decoder_norm: Literal["unit", "free"] = "unit"
    default_aux_coefficient: float = 0.0
    sparsity_terms: tuple[str, ...] = ()
    decoder_init_norm: float = 1.0

    def buffers(self, config: SAEConfig) -> dict[str, Tensor]:
        """Buffers that the SAE registers for this rule."""
        del config
        return {}

    def select(self, sae: SAE, pre_activations: Tensor) -> Tensor:
        """Latents [..., d_sae] from pre-activations [..., d_sae]."""
        raise TypeError(f"{type(self).__name__} doesn't say how it selects latents")

    def observe(self, sae: SAE, smallest_active: Tensor) -> None:
        """Update the SAE's buffers after a training step; most rules have none.

        ``smallest_active`` is the batch's smallest active latent, 0-d, infinite when no
        latent was active.
        """
        del sae, smallest_active

    def finish(self, sae: SAE, x: Tensor) -> None:
        """Settle the SAE's buffers on training rows ``x`` [n, d_in] once training ends."""
        del sae, x
