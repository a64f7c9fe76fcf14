"""From gradients to new weights: clipping, the optimiser, and decoder rows of unit norm."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from saebook.models import SAE
from saebook.training.config import TrainConfig
from saebook.training.dials import Rates
from saebook.training.distributed import sharded
from saebook.training.optimisers import OPTIMIZERS
from saebook.training.stacking import SAEStack, members_of, shape_of

RATE_FACTOR = "rate_factor"
# Rows of a decoder that are looked at at once, so that no second matrix of its size is needed.
ROWS = 8192


class Update:
    """Moves the weights of a model, or of each of a stack, along their gradients.

    Parameters
    ----------
    sae
        On its device.
    config
        Settings of the run.
    rate_factors
        Of each model, what its learning rate is multiplied by.
    shards
        Spread the optimiser's state over the processes.

    Attributes
    ----------
    optimizer : torch.optim.Optimizer
        Of all parameters, in a group for each learning rate.
    alive : Tensor
        0-d boolean, or [n] for a stack: whether every gradient so far was finite.
    frozen : set of int
        Members of a stack that learn no more.
    """

    def __init__(
        self,
        sae: SAE | SAEStack,
        config: TrainConfig,
        rate_factors: Sequence[float],
        shards: bool = False,
    ):
        self._sae, self._members, self._config = sae, members_of(sae), config
        self.optimizer = self._make_optimizer(rate_factors, shards)
        self._factors = [group.get(RATE_FACTOR, 1.0) for group in self.optimizer.param_groups]
        self.alive = torch.ones(shape_of(sae), dtype=torch.bool, device=sae.W_dec.device)
        self.frozen: set[int] = set()

    def rates(self, learning_rate: float) -> list[float]:
        """Learning rate of each group of parameters."""
        return [learning_rate * factor for factor in self._factors]

    @torch.no_grad()
    def __call__(self, rates: Rates) -> Tensor:
        """Take the step that the gradients say.

        Parameters
        ----------
        rates
            Learning rate of each group of parameters.

        Returns
        -------
        Tensor
            Norm of each model's gradient before it was cut to the limit.
        """
        self._set(rates)
        unit_norm = self._sae.config.decoder_norm == "unit"
        if unit_norm:
            self._project_decoder_gradient()
        norm = self._clip()
        for i in self.frozen:
            self._members[i].zero_grad(set_to_none=True)
        self.optimizer.step()
        if unit_norm:
            self._normalise_decoder()
        return norm

    def _set(self, rates: Rates) -> None:
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    def _clip(self) -> Tensor:
        """Norm of each model's gradient, which is cut to the limit."""
        limit = self._config.clip_norm if self._config.clip_norm is not None else float("inf")
        gradients = [p.grad for p in self._sae.parameters() if p.grad is not None]
        n = self.alive.ndim
        own_axes = [tuple(range(n, gradient.ndim)) for gradient in gradients]
        norms = [torch.linalg.vector_norm(g, dim=axes) for g, axes in zip(gradients, own_axes)]
        norm = torch.stack(norms).norm(dim=0)
        self.alive &= norm.isfinite()
        factor = (limit / (norm + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(_beside(factor, gradient))
            if n:
                gradient.masked_fill_(_beside(~self.alive, gradient), 0.0)
        return norm

    def _project_decoder_gradient(self) -> None:
        """Drop the part of each row's gradient that would only change its norm."""
        gradient, rows = self._sae.W_dec.grad, self._sae.W_dec
        assert gradient is not None
        for part, of in zip(gradient.split(ROWS, dim=-2), rows.split(ROWS, dim=-2)):
            part.addcmul_(of, (part * of).sum(dim=-1, keepdim=True), value=-1.0)

    def _normalise_decoder(self) -> None:
        self._sae.W_dec.div_(self._sae.W_dec.norm(dim=-1, keepdim=True).clamp_min(1e-12))

    def _make_optimizer(self, factors: Sequence[float], shards: bool) -> torch.optim.Optimizer:
        """One optimiser of all parameters, in a group for each learning rate."""
        make, config = OPTIMIZERS[self._config.optimizer], self._config
        if shards:
            return sharded(list(self._members[0].parameters()), partial(make, config=config))
        if set(factors) == {1.0}:
            return make([p for member in self._members for p in member.parameters()], config)
        groups: dict[float, list[nn.Parameter]] = {}
        for member, factor in zip(self._members, factors, strict=True):
            groups.setdefault(factor, []).extend(member.parameters())
        return make([{"params": ps, RATE_FACTOR: factor} for factor, ps in groups.items()], config)


def _beside(values: Tensor, gradient: Tensor) -> Tensor:
    """What belongs to each model, with the axes that it needs to be multiplied with a gradient."""
    return values.reshape(*values.shape, *[1] * (gradient.ndim - values.ndim))
