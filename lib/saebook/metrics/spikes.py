"""Scores that make sense for spike counts only."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from saebook.errors import DataError


def _counts(counts: Tensor) -> Tensor:
    values = counts.detach().to(torch.float64)
    if values.ndim != 2 or not len(values):
        raise DataError(f"counts have shape {tuple(counts.shape)}: give [n_bins, n_units]")
    if not bool((torch.isfinite(values) & (values >= 0)).all()):
        raise DataError("counts hold negative or non-finite values: give raw spike counts")
    return values


def are_counts(x: Tensor) -> bool:
    """Whether values can be spike counts: whole and not negative.

    Parameters
    ----------
    x
        Values of any shape and dtype.

    Examples
    --------
    >>> are_counts(torch.tensor([0.0, 2.0])), are_counts(torch.tensor([0.5, 2.0]))
    (True, False)
    """
    if not x.dtype.is_floating_point:
        return x.dtype != torch.bool and bool((x >= 0).all())
    # By parts: what it takes to look at all at once is several times the values.
    parts = x.split(65_536) if x.ndim else (x,)
    return all(bool(((part >= 0) & (part == part.round())).all()) for part in parts)


def fano_factor(counts: Tensor) -> Tensor:
    """Variance over mean of each unit's counts: 1 for a Poisson process of constant rate.

    Parameters
    ----------
    counts : Tensor
        [n_bins, n_units], spikes per bin, at least two bins.

    Returns
    -------
    Tensor
        [n_units] float64, with the unbiased variance; NaN for a silent unit.

    Raises
    ------
    DataError
        Wrong shape, fewer than two bins, negative or non-finite values.

    Notes
    -----
    Source: U. Fano (1947), Physical Review 72, 26.

    Examples
    --------
    >>> import torch
    >>> fano_factor(torch.tensor([[0, 0], [2, 0]]))
    tensor([2., nan], dtype=torch.float64)
    """
    values = _counts(counts)
    if len(values) < 2:
        raise DataError("one bin has no variance: give at least two bins")
    mean = values.mean(0)
    return torch.where(mean > 0, values.var(0) / torch.where(mean > 0, mean, 1.0), math.nan)


def bits_per_spike(counts: Tensor, rates: Tensor, mean_rates: Tensor | None = None) -> float:
    """Poisson information of predicted rates over constant ones, in bits per spike.

    ``(NLL_mean - NLL_rates) / (n_spikes · ln 2)`` with ``NLL = Σ λ - n ln λ + ln n!``, pooled
    over units. It is meaningful only for spikes the model did **not** see (held-out units or
    trials): a model that is scored on its own input can beat the true rates by smoothing.

    Parameters
    ----------
    counts : Tensor
        [n_bins, n_units], spikes per bin.
    rates : Tensor
        [n_bins, n_units], expected spikes per bin, above 0 wherever there is a spike.
    mean_rates : Tensor, optional
        [n_units], the constant rates to beat, from training data; the mean of ``counts``
        (slightly favourable to the constant) where not given.

    Returns
    -------
    float
        0 for the constant rates, higher is better; NaN where there is no spike.

    Raises
    ------
    DataError
        Shapes differ, a rate is negative, not finite, or zero where a spike occurred.

    Notes
    -----
    Source: Pei et al. (2021), Neural Latents Benchmark, co-smoothing.

    Examples
    --------
    >>> import torch
    >>> counts = torch.tensor([[0], [2]])
    >>> bits_per_spike(counts, torch.tensor([[1.0], [1.0]]))
    0.0
    >>> round(bits_per_spike(counts, torch.tensor([[0.5], [1.5]])), 4)
    0.585
    """
    values = _counts(counts)
    if counts.shape != rates.shape:
        raise DataError(f"counts have shape {tuple(counts.shape)}, rates {tuple(rates.shape)}")
    constant = values.mean(0) if mean_rates is None else mean_rates.detach().to(values)
    if constant.shape != values.shape[1:]:
        raise DataError(f"mean_rates have shape {tuple(constant.shape)}: give one per unit")
    n_spikes = float(values.sum())
    if n_spikes == 0:
        return math.nan
    predicted = rates.detach().to(values)
    gain = _log_likelihood(values, predicted, "rates")
    gain -= _log_likelihood(values, constant.expand_as(values), "mean_rates")
    return gain / (n_spikes * math.log(2))


def poisson_deviance(counts: Tensor, rates: Tensor) -> float:
    """Mean Poisson deviance of counts under rates: 2 (n ln(n/λ) - n + λ).

    Parameters
    ----------
    counts : Tensor
        [n_bins, n_units], spikes per bin.
    rates : Tensor
        [n_bins, n_units], expected spikes per bin, above 0 wherever there is a spike.

    Returns
    -------
    float
        Per bin and unit; 0 where rates equal counts, about 1 at the true rates of busy units, far
        less where units are mostly silent.

    Raises
    ------
    DataError
        As :func:`bits_per_spike`.

    Notes
    -----
    Source: McCullagh & Nelder (1989). On spikes that the model saw it is as meaningless as bits
    per spike.

    Examples
    --------
    >>> import torch
    >>> poisson_deviance(torch.tensor([[0], [2]]), torch.tensor([[0.0], [2.0]]))
    0.0
    >>> poisson_deviance(torch.tensor([[0], [0]]), torch.tensor([[0.5], [1.5]]))
    2.0
    """
    values = _counts(counts)
    if counts.shape != rates.shape:
        raise DataError(f"counts have shape {tuple(counts.shape)}, rates {tuple(rates.shape)}")
    saturated = _log_likelihood(values, values, "counts")
    found = _log_likelihood(values, rates.detach().to(values), "rates")
    return 2 * (saturated - found) / values.numel()


def deviance_explained(counts: Tensor, rates: Tensor, mean_rates: Tensor | None = None) -> float:
    """Share of the Poisson deviance of constant rates that rates explain.

    Parameters
    ----------
    counts, rates, mean_rates : Tensor
        As for :func:`bits_per_spike`, of spikes that the model did not see.

    Returns
    -------
    float
        1 - D(rates) / D(constant): 0 for the constant rates, 1 for rates equal to the counts,
        which no honest model reaches. NaN where constant rates are perfect.

    Raises
    ------
    DataError
        As :func:`bits_per_spike`.

    Examples
    --------
    >>> import torch
    >>> counts = torch.tensor([[0], [2]])
    >>> deviance_explained(counts, torch.tensor([[1.0], [1.0]]))
    0.0
    >>> round(deviance_explained(counts, torch.tensor([[0.5], [1.5]])), 4)
    0.585
    """
    values = _counts(counts)
    constant = values.mean(0) if mean_rates is None else mean_rates.detach().to(values)
    if constant.shape != values.shape[1:]:
        raise DataError(f"mean_rates have shape {tuple(constant.shape)}: give one per unit")
    null = poisson_deviance(counts, constant.expand_as(values))
    return 1 - poisson_deviance(counts, rates) / null if null > 0 else math.nan


def _log_likelihood(counts: Tensor, rates: Tensor, name: str) -> float:
    # ln n! is the same for both sets of rates, so it is left out.
    if not bool((torch.isfinite(rates) & (rates >= 0)).all()):
        raise DataError(f"{name} hold negative or non-finite values: give expected spikes per bin")
    impossible = int(((rates == 0) & (counts > 0)).sum())
    if impossible:
        raise DataError(
            f"{name} are 0 in {impossible} bins that hold spikes, which no finite score can "
            "express: put a floor under the rates (say 1e-4 spikes per bin)"
        )
    return float((torch.xlogy(counts, rates) - rates).sum())
