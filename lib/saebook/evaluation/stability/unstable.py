"""Do the latents that no other seed finds at least span the same subspace?"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from saebook.errors import DataError
from saebook.evaluation.stability.seeds import SeedStability
from saebook.metrics import principal_angles, spanning_basis, subspace_overlap


@dataclass(frozen=True, eq=False)
class UnstableSubspaces:
    """Subspaces of the latents that are not found, pair by pair of dictionaries.

    Parameters
    ----------
    pairs : DataFrame
        One row per pair: ``first``, ``second``, ``n_first``, ``n_second`` (latents not found),
        ``dim_first``, ``dim_second`` (of the subspaces), ``overlap``, ``by_theory`` (mean overlap
        of random subspaces of these dimensions), ``random`` and ``data`` (mean overlap of drawn
        ones). NaN where a side has no such latent.
    angles : tuple of Tensor
        [·] degrees, the principal angles of each pair.
    random_angles, data_angles : tuple of Tensor
        [n_draws, ·], of random subspaces of the same dimensions.
    """

    pairs: pd.DataFrame
    angles: tuple[Tensor, ...]
    random_angles: tuple[Tensor, ...]
    data_angles: tuple[Tensor, ...]


def unstable_subspaces(
    stability: SeedStability,
    *,
    energy: float = 0.9,
    covariance: Tensor | None = None,
    n_draws: int = 20,
    seed: int = 0,
) -> UnstableSubspaces:
    """Principal angles between the subspaces of the latents that two dictionaries don't share.

    Parameters
    ----------
    stability : SeedStability
        From :func:`compare_seeds`, with activity.
    energy : float
        Each subspace is the smallest that carries this share of what its latents contribute,
        direction times root-mean-square activity. More latents than dimensions span everything,
        and everything overlaps with everything.
    covariance : Tensor, optional
        [d, d] of the data: a second control draws directions as the data would, since any
        dictionary has to follow them.
    n_draws : int
        Random pairs of subspaces for each control.
    seed : int
        Of the draws.

    Returns
    -------
    UnstableSubspaces

    Raises
    ------
    DataError
        The covariance has another shape.

    Examples
    --------
    >>> import torch
    >>> from saebook.evaluation.stability import compare_seeds, dictionary_from
    >>> turned = torch.tensor([[1.0, 1, 0, 0], [-1, 1, 0, 0], [0, 0, 1, 1]])
    >>> seeds = [dictionary_from(torch.eye(4)[:3], name="0"), dictionary_from(turned, name="1")]
    >>> found = unstable_subspaces(compare_seeds(seeds, threshold=0.9), energy=1.0)
    >>> found.angles[0].round().tolist()
    [0.0, 0.0, 45.0]
    """
    dictionaries = stability.dictionaries
    d = dictionaries[0].d_in
    root = None
    if covariance is not None:
        if covariance.shape != (d, d):
            raise DataError(f"covariance of shape {tuple(covariance.shape)}: give [{d}, {d}]")
        values, vectors = torch.linalg.eigh(covariance.double())
        root = (vectors * values.clamp_min(0).sqrt()).T  # rows: principal axes by their spread
    generator = torch.Generator().manual_seed(seed)
    rows, angles, random_angles, data_angles = [], [], [], []
    for i, j in itertools.combinations(range(len(dictionaries)), 2):
        bases, n_left = [], []
        for one, match in ((i, stability.matches[i, j]), (j, stability.matches[j, i])):
            left = ~match.found
            n_left.append(int(left.sum()))
            bases.append(spanning_basis(dictionaries[one].contribution[left], energy))
        dims = [basis.shape[1] for basis in bases]
        row = {
            "first": dictionaries[i].name,
            "second": dictionaries[j].name,
            "n_first": n_left[0],
            "n_second": n_left[1],
            "dim_first": dims[0],
            "dim_second": dims[1],
            "overlap": math.nan,
            "by_theory": math.nan,
            "random": math.nan,
            "data": math.nan,
        }
        if min(dims):
            angles.append(principal_angles(*bases))
            drawn = [_drawn(dims, d, None, generator) for _ in range(n_draws)]
            random_angles.append(torch.stack([principal_angles(*pair) for pair in drawn]))
            row["overlap"], row["by_theory"] = subspace_overlap(*bases), max(dims) / d
            row["random"] = float(np.mean([subspace_overlap(*pair) for pair in drawn]))
            if root is not None:
                drawn = [_drawn(dims, d, root, generator) for _ in range(n_draws)]
                data_angles.append(torch.stack([principal_angles(*pair) for pair in drawn]))
                row["data"] = float(np.mean([subspace_overlap(*pair) for pair in drawn]))
        rows.append(row)
    return UnstableSubspaces(
        pd.DataFrame(rows), tuple(angles), tuple(random_angles), tuple(data_angles)
    )


def _drawn(
    dims: list[int], d: int, root: Tensor | None, generator: torch.Generator
) -> tuple[Tensor, ...]:
    """Orthonormal bases of random subspaces, of directions drawn as the data are."""
    made = []
    for dim in dims:
        rows = torch.randn(dim, d, generator=generator, dtype=torch.float64)
        rows = rows if root is None else rows @ root
        made.append(torch.linalg.qr(rows.T).Q)
    return tuple(made)
