"""NAdam: Adam with Nesterov momentum."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from saebook.training.config import TrainConfig
    from saebook.training.optimisers import Parameters


def make_nadam(parameters: Parameters, config: TrainConfig) -> torch.optim.Optimizer:
    """NAdam (Dozat 2016): momentum grows as ``beta1 * (1 - 0.96 ** (t * momentum_decay) / 2)``.

    ``weight_decay`` is an L2 term in the gradient, as in Adam.
    """
    return torch.optim.NAdam(
        parameters,
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        weight_decay=config.weight_decay,
        momentum_decay=config.momentum_decay,
    )
