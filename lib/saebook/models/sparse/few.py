"""Encoding and selecting where it matters: values and gradients of the plain way, from few entries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from saebook.models.architectures import Architecture
from saebook.models.entries import Selected
from saebook.models.sae import SAE
from saebook.models.sparse.pattern import EncodeAt, Pattern
from saebook.models.sparse.search import Above, Encoder, LargestOfBatch, LargestOfRows, Wanted


@dataclass(frozen=True)
class Winners(Selected):
    """Entries that competed as positive pre-activations: each holds an active latent, as it is."""

    def firings(self) -> Tensor:
        """All entries."""
        assert isinstance(self.entries, Pattern)
        return self.entries.column_counts()

    def smallest(self) -> Tensor:
        """Of all entries."""
        return self.latents.min() if len(self.latents) else super().smallest()


class SelectAmongFew:
    """What :func:`saebook.models.selecting.select_among_all` does, at the entries that count.

    Holds buffers, and for batchtopk a guess at the batch's cut that saves time and changes
    nothing: results don't depend on the batches before.

    Examples
    --------
    >>> import torch
    >>> from saebook.models import SAEConfig
    >>> sae = SAE(SAEConfig(d_in=8, d_sae=32, architecture="topk", k=2))
    >>> x = torch.rand(16, 8, generator=torch.Generator().manual_seed(0))
    >>> forward = sae.pass_through(x, selecting=SelectAmongFew())
    >>> forward.latents.shape  # k of each example
    torch.Size([32])
    >>> plain = sae.pass_through(x)
    >>> torch.allclose(forward.reconstruction_scaled, plain.reconstruction_scaled, atol=1e-6)
    True
    """

    def __init__(self) -> None:
        self._encoder = Encoder()
        self._of_batch: dict[int, LargestOfBatch] = {}

    def __call__(self, sae: SAE, x_scaled: Tensor) -> Sequence[Selected]:
        """Selected entries of a batch [n, seq_len · d_in], in training mode."""
        levels = range(len(sae.config.levels)) if sae.config.prefix_k else (-1,)
        wanted = [self._wanted(sae, level) for level in levels]
        b_dec = sae.b_dec if sae.config.apply_b_dec_to_input else None
        x = (x_scaled if b_dec is None else x_scaled - b_dec.detach()).contiguous()
        rule, selected = sae.selection, []
        all_win = rule.found_by != "floor" and type(rule).latents_at is Architecture.latents_at
        for values, pattern in self._encoder.search(x, sae.encoder_rows, sae.b_enc, wanted):
            h = EncodeAt.apply(sae.encoder_rows, sae.b_enc, b_dec, x, values, pattern)
            assert isinstance(h, Tensor)
            if all_win:
                selected.append(Winners(pattern, h, h))
            else:
                selected.append(Selected(pattern, h, rule.latents_at(sae, h, pattern)))
        return selected

    def _wanted(self, sae: SAE, level: int) -> Wanted:
        rule, width = sae.selection, sae.config.levels[level]
        if rule.found_by == "floor":
            return Above(rule.floor(sae).detach().numpy(), width)
        k = sae.k_of_level(level)
        if rule.found_by == "row":
            return LargestOfRows(k, width)
        known = self._of_batch.get(level)
        if known is None or (known.k, known.width) != (k, width):
            self._of_batch[level] = LargestOfBatch(k, width)
        self._of_batch[level].shares = sae.shares
        return self._of_batch[level]
