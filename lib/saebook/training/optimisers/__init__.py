"""Optimisers by name; each is made from parameters and a ``TrainConfig``.

With ``stacked=True`` the parameters carry a leading axis of independent models.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

import torch
from torch import nn

from saebook.training.optimisers.adam import make_adam, make_adamw
from saebook.training.optimisers.lamb import Lamb, make_lamb
from saebook.training.optimisers.muon import MuonAndAdam, make_muon
from saebook.training.optimisers.nadam import make_nadam
from saebook.training.optimisers.reset import reset_state
from saebook.training.optimisers.sgd import make_sgd

if TYPE_CHECKING:
    from saebook.training.config import TrainConfig


class MakeOptimizer(Protocol):
    """What an entry of ``OPTIMIZERS`` takes and gives."""

    def __call__(
        self, parameters: Iterable[nn.Parameter], config: TrainConfig, *, stacked: bool = False
    ) -> torch.optim.Optimizer:
        """Make an optimiser of these parameters."""
        ...


OPTIMIZERS: dict[str, MakeOptimizer] = {
    "adam": make_adam,
    "adamw": make_adamw,
    "nadam": make_nadam,
    "lamb": make_lamb,
    "sgd": make_sgd,
    "muon": make_muon,
}

__all__ = [
    "OPTIMIZERS",
    "Lamb",
    "MakeOptimizer",
    "MuonAndAdam",
    "reset_state",
]
