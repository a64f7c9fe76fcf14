"""Adam, and Adam with decoupled weight decay."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from saebook.training.config import TrainConfig


def make_adam(
    parameters: Iterable[nn.Parameter], config: TrainConfig, *, stacked: bool = False
) -> torch.optim.Optimizer:
    """Adam (Kingma & Ba 2015), fused: one pass over each parameter.

    ``weight_decay`` is an L2 term in the gradient, so it is divided by the second moment
    like the rest of it.
    """
    del stacked  # each number is updated by itself
    return torch.optim.Adam(
        parameters,
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        weight_decay=config.weight_decay,
        fused=True,
    )


def make_adamw(
    parameters: Iterable[nn.Parameter], config: TrainConfig, *, stacked: bool = False
) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019), fused: weights shrink by ``lr * weight_decay`` a step."""
    del stacked  # each number is updated by itself
    return torch.optim.AdamW(
        parameters,
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        weight_decay=config.weight_decay,
        fused=True,
    )
