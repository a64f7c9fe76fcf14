"""Whether reconstructed rates are the rates: their slope, their size, and what they tell."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from saebook.errors import DataError
from saebook.metrics.spikes import bits_per_spike


def _pair(expected: Tensor, rates: Tensor) -> tuple[Tensor, Tensor]:
    if expected.ndim != 2 or not len(expected) or expected.shape != rates.shape:
        raise DataError(
            f"expected values have shape {tuple(expected.shape)}, rates {tuple(rates.shape)}: "
            "give both as [n_bins, n_units], of the same shape"
        )
    values, predicted = (t.detach().to("cpu", torch.float64) for t in (expected, rates))
    if not bool(torch.isfinite(values).all() and torch.isfinite(predicted).all()):
        raise DataError("a value is not finite: drop those bins first, or check the model")
    return values, predicted


def calibration_slope(expected: Tensor, rates: Tensor) -> float:
    """Slope of the regression of what was expected on the rates, within units.

    Parameters
    ----------
    expected : Tensor
        [n_bins, n_units], true rates or counts, in spikes per bin. Counts must be spikes that
        the model did not see: on its own input, a model that copies has slope 1.
    rates : Tensor
        [n_bins, n_units], reconstructed rates in the same units.

    Returns
    -------
    float
        ``Σ (x - x̄_u)(y - ȳ_u) / Σ (y - ȳ_u)²``, pooled over units u. 1: a rate that is one
        spike higher means one spike more. Below 1: the rates exaggerate, by following noise.
        Above 1: they are shrunk. NaN where the rates are constant.

    Raises
    ------
    DataError
        Shapes differ, no bin, or a value that is not finite.

    Notes
    -----
    Each unit's means are taken out first: they lie far apart, and a model that knew nothing
    else would score 1. Source: Cox (1958), Biometrika 45, 562, for binary outcomes.

    Examples
    --------
    >>> import torch
    >>> expected = torch.tensor([[1.0, 5.0], [3.0, 5.0]])
    >>> calibration_slope(expected, torch.tensor([[1.5, 5.0], [2.5, 5.0]]))  # shrunk by half
    2.0
    """
    values, predicted = _pair(expected, rates)
    values, predicted = values - values.mean(0), predicted - predicted.mean(0)
    spread = float(predicted.square().sum())
    return float((values * predicted).sum()) / spread if spread > 0 else math.nan


def spike_ratio(expected: Tensor, rates: Tensor) -> float:
    """Spikes that the rates predict, per spike expected.

    Parameters
    ----------
    expected : Tensor
        [n_bins, n_units], true rates or counts, in spikes per bin.
    rates : Tensor
        [n_bins, n_units], reconstructed rates in the same units.

    Returns
    -------
    float
        ``Σ y / Σ x``: 1 where the rates are right on average, below 1 where they are biased
        low. NaN where nothing was expected.

    Raises
    ------
    DataError
        Shapes differ, no bin, or a value that is not finite.

    Examples
    --------
    >>> import torch
    >>> spike_ratio(torch.tensor([[1.0], [3.0]]), torch.tensor([[1.0], [2.0]]))
    0.75
    """
    values, predicted = _pair(expected, rates)
    total = float(values.sum())
    return float(predicted.sum()) / total if total > 0 else math.nan


def floored(rates: Tensor, mean_rates: Tensor, share: float = 0.1) -> Tensor:
    """Rates that a Poisson likelihood can judge: none below a share of the unit's mean.

    Parameters
    ----------
    rates : Tensor
        [n_bins, n_units], of any sign.
    mean_rates : Tensor
        [n_units], from training data; ≥ 0.
    share : float
        Between 0 and 1.

    Returns
    -------
    Tensor
        [n_bins, n_units], the larger of rate and floor.

    Raises
    ------
    DataError
        A share out of range.

    Notes
    -----
    One spike where the rate is 0 makes a recording impossible, whatever else was right; the
    floor bounds what a spike can cost, alike for every model.

    Examples
    --------
    >>> import torch
    >>> floored(torch.tensor([[-1.0, 3.0]]), torch.tensor([2.0, 2.0])).round(decimals=3).tolist()
    [[0.20000000298023224, 3.0]]
    """
    if not 0 < share <= 1:
        raise DataError(f"share is {share}: give a part of the mean rate, above 0 and at most 1")
    return torch.maximum(rates, share * mean_rates.to(rates))


def information_share(true_rates: Tensor, rates: Tensor, mean_rates: Tensor) -> float:
    """Share of the information in the true rates that reconstructed rates hold.

    Parameters
    ----------
    true_rates : Tensor
        [n_bins, n_units], in spikes per bin.
    rates : Tensor
        [n_bins, n_units], reconstructed, above 0 wherever the true rate is (see ``floored``).
    mean_rates : Tensor
        [n_units], the constant rates to beat, from training data.

    Returns
    -------
    float
        Expected bits per spike of the rates, on spikes drawn afresh from the true rates, over
        those of the true rates. 1: all of it; 0: no better than constant rates; below 0:
        worse. NaN where the true rates hold none.

    Raises
    ------
    DataError
        Shapes differ, a rate is negative, not finite, or zero where spikes are expected.

    Notes
    -----
    The log likelihood is linear in the counts, so its expectation over fresh spikes is the
    likelihood of the true rates themselves: exact, with no spike drawn and none that a model
    has seen. One minus this is the Poisson deviance from the truth over that of the mean
    (McCullagh and Nelder 1989, section 2.3).

    Examples
    --------
    >>> import torch
    >>> true, mean = torch.tensor([[0.5], [1.5]]), torch.tensor([1.0])
    >>> information_share(true, true, mean)
    1.0
    >>> round(information_share(true, torch.tensor([[0.75], [1.25]]), mean), 4)  # half the depth
    0.7296
    """
    available = bits_per_spike(true_rates, true_rates, mean_rates)
    if not available > 0:
        return math.nan
    return bits_per_spike(true_rates, rates, mean_rates) / available
