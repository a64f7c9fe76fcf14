"""Stochastic gradient descent with momentum."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from saebook.training.config import TrainConfig


def make_sgd(
    parameters: Iterable[nn.Parameter], config: TrainConfig, *, stacked: bool = False
) -> torch.optim.Optimizer:
    """Gradient descent with heavy-ball momentum (Polyak 1964), fused.

    Its step is proportional to the gradient, so the learning rate that suits it depends on
    the loss; Adam's does not carry over. ``weight_decay`` is an L2 term in the gradient.
    """
    del stacked  # each number is updated by itself
    return torch.optim.SGD(
        parameters,
        lr=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        fused=True,
    )
