"""Stochastic gradient descent with momentum."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from saebook.training.config import TrainConfig
    from saebook.training.optimisers import Parameters


def make_sgd(parameters: Parameters, config: TrainConfig) -> torch.optim.Optimizer:
    """Gradient descent with heavy-ball momentum (Polyak 1964), fused.

    Its step is proportional to the gradient, so the learning rate that suits it depends on
    the loss; Adam's does not carry over. ``weight_decay`` is an L2 term in the gradient.
    """
    return torch.optim.SGD(
        parameters,
        lr=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        fused=True,
    )
