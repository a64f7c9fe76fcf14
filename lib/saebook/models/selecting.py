"""How a pass encodes and selects: here the plain way, in which every pre-activation is computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from saebook.models.entries import AllEntries, Selected

if TYPE_CHECKING:
    from saebook.models.sae import SAE


Selecting = Callable[["SAE", Tensor], Sequence[Selected]]


def select_among_all(sae: SAE, x_scaled: Tensor) -> Sequence[Selected]:
    """Compute every pre-activation, then select: the plain way.

    Parameters
    ----------
    sae
        The model.
    x_scaled
        [..., seq_len · d_in].

    Returns
    -------
    sequence of Selected
        One; or one for each nested dictionary, where each has its own k.
    """
    return select_levels(sae, sae.encode_scaled(x_scaled))


def select_levels(sae: SAE, h: Tensor) -> Sequence[Selected]:
    """Select among pre-activations [..., d_sae], once or for each nested dictionary."""
    rule, d_sae = sae.selection, sae.config.d_sae
    if not sae.config.prefix_k:
        return [Selected(AllEntries(d_sae), h, rule.select(sae, h), rule.positive_only)]
    return [
        Selected(AllEntries(d_sae, 0, n), part, rule.select(sae, part, level), rule.positive_only)
        for level, n in enumerate(sae.config.levels)
        for part in (h[..., :n],)
    ]
