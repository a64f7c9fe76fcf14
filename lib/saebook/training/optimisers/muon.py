"""Muon for weight matrices, Adam for everything else, as one optimiser."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from saebook.errors import ConfigError

if TYPE_CHECKING:
    from saebook.training.config import TrainConfig
    from saebook.training.optimisers import Parameters


class MuonAndAdam(torch.optim.Optimizer):
    """Muon (Jordan 2024) on 2-D parameters and AdamW on the others, behind one interface.

    Muon replaces the momentum of a matrix by the nearest matrix with equal singular values
    (five Newton-Schulz iterations in bfloat16). Its updates are scaled to the size of Adam's
    ("match_rms_adamw", Liu et al. 2025), so that one learning rate serves both.

    Parameters
    ----------
    parameters
        Parameters [rows, columns] for Muon; those of any other number of axes go to AdamW.
    lr, weight_decay
        Of both; weight decay is decoupled.
    momentum
        Of Muon, with Nesterov's look-ahead.
    betas
        Of AdamW.

    Examples
    --------
    >>> weight, bias = torch.nn.Parameter(torch.eye(2)), torch.nn.Parameter(torch.zeros(2))
    >>> optimizer = MuonAndAdam([weight, bias], lr=0.1)
    >>> weight.grad, bias.grad = torch.eye(2), torch.ones(2)
    >>> optimizer.step()
    >>> bias.detach()
    tensor([-0.1000, -0.1000])
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ):
        parameters = list(parameters)
        matrices = [p for p in parameters if p.ndim == 2]
        others = [p for p in parameters if p.ndim != 2]
        self._parts: list[torch.optim.Optimizer] = []
        if matrices:
            self._parts.append(
                torch.optim.Muon(
                    matrices,
                    lr=lr,
                    weight_decay=weight_decay,
                    momentum=momentum,
                    adjust_lr_fn="match_rms_adamw",
                )
            )
        if others:
            self._parts.append(
                torch.optim.AdamW(others, lr=lr, betas=betas, weight_decay=weight_decay, fused=True)
            )
        groups = [group for part in self._parts for group in part.param_groups]
        super().__init__(groups, {})
        self._share()

    def _share(self) -> None:
        # The parts read and write this object's groups and state, so that a learning rate set
        # here, a reset or a checkpoint reaches them.
        for part, group in zip(self._parts, self.param_groups, strict=True):
            part.param_groups, part.state = [group], self.state

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take one step; with a closure, evaluate it first and return its loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self._parts:
            part.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the state of another optimiser of the same parameters."""
        super().load_state_dict(state_dict)
        self._share()


def make_muon(parameters: Parameters, config: TrainConfig) -> torch.optim.Optimizer:
    """Muon for matrices, AdamW for the rest: see :class:`MuonAndAdam`.

    Raises
    ------
    ConfigError
        The parameters come in groups.
    """
    given = list(parameters)
    if any(isinstance(part, dict) for part in given):
        raise ConfigError(
            "optimizer='muon' with several learning rates in one stack: it takes one; train each "
            "learning rate in a stack of its own, or use optimizer='adam'"
        )
    return MuonAndAdam(
        cast("list[nn.Parameter]", given),
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )
