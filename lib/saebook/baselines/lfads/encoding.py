"""Bidirectional encoders: torch's own, and on a CPU all directions of all of them side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from saebook.baselines.lfads.cells import KeptCell


def encode_plain(x: Tensor, encoders: Sequence[nn.GRU]) -> list[Tensor]:
    """States [T, B, 2H] of each encoder over x [T, B, N], forward ones first."""
    return [encoder(x)[0] for encoder in encoders]


def encode_side_by_side(x: Tensor, encoders: Sequence[nn.GRU]) -> list[Tensor]:
    """What :func:`encode_plain` gives, and its gradients, from one loop over bins.

    Torch walks through the directions of encoders one after the other on a CPU, at some
    twenty operations for each bin and direction; here are eight for all of them.

    Parameters
    ----------
    x
        [T, B, N].
    encoders
        Bidirectional, of one layer and one width.
    """
    n = 2 * len(encoders)

    def stacked(name: str) -> Tensor:
        return torch.stack(
            [getattr(e, f"{name}_l0{end}") for e in encoders for end in ("", "_reverse")]
        )

    weight_ih, bias_ih = stacked("weight_ih"), stacked("bias_ih")
    sent = nn.functional.linear(x, weight_ih.flatten(0, 1), bias_ih.flatten())  # [T, B, n · 3H]
    sent = sent.unflatten(2, (n, -1)).movedim(2, 1)  # [T, n, B, 3H]
    # Backward directions read the bins in reverse; their states are turned round again.
    sent = torch.stack([sent[:, 0::2], sent[:, 1::2].flip(0)], dim=2).flatten(1, 2)
    states = _SideBySide.apply(sent, stacked("weight_hh").mT, stacked("bias_hh")[:, None])
    forward, backward = states[:, 0::2], states[:, 1::2].flip(0)
    return list(torch.cat([forward, backward], dim=3).unbind(1))


class _SideBySide(torch.autograd.Function):
    """Gated recurrent units [T, n, B, 3H] -> [T, n, B, H], from states of 0."""

    @staticmethod
    def forward(ctx: Any, sent: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        n_bins, n, batch, width = sent.shape
        cell = KeptCell(sent.new_zeros(n, batch, width // 3), n_bins)
        for t in range(n_bins):
            cell.step(t, sent[t], weight, bias)
        ctx.cell, ctx.weight = cell, weight
        return cell.states[1:].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (d_states,), cell = grads, ctx.cell
        by_sent, by_recurrent = cell.slopes()
        update, weight_t = cell.gates[..., cell.width :], ctx.weight.mT
        d_state = torch.zeros_like(cell.states[0])
        for t in range(len(d_states) - 1, -1, -1):
            d_state = (d_state + d_states[t])[..., None, :]
            by_sent[t].mul_(d_state)
            back = by_recurrent[t].mul_(d_state).flatten(-2)
            d_state = torch.addcmul(back @ weight_t, d_state[..., 0, :], update[t])
        back = by_recurrent.flatten(-2).movedim(0, 1).flatten(1, 2)  # [n, T · B, 3H]
        before = cell.states[:-1].movedim(0, 1).flatten(1, 2)
        return by_sent.flatten(-2), before.mT @ back, back.sum(dim=1, keepdim=True)
