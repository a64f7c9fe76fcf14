"""Optimisers by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from saebook.training.config import TrainConfig


def adam(parameters: Iterable[nn.Parameter], config: TrainConfig) -> torch.optim.Optimizer:
    """Adam (Kingma & Ba 2015), fused: one pass over each parameter."""
    return torch.optim.Adam(
        parameters, lr=config.learning_rate, betas=(config.beta1, config.beta2), fused=True
    )


OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter], TrainConfig], torch.optim.Optimizer]] = {
    "adam": adam
}
