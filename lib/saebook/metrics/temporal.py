"""How long latents last: autocorrelation, decorrelation time, and information about later activity."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from saebook.errors import DataError

CORRECTIONS = ("miller_madow", "shuffle", "none")


def lagged_rows(group: Tensor, position: Tensor | None, lag: int) -> Tensor:
    """First row of every pair of rows that lie ``lag`` apart in one sequence.

    Parameters
    ----------
    group : Tensor
        [n] whole numbers: the sequence (trial, segment, document) of each row. A number that
        comes up again after others begins another run: no pair reaches across.
    position : Tensor, optional
        [n] whole numbers, where a sequence may have gaps: a pair's positions differ by the lag.
    lag : int
        Rows from the first to the second, at least 0.

    Returns
    -------
    Tensor
        [n_pairs] int64; the second row of each is ``lag`` rows further on.

    Raises
    ------
    DataError
        Shapes disagree, a negative lag, or positions don't rise within a sequence.

    Examples
    --------
    >>> import torch
    >>> lagged_rows(torch.tensor([0, 0, 0, 1, 1]), None, 1).tolist()
    [0, 1, 3]
    >>> lagged_rows(torch.tensor([0, 0, 0]), torch.tensor([0, 1, 3]), 1).tolist()
    [0]
    """
    if lag < 0:
        raise DataError(f"lag = {lag}: give a whole number of rows, at least 0")
    if group.ndim != 1 or (position is not None and position.shape != group.shape):
        shape = None if position is None else tuple(position.shape)
        raise DataError(
            f"group has shape {tuple(group.shape)}, position {shape}: give one number per row"
        )
    run = torch.cat([group[:1] * 0, (group[1:] != group[:-1]).cumsum(0)])
    n = max(len(group) - lag, 0)
    together = run[:n] == run[lag:]
    if position is not None:
        back = (run[1:] == run[:-1]) & (position[1:] <= position[:-1])
        if bool(back.any()):
            row = int(torch.nonzero(back)[0]) + 1
            raise DataError(
                f"position goes from {int(position[row - 1])} to {int(position[row])} at row {row} "
                "of one sequence: rows must be in the order of time"
            )
        together = together & (position[lag:] - position[:n] == lag)
    return torch.nonzero(together).flatten()


def autocorrelation(
    activity: Tensor, group: Tensor, position: Tensor | None = None, *, max_lag: int
) -> Tensor:
    """Autocorrelation of each latent at lags 0 … max_lag, within sequences.

    Parameters
    ----------
    activity : Tensor
        [n, d] of latents or inputs, rows ordered by sequence and time.
    group, position : Tensor
        As :func:`lagged_rows` takes them.
    max_lag : int
        Largest lag, rows.

    Returns
    -------
    Tensor
        [max_lag + 1, d] float64: ``mean over pairs of (z_t - m)(z_{t+k} - m) / var(z)``, mean m
        and variance over all rows. NaN for a constant latent, which is neither smooth nor rough,
        and where no sequence is longer than the lag.

    Raises
    ------
    DataError
        Shapes disagree, a value is not finite, or sequences are not in order.

    Notes
    -----
    The mean is that of all rows: a mean of each sequence would take slow differences between
    sequences for no correlation at all, and bring a bias of about -1/length.

    Examples
    --------
    >>> import torch
    >>> z = torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    >>> autocorrelation(z, torch.zeros(4, dtype=torch.int64), max_lag=1)[1].round(decimals=3)
    tensor([ 0.3330, -1.0000], dtype=torch.float64)
    """
    flat = _checked(activity, group)
    deviation = flat - flat.mean(0)
    variance = deviation.square().mean(0)
    # A constant column leaves rounding errors of its mean, not a variance.
    variance = torch.where(flat.amax(0) > flat.amin(0), variance, math.nan)
    curves = []
    for lag in range(max_lag + 1):
        first = lagged_rows(group, position, lag)
        products = deviation[first] * deviation[first + lag]
        curves.append(products.mean(0) / variance)  # the mean of no pair is NaN
    return torch.stack(curves)


def decorrelation_time(curves: Tensor, step: float = 1.0) -> Tensor:
    """Time at which an autocorrelation falls to 1/e, between lags by a straight line.

    Parameters
    ----------
    curves : Tensor
        [n_lags, d] from :func:`autocorrelation`, lag 0 first.
    step : float
        Time from one lag to the next: 1 gives rows, ``bin_size_s`` seconds.

    Returns
    -------
    Tensor
        [d] in units of ``step``. Infinite where the longest lag is still above 1/e: it lasts
        longer than was looked at. NaN where the curve is.

    Examples
    --------
    >>> import torch
    >>> k = torch.arange(40.0, dtype=torch.float64)
    >>> curves = torch.stack([torch.exp(-k / 5), torch.ones(40), (k == 0).double()], dim=1)
    >>> decorrelation_time(curves, step=0.1).round(decimals=3)
    tensor([0.5000,    inf, 0.0630], dtype=torch.float64)
    """
    level = 1 / math.e
    n_lags, width = curves.shape
    if n_lags < 2:
        return torch.full((width,), math.inf, dtype=curves.dtype).where(
            ~curves[0].isnan(), math.nan
        )
    below = curves <= level
    at = below.to(torch.int8).argmax(0).clamp_min(1)  # first lag at or below
    after, before = (curves.gather(0, (at - d)[None])[0] for d in (0, 1))
    lag = at - (level - after) / (before - after)
    found = torch.where(below.any(0), lag * step, math.inf)
    return torch.where(curves[0].isnan(), math.nan, found)


def activity_information(
    activity: Tensor,
    group: Tensor,
    position: Tensor | None = None,
    *,
    lag: int,
    correction: str = "miller_madow",
    n_shuffles: int = 5,
    seed: int = 0,
) -> Tensor:
    """What a latent's being active says of its being active ``lag`` rows later, as a share.

    Parameters
    ----------
    activity : Tensor
        [n, d]; above 0 is active.
    group, position : Tensor
        As :func:`lagged_rows` takes them.
    lag : int
        Rows from the first to the second.
    correction : str
        For the bias of a finite sample, which makes independent activity look related.
        ``"miller_madow"`` takes off (cells - rows - columns + 1) / 2N of the table, N pairs:
        1/2N nats where all four cells occur. It holds for pairs that are independent of each
        other; pairs of a slow latent overlap and are worth fewer. ``"shuffle"`` takes off the
        mean over circular shifts of the second rows against the first, by at least a tenth of
        the pairs: both keep their own autocorrelation, so that it holds for slow latents too.
        ``"none"`` takes off nothing.
    n_shuffles : int
        Shifts of ``"shuffle"``.
    seed : int
        Of the shifts.

    Returns
    -------
    Tensor
        [d] float64, ``I / H``: corrected mutual information over the entropy of being active, the
        mean of both ends of the pairs, with its own Miller-Madow correction. 1 where the
        state never changes hands, 0 on average for independent rows (so it may lie below 0).
        NaN where a latent is always on or always off among the pairs.

    Raises
    ------
    DataError
        Shapes disagree, a value is not finite, an unknown correction, or no pair at this lag.

    Notes
    -----
    Sources: Miller (1955) for the correction; Panzeri et al. (2007), J. Neurophysiol. 98, for
    shuffles in its place.

    Examples
    --------
    >>> import torch
    >>> z = torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]).repeat_interleave(50, 0)
    >>> group = torch.zeros(200, dtype=torch.int64)
    >>> activity_information(z, group, lag=1, correction="none").round(decimals=2)
    tensor([0.9600, 0.8900], dtype=torch.float64)
    """
    if correction not in CORRECTIONS:
        raise DataError(f"correction = {correction!r}: choose {', '.join(map(repr, CORRECTIONS))}")
    active = _checked(activity, group) > 0
    first = lagged_rows(group, position, lag)
    if not len(first):
        raise DataError(f"no sequence is longer than lag = {lag} rows: give a shorter lag")
    earlier, later = active[first], active[first + lag]
    n = len(first)
    information, entropy = _information(earlier, later, correction == "miller_madow")
    entropy = entropy + 1 / (2 * n)
    if correction == "shuffle":
        information = information - _by_chance(earlier, later, n_shuffles, seed)
    varies = _both(earlier) & _both(later)
    return torch.where(varies, information / entropy, math.nan)


def _by_chance(earlier: Tensor, later: Tensor, n_shuffles: int, seed: int) -> Tensor:
    """Mean information over circular shifts of one side against the other."""
    if n_shuffles < 1:
        raise DataError(f"n_shuffles = {n_shuffles}: the correction needs at least one")
    generator = torch.Generator().manual_seed(seed)
    n = len(earlier)
    low, high = max(n // 10, 1), max(n - n // 10, 2)
    offsets: Iterable[int] = torch.randint(low, high, (n_shuffles,), generator=generator).tolist()
    found = [_information(earlier, later.roll(offset, 0), False)[0] for offset in offsets]
    return torch.stack(found).mean(0)


def _both(active: Tensor) -> Tensor:
    return active.any(0) & ~active.all(0)


def _information(earlier: Tensor, later: Tensor, corrected: bool) -> tuple[Tensor, Tensor]:
    """Mutual information and mean entropy [d], nats, of two binary states [n, d]."""
    n = len(earlier)
    p, q = earlier.double().mean(0), later.double().mean(0)
    both = (earlier & later).double().mean(0)
    table = torch.stack([both, p - both, q - both, 1 - p - q + both]).clamp_min(0)
    table = torch.where(table * n < 0.5, 0.0, table)  # counts: what is less is rounding
    ends = torch.stack([p, 1 - p, q, 1 - q])

    def entropy(shares: Tensor) -> Tensor:
        return -torch.special.xlogy(shares, shares).sum(0)

    one, other = entropy(ends[:2]), entropy(ends[2:])
    information = one + other - entropy(table)
    if corrected:
        used = [(part > 0).sum(0) for part in (table, ends[:2], ends[2:])]
        information = information - (used[0] - used[1] - used[2] + 1) / (2 * n)
    return information, (one + other) / 2


def _checked(activity: Tensor, group: Tensor) -> Tensor:
    if activity.ndim != 2 or len(activity) != len(group):
        raise DataError(
            f"activity has shape {tuple(activity.shape)} and group {tuple(group.shape)}: give "
            "[n, d] and [n] for the same rows"
        )
    flat = activity.detach().to("cpu", torch.float64)
    if not bool(torch.isfinite(flat).all()):
        n_bad = int((~torch.isfinite(flat)).sum())
        raise DataError(f"{n_bad} of {flat.numel()} values are not finite: drop those rows first")
    return flat
