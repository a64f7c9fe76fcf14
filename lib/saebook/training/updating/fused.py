"""The update of a large model on a GPU: each row of its matrices is read and written once."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from saebook.models import SAE
from saebook.training.config import TrainConfig
from saebook.training.dials import Rates
from saebook.training.stacking import SAEStack
from saebook.training.updating.plain import Update

# Numbers of a row that a program can hold, with those of its moments.
LONGEST_ROW = 8192
OPTIMIZERS = {"adam": False, "adamw": True}  # whether weight decay is decoupled


class FusedUpdate(Update):
    """What :class:`Update` does, but for rounding, in two passes over the matrices.

    The plain update reads or writes each number of a decoder of unit norm 20 times; this one 9
    times: 2 for the norm, 7 for the rest. The optimiser's state is kept where torch's Adam keeps
    it, so checkpoints are the same.
    """

    @torch.no_grad()
    def __call__(self, rates: Rates) -> Tensor:
        """As the plain one."""
        import triton

        from saebook.training.updating import kernels

        self._set(rates)
        sae, device = self._sae, self._sae.W_dec.device
        matrices = [p for p in (sae.encoder_rows, sae.W_dec) if p.grad is not None]
        others = [p for p in sae.parameters() if not any(p is m for m in matrices)]
        others = [p for p in others if p.grad is not None]
        parts = []
        for p in matrices:
            unit = p is sae.W_dec and sae.config.decoder_norm == "unit"
            squares = torch.empty(len(p), device=device)
            along = torch.empty(len(p) if unit else 1, device=device)
            constants = {"UNIT": unit, "BLOCK": triton.next_power_of_2(p.shape[1])}
            _each_row(kernels.square_rows, p, (p.grad, p, along, squares), constants)
            parts.append((p, along, squares, constants))
        sums = [squares.sum() for _, _, squares, _ in parts]
        sums += [p.grad.square().sum() for p in others if p.grad is not None]
        norm = torch.stack(sums).sum().sqrt()
        self.alive &= norm.isfinite()
        limit = self._config.clip_norm if self._config.clip_norm is not None else float("inf")
        factor = (limit / (norm + 1e-6)).clamp(max=1.0)
        rate = torch.as_tensor(rates[0], dtype=torch.float32, device=device)
        for p, along, _, constants in parts:
            self._move(p, along, factor, rate, constants)
        for p in others:
            assert p.grad is not None
            p.grad.mul_(factor)
        self.optimizer.step()
        return norm

    def _move(
        self, p: nn.Parameter, along: Tensor, factor: Tensor, rate: Tensor, constants: dict
    ) -> None:
        from saebook.training.updating import kernels

        state, settings = self.optimizer.state[p], self.optimizer.param_groups[0]
        if not state:
            state["step"] = torch.zeros((), device=p.device)
            state["exp_avg"] = torch.zeros_like(p)
            state["exp_avg_sq"] = torch.zeros_like(p)
        state["step"].add_(1)
        beta1, beta2 = settings["betas"]
        of_adam = {
            "BETA1": beta1,
            "BETA2": beta2,
            "LOG_BETA1": math.log(beta1) if beta1 else -math.inf,
            "LOG_BETA2": math.log(beta2) if beta2 else -math.inf,
            "EPS": settings["eps"],
            "DECAY": settings["weight_decay"],
            "DECOUPLED": OPTIMIZERS[self._config.optimizer],
        }
        moments = (state["exp_avg"], state["exp_avg_sq"])
        tensors = (p.grad, p, *moments, along, factor, rate, state["step"])
        _each_row(kernels.adam_rows, p, tensors, of_adam | constants)
        # Its step is taken.
        p.grad = None


def takes(sae: SAE | SAEStack, config: TrainConfig, shards: bool) -> bool:
    """Whether a model's rows can be updated so: one model of float32, by Adam, all of its state here."""
    return (
        isinstance(sae, SAE)
        and not shards
        and config.optimizer in OPTIMIZERS
        and sae.W_dec.dtype == torch.float32
        and max(sae.config.d_encoder, sae.W_dec.shape[1]) <= LONGEST_ROW
    )


def _each_row(kernel: Any, p: Tensor, tensors: tuple, constants: dict) -> None:
    from saebook.models.sparse.gpu.launching import launch

    warps = min(max(constants["BLOCK"] // 512, 1), 16)
    launch(kernel, (len(p),), *tensors, p.shape[1], warps=warps, **constants)
