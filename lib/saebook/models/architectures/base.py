"""What a selection rule has to say about itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from saebook.models.entries import AllEntries, Entries

if TYPE_CHECKING:
    from saebook.models.config import SAEConfig
    from saebook.models.sae import SAE


class Architecture:
    """Turns pre-activations into latents; holds no state of its own.

    State that belongs to a model (a threshold, say) is a buffer or a parameter of the SAE,
    declared by :meth:`buffers` and :meth:`parameters` and saved with it.
    """

    uses_k: bool = False
    sparsity_choices: tuple[str, ...] = ()
    companion_terms: tuple[str, ...] = ()
    default_auxiliary: str = "none"
    decoder_init_norm: float = 1.0
    # Whether latents are scaled from the first rows so that they reconstruct at the right size.
    fits_scale: bool = True
    # Whether training may begin with the k largest latents of each example instead.
    begins_as_topk: bool = False
    # Whether it observes the smallest active latent of each batch.
    follows_smallest: bool = False
    # Whether only latents above zero count as active.
    positive_only: bool = False
    # Where the few latents of a batch that aren't zero are found: among the largest of each
    # "row", the largest of the "batch", or what exceeds a "floor". None: none need be zero.
    found_by: str | None = None

    @property
    def default_sparsity(self) -> str | None:
        """The sparsity term where none is chosen."""
        return self.sparsity_choices[0] if self.sparsity_choices else None

    def default_coefficient(self, sparsity: str, d_in: int) -> float:
        """Sparsity coefficient where none is given, and where a controller begins."""
        from saebook.models.resolving import l1_coefficient

        del sparsity
        return l1_coefficient(d_in)

    def buffers(self, config: SAEConfig) -> dict[str, Tensor]:
        """Buffers that the SAE registers for this rule."""
        del config
        return {}

    def parameters(self, config: SAEConfig) -> dict[str, Tensor]:
        """Initial values of the parameters that the SAE registers for this rule."""
        del config
        return {}

    def select(self, sae: SAE, pre_activations: Tensor, level: int = -1) -> Tensor:
        """Latents from pre-activations, both [..., n].

        ``n`` is ``d_sae``, or the size of the prefix numbered ``level`` where every prefix has
        its own k.
        """
        del level
        entries = AllEntries(sae.config.d_sae, 0, pre_activations.shape[-1])
        return self.latents_at(sae, pre_activations, entries)

    def latents_at(self, sae: SAE, pre_activations: Tensor, entries: Entries) -> Tensor:
        """Latents from the pre-activations at some entries, which all that compete have won."""
        del sae, entries
        return pre_activations.relu()

    def floor(self, sae: SAE) -> Tensor:
        """Pre-activations [d_sae] up to which a latent is zero, and moves no parameter."""
        return torch.zeros_like(sae.b_enc)

    def active(self, latents: Tensor) -> Tensor:
        """Which latents count as active, booleans of the same shape."""
        return latents > 0 if self.positive_only else latents != 0

    def rescale(self, sae: SAE, factor: Tensor) -> None:
        """Multiply latents by a factor, 0-d or [d_sae], by changing the encoder alone."""
        sae.encoder_rows.mul_(factor.reshape(-1, 1))
        sae.b_enc.mul_(factor)

    def move_b_enc(self, sae: SAE, by: Tensor) -> None:
        """Add [d_sae] to everything that is added to ``x @ W_enc``."""
        sae.b_enc.add_(by)

    def fit(self, sae: SAE, pre_activations: Tensor) -> None:
        """Set what depends on data, given pre-activations [n, d_sae] of training rows."""
        del sae, pre_activations

    def constrain(self, sae: SAE) -> None:
        """Bring parameters back into their range after a training step."""
        del sae

    def observe(self, sae: SAE, smallest_active: Tensor) -> None:
        """Update the SAE's buffers after a training step; most rules have none.

        ``smallest_active`` [n_levels] are the smallest active latents of the batch, per nested
        dictionary with a k of its own; infinite where none was active.
        """
        del sae, smallest_active

    def finish(self, sae: SAE, x: Tensor) -> None:
        """Settle the SAE's buffers on training examples ``x`` [n, ...] once training ends."""
        del sae, x
