"""Encoding and selecting where most latents are active: every product is needed but one.

The input needs no gradient, and what ``b_dec`` gets through the encoder is a product with one
vector, so that of the six products of full size that autograd would run five are left. Where a
latent is just the positive part of its pre-activation, that and its sums take one pass over
memory, and their gradients another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function

from saebook.models.architectures import Architecture
from saebook.models.entries import AllEntries, Selected
from saebook.models.sae import SAE
from saebook.models.selecting import select_levels
from saebook.models.sparse import compiled
from saebook.models.sparse.threads import spread_rows


@dataclass(frozen=True)
class Summed(Selected):
    """What was selected, with sums that are known already."""

    mean: Tensor | None = None
    n_firings: Tensor | None = None

    def mean_latents(self) -> Tensor:
        """As found on the way."""
        assert self.mean is not None
        return self.mean

    def firings(self) -> Tensor:
        """As found on the way."""
        assert self.n_firings is not None
        return self.n_firings


class Encode(Function):
    """``x @ W_enc + b_enc``, where x, which is ``b_dec`` less than the input, needs no gradient."""

    @staticmethod
    def forward(
        ctx: Any, encoder_rows: Tensor, b_enc: Tensor, b_dec: Tensor | None, x: Tensor
    ) -> Tensor:
        """Pre-activations [n, d_sae]."""
        ctx.save_for_backward(encoder_rows, x)
        ctx.has_b_dec = b_dec is not None
        return torch.addmm(b_enc, x, encoder_rows.T)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the weights and both biases."""
        encoder_rows, x = ctx.saved_tensors
        return _of_encoder(gradients[0], encoder_rows, x, ctx.has_b_dec)


class EncodePositive(Function):
    """The positive part of :class:`Encode`, its mean over examples, and how often it is above 0."""

    @staticmethod
    def forward(
        ctx: Any, encoder_rows: Tensor, b_enc: Tensor, b_dec: Tensor | None, x: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Latents [n, d_sae], means [d_sae] and counts [d_sae]."""
        latents = torch.addmm(b_enc, x, encoder_rows.T)
        sums, counts = _keep_positive(latents.numpy())
        ctx.save_for_backward(encoder_rows, x, latents)
        ctx.has_b_dec = b_dec is not None
        n_firings = torch.from_numpy(counts)
        ctx.mark_non_differentiable(n_firings)
        return latents, torch.from_numpy(sums) / len(x), n_firings

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the weights and both biases."""
        encoder_rows, x, latents = ctx.saved_tensors
        # Whoever made it has no more use for it, so it is changed in place.
        gradient = gradients[0].contiguous()
        kept, changed = latents.detach().numpy(), gradient.numpy()
        shared = (gradients[1] / len(x)).numpy()

        def loop(first: int, last: int) -> None:
            compiled.keep_gradients(kept, changed, shared, first, last)

        spread_rows(loop, len(kept), kept.size)
        return _of_encoder(gradient, encoder_rows, x, ctx.has_b_dec)


def _of_encoder(
    gradient: Tensor, encoder_rows: Tensor, x: Tensor, has_b_dec: bool
) -> tuple[Tensor | None, ...]:
    bias = gradient.sum(dim=0)
    return gradient.T @ x, bias, -(bias @ encoder_rows) if has_b_dec else None, None


def _keep_positive(h: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    parts: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def loop(first: int, last: int) -> None:
        parts[first] = np.zeros(h.shape[1], h.dtype), np.zeros(h.shape[1], np.int32)
        compiled.keep_positive(h, first, last, *parts[first])

    spread_rows(loop, len(h), h.size)
    # Added in the order of rows, so that the sums don't depend on which thread was faster.
    sums, counts = zip(*(parts[first] for first in sorted(parts)), strict=True)
    return np.sum(sums, axis=0), np.sum(counts, axis=0)


def select_among_many(sae: SAE, x_scaled: Tensor) -> Sequence[Selected]:
    """What :func:`saebook.models.selecting.select_among_all` does, without what nobody needs.

    Parameters
    ----------
    sae
        In training mode.
    x_scaled
        [n, seq_len · d_in].

    Returns
    -------
    sequence of Selected
        One; or one for each nested dictionary, where each has its own k.
    """
    b_dec = sae.b_dec if sae.config.apply_b_dec_to_input else None
    x = x_scaled if b_dec is None else x_scaled - b_dec.detach()
    weights = (sae.encoder_rows, sae.b_enc, b_dec, x)
    if x.device.type == "cpu" and _is_positive_part(sae.selection):
        latents, mean, n_firings = EncodePositive.apply(*weights)  # pyright: ignore[reportGeneralTypeIssues]
        everything = AllEntries(sae.config.d_sae)
        return [Summed(everything, None, latents, mean=mean, n_firings=n_firings)]
    h = Encode.apply(*weights)
    assert isinstance(h, Tensor)
    return select_levels(sae, h)


def _is_positive_part(rule: Architecture) -> bool:
    return rule.found_by == "floor" and type(rule).latents_at is Architecture.latents_at
