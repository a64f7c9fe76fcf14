"""What is applied to a reconstruction in the caller's units. One line each."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def _softplus_inverse(y: Tensor) -> Tensor:
    # Where y is large, log(expm1(y)) is y.
    return torch.where(y > 20, y, y.clamp_min(1e-6).expm1().log())


# Name: what is applied, and what it takes to get a value out.
OUTPUTS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "none": (lambda y: y, lambda y: y),
    "relu": (torch.relu, lambda y: y),
    "softplus": (F.softplus, _softplus_inverse),
}
