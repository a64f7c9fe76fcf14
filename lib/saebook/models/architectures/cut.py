"""The threshold that a wanted number of values exceeds."""

from __future__ import annotations

from torch import Tensor


def cut_between(positive: Tensor, n_active: int) -> Tensor:
    """Midway between the smallest value that is kept and the largest that is dropped.

    A threshold equal to a value would leave it to rounding on which side that falls.

    Parameters
    ----------
    positive
        Values [n], none below zero.
    n_active
        How many to keep; all, where there are fewer.

    Examples
    --------
    >>> import torch
    >>> cut_between(torch.tensor([0.0, 3.0, 1.0, 2.0]), 2).item()
    1.5
    """
    n_active = min(n_active, positive.numel())
    kept_last = positive.kthvalue(positive.numel() - n_active + 1).values
    below = positive[positive < kept_last]
    dropped_first = below.max() if len(below) else kept_last.new_zeros(())
    return (kept_last + dropped_first) / 2
