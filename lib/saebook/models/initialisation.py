"""Initial weights: random ones from a seed, and those that wait for data."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

MEDIAN_STEPS = 100


def uniform(rows: int, columns: int, fan: float, generator: torch.Generator) -> Tensor:
    """Uniform values [rows, columns] of variance ``2 / fan``."""
    limit = math.sqrt(6 / fan)
    return (2 * torch.rand(rows, columns, generator=generator) - 1) * limit


def _unit(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    return F.normalize(torch.randn(rows, columns, generator=generator), dim=1)


def _he(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    return uniform(rows, columns, columns, generator)


def _xavier(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    return uniform(rows, columns, rows + columns, generator)


# Rows of W_dec [d_sae, width]. "data" begins as "unit", until rows to copy are seen.
DECODER_INITS: dict[str, Callable[[int, int, torch.Generator], Tensor]] = {
    "unit": _unit,
    "he": _he,
    "xavier": _xavier,
    "data": _unit,
}
# Rows of the encoder [d_sae, d_encoder]; "transpose" takes the decoder's.
ENCODER_INITS: dict[str, Callable[[int, int, torch.Generator], Tensor] | None] = {
    "transpose": None,
    "he": _he,
    "xavier": _xavier,
}
B_DEC_INITS = ("mean", "zero", "geometric_median")


def geometric_median(x: Tensor) -> Tensor:
    """The point with the least summed distance to rows x [n, d], by Weiszfeld's iteration.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[0.0], [0.0], [9.0]])  # the mean is 3
    >>> round(geometric_median(x).item(), 3)
    0.0
    """
    point = x.mean(dim=0)
    for _ in range(MEDIAN_STEPS):
        weight = 1 / (x - point).norm(dim=1).clamp_min(1e-9)
        moved = (weight[:, None] * x).sum(dim=0) / weight.sum()
        if (moved - point).norm() <= 1e-7 * (1 + point.norm()):
            return moved
        point = moved
    return point


def spread_rows(x: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """n random rows of x [m, d]; repeated where there are fewer rows than asked for."""
    order = torch.randperm(len(x), generator=generator)
    return x[order.repeat(-(-n // len(order)))[:n].to(x.device)]
