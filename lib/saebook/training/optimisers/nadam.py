"""NAdam: Adam with Nesterov momentum."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from saebook.training.config import TrainConfig


def make_nadam(
    parameters: Iterable[nn.Parameter], config: TrainConfig, *, stacked: bool = False
) -> torch.optim.Optimizer:
    """NAdam (Dozat 2016): momentum grows as ``beta1 * (1 - 0.96 ** (t * momentum_decay) / 2)``.

    ``weight_decay`` is an L2 term in the gradient, as in Adam.
    """
    del stacked  # each number is updated by itself
    return torch.optim.NAdam(
        parameters,
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        weight_decay=config.weight_decay,
        momentum_decay=config.momentum_decay,
    )
