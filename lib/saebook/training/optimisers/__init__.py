"""Optimisers by name; each is made from parameters, or groups of them, and a ``TrainConfig``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

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


# As torch.optim takes them: tensors, or dictionaries with settings of their own.
Parameters = Iterable[nn.Parameter] | Iterable[dict[str, Any]]


class MakeOptimizer(Protocol):
    """What an entry of ``OPTIMIZERS`` takes and gives."""

    def __call__(self, parameters: Parameters, config: TrainConfig) -> torch.optim.Optimizer:
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
    "Parameters",
    "reset_state",
]
