"""Adam, and Adam with decoupled weight decay."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from saebook.training.config import TrainConfig
    from saebook.training.optimisers import Parameters


def make_adam(parameters: Parameters, config: TrainConfig) -> torch.optim.Optimizer:
    """Adam (Kingma & Ba 2015), fused: one pass over each parameter.

    ``weight_decay`` is an L2 term in the gradient, so it is divided by the second moment
    like the rest of it.
    """
    return torch.optim.Adam(
        parameters,
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        weight_decay=config.weight_decay,
        fused=True,
    )


def make_adamw(parameters: Parameters, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019), fused: weights shrink by ``lr * weight_decay`` a step."""
    return torch.optim.AdamW(
        parameters,
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        weight_decay=config.weight_decay,
        fused=True,
    )
