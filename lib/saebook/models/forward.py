"""Everything that one pass through an SAE computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from torch import Tensor

from saebook.models.entries import AllEntries, Entries, Selected
from saebook.models.scaling import Context

if TYPE_CHECKING:
    from saebook.models.sae import SAE


@dataclass(frozen=True)
class Forward:
    """One pass, for losses and trainers.

    Attributes
    ----------
    x_scaled
        [..., seq_len · d_in], as the encoder sees it.
    context
        What decoding needs to know of the inputs, where they are scaled per example.
    target_scaled
        [..., d_target].
    sizes
        Of the nested dictionaries, the last being the whole.
    selected
        What was selected for each nested dictionary where each has its own k; otherwise once,
        for all of them.
    level_decoded
        [..., d_target] of each nested dictionary, in scaled units, before an output function.
    level_reconstructions
        The same with the output function applied, in scaled units; the last is the whole's.
    positives
        What was selected for the positives of the examples, which shared their encoder call and
        are not reconstructed; None without any.
    """

    x_scaled: Tensor
    context: Context
    target_scaled: Tensor
    sizes: Sequence[int]
    selected: Sequence[Selected]
    level_decoded: Sequence[Tensor]
    level_reconstructions: Sequence[Tensor]
    positives: Selected | None = None

    @property
    def entries(self) -> Entries:
        """Where the latents of the whole dictionary are computed."""
        return self.selected[-1].entries

    @property
    def pre_activations(self) -> Tensor:
        """Of the whole dictionary, at its entries."""
        h = self.selected[-1].pre_activations
        assert h is not None, "this pass left pre-activations out"
        return h

    @property
    def latents(self) -> Tensor:
        """Of the whole dictionary, at its entries."""
        return self.selected[-1].latents

    @property
    def reconstruction_scaled(self) -> Tensor:
        """[..., d_target], of the whole dictionary."""
        return self.level_reconstructions[-1]

    @cached_property
    def levels(self) -> Sequence[tuple[Entries, Tensor]]:
        """Entries and latents of every nested dictionary."""
        if len(self.selected) == len(self.sizes):
            return [(part.entries, part.latents) for part in self.selected]
        return [self.entries.band(self.latents, 0, size) for size in self.sizes]

    @property
    def level_latents(self) -> Sequence[Tensor]:
        """Latents of every nested dictionary, at its entries."""
        return [latents for _, latents in self.levels]

    def pre_activations_of(self, sae: SAE, latents: Tensor) -> Tensor:
        """Of these latents [n], for every example: [..., n]."""
        h = self.selected[-1].pre_activations
        if h is not None and isinstance(self.entries, AllEntries):
            return h.index_select(-1, latents)
        return sae.encode_scaled(self.x_scaled, latents)
