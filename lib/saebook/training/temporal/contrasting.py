"""The contrastive term over a batch and a queue: the plain way, and which way is taken."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saebook import losses
from saebook.training.temporal.queue import Queue

# Meetings of active latents, times the latents that each then changes, as a share of the dense
# product's multiplications: up to there the compiled loops are faster.
WORTHWHILE = 0.1


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
    if anchors.device.type == "cpu" and not torch.is_autocast_enabled("cpu"):
        found = _few(anchors, keys, paired, group, queue, temperature)
        if found is not None:
            return found
    return plain(anchors, keys, paired, group, queue, temperature)


def _few(
    anchors: Tensor,
    keys: Tensor,
    paired: Tensor,
    group: Tensor,
    queue: Queue,
    temperature: float,
    most: float = WORTHWHILE,
) -> Contrast | None:
    """:func:`contrast` from active latents alone; None where too many are for that to pay."""
    # numba takes half a second to import.
    from saebook.training.temporal.sparse import ContrastActive, Rows

    own, positives = Rows.of(anchors), Rows.of(keys)
    everyone = positives.followed_by(Rows.of(queue.rows))
    n_keys, width = len(everyone.starts) - 1, everyone.width
    each = len(everyone.values) / max(1, int(everyone.active.sum()))
    if own.meetings(everyone) * (1 + each) > most * len(anchors) * n_keys * width:
        return None
    usable = paired.numpy() & own.active & positives.active
    groups = torch.cat([group, queue.group]).numpy()
    term, n_negatives, n_excluded = ContrastActive.apply(  # pyright: ignore[reportGeneralTypeIssues]
        anchors, keys, (own, positives, everyone), groups, usable, 1 / temperature
    )
    counted = torch.from_numpy(usable)
    return Contrast(term, n_negatives[counted], n_excluded[counted])


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
