"""What a model asks of other processes while each of them holds a share of one batch.

Most terms are means over examples, and know nothing of this. Here is what the others need: the
mean of a statistic, and the cut that the whole batch's largest values make.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor


class Shares(Protocol):
    """Equal shares of a batch, each in a process of its own; this one holds number ``rank``."""

    @property
    def rank(self) -> int:
        """Number of this share, from 0, in the order of the batch."""
        ...

    @property
    def size(self) -> int:
        """How many there are."""
        ...

    def mean(self, value: Tensor) -> Tensor:
        """Mean over the shares of a tensor that all have; without gradients."""
        ...

    def gather(self, values: Tensor, alike: bool = False) -> Sequence[Tensor]:
        """The values [n] of every share, in their order; n may differ, unless they are alike."""
        ...


def mean_over(shares: Shares | None, value: Tensor) -> Tensor:
    """Mean over all shares, with the gradient of this share's own value.

    The mean of those gradients over the shares is that of the mean, so nothing has to travel on
    the way back.
    """
    return value if shares is None else value + (shares.mean(value) - value.detach())


def variance_over(shares: Shares, values: Tensor) -> Tensor:
    """``Σ‖v - mean(v)‖²`` about the mean of all shares [n, d], 0-d: the mean of theirs."""
    centre = shares.mean(values.mean(dim=0))
    return shares.mean((values - centre).square().sum())


@torch.no_grad()
def cut_over(shares: Shares, values: Tensor, n_wanted: int) -> tuple[Tensor, int] | None:
    """Where the largest positive values of all shares are cut.

    Only values near the cut travel: it lies between the smallest and the largest of the cuts that
    the shares would make by themselves.

    Parameters
    ----------
    shares
        Of which this process holds one.
    values
        Floats [n], this share's.
    n_wanted
        How many to keep per share, on average.

    Returns
    -------
    tuple or None
        The smallest value to be kept, 0-d, and how many that equal it are kept here: those of
        earlier shares come first. None where there are too few positive values.
    """
    values = values[values > 0]
    enough = len(values) >= n_wanted
    own = float(values.kthvalue(len(values) - n_wanted + 1).values) if enough else -math.inf
    known = torch.tensor([own, len(values)], dtype=torch.float64, device=values.device)
    cuts, counts = torch.stack(list(shares.gather(known, alike=True))).unbind(dim=1)
    n_all = n_wanted * shares.size
    if counts.sum() < n_all:
        return None
    low, high = cuts.min().to(values), cuts.max().to(values)
    # In double precision, which holds counts and values of any other exactly.
    near = values[(values >= low) & (values <= high)].double()
    above = (values > high).sum()[None].double()
    together = shares.gather(torch.cat([above, near]))
    parts = [part[1:] for part in together]
    n_near = n_all - sum(int(part[0]) for part in together)
    pool = torch.cat(parts)
    cut = pool.kthvalue(len(pool) - n_near + 1).values
    n_equal = n_near - int((pool > cut).sum())
    before = sum(int((part == cut).sum()) for part in parts[: shares.rank])
    own_equal = int((parts[shares.rank] == cut).sum())
    return cut.to(values), min(max(n_equal - before, 0), own_equal)


@torch.no_grad()
def kept_over(shares: Shares, values: Tensor, n_wanted: int) -> Tensor:
    """Which positive values of this share are among the largest of all, booleans of its shape."""
    found = cut_over(shares, values.flatten(), n_wanted)
    if found is None:
        return values > 0
    cut, n_equal = found
    kept = (values > cut).flatten()
    if n_equal:
        kept[(values.flatten() == cut).nonzero().flatten()[:n_equal]] = True
    return kept.view_as(values)
