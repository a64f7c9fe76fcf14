"""Latents that say the same at nearby times: the temporal-contrastive term, and others like it."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def info_nce(
    anchors: Tensor,
    positives: Tensor,
    negatives: Tensor,
    *,
    excluded: Tensor | None = None,
    valid: Tensor | None = None,
    temperature: float = 0.1,
) -> Tensor:
    """How badly each anchor tells its positive from the negatives, averaged over anchors.

    Parameters
    ----------
    anchors, positives
        Floats [n, d]: latents of examples and of examples a little earlier or later. They are
        normalised here; any prefix of the latents will do.
    negatives
        Floats [m, d]: latents of other examples, of this batch or of a queue.
    excluded
        Booleans [n, m]: negatives that don't count for an anchor, such as rows of its own
        sequence (see :func:`same_sequence`). Default: none.
    valid
        Booleans [n]: anchors that count. Default: all.
    temperature
        τ > 0.

    Returns
    -------
    Tensor
        A 0-d tensor: ``mean_i -log(e^{c_i / τ} / (e^{c_i / τ} + Σ_j e^{c_ij / τ}))``, with
        cosines c_i to the positive and c_ij to each negative that counts. Anchors that have no
        active latent, or whose positive has none, are left out of the mean, and so are such
        negatives out of the sum: all zeros have no direction. 0 where no anchor is left.

    Notes
    -----
    A negative from the anchor's own sequence shares whatever varies slowly, which the term would
    then remove instead of keep. Negatives from a queue are best enqueued after ``backward()``:
    rows written before the loss hold each anchor itself, at cosine 1, and rows overwritten
    between the two passes change what the backward pass reads.

    References
    ----------
    van den Oord et al. 2018, "Representation Learning with Contrastive Predictive Coding" (arXiv
    1807.03748), equation 4, with cosines for its density ratio.

    Examples
    --------
    >>> import torch
    >>> anchors = torch.tensor([[2.0, 0.0]])
    >>> negatives = torch.tensor([[0.0, 3.0], [1.0, 0.0]])  # cosines 0 and 1
    >>> round(info_nce(anchors, anchors, negatives, temperature=1.0).item(), 4)  # log(2 + 1/e)
    0.862
    >>> own = torch.tensor([[False, True]])  # log(1 + 1/e)
    >>> round(info_nce(anchors, anchors, negatives, excluded=own, temperature=1.0).item(), 4)
    0.3133
    """
    usable = anchors.any(dim=1) & positives.any(dim=1)  # [n]
    if valid is not None:
        usable = usable & valid
    left_out = ~negatives.any(dim=1)[None]  # [1, m]
    if excluded is not None:
        left_out = left_out | excluded
    unit = F.normalize(anchors, dim=1)
    own = (unit * F.normalize(positives, dim=1)).sum(dim=1, keepdim=True)  # [n, 1]
    others = (unit @ F.normalize(negatives, dim=1).T).masked_fill(left_out, -math.inf)  # [n, m]
    logits = torch.cat([own, others], dim=1) / temperature
    per_anchor = (logits.logsumexp(dim=1) - logits[:, 0]).where(usable, 0.0)
    return per_anchor.sum() / usable.sum().clamp_min(1)


def info_nce_at_chance(n_negatives: Tensor) -> Tensor:
    """The term's value where every cosine is the same, to divide it by.

    Parameters
    ----------
    n_negatives
        Numbers [n] of negatives that count for each anchor.

    Returns
    -------
    Tensor
        A 0-d tensor: ``mean_i ln(1 + N_i)``.

    Examples
    --------
    >>> import torch
    >>> round(info_nce_at_chance(torch.tensor([1, 3])).item(), 4)  # (ln 2 + ln 4) / 2
    1.0397
    """
    return n_negatives.to(torch.get_default_dtype()).log1p().mean()


def same_sequence(anchor_sequences: Tensor, negative_sequences: Tensor) -> Tensor:
    """Which negatives come from the sequence (document, trial) of which anchor.

    Parameters
    ----------
    anchor_sequences, negative_sequences
        Integers [n] and [m]: the sequence that each row comes from.

    Returns
    -------
    Tensor
        Booleans [n, m], as :func:`info_nce` takes them.

    Examples
    --------
    >>> import torch
    >>> same_sequence(torch.tensor([0, 1]), torch.tensor([1, 1, 2])).tolist()
    [[False, False, False], [True, True, False]]
    """
    return anchor_sequences[:, None] == negative_sequences[None]


def paired_cross_entropy(
    anchors: Tensor, positives: Tensor, *, valid: Tensor | None = None
) -> Tensor:
    """How badly anchors find their positives in a batch, and positives their anchors.

    Parameters
    ----------
    anchors, positives
        Floats [n, d]: latents of examples, and of examples a little earlier or later. They are
        taken as they are: a product grows with their lengths.
    valid
        Booleans [n]: pairs that count, as pairs and as negatives. Default: all.

    Returns
    -------
    Tensor
        A 0-d tensor: ``mean_i (log Σ_j e^{S_ij} + log Σ_j e^{S_ji}) / 2 - S_ii`` with
        ``S_ij = a_i · p_j``. 0 where no pair counts.

    References
    ----------
    Bhalla et al. 2025, "Temporal Sparse Autoencoders" (arXiv 2511.05541): cosines in the text,
    raw products in the released code.

    Examples
    --------
    >>> import torch
    >>> rows = torch.eye(2)  # products 1 and 0: log(1 + 1/e)
    >>> round(paired_cross_entropy(rows, rows).item(), 4)
    0.3133
    """
    products = anchors @ positives.T  # [n, n]
    forth, back = products, products.T
    if valid is not None:
        others = ~torch.eye(len(valid), dtype=torch.bool, device=valid.device)
        # Its diagonal leaves every row something, so that those that don't count are finite.
        left_out = others & ~valid[None]
        forth, back = (x.masked_fill(left_out, -math.inf) for x in (forth, back))
    else:
        valid = torch.ones(len(anchors), dtype=torch.bool, device=anchors.device)
    each = (forth.logsumexp(dim=1) + back.logsumexp(dim=1)) / 2 - products.diagonal()
    return each.where(valid, 0.0).sum() / valid.sum().clamp_min(1)


def smoothness(anchors: Tensor, positives: Tensor, *, valid: Tensor | None = None) -> Tensor:
    """How far latents move between nearby times.

    Parameters
    ----------
    anchors, positives, valid
        As for :func:`paired_cross_entropy`.

    Returns
    -------
    Tensor
        A 0-d tensor: ``mean_i ‖a_i - p_i‖²``. 0 where no pair counts.

    Examples
    --------
    >>> import torch
    >>> smoothness(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 0.0]])).item()
    5.0
    """
    each = (anchors - positives).square().sum(dim=1)
    if valid is None:
        return each.sum() / max(len(each), 1)
    return each.where(valid, 0.0).sum() / valid.sum().clamp_min(1)
