"""Controller and generator over time: a plain loop to read, and a fast one with the same numbers.

The fast one knows its own derivative. Whatever of it needs no step's result is computed for all
bins at once, and weights get their gradients from one product each: a training step of small
networks on a CPU then takes about half as long.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from saebook.baselines.lfads.cells import KeptCell, gru_step

# Smallest variance of a posterior; it keeps logarithms from running away where priors are weak.
LEAST_VARIANCE = 1e-4


class Start(NamedTuple):
    """What the loop begins with and is driven by.

    Parameters
    ----------
    state
        [B, G]: the generator's first state.
    control
        [B, C]: the controller's first state.
    drive
        [T, B, 3C]: what the encoded counts send to the controller's gates, its bias included.
    noise
        [T, B, U]: standard normal draws.
    masks
        [T, B, G]: dropout of the states that the controller sees, those before each bin.
    """

    state: Tensor
    control: Tensor
    drive: Tensor
    noise: Tensor
    masks: Tensor


class Weights(NamedTuple):
    """Weights of the loop, inputs first: ``x @ w + b``.

    Parameters
    ----------
    feedback
        [G, 3C]: from the generator's state through the factors to the controller's gates.
    control, control_bias
        [C, 3C] and [3C]: from the controller's state to its gates.
    code, code_bias
        [C, 2U] and [2U]: from the controller's state to mean and log variance of the inputs.
    given, given_bias
        [U, 3G] and [3G]: from inputs to the generator's gates.
    state, state_bias
        [G, 3G] and [3G]: from the generator's state to its gates.
    """

    feedback: Tensor
    control: Tensor
    control_bias: Tensor
    code: Tensor
    code_bias: Tensor
    given: Tensor
    given_bias: Tensor
    state: Tensor
    state_bias: Tensor


class Path(NamedTuple):
    """What the loop gives for each bin.

    Parameters
    ----------
    states
        [T, B, G]: of the generator.
    inputs
        [T, B, U]: the draw.
    mean, logvar
        [T, B, U]: the posterior that it is drawn from.
    """

    states: Tensor
    inputs: Tensor
    mean: Tensor
    logvar: Tensor


def run_plain(start: Start, weights: Weights) -> Path:
    """The loop as it reads; :class:`Path` has its shapes."""
    state, control, drive, noise, masks = start
    w = weights
    path = []
    for sent, draw, mask in zip(drive, noise, masks):
        sent = sent + (state * mask) @ w.feedback
        control = gru_step(sent, torch.addmm(w.control_bias, control, w.control), control)
        mean, logvar = torch.addmm(w.code_bias, control, w.code).chunk(2, dim=1)
        variance = logvar.exp() + LEAST_VARIANCE
        given = mean + variance.sqrt() * draw
        sent = torch.addmm(w.given_bias, given, w.given)
        state = gru_step(sent, torch.addmm(w.state_bias, state, w.state), state)
        path.append((state, given, mean, variance.log()))
    return Path(*map(torch.stack, zip(*path)))


def run_fast(start: Start, weights: Weights) -> Path:
    """What :func:`run_plain` gives, and its gradients, in less time."""
    return Path(*_Loop.apply(*start, *weights))


class _Loop(torch.autograd.Function):
    """The loop with a derivative of its own."""

    @staticmethod
    def forward(ctx: Any, *arguments: Tensor) -> tuple[Tensor, ...]:
        start, w = Start(*arguments[:5]), Weights(*arguments[5:])
        n_bins = len(start.noise)
        control, state = KeptCell(start.control, n_bins), KeptCell(start.state, n_bins)
        codes = start.noise.new_empty(*start.noise.shape[:2], w.code.shape[1])
        inputs = torch.empty_like(start.noise)
        for t in range(n_bins):
            seen = state.states[t] * start.masks[t]
            now = control.step(
                t, torch.addmm(start.drive[t], seen, w.feedback), w.control, w.control_bias
            )
            mean, logvar = torch.addmm(w.code_bias, now, w.code, out=codes[t]).chunk(2, dim=1)
            spread = logvar.exp().add_(LEAST_VARIANCE).sqrt_()
            given = torch.addcmul(mean, spread, start.noise[t], out=inputs[t])
            sent = torch.addmm(w.given_bias, given, w.given)
            state.step(t, sent, w.state, w.state_bias)
        mean, logvar = codes.chunk(2, dim=2)
        free = logvar.exp()
        variance = free + LEAST_VARIANCE
        ctx.cells, ctx.weights, ctx.start = (control, state), w, start
        ctx.inputs, ctx.free, ctx.variance = inputs, free, variance
        ctx.set_materialize_grads(True)
        # A copy: the cell's own states must not be changed by whoever gets them.
        return state.states[1:].clone(), inputs.clone(), mean.clone(), variance.log()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        d_states, d_inputs, d_mean, d_logvar = grads
        (control, state), w, start = ctx.cells, ctx.weights, ctx.start
        n_bins, n, n_inputs = start.noise.shape
        sent_c, back_c = control.slopes()
        sent_g, back_g = state.slopes()
        # Slopes become gradients in their place.
        update_c, update_g = (cell.gates[..., cell.width :] for cell in (control, state))
        # Of a code's log variance: through the draw, and through the divergence.
        by_draw = 0.5 * start.noise * ctx.free / ctx.variance.sqrt()
        by_logvar = d_logvar * ctx.free / ctx.variance
        d_codes = d_mean.new_empty(n_bins, n, 2 * n_inputs)
        d_state, d_control = torch.zeros_like(start.state), torch.zeros_like(start.control)
        given_t, state_t, code_t = w.given.T, w.state.T, w.code.T
        control_t, feedback_t = w.control.T, w.feedback.T
        for t in range(n_bins - 1, -1, -1):
            d_state = (d_state + d_states[t])[:, None]
            sent_g[t].mul_(d_state)
            back_g[t].mul_(d_state)
            d_given = torch.addmm(d_inputs[t], sent_g[t].flatten(1), given_t)
            torch.add(d_given, d_mean[t], out=d_codes[t, :, :n_inputs])
            torch.addcmul(by_logvar[t], d_given, by_draw[t], out=d_codes[t, :, n_inputs:])
            d_control = torch.addmm(d_control, d_codes[t], code_t)[:, None]
            sent_c[t].mul_(d_control)
            back_c[t].mul_(d_control)
            d_control = torch.addmm(d_control[:, 0] * update_c[t], back_c[t].flatten(1), control_t)
            seen = (sent_c[t].flatten(1) @ feedback_t).mul_(start.masks[t])
            seen.addcmul_(d_state[:, 0], update_g[t])
            d_state = seen.addmm_(back_g[t].flatten(1), state_t)
        sent_c, sent_g, back_c, back_g = (
            each.flatten(2).flatten(0, 1) for each in (sent_c, sent_g, back_c, back_g)
        )  # [T · B, 3H]
        flat_codes = d_codes.flatten(0, 1)
        before_c, before_g = (cell.states[:-1].flatten(0, 1) for cell in (control, state))
        seen = before_g * start.masks.flatten(0, 1)
        return (
            d_state,
            d_control,
            sent_c.view(n_bins, n, -1),
            None,
            None,
            seen.T @ sent_c,
            before_c.T @ back_c,
            back_c.sum(dim=0),
            control.states[1:].flatten(0, 1).T @ flat_codes,
            flat_codes.sum(dim=0),
            ctx.inputs.flatten(0, 1).T @ sent_g,
            sent_g.sum(dim=0),
            before_g.T @ back_g,
            back_g.sum(dim=0),
        )
