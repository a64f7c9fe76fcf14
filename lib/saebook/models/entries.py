"""Where a batch's latents are computed: at all entries of [batch, d_sae], or at the few that count.

What is written in terms of these methods (losses, auxiliary terms, retirement) is right for both.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    import numpy as np


class Entries(ABC):
    """Places of a matrix [..., d_sae] at which values are held.

    Attributes
    ----------
    n_summed
        Examples that a penalty sums over, where it would otherwise average: losses read entries
        of a sparse pattern as one long example.
    """

    n_summed: int = 1

    @abstractmethod
    def at(self, per_latent: Tensor) -> Tensor:
        """What belongs to each entry's latent, from [d_sae]."""

    @abstractmethod
    def products(self, x: Tensor, rows: Tensor) -> Tensor:
        """``x @ rows.T`` at these entries, from [..., d] and [d_sae, d]; without gradients."""

    @abstractmethod
    def times(self, values: Tensor, rows: Tensor) -> Tensor:
        """Values at these entries times rows [d_sae, d]: [..., d], with gradients to both."""

    @abstractmethod
    def column_sums(self, values: Tensor) -> Tensor:
        """Sum over examples of values at these entries, [d_sae]."""

    @abstractmethod
    def n_examples(self, values: Tensor) -> int:
        """Examples that these values belong to."""

    @abstractmethod
    def band(self, values: Tensor, first: int, last: int) -> tuple[Entries, Tensor]:
        """The entries of latents ``first`` to ``last`` alone, and their values."""

    @abstractmethod
    def rows(self, values: Tensor, first: int, last: int) -> tuple[Entries, Tensor]:
        """The entries of examples ``first`` to ``last`` alone, and their values."""

    @abstractmethod
    def prefix(self, values: Tensor, width: int) -> Tensor:
        """The matrix [..., width] of the first latents' values, with gradients."""

    @abstractmethod
    def places(self, width: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Columns and starts of each example's entries among the first latents; None: all."""


class AllEntries(Entries):
    """Every entry of latents ``first`` to ``last``: values are plain tensors [..., n]."""

    def __init__(self, d_sae: int, first: int = 0, last: int | None = None):
        self.d_sae = d_sae
        self.latents = slice(first, d_sae if last is None else last)

    def at(self, per_latent: Tensor) -> Tensor:
        """[n], which broadcasts."""
        return per_latent[self.latents]

    def products(self, x: Tensor, rows: Tensor) -> Tensor:
        """[..., n]."""
        return x @ rows[self.latents].T

    def times(self, values: Tensor, rows: Tensor) -> Tensor:
        """A matrix product."""
        return values @ rows[self.latents]

    def column_sums(self, values: Tensor) -> Tensor:
        """Zero for the other latents."""
        sums = values.reshape(-1, values.shape[-1]).sum(dim=0)
        if len(sums) == self.d_sae:
            return sums
        return F.pad(sums, (self.latents.start, self.d_sae - self.latents.stop))

    def n_examples(self, values: Tensor) -> int:
        """All leading axes."""
        return values.shape[:-1].numel()

    def band(self, values: Tensor, first: int, last: int) -> tuple[Entries, Tensor]:
        """Views."""
        start = self.latents.start
        return AllEntries(self.d_sae, first, last), values[..., first - start : last - start]

    def rows(self, values: Tensor, first: int, last: int) -> tuple[Entries, Tensor]:
        """A view; of the first axis."""
        return self, values[first:last]

    def prefix(self, values: Tensor, width: int) -> Tensor:
        """A view."""
        return values[..., :width]

    def places(self, width: int) -> tuple[np.ndarray, np.ndarray] | None:
        """All."""
        del width


@dataclass(frozen=True)
class Selected:
    """What an encoder and a selection rule made of a batch.

    Attributes
    ----------
    entries
        Where latents were computed; all others are zero.
    pre_activations, latents
        There: [..., n], or [n_entries] of a sparse pattern. Pre-activations are left out where
        nothing asks for them.
    positive
        Whether latents above zero are the active ones, or all that differ from it.
    """

    entries: Entries
    pre_activations: Tensor | None
    latents: Tensor
    positive: bool = False

    def of_examples(self, first: int, last: int) -> Selected:
        """The same of examples ``first`` to ``last`` alone."""
        entries, latents = self.entries.rows(self.latents, first, last)
        h = self.pre_activations
        h = None if h is None else self.entries.rows(h, first, last)[1]
        return Selected(entries, h, latents, self.positive)

    def mean_latents(self) -> Tensor:
        """Mean over examples of each latent's absolute value, [d_sae], with gradients."""
        return self.entries.column_sums(self.latents.abs()) / self.entries.n_examples(self.latents)

    def firings(self) -> Tensor:
        """In how many examples each latent is active, [d_sae]."""
        active = self.latents > 0 if self.positive else self.latents != 0
        return self.entries.column_sums(active)

    def smallest(self) -> Tensor:
        """The smallest active latent, 0-d; infinite where none is."""
        if self.latents.numel() == 0:
            return self.latents.new_full((), float("inf"))
        return self.latents.masked_fill(self.latents == 0, float("inf")).min()
