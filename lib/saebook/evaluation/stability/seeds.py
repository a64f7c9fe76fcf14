"""Which latents does another seed find again? All pairs of dictionaries, beside chance."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from saebook.errors import DataError
from saebook.evaluation.stability.chance import NULLS, null_dictionary
from saebook.evaluation.stability.dictionaries import Dictionary, match_dictionaries
from saebook.metrics import (
    LatentAgreement,
    MeanInterval,
    correlation_matrix,
    cosine_similarity_matrix,
    pairwise_interval,
)

SHARES = ("by_decoder", "found")


@dataclass(frozen=True, eq=False)
class SeedStability:
    """How much of each dictionary the others hold too.

    Parameters
    ----------
    dictionaries : tuple of Dictionary
        What was compared.
    threshold : float
        Cosine from which a pair counts.
    pairs : DataFrame
        One row per ordered pair: ``first``, ``second``, ``by_decoder`` (share of the first's
        latents with a partner by decoder), ``found`` (share whose encoder match agrees too),
        ``cosine`` (mean over pairs matched by decoder), ``best_cosine`` (mean cosine of the best
        partner, one-to-one or not), ``correlation`` (median correlation of the activity of pairs
        matched by decoder; NaN without activity).
    latents : DataFrame
        One row per latent of each dictionary: ``dictionary``, ``latent``, ``density``,
        ``usefulness``, ``n_found`` (of the other dictionaries), ``share_found``, ``cosine`` (mean
        over the others), ``correlation`` (median over the others), ``unit_cosine`` (largest
        cosine with the axis of a single unit: near 1, it copies a unit).
    chance : DataFrame
        One row per null, pair and draw: ``null``, ``by_decoder``, ``found``, ``cosine``.
    matches : dict
        The match of each ordered pair of positions.
    """

    dictionaries: tuple[Dictionary, ...]
    threshold: float
    pairs: pd.DataFrame
    latents: pd.DataFrame
    chance: pd.DataFrame
    matches: dict[tuple[int, int], LatentAgreement]

    def interval(self, share: str = "found") -> MeanInterval:
        """Mean over pairs of a column of ``pairs``, with a jackknife interval over dictionaries."""
        n = len(self.dictionaries)
        values = np.zeros((n, n))
        for (i, j), value in zip(self.matches, self.pairs[share], strict=True):
            values[i, j] = value
        return pairwise_interval(values.tolist())

    def chance_of(self, share: str = "found") -> pd.Series:
        """Mean of a column under each null, by its name."""
        names = dict.fromkeys(self.chance["null"])
        values, null = self.chance[share].to_numpy(float), self.chance["null"].to_numpy()
        return pd.Series({name: values[null == name].mean() for name in names}, dtype=float)

    def table(self) -> pd.DataFrame:
        """Shares with their interval over dictionaries, and every null's mean beside them."""
        rows = {}
        for share in SHARES:
            found = self.interval(share)
            rows[share] = {
                "mean": found.mean,
                "low": found.low,
                "high": found.high,
                **self.chance_of(share).to_dict(),
            }
        return pd.DataFrame.from_dict(rows, orient="index")


def compare_seeds(
    dictionaries: Sequence[Dictionary],
    *,
    threshold: float = 0.7,
    nulls: Iterable[str] = tuple(NULLS),
    null_seeds: Iterable[int] = range(3),
) -> SeedStability:
    """Match every dictionary with every other one, and with dictionaries that mean nothing.

    Parameters
    ----------
    dictionaries : sequence of Dictionary
        At least two, over the same units; with activity, on the same rows.
    threshold : float
        Cosine from which a pair counts, for decoder and encoder.
    nulls : iterable of str
        Names from :data:`saebook.evaluation.stability.NULLS`.
    null_seeds : iterable of int
        Draws of each null, for each pair.

    Returns
    -------
    SeedStability

    Raises
    ------
    DataError
        Fewer than two dictionaries, other widths, or activity of other rows.

    Notes
    -----
    A latent is *found* by another dictionary where matches by decoder and by encoder name the
    same partner and both cosines reach the threshold. Shares are of the living latents of the
    first dictionary; where it is larger than the second, they can't all have a partner.

    Examples
    --------
    >>> import torch
    >>> from saebook.evaluation.stability import dictionary_from
    >>> copies = [dictionary_from(torch.eye(8)[order], name=str(s))
    ...     for s, order in enumerate([range(8), range(7, -1, -1)])]
    >>> compare_seeds(copies).interval().mean
    1.0
    """
    dictionaries = tuple(dictionaries)
    _check(dictionaries)
    nulls, null_seeds = list(nulls), list(null_seeds)
    pairs, chance, matches = [], [], {}
    n = len(dictionaries)
    correlation: dict[tuple[int, int], Tensor] = {}
    for i, j in itertools.permutations(range(n), 2):
        a, b = dictionaries[i], dictionaries[j]
        match = match_dictionaries(a, b, threshold)
        matches[i, j] = match
        correlation[i, j] = _correlation(a, b, match)
        known = match.partner >= 0
        best = cosine_similarity_matrix(a.decoder, b.decoder)
        best = best.abs() if a.either_sign else best
        pairs.append(
            {
                "first": a.name,
                "second": b.name,
                **_shares(match),
                "best_cosine": float(best.amax(1).mean()),
                "correlation": float(correlation[i, j][known].nanmedian()),
            }
        )
        for number, seed in itertools.product(range(len(nulls)), null_seeds):
            draw = null_dictionary(b, nulls[number], seed=((seed * n + i) * n + j) * 10 + number)
            found = _shares(match_dictionaries(a, draw, threshold))
            chance.append({"null": nulls[number], "first": a.name, "second": b.name, **found})
    return SeedStability(
        dictionaries,
        threshold,
        pd.DataFrame(pairs),
        pd.concat(
            [_latents(dictionaries, i, matches, correlation) for i in range(n)],
            ignore_index=True,
        ),
        pd.DataFrame(chance, columns=["null", "first", "second", *SHARES, "cosine"]),
        matches,
    )


def _check(dictionaries: tuple[Dictionary, ...]) -> None:
    if len(dictionaries) < 2:
        raise DataError(f"{len(dictionaries)} dictionaries: stability needs at least two")
    if empty := [one.name for one in dictionaries if not len(one)]:
        raise DataError(f"dictionary {empty[0]!r} has no living latent: leave it out and say so")
    names = [one.name for one in dictionaries]
    if len(set(names)) < len(names):
        raise DataError(f"names {names} repeat: give each dictionary its own, such as its seed")
    rows = {len(one.activity) for one in dictionaries if one.activity is not None}
    widths = {one.d_in for one in dictionaries}
    if len(rows) > 1 or len(widths) > 1:
        raise DataError(
            f"dictionaries over {sorted(widths)} units and {sorted(rows)} rows: give them the "
            "same units, and activity on the same rows"
        )


def _shares(match: LatentAgreement) -> dict[str, float]:
    known = match.partner >= 0
    return {
        "by_decoder": float(match.by_decoder.double().mean()),
        "found": float(match.found.double().mean()),
        "cosine": float(match.decoder_cosine[known].double().mean()),
    }


def _correlation(a: Dictionary, b: Dictionary, match: LatentAgreement) -> Tensor:
    """[m] correlation of the activity of pairs matched by decoder, NaN where unknown."""
    if a.activity is None or b.activity is None:
        return torch.full((len(a),), math.nan, dtype=torch.float64)
    r = correlation_matrix(a.activity, b.activity)
    r = r.abs() if a.either_sign else r
    paired = r[torch.arange(len(a)), match.partner.clamp_min(0)]
    return torch.where(match.partner >= 0, paired, math.nan)


def _latents(
    dictionaries: tuple[Dictionary, ...],
    i: int,
    matches: dict[tuple[int, int], LatentAgreement],
    correlation: dict[tuple[int, int], Tensor],
) -> pd.DataFrame:
    one = dictionaries[i]
    others = [j for j in range(len(dictionaries)) if j != i]
    n_found = torch.stack([matches[i, j].found for j in others]).sum(0)
    cosine = torch.stack([matches[i, j].decoder_cosine for j in others]).double().mean(0)
    use = one.usefulness
    lengths = one.decoder.norm(dim=1).clamp_min(1e-30)
    return pd.DataFrame(
        {
            "dictionary": one.name,
            "latent": one.latent.numpy(),
            "density": one.density.numpy(),
            "usefulness": np.full(len(one), math.nan) if use is None else use.numpy(),
            "n_found": n_found.numpy(),
            "share_found": n_found.double().numpy() / len(others),
            "cosine": cosine.numpy(),
            "correlation": torch.stack([correlation[i, j] for j in others])
            .nanmedian(0)
            .values.numpy(),
            "unit_cosine": (one.decoder.abs().amax(1) / lengths).double().numpy(),
        }
    )
