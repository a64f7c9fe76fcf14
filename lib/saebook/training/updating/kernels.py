"""Triton kernels that take a matrix of one row per latent from its gradient to its new weights.

A row is read once and written once: what autograd's neighbours do in five passes (projection,
norm, clipping, Adam, normalisation) happens while it lies in registers. One program takes one row.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def square_rows(
    gradient, weights, along, squares, n_columns, UNIT: tl.constexpr, BLOCK: tl.constexpr
):
    """Squared norm of each row's gradient; with UNIT of what is left of it across the weights.

    Parameters
    ----------
    gradient, weights
        [n_rows, n_columns], contiguous.
    along
        Written with UNIT: [n_rows], the gradient's product with the weights.
    squares
        Written: [n_rows].
    """
    row = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, BLOCK)
    inside = i < n_columns
    g = tl.load(gradient + row * n_columns + i, mask=inside, other=0.0)
    if UNIT:
        w = tl.load(weights + row * n_columns + i, mask=inside, other=0.0)
        a = tl.sum(g * w, axis=0)
        tl.store(along + row, a)
        g = g - w * a
    tl.store(squares + row, tl.sum(g * g, axis=0))


@triton.jit
def _one_minus_power(logarithm, step):
    """1 - exp(step · logarithm), without losing digits where that is close to 0."""
    x = logarithm * step
    series = -x * (1 + x / 2 * (1 + x / 3 * (1 + x / 4 * (1 + x / 5))))
    return tl.where(x > -0.1, series, 1 - tl.exp(x))


@triton.jit
def adam_rows(
    gradient,
    weights,
    mean,
    square,
    along,
    factor,
    rate,
    step,
    n_columns,
    BETA1: tl.constexpr,
    BETA2: tl.constexpr,
    LOG_BETA1: tl.constexpr,
    LOG_BETA2: tl.constexpr,
    EPS: tl.constexpr,
    DECAY: tl.constexpr,
    DECOUPLED: tl.constexpr,
    UNIT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Move each row by Adam along its gradient; with UNIT across the weights, then to unit norm.

    Parameters
    ----------
    gradient
        [n_rows, n_columns], contiguous.
    weights, mean, square
        Changed: of the same shape; weights, and Adam's two moments.
    along
        [n_rows], of `square_rows`; read with UNIT.
    factor, rate, step
        0-d: what the gradient is multiplied by, the learning rate, and how often Adam has stepped,
        this time included.
    """
    row = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, BLOCK)
    inside = i < n_columns
    at = row * n_columns + i
    g = tl.load(gradient + at, mask=inside, other=0.0)
    w = tl.load(weights + at, mask=inside, other=0.0)
    m = tl.load(mean + at, mask=inside, other=0.0)
    v = tl.load(square + at, mask=inside, other=0.0)
    lr, n = tl.load(rate), tl.load(step)
    if UNIT:
        g = g - w * tl.load(along + row)
    g = g * tl.load(factor)
    if DECOUPLED:
        w = w * (1 - lr * DECAY)
    else:
        g = g + DECAY * w
    m = m + (g - m) * (1 - BETA1)
    v = BETA2 * v + (1 - BETA2) * g * g
    size = lr / _one_minus_power(LOG_BETA1, n)
    spread = tl.sqrt(v) / tl.sqrt(_one_minus_power(LOG_BETA2, n)) + EPS
    w = w - size * m / spread
    if UNIT:
        w = w / tl.maximum(tl.sqrt(tl.sum(w * w, axis=0)), 1e-12)
    tl.store(weights + at, w, mask=inside)
    tl.store(mean + at, m, mask=inside)
    tl.store(square + at, v, mask=inside)
