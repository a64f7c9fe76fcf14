"""Do latents last? Their consistency in time, beside what lasts without having learned anything."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from saebook.errors import DataError
from saebook.evaluation.random_dictionary import RandomDictionary
from saebook.evaluation.scorecard import reconstruct, scoring
from saebook.metrics import (
    activity_information,
    autocorrelation,
    decorrelation_time,
    fvu,
)

FEWEST_ACTIVE = 10


@dataclass(frozen=True, eq=False)
class Consistency:
    """How long the latents of one set last, over those for which it can be said.

    Parameters
    ----------
    curve : Tensor
        [max_lag + 1] float64, autocorrelation averaged over latents, from lag 0.
    decorrelation : float
        Median over latents of the time to 1/e, in units of ``step``; infinite where more than
        half of them last longer than the longest lag.
    information : float
        Mean over latents of the corrected share of information about later activity.
    n_latents : int
        Latents that count.
    n_silent, n_always_on : int
        Latents left out because they are hardly ever on or off: those are perfectly smooth and
        say nothing.
    l0 : float
        Mean number of active latents of the whole set per row.
    """

    curve: Tensor
    decorrelation: float
    information: float
    n_latents: int
    n_silent: int
    n_always_on: int
    l0: float

    def at(self, lag: int) -> float:
        """Mean autocorrelation at a lag in rows."""
        return float(self.curve[lag])


def consistency(
    activity: Tensor,
    group: Tensor,
    position: Tensor | None = None,
    *,
    max_lag: int = 32,
    lag: int = 1,
    step: float = 1.0,
    correction: str = "shuffle",
    fewest: int = FEWEST_ACTIVE,
) -> Consistency:
    """Autocorrelation, decorrelation time and information of the latents that are alive.

    Parameters
    ----------
    activity : Tensor
        [n, d], rows ordered by sequence and time; above 0 is active.
    group, position : Tensor
        As :func:`saebook.metrics.lagged_rows` takes them.
    max_lag, lag : int
        Longest lag of the curve, and lag of the information, rows.
    step : float
        Time from a row to the next, for the decorrelation time.
    correction : str
        As :func:`saebook.metrics.activity_information` takes it.
    fewest : int
        Rows in which a latent must be on, and rows in which it must be off, to count.

    Returns
    -------
    Consistency
        With NaN where no latent counts.

    Raises
    ------
    DataError
        Shapes disagree, a value is not finite, or no sequence is longer than the lag.

    Examples
    --------
    >>> import torch
    >>> lasting = torch.tensor([1.0, 0.0]).repeat_interleave(20).repeat(5)
    >>> z = torch.stack([lasting, torch.ones(200), torch.zeros(200)], dim=1)
    >>> found = consistency(z, torch.zeros(200, dtype=torch.int64), max_lag=10)
    >>> found.n_latents, found.n_always_on, found.n_silent, round(found.at(1), 2)
    (1, 1, 1, 0.91)
    """
    on = (activity > 0).sum(0)
    silent, always = on < fewest, len(activity) - on < fewest
    used = activity[:, ~silent & ~always]
    l0 = float(on.sum()) / max(len(activity), 1)
    curves = autocorrelation(used, group, position, max_lag=max_lag)
    information = activity_information(used, group, position, lag=lag, correction=correction)
    times = decorrelation_time(curves, step)
    none = not used.shape[1]
    return Consistency(
        curve=curves.mean(1),
        # Interpolating between infinities would make them NaN.
        decorrelation=math.nan if none else float(times.quantile(0.5, interpolation="lower")),
        information=float(information.nanmean()),
        n_latents=used.shape[1],
        n_silent=int(silent.sum()),
        n_always_on=int((always & ~silent).sum()),
        l0=l0,
    )


def temporal_consistency(
    sae: Any,
    x: Tensor | np.ndarray,
    group: Tensor | np.ndarray,
    position: Tensor | np.ndarray | None = None,
    *,
    prefix: int | None = None,
    train_data: Tensor | np.ndarray | None = None,
    max_lag: int = 32,
    lag: int = 1,
    step: float = 1.0,
    correction: str = "shuffle",
    seeds: Iterable[int] = range(3),
) -> pd.DataFrame:
    """Consistency of an SAE's latents beside its three baselines.

    Parameters
    ----------
    sae : SAE
        Anything with ``encode``, ``decode`` and ``W_dec``.
    x : Tensor or ndarray
        [n, d_in] held-out rows, ordered by sequence and time.
    group, position : Tensor or ndarray
        [n] sequence of each row, and its place there where rows may be missing.
    prefix : int, optional
        Split the latents here: the first ones, which a temporal term saw, and the others.
    train_data : Tensor or ndarray, optional
        [m, d_in] rows on which the random dictionaries are fitted; ``x`` without them.
    max_lag, lag, step, correction
        As :func:`consistency` takes them.
    seeds : iterable of int
        One random dictionary each; their mean is shown.

    Returns
    -------
    DataFrame
        Rows: latents (and prefix, other latents), time-shuffled latents, input, random
        dictionary. Columns: ``ac`` at the lag, ``decorrelation``, ``information`` (NaN for
        inputs, which are not on or off), ``l0`` of the row's latents, ``fvu`` of the whole model,
        and the numbers of latents that count, are silent, or always on.

    Raises
    ------
    DataError
        Shapes disagree, a value is not finite, or no sequence is longer than a lag.

    Notes
    -----
    A model whose latents are more consistent than another's may merely reconstruct less: compare
    at matched FVU (:func:`saebook.evaluation.compare_at_fvu`), L0 beside it. The input's own
    autocorrelation is what an SAE that copies units has.

    Examples
    --------
    >>> import torch
    >>> from saebook.data.simulate import simulate_slow_fast
    >>> known = simulate_slow_fast(20, 100, 16, n_slow=4, n_fast=12)
    >>> sae = RandomDictionary(16, 32, k=3, seed=9)
    >>> table = temporal_consistency(sae, known.x, known.group, max_lag=4)
    >>> table.index.tolist()
    ['latents', 'time-shuffled', 'input', 'random dictionary']
    >>> bool(table.loc["latents", "ac"] > 5 * abs(table.loc["time-shuffled", "ac"]))
    True
    """
    x, group = torch.as_tensor(x), torch.as_tensor(group)
    position = None if position is None else torch.as_tensor(position)
    settings: dict[str, Any] = {"max_lag": max_lag, "lag": lag, "step": step}
    settings["correction"] = correction
    with scoring(sae):
        latents, reconstruction = reconstruct(sae, x)
    latents, reconstruction = latents.cpu(), reconstruction.cpu()
    error = fvu(x, reconstruction)
    parts = {"latents": latents}
    if prefix is not None:
        if not 0 < prefix < latents.shape[1]:
            raise DataError(
                f"prefix = {prefix}: it must leave some of the {latents.shape[1]} latents"
            )
        parts |= {"prefix": latents[:, :prefix], "other latents": latents[:, prefix:]}
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    parts["time-shuffled"] = latents[order]
    rows = {
        name: _row(consistency(part, group, position, **settings), lag, error)
        for name, part in parts.items()
    }
    curves = autocorrelation(x, group, position, max_lag=max_lag)
    rows["input"] = {
        "ac": float(curves[lag].nanmean()),
        "decorrelation": float(
            decorrelation_time(curves, step).nanquantile(0.5, interpolation="lower")
        ),
        "n_latents": int((~curves[0].isnan()).sum()),
    }
    fitted = x if train_data is None else torch.as_tensor(train_data)
    l0 = rows["latents"]["l0"]
    found = [_random(x, fitted, latents.shape[1], l0, seed) for seed in seeds]
    each = [
        _row(consistency(active, group, position, **settings), lag, error)
        for active, error in found
    ]
    rows["random dictionary"] = pd.DataFrame(each).mean().to_dict()
    columns = [
        "ac", "decorrelation", "information", "l0", "fvu", "n_latents", "n_silent", "n_always_on",
    ]  # fmt: skip
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)


def _random(x: Tensor, fitted: Tensor, d_sae: int, l0: float, seed: int) -> tuple[Tensor, float]:
    """Latents and FVU of a random dictionary of this width and mean L0."""
    random = RandomDictionary(x.shape[1], d_sae, seed=seed)
    fitted = fitted.float()
    random.fit(fitted, fitted.mean(0), l0=l0)
    active = random.encode(x.float())
    return active, fvu(x, random.decode(active))


def _row(found: Consistency, lag: int, error: float) -> dict[str, float]:
    return {
        "ac": found.at(lag),
        "decorrelation": found.decorrelation,
        "information": found.information,
        "l0": found.l0,
        "fvu": error,
        "n_latents": found.n_latents,
        "n_silent": found.n_silent,
        "n_always_on": found.n_always_on,
    }
