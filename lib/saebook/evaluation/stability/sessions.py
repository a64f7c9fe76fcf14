"""The same latents in another session? Over the units that both share, or over what latents do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saebook.errors import DataError
from saebook.evaluation.stability.chance import null_dictionary
from saebook.evaluation.stability.dictionaries import Dictionary, match_dictionaries
from saebook.metrics import LatentAgreement

FEWEST_SHARED = 3


@dataclass(frozen=True, eq=False)
class SessionMatch:
    """Latents of one session matched with those of another.

    Parameters
    ----------
    match : LatentAgreement
        Over the judged latents of the first session: ``partner`` counts within the judged ones of
        the second.
    judged_first, judged_second : Tensor
        Positions [·] of the latents that could be judged, in their dictionaries.
    n_shared : int
        Units, or entries of a profile, that were compared.
    share : float
        Share of the judged latents of the first session that were found.
    chance : dict
        Name of each control to its shares [n_draws] float64.
    """

    match: LatentAgreement
    judged_first: Tensor
    judged_second: Tensor
    n_shared: int
    share: float
    chance: dict[str, np.ndarray]

    def p(self, control: str) -> float:
        """Share of draws of a control that find as many, the match itself counted among them."""
        draws = self.chance[control]
        return float((1 + (draws >= self.share).sum()) / (1 + len(draws)))

    @property
    def pairs(self) -> Tensor:
        """[n_found, 2] int64, positions of the latents found, in the first and second session."""
        found = torch.nonzero(self.match.found).flatten()
        partner = self.match.partner[found]
        return torch.stack([self.judged_first[found], self.judged_second[partner]], dim=1)


def match_over_units(
    first: Dictionary,
    second: Dictionary,
    units_first: Sequence[Any],
    units_second: Sequence[Any],
    *,
    threshold: float = 0.7,
    min_captured: float = 0.5,
    n_draws: int = 20,
    seed: int = 0,
) -> SessionMatch:
    """Match latents of two sessions over the units that both hold.

    Parameters
    ----------
    first, second : Dictionary
        Over the units of each session; encoders are used where both have one over single bins.
    units_first, units_second : sequence
        [d_first] and [d_second] ids of their columns; the same id has to mean the same neuron.
    threshold : float
        Cosine from which a pair counts, over the shared units alone.
    min_captured : float
        A latent is judged where the shared units carry at least this share of its squared length:
        of one that lives on other units nothing can be said.
    n_draws : int
        Draws of each control.
    seed : int
        Of the controls.

    Returns
    -------
    SessionMatch
        With two controls: ``"other units"``, for which the second session's shared units are
        dealt anew, so that columns of different neurons are compared; and ``"latents
        shuffled"``, which keeps the neurons and deals the weights of each to other latents.

    Raises
    ------
    DataError
        Ids repeat or don't fit, fewer than three shared units, or no latent that can be judged.

    Examples
    --------
    >>> import torch
    >>> from saebook.evaluation.stability import dictionary_from
    >>> first = dictionary_from(torch.eye(8), name="Monday")
    >>> second = dictionary_from(torch.eye(8)[:, [7, 6, 5, 4, 3, 2, 1, 0]], name="Tuesday")
    >>> found = match_over_units(first, second, list("abcdefgh"), list("hgfedcba"))
    >>> found.share, found.n_shared
    (1.0, 8)
    """
    columns = _shared_columns(first, second, units_first, units_second)
    restricted, judged = [], []
    for one, own in zip((first, second), columns, strict=True):
        lengths = one.decoder.double().square()
        captured = lengths[:, own].sum(1) / lengths.sum(1).clamp_min(1e-300)
        which = torch.nonzero(captured >= min_captured).flatten()
        if not len(which):
            raise DataError(
                f"no latent of {one.name!r} has {min_captured:.0%} of its squared length on the "
                f"{len(own)} shared units (at most {float(captured.max()):.0%}): lower min_captured"
            )
        judged.append(which)
        restricted.append(_restricted(one.select(which), own))
    a, b = restricted
    match = match_dictionaries(a, b, threshold)
    generator = torch.Generator().manual_seed(seed)
    dealt, shuffled = [], []
    for draw in range(n_draws):
        order = torch.randperm(b.d_in, generator=generator)
        dealt.append(share_found(match_dictionaries(a, _restricted(b, order), threshold)))
        other = null_dictionary(b, "latents shuffled", seed=seed * 1000 + draw)
        shuffled.append(share_found(match_dictionaries(a, other, threshold)))
    return SessionMatch(
        match,
        *judged,
        n_shared=len(columns[0]),
        share=share_found(match),
        chance={"other units": np.array(dealt), "latents shuffled": np.array(shuffled)},
    )


def _shared_columns(
    first: Dictionary, second: Dictionary, units_first: Sequence[Any], units_second: Sequence[Any]
) -> tuple[Tensor, Tensor]:
    where = []
    for one, units in ((first, units_first), (second, units_second)):
        place = {unit: column for column, unit in enumerate(units)}
        if len(units) != one.d_in or len(place) < len(units):
            raise DataError(
                f"{one.name!r} has {one.d_in} columns and {len(units)} unit ids, {len(place)} of "
                "them different: give one id per column, each once"
            )
        where.append(place)
    shared = [unit for unit in units_first if unit in where[1]]
    if len(shared) < FEWEST_SHARED:
        raise DataError(
            f"{len(shared)} units are shared between {first.name!r} and {second.name!r}: directions "
            f"over fewer than {FEWEST_SHARED} say nothing. Match what latents do instead, with "
            "match_profiles"
        )
    return tuple(torch.tensor([place[unit] for unit in shared]) for place in where)  # type: ignore[return-value]


def _restricted(one: Dictionary, columns: Tensor) -> Dictionary:
    encoder = one.encoder
    if encoder is not None:
        encoder = encoder[:, columns] if encoder.shape[1] == one.d_in else None
    return Dictionary(
        one.name,
        one.decoder[:, columns],
        encoder,
        None,
        one.latent,
        either_sign=one.either_sign,
    )


def share_found(match: LatentAgreement) -> float:
    """Share of the first session's latents that were found."""
    return float(match.found.double().mean())
