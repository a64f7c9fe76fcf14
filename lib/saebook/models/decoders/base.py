"""What a decoder has to say about itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from saebook.models.config import SAEConfig
    from saebook.models.sae import SAE


class Decoder:
    """Turns latents into a reconstruction in scaled units; holds no state of its own.

    Every decoder begins with ``latents @ W_dec``, which is a sum over latents, so that nested
    prefixes can share it; what follows is :meth:`finish`.
    """

    def width(self, config: SAEConfig) -> int:
        """Columns of ``W_dec``."""
        return config.d_target

    def parameters(self, config: SAEConfig) -> dict[str, Tensor]:
        """Initial values of the parameters beyond ``W_dec`` and ``b_dec``."""
        del config
        return {}

    def buffers(self, config: SAEConfig) -> dict[str, Tensor]:
        """Buffers that the SAE registers for this decoder."""
        del config
        return {}

    def finish(self, sae: SAE, projected: Tensor) -> Tensor:
        """Reconstruction [..., d_target] from ``latents @ W_dec`` [..., width]."""
        raise TypeError(f"{type(self).__name__} doesn't say how it decodes")

    def settle(self, sae: SAE, latents: Tensor) -> None:
        """Take note of the latents [n, d_sae] of training rows once training ends."""
        del sae, latents

    def directions(self, sae: SAE) -> Tensor:
        """Effective direction of every latent in scaled units, [d_sae, d_target]."""
        return sae.W_dec
