"""The contrastive term over a batch and a queue: the plain way, and which way is taken."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saebook import losses
from saebook.training.temporal.queue import Queue


@dataclass(frozen=True)
class Contrast:
    """The term, and what it was made of.

    Attributes
    ----------
    term
        0-d, with gradients.
    n_negatives
        [n]: negatives that counted, of each anchor that did.
    n_excluded
        [n]: rows of the anchor's own sequence that were left out, beside its own positive.
    """

    term: Tensor
    n_negatives: Tensor
    n_excluded: Tensor


def contrast(
    anchors: Tensor,
    keys: Tensor,
    paired: Tensor,
    group: Tensor,
    queue: Queue,
    temperature: float,
) -> Contrast:
    """InfoNCE of unit rows against the positives of other anchors, and a queue.

    Parameters
    ----------
    anchors, keys
        [n, width], of unit norm or zero: anchors, and the positive of each.
    paired
        Booleans [n]: anchors that count, if neither they nor their positives are zero.
    group
        Integers [n]: the sequence of each pair.
    queue
        Of earlier keys.
    temperature
        τ.
    """
    return plain(anchors, keys, paired, group, queue, temperature)


def plain(
    anchors: Tensor,
    keys: Tensor,
    paired: Tensor,
    group: Tensor,
    queue: Queue,
    temperature: float,
) -> Contrast:
    """:func:`contrast` by :func:`saebook.losses.info_nce`: every cosine is computed."""
    negatives = torch.cat([keys, queue.rows])
    own = losses.same_sequence(group, torch.cat([group, queue.group]))  # [n, n + size]
    term = losses.info_nce(
        anchors, keys, negatives, excluded=own, valid=paired, temperature=temperature
    )
    usable = paired & anchors.any(dim=1) & keys.any(dim=1)
    active = negatives.any(dim=1)
    n_negatives = (~own & active).sum(dim=1)[usable]
    n_excluded = (own & active).sum(dim=1)[usable] - 1
    return Contrast(term, n_negatives, n_excluded)
