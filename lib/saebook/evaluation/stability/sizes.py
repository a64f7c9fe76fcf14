"""A small dictionary and a large one: what returns, what is new, and whether the new adds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from saebook.errors import DataError
from saebook.evaluation.scorecard import reconstruct, scoring
from saebook.evaluation.stability.chance import NULLS, null_dictionary
from saebook.evaluation.stability.dictionaries import Dictionary
from saebook.metrics import cosine_similarity_matrix, fvu


@dataclass(frozen=True, eq=False)
class SizeComparison:
    """Best partners of the latents of two dictionaries, many-to-one.

    Parameters
    ----------
    best_of_small : Tensor
        [m_small], cosine of the best partner in the large dictionary.
    best_of_large : Tensor
        [m_large], cosine of the best partner in the small one.
    threshold : float
        Cosine from which a partner counts.
    chance : DataFrame
        One row per null and draw of the large dictionary: ``null``, ``kept``, ``mmcs``.
    """

    best_of_small: Tensor
    best_of_large: Tensor
    threshold: float
    chance: pd.DataFrame

    @property
    def kept(self) -> float:
        """Share of the small dictionary's latents with a counterpart in the large one."""
        return float((self.best_of_small >= self.threshold).double().mean())

    @property
    def novel(self) -> Tensor:
        """Booleans [m_large]: latents of the large dictionary without one in the small one."""
        return self.best_of_large < self.threshold

    def summary(self) -> dict[str, float]:
        """Share kept, share novel, mean best cosines, and the share kept by chance."""
        kept, null = self.chance["kept"].to_numpy(float), self.chance["null"].to_numpy()
        by_chance = [float(kept[null == name].mean()) for name in dict.fromkeys(null)]
        return {
            "kept": self.kept,
            "novel": float(self.novel.double().mean()),
            "mmcs_small": float(self.best_of_small.mean()),
            "mmcs_large": float(self.best_of_large.mean()),
            "kept_by_chance": max(by_chance, default=float("nan")),
        }


def compare_sizes(
    small: Dictionary, large: Dictionary, *, threshold: float = 0.7, n_draws: int = 3
) -> SizeComparison:
    """Does each latent of a small dictionary return in a large one, and what is new there?

    Parameters
    ----------
    small, large : Dictionary
        Over the same units.
    threshold : float
        Cosine of the decoder directions from which a partner counts.
    n_draws : int
        Draws of each null of the large dictionary.

    Returns
    -------
    SizeComparison
        Partners are not one-to-one: a latent that splits has several in the large dictionary.

    Notes
    -----
    Source: Leask et al. (2025), Sparse autoencoders do not find canonical units of analysis:
    latents of a larger SAE are novel, or reconstruct what a smaller one already holds, by the
    cosine of their best partner (0.7 there).

    Examples
    --------
    >>> import torch
    >>> from saebook.evaluation.stability import dictionary_from
    >>> small, large = dictionary_from(torch.eye(6)[:2]), dictionary_from(torch.eye(6)[:5])
    >>> found = compare_sizes(small, large)
    >>> found.kept, found.novel.tolist()
    (1.0, [False, False, True, True, True])
    """
    either = small.either_sign
    cosine = _cosine(small, large, either)
    rows = []
    for null in NULLS:
        for seed in range(n_draws):
            best = _cosine(small, null_dictionary(large, null, seed), either).amax(1)
            rows.append(
                {
                    "null": null,
                    "kept": float((best >= threshold).double().mean()),
                    "mmcs": float(best.mean()),
                }
            )
    return SizeComparison(
        cosine.amax(1),
        cosine.amax(0),
        threshold,
        pd.DataFrame(rows, columns=["null", "kept", "mmcs"]),
    )


def _cosine(small: Dictionary, large: Dictionary, either_sign: bool) -> Tensor:
    cosine = cosine_similarity_matrix(small.decoder, large.decoder)
    return cosine.abs() if either_sign else cosine


def stitch(
    small: Any, large: Any, x: Tensor, large_dictionary: Dictionary, novel: Tensor, seed: int = 0
) -> pd.Series:
    """FVU of the small SAE with latents of the large one added to its reconstruction.

    Parameters
    ----------
    small, large : SAE
        With linear decoders and no output function, over the same units.
    x : Tensor
        [n, d_in] rows that neither was trained on.
    large_dictionary : Dictionary
        Of the large SAE, on these rows.
    novel : Tensor
        Booleans [m_large], from :func:`compare_sizes`.
    seed : int
        Of the random choice.

    Returns
    -------
    Series
        FVU of ``small``, ``large``, ``small + novel``, ``small + returning`` (the other latents),
        and ``small + random`` (as many latents of the large one as are novel, chosen at random).
        Latents that hold something new bring the error down; those that say again what the small
        SAE says bring it up.

    Raises
    ------
    DataError
        An output function is in the way: contributions don't add up behind it.

    Notes
    -----
    Source: the insertion step of SAE stitching, Leask et al. (2025).

    Examples
    --------
    >>> import torch
    >>> from saebook.evaluation.stability import Dictionary
    >>> class Axes:
    ...     def __init__(self, kept): self.W_dec = torch.eye(3) * kept[:, None]
    ...     def encode(self, x): return x
    ...     def decode(self, latents): return latents @ self.W_dec
    >>> x = torch.eye(3)
    >>> small, large = Axes(torch.tensor([1.0, 0, 0])), Axes(torch.ones(3))
    >>> all_axes = Dictionary("large", torch.eye(3), None, x, torch.arange(3))
    >>> stitch(small, large, x, all_axes, torch.tensor([False, True, True])).round(2).tolist()[:4]
    [1.0, 0.0, 0.0, 1.5]
    """
    for model in (small, large):
        output = getattr(getattr(model, "config", None), "output", None)
        if output not in (None, "none"):
            raise DataError(f"output={output!r}: contributions of latents don't add up behind it")
    activity = large_dictionary.activity
    if activity is None or len(activity) != len(x) or len(novel) != len(large_dictionary):
        raise DataError(
            f"{len(x)} rows and {len(novel)} entries of novel: give the large SAE's dictionary on "
            "these rows, and one entry per latent of it"
        )
    with scoring(small):
        _, base = reconstruct(small, x)
    with scoring(large):
        _, whole = reconstruct(large, x)
    order = torch.rand(len(novel), generator=torch.Generator().manual_seed(seed)).argsort()
    random = torch.zeros(len(novel), dtype=torch.bool)
    random[order[: int(novel.sum())]] = True

    def added(which: Tensor) -> float:
        more = activity[:, which].float() @ large_dictionary.decoder[which].float()
        return fvu(x, base.cpu() + more)

    return pd.Series(
        {
            "small": fvu(x, base.cpu()),
            "large": fvu(x, whole.cpu()),
            "small + novel": added(novel),
            "small + returning": added(~novel),
            "small + random": added(random),
        },
        name="FVU",
    )
