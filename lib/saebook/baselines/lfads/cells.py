"""Parts of LFADS' networks: a GRU cell whose products are made outside, weights, dropout."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

Drop = Callable[[Tensor], Tensor]


def gru_step(from_input: Tensor, from_state: Tensor, state: Tensor) -> Tensor:
    """One step of a gated recurrent unit, from its two affine maps.

    Parameters
    ----------
    from_input
        [B, 3H]: W_i x + b_i, in torch's order: reset, update, candidate.
    from_state
        [B, 3H]: W_h h + b_h in the same order.
    state
        [B, H]: h.

    Returns
    -------
    Tensor
        [B, H]: ``z h + (1 - z) n`` with ``r, z = σ(i + h parts)``, ``n = tanh(i_n + r h_n)``.
        Between h and ±1, so a state that begins within ±c, c ≥ 1, stays there.

    References
    ----------
    Cho et al. 2014, "Learning phrase representations using RNN encoder-decoder" (arXiv
    1406.1078).

    Examples
    --------
    >>> gates = torch.tensor([[0.0, -100.0, 0.5]])  # update gate shut: the candidate alone
    >>> round(gru_step(gates, torch.zeros(1, 3), torch.ones(1, 1)).item(), 4)  # tanh(0.5)
    0.4621
    """
    width = state.shape[1]
    gates = (from_input[:, : 2 * width] + from_state[:, : 2 * width]).sigmoid()
    reset, update = gates[:, :width], gates[:, width:]
    candidate = torch.addcmul(from_input[:, 2 * width :], reset, from_state[:, 2 * width :]).tanh()
    return torch.lerp(candidate, state, update)


class KeptCell:
    """A gated recurrent unit that keeps what its derivative needs, for all bins.

    Parameters
    ----------
    first
        [..., B, H]: its state before the first bin; leading axes are units side by side.
    n_bins
        Number of bins T.

    Attributes
    ----------
    states
        [T + 1, ..., B, H], the first before any bin.
    """

    def __init__(self, first: Tensor, n_bins: int) -> None:
        self.width = width = first.shape[-1]
        self.states = first.new_empty(n_bins + 1, *first.shape)
        self.states[0] = first
        self.gates = first.new_empty(n_bins, *first.shape[:-1], 2 * width)
        self.candidates = first.new_empty(n_bins, *first.shape)
        self.recalled = first.new_empty(n_bins, *first.shape)

    def step(self, t: int, sent: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """State after bin t, from what was sent to the gates [..., B, 3H]."""
        width, state = self.width, self.states[t]
        recurrent = (state @ weight).add_(bias)
        gates = torch.add(sent[..., : 2 * width], recurrent[..., : 2 * width], out=self.gates[t])
        gates.sigmoid_()
        recalled = self.recalled[t].copy_(recurrent[..., 2 * width :])
        candidate = torch.addcmul(
            sent[..., 2 * width :], gates[..., :width], recalled, out=self.candidates[t]
        ).tanh_()
        return torch.lerp(candidate, state, gates[..., width:], out=self.states[t + 1])

    def slopes(self) -> tuple[Tensor, Tensor]:
        """Derivatives [T, ..., B, 3, H] of a state by what was sent, and by what was recurrent."""
        reset, update = self.gates.chunk(2, dim=-1)
        new = (1 - update) * (1 - self.candidates.square())
        of_reset = new * self.recalled * reset * (1 - reset)
        of_update = (self.states[:-1] - self.candidates) * update * (1 - update)
        by_sent = torch.stack([of_reset, of_update, new], dim=-2)
        return by_sent, torch.stack([of_reset, of_update, new * reset], dim=-2)


def unit_rows(weight: Tensor) -> Tensor:
    """Rows divided by their norms.

    Examples
    --------
    >>> unit_rows(torch.tensor([[3.0, 4.0]]))
    tensor([[0.6000, 0.8000]])
    """
    return nn.functional.normalize(weight, dim=1)


def drop_with(p: float, generator: torch.Generator) -> Drop:
    """Dropout that draws from a generator of its own.

    Parameters
    ----------
    p
        Share of entries set to 0; the others are divided by 1 - p.
    generator
        Source of the draws.

    Examples
    --------
    >>> drop = drop_with(0.5, torch.Generator().manual_seed(0))
    >>> sorted(set(drop(torch.ones(100)).tolist()))
    [0.0, 2.0]
    """

    def drop(x: Tensor) -> Tensor:
        if p == 0:
            return x
        return x * torch.empty_like(x).bernoulli_(1 - p, generator=generator).div_(1 - p)

    return drop


def keep(x: Tensor) -> Tensor:
    """No dropout."""
    return x


def draw_weights(module: nn.Module, generator: torch.Generator) -> None:
    """Fill a module's parameters: weights N(0, 1/fan-in), biases 0, of GRU gates 1.

    A gate that begins open, at σ(1), lets states and gradients last for more bins.

    Parameters
    ----------
    module
        Its matrices are [outputs, inputs]. Biases of GRUs have names with ``bias_ih``.
    generator
        Source of the draws; the global one is not touched.
    """
    for name, parameter in module.named_parameters():
        with torch.no_grad():
            if parameter.ndim == 2:
                parameter.normal_(0, 1 / math.sqrt(parameter.shape[1]), generator=generator)
            else:
                parameter.zero_()
                if "bias_ih" in name:
                    parameter[: 2 * len(parameter) // 3] = 1
