"""Latents that most seeds find, as one dictionary."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from saebook.errors import DataError
from saebook.evaluation.stability.seeds import SeedStability


@dataclass(frozen=True, eq=False)
class Consensus:
    """Groups of latents that several dictionaries agree on.

    Parameters
    ----------
    directions : Tensor
        [g, d], unit rows: the mean direction of each group's members.
    n_found : Tensor
        [g] int64, dictionaries that a group has a member in.
    activity : Tensor or None
        [n, g], mean over members of activity divided by its standard deviation.
    members : DataFrame
        One row per member: ``group``, ``dictionary`` (position), ``row`` (of that dictionary).
    """

    directions: Tensor
    n_found: Tensor
    activity: Tensor | None
    members: pd.DataFrame

    def __len__(self) -> int:
        return len(self.directions)


def consensus(stability: SeedStability, min_share: float = 0.5) -> Consensus:
    """Group the latents that at least a share of the dictionaries hold.

    From the latent found most often downwards, each makes a group with its partners in the other
    dictionaries that are not taken yet. A group stays where its members come from at least
    ``min_share`` of all dictionaries, and from two.

    Parameters
    ----------
    stability : SeedStability
        From :func:`compare_seeds`.
    min_share : float
        In (0, 1]: 0.5 for half of the seeds, 1 for all.

    Returns
    -------
    Consensus
        Groups from the most to the least often found; empty where the seeds agree on nothing.

    Raises
    ------
    DataError
        min_share is outside (0, 1].

    Examples
    --------
    >>> import torch
    >>> from saebook.evaluation.stability import compare_seeds, dictionary_from
    >>> stability = compare_seeds([dictionary_from(torch.eye(6)[:4], name="a"),
    ...     dictionary_from(torch.eye(6)[2:], name="b")], null_seeds=())
    >>> found = consensus(stability)
    >>> len(found), found.n_found.tolist()
    (2, [2, 2])
    """
    if not 0.0 < min_share <= 1.0:
        raise DataError(f"min_share is {min_share}: give a share above 0 and up to 1")
    dictionaries = stability.dictionaries
    n = len(dictionaries)
    fewest = max(2, math.ceil(min_share * n - 1e-9))
    free = [torch.ones(len(one), dtype=torch.bool) for one in dictionaries]
    ranked = stability.latents.assign(
        dictionary=[i for i, one in enumerate(dictionaries) for _ in range(len(one))],
        row=[row for one in dictionaries for row in range(len(one))],
    ).sort_values(["n_found", "cosine"], ascending=False, kind="stable")
    groups: list[list[tuple[int, int]]] = []
    for i, row in zip(ranked["dictionary"], ranked["row"], strict=True):
        if not free[i][row]:
            continue
        group = [(i, row)]
        for j in range(n):
            match = stability.matches.get((i, j))
            if match is not None and match.found[row]:
                partner = int(match.partner[row])
                group += [(j, partner)] if free[j][partner] else []
        if len(group) >= fewest:
            groups.append(group)
            for j, member in group:
                free[j][member] = False
    groups.sort(key=len, reverse=True)
    members = pd.DataFrame(
        [(g, i, row) for g, group in enumerate(groups) for i, row in group],
        columns=["group", "dictionary", "row"],
    )
    active = [one.activity for one in dictionaries]
    return Consensus(
        directions=_mean_directions(stability, groups),
        n_found=torch.tensor([len(group) for group in groups], dtype=torch.int64),
        activity=None if any(a is None for a in active) else _mean_activity(stability, groups),
        members=members,
    )


def _mean_directions(stability: SeedStability, groups: list[list[tuple[int, int]]]) -> Tensor:
    first = stability.dictionaries[0].decoder
    rows = first.new_zeros(len(groups), first.shape[1])
    for g, group in enumerate(groups):
        for i, row in group:
            direction = F.normalize(stability.dictionaries[i].decoder[row], dim=0)
            # Where signs are arbitrary, members point the way the first one does.
            flip = stability.dictionaries[i].either_sign and bool(rows[g] @ direction < 0)
            rows[g] += -direction if flip else direction
    return F.normalize(rows, dim=1)


def _mean_activity(stability: SeedStability, groups: list[list[tuple[int, int]]]) -> Tensor:
    first = stability.dictionaries[0].activity
    assert first is not None
    made = torch.zeros(len(first), len(groups))
    for g, group in enumerate(groups):
        for i, row in group:
            activity = stability.dictionaries[i].activity
            assert activity is not None
            own = activity[:, row].float()
            spread = own.std()
            sign = -1.0 if stability.dictionaries[i].either_sign and made[:, g] @ own < 0 else 1.0
            made[:, g] += sign * own / (spread if spread > 0 else 1.0) / len(group)
    return made
