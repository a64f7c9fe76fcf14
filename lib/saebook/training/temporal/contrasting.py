"""The contrastive term over a batch and a queue: the plain way, the compiled one, and which is taken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from saebook import losses
from saebook.training.temporal.base import PairedLatents, Places
from saebook.training.temporal.queue import Queue

if TYPE_CHECKING:
    from saebook.training.temporal.sparse import Rows

# Entries that the compiled loops look at, as a share of the multiplications of the dense product:
# up to there they were faster, with 512 anchors, 8,704 keys and 460 latents on one core.
WORTHWHILE = 0.03


@dataclass(frozen=True)
class Contrast:
    """The term, and what it was made of.

    Attributes
    ----------
    term
        0-d, with gradients.
    keys
        [n, width]: the positives, of unit norm or zero, without gradients.
    n_negatives
        [n]: negatives that counted, of each anchor that did.
    n_excluded
        [n]: rows of the anchor's own sequence that were left out, beside its own positive.
    """

    term: Tensor
    keys: Tensor
    n_negatives: Tensor
    n_excluded: Tensor


def contrast(latents: PairedLatents, queue: Queue, temperature: float) -> Contrast:
    """InfoNCE of a batch's anchors against the positives of the others, and a queue.

    Parameters
    ----------
    latents
        Anchors that have no active latent, or whose positive has none, don't count.
    queue
        Of earlier positives.
    temperature
        τ.
    """
    if latents.anchors.device.type == "cpu":
        found = from_active(latents, queue, temperature)
        if found is not None:
            return found
    return plain(latents, queue, temperature)


def plain(latents: PairedLatents, queue: Queue, temperature: float) -> Contrast:
    """:func:`contrast` by :func:`saebook.losses.info_nce`: every cosine is computed."""
    anchors, keys = (F.normalize(x, dim=1) for x in (latents.anchors, latents.positives))
    negatives, group = torch.cat([keys, queue.rows]), latents.group
    own = losses.same_sequence(group, torch.cat([group, queue.group]))  # [n, n + size]
    term = losses.info_nce(
        anchors, keys, negatives, excluded=own, valid=latents.paired, temperature=temperature
    )
    usable = latents.paired & anchors.any(dim=1) & keys.any(dim=1)
    active = negatives.any(dim=1)
    n_negatives = (~own & active).sum(dim=1)[usable]
    n_excluded = (own & active).sum(dim=1)[usable] - 1
    return Contrast(term, keys.detach(), n_negatives, n_excluded)


def from_active(
    latents: PairedLatents, queue: Queue, temperature: float, most: float = WORTHWHILE
) -> Contrast | None:
    """:func:`contrast` from active latents alone; None where too many are for that to pay."""
    # numba takes half a second to import.
    from saebook.training.temporal.sparse import ContrastActive, Rows, everywhere, of_own_group

    anchors, keys = (F.normalize(x, dim=1) for x in (latents.anchors, latents.positives))
    own, positives = Rows.of(anchors), Rows.of(keys)
    earlier, their_groups = queue.active()
    everyone = Rows.joined([positives, *earlier])
    n, n_keys = len(own), len(everyone)
    looked_at = everyone.meetings(own.columns)
    looked_at += _slopes(everyone, latents.learning[0], n)
    if looked_at > most * n * n_keys * everyone.width:
        return None
    usable = latents.paired.numpy() & own.active & positives.active
    groups = torch.cat([latents.group, their_groups]).numpy()
    n_same = of_own_group(groups, everyone.active, n)
    n_apart = int(everyone.active.sum()) - n_same
    wanted = [x or everywhere(n, everyone.width) for x in latents.learning]
    term = ContrastActive.apply(
        anchors, keys, (own, positives, everyone), wanted, groups, usable, n_apart, 1 / temperature
    )
    assert isinstance(term, Tensor)
    n_negatives, n_excluded = torch.from_numpy(n_apart), torch.from_numpy(n_same - 1)
    counted = torch.from_numpy(usable)
    return Contrast(term, keys.detach(), n_negatives[counted], n_excluded[counted])


def _slopes(everyone: Rows, places: Places, n: int) -> int:
    """Entries that the gradients of n anchors are summed over."""
    return n * len(everyone.values) if places is None else everyone.meetings(places[0])
