"""The same latents in another session, by what they do: no unit has to be shared."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from saebook.errors import DataError
from saebook.evaluation.stability.sessions import SessionMatch, share_found
from saebook.metrics import latent_agreement


def condition_profiles(
    activity: Tensor, events: Any, conditions: Any, n_conditions: int, n_before: int, n_after: int
) -> Tensor:
    """Mean activity around an event, for each condition of the trials.

    Parameters
    ----------
    activity : Tensor
        [n, m], rows in the order of time without gaps around the events.
    events : array of int
        [n_trials], the row in which each trial's event lies.
    conditions : array of int
        [n_trials], from 0 on; negative where unknown.
    n_conditions : int
        Number of conditions.
    n_before, n_after : int
        Rows before the event, and from it on.

    Returns
    -------
    Tensor
        [m, n_conditions, n_before + n_after] float64. Trials too close to an end are left out.

    Raises
    ------
    DataError
        A condition without a trial: its profile is unknown.

    Examples
    --------
    >>> import torch
    >>> activity = torch.arange(6.0)[:, None]
    >>> condition_profiles(activity, [1, 3], [0, 1], 2, 1, 2)[0].tolist()
    [[0.0, 1.0, 2.0], [2.0, 3.0, 4.0]]
    """
    events, conditions = np.asarray(events, dtype=int), np.asarray(conditions, dtype=int)
    if events.shape != conditions.shape:
        raise DataError(f"{len(events)} events and {len(conditions)} conditions: give one of each")
    inside = (events >= n_before) & (events + n_after <= len(activity)) & (conditions >= 0)
    profiles = []
    for condition in range(n_conditions):
        chosen = events[inside & (conditions == condition)]
        if not len(chosen):
            raise DataError(f"condition {condition} has no trial with a whole profile")
        rows = torch.from_numpy(chosen[:, None] + np.arange(-n_before, n_after))
        profiles.append(activity[rows].double().mean(0))  # [time, m]
    return torch.stack(profiles).permute(2, 0, 1)


def match_profiles(
    first: Tensor, second: Tensor, *, threshold: float = 0.7, n_draws: int = 20, seed: int = 0
) -> SessionMatch:
    """Match latents of two sessions by what they do: tuning curves, or profiles around an event.

    Parameters
    ----------
    first, second : Tensor
        [m_first, …] and [m_second, …] mean activity of each latent: [m, n_values] over a circular
        or an ordered variable, or [m, n_conditions, n_times]. Units need not be shared.
    threshold : float
        Correlation of two profiles from which a pair counts.
    n_draws : int
        Draws of the control.
    seed : int
        Of the control.

    Returns
    -------
    SessionMatch
        Constant profiles are not judged. One control: ``"conditions dealt anew"`` gives the
        second session's conditions each other's names, the same for all its latents (two-way
        profiles), or ``"shifted"`` turns the values by at least a tenth. What all conditions have
        in common, and a population that only tiles the variable, still matches: what is left
        over is what can be called the same latents.

    Raises
    ------
    DataError
        Profiles of other shapes, or none that varies.

    Examples
    --------
    >>> import torch
    >>> profiles = torch.rand(6, 5, 4, generator=torch.Generator().manual_seed(0))
    >>> found = match_profiles(profiles, profiles[[5, 4, 3, 2, 1, 0]])
    >>> found.share, bool(found.p("conditions dealt anew") < 0.1)
    (1.0, True)
    """
    if first.ndim not in (2, 3) or first.shape[1:] != second.shape[1:]:
        raise DataError(
            f"profiles of shapes {tuple(first.shape)} and {tuple(second.shape)}: give [m, n] or "
            "[m, n_conditions, n_times], alike but for m"
        )
    judged = [
        torch.nonzero(_centred(one).abs().amax(1) > 1e-12).flatten() for one in (first, second)
    ]
    if not all(map(len, judged)):
        raise DataError("no profile varies in one of the sessions: nothing can be matched")
    a, b = first[judged[0]], second[judged[1]]
    match = latent_agreement(_centred(a), _centred(b), threshold=threshold)
    generator = torch.Generator().manual_seed(seed)
    n = b.shape[1]
    name = "conditions dealt anew" if b.ndim == 3 else "shifted"
    shares = []
    for _ in range(n_draws):
        if b.ndim == 3:
            drawn = b[:, _derangement(n, generator)]
        else:
            least = max(1, n // 10)
            offset = int(
                torch.randint(least, max(least + 1, n - least + 1), (1,), generator=generator)
            )
            drawn = b.roll(offset, dims=1)
        shares.append(
            share_found(latent_agreement(_centred(a), _centred(drawn), threshold=threshold))
        )
    return SessionMatch(
        match,
        *judged,
        n_shared=first[0].numel(),
        share=share_found(match),
        chance={name: np.array(shares)},
    )


def _centred(profiles: Tensor) -> Tensor:
    flat = profiles.double().flatten(1)
    return flat - flat.mean(1, keepdim=True)


def _derangement(n: int, generator: torch.Generator) -> Tensor:
    """A random order in which nothing stays in its place; for one entry, that place."""
    order = torch.randperm(n, generator=generator)
    # Turning a random cycle by one moves everything, whatever the draw.
    moved = torch.empty(n, dtype=torch.int64)
    moved[order] = order.roll(1)
    return moved
