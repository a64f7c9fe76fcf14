"""LAMB: Adam whose step is proportional to the norm of what it changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from saebook.training.config import TrainConfig
    from saebook.training.optimisers import Parameters


class Lamb(torch.optim.Optimizer):
    """Layer-wise adaptive Adam.

    With Adam's bias-corrected moments ``m`` and ``v``, each parameter ``w`` moves by::

        r = m / (sqrt(v) + eps) + weight_decay * w
        w -= lr * (‖w‖ / ‖r‖) * r

    so one step changes every parameter by the same share ``lr`` of its own norm. Where either
    norm is zero (a bias that starts at 0) the ratio is 1.

    Parameters
    ----------
    parameters
        Parameters of any shape; or groups, as in torch.optim.
    lr
        Share of its norm by which a parameter moves in one step.
    betas
        Decays of the first and second moment.
    eps
        Added to the square root of the second moment.
    weight_decay
        Share of the parameter added to its update, before norms are taken.

    References
    ----------
    You et al. 2020, "Large batch optimization for deep learning: training BERT in 76 minutes",
    algorithm 2, with φ the identity.

    Examples
    --------
    Adam's first step is ±lr; here it is lr times the norm of ``w``, 5:

    >>> w = torch.nn.Parameter(torch.tensor([3.0, -4.0]))
    >>> optimizer = Lamb([w], lr=0.1)
    >>> w.grad = torch.tensor([0.0, 2.0])
    >>> optimizer.step()
    >>> w.detach()
    tensor([ 3.0000, -4.5000])
    """

    def __init__(
        self,
        parameters: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
    ):
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
        }
        super().__init__(parameters, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take one step; with a closure, evaluate it first and return its loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)
        return loss

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        state["step"] += 1
        beta1, beta2 = group["betas"]
        first = state["exp_avg"].lerp_(gradient, 1 - beta1)
        second = state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        root = second.div(1 - beta2 ** state["step"]).sqrt_().add_(group["eps"])
        update = first.div(1 - beta1 ** state["step"]).div_(root)
        update.add_(parameter, alpha=group["weight_decay"])
        ratio = _trust_ratio(parameter, update)
        parameter.sub_(update.mul_(ratio), alpha=group["lr"])


def _trust_ratio(parameter: Tensor, update: Tensor) -> Tensor:
    size, length = torch.linalg.vector_norm(parameter), torch.linalg.vector_norm(update)
    return torch.where((size > 0) & (length > 0), size / length, 1.0)


def make_lamb(parameters: Parameters, config: TrainConfig) -> torch.optim.Optimizer:
    """LAMB, the notes' "LAdam": see :class:`Lamb`."""
    return Lamb(
        parameters,
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        weight_decay=config.weight_decay,
    )
