"""Terms of LFADS' objective, and the masks of coordinated dropout, as pure functions."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def poisson_nll(log_rates: Tensor, counts: Tensor) -> Tensor:
    """Negative log-likelihood of each count, without the term that no rate changes.

    Parameters
    ----------
    log_rates
        Natural logarithms of expected spikes per bin, of any shape.
    counts
        Spikes per bin, of the same shape.

    Returns
    -------
    Tensor
        ``e^r - n r`` for each, nats.

    Examples
    --------
    >>> poisson_nll(torch.tensor([0.0]), torch.tensor([3.0])).item()
    1.0
    """
    return log_rates.exp() - counts * log_rates


def kl_normal(mean: Tensor, logvar: Tensor, prior_mean: Tensor, prior_logvar: Tensor) -> Tensor:
    """Divergence of one normal distribution from another, for each entry.

    Parameters
    ----------
    mean, logvar
        Mean and log variance of the posterior, of shapes that broadcast with the prior's.
    prior_mean, prior_logvar
        Those of the prior.

    Returns
    -------
    Tensor
        ``½ (ln(s_p²/s²) + (s² + (m - m_p)²) / s_p² - 1)``, nats.

    Examples
    --------
    >>> zero = torch.tensor(0.0)
    >>> kl_normal(torch.tensor(2.0), zero, zero, zero).item()  # ½ · 2²
    2.0
    """
    spread = (logvar - prior_logvar).exp() + (mean - prior_mean).square() / prior_logvar.exp()
    return 0.5 * (prior_logvar - logvar + spread - 1)


def kl_autoregressive(
    mean: Tensor, logvar: Tensor, sample: Tensor, log_tau: Tensor, log_noise: Tensor
) -> Tensor:
    """Divergence of inferred inputs from an AR(1) process, along one draw of them.

    Parameters
    ----------
    mean, logvar
        [T, B, U]: posterior of each input in each bin, given those before.
    sample
        [T, B, U]: a draw from it.
    log_tau
        [U]: logarithm of the process's time constant in bins; α = e^(-1/τ).
    log_noise
        [U]: logarithm of the variance σ² of its innovations.

    Returns
    -------
    Tensor
        [B], nats: ``Σ_t KL(q(u_t) ‖ N(α u_{t-1}, σ²))`` summed over inputs, with the stationary
        ``N(0, σ²/(1 - α²))`` as the first bin's prior. Each divergence is exact given the draw
        before it, so the mean over draws is that of the whole sequences.

    Examples
    --------
    >>> flat = torch.zeros(3, 1, 1)  # posterior N(0, 1) and a prior of almost no memory
    >>> kl_autoregressive(flat, flat, flat, torch.tensor([-5.0]), torch.tensor([0.0])).item()
    0.0
    """
    alpha = torch.exp(-torch.exp(-log_tau))
    before = torch.cat([torch.zeros_like(sample[:1]), alpha * sample[:-1]])
    # ln(1 - α²), exact where α is close to 1.
    stationary = log_noise - torch.log(-torch.expm1(-2 * torch.exp(-log_tau)))
    prior_logvar = torch.cat([stationary.expand_as(sample[:1]), log_noise.expand_as(sample[1:])])
    return kl_normal(mean, logvar, before, prior_logvar).sum(dim=(0, 2))


def ramp(epoch: int, n_epochs: int) -> float:
    """Share of a regulariser's weight in an epoch: linear from 0, then 1.

    Examples
    --------
    >>> [ramp(epoch, 4) for epoch in (0, 2, 4, 9)], ramp(0, 0)
    ([0.0, 0.5, 1.0, 1.0], 1.0)
    """
    return 1.0 if epoch >= n_epochs else epoch / n_epochs


def hide(x: Tensor, p: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Hide a share of the counts from the encoders.

    Parameters
    ----------
    x
        Counts of any shape.
    p
        Probability for each count to be hidden.
    generator
        Source of the draw.

    Returns
    -------
    tuple of Tensor
        Counts with 0 where hidden and 1/(1-p) of their value elsewhere, so that sums keep their
        mean; and booleans, true where hidden.

    References
    ----------
    Keshtkaran and Pandarinath 2019, "Enabling hyperparameter optimization in sequential
    autoencoders for spiking neural data" (arXiv 1908.07896): coordinated dropout.

    Examples
    --------
    >>> seen, hidden = hide(torch.ones(4), 0.5, torch.Generator().manual_seed(0))
    >>> bool((seen == torch.where(hidden, 0.0, 2.0)).all())
    True
    """
    hidden = torch.rand(x.shape, generator=generator, device=x.device) < p
    return x.masked_fill(hidden, 0.0) / (1 - p), hidden


def hidden_parts(shape: torch.Size, p: float, generator: torch.Generator) -> list[Tensor]:
    """Masks that hide each count exactly once, about a share p at a time.

    Parameters
    ----------
    shape
        Of the counts.
    p
        0 < p < 1.
    generator
        Source of the draw.

    Returns
    -------
    list of Tensor
        Booleans: at least two masks, of which exactly one is true in each place.

    Examples
    --------
    >>> parts = hidden_parts(torch.Size([6]), 0.3, torch.Generator().manual_seed(0))
    >>> len(parts), torch.stack(parts).sum(dim=0).tolist()
    (3, [1, 1, 1, 1, 1, 1])
    """
    n = max(2, round(1 / p))
    part = torch.randint(n, shape, generator=generator, device=generator.device)
    return [part == i for i in range(n)]


def hide_where(x: Tensor, hidden: Tensor) -> Tensor:
    """Counts with 0 where hidden, the others scaled up by the share that is left.

    Examples
    --------
    >>> hide_where(torch.tensor([1.0, 1.0]), torch.tensor([True, False])).tolist()
    [0.0, 2.0]
    """
    left = 1 - hidden.float().mean().item()
    return x.masked_fill(hidden, 0.0) / max(left, math.ulp(1.0))
