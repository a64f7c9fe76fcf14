"""One rule by which every method's latents predict units that it never saw."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from saebook.errors import ConfigError, DataError
from saebook.evaluation.comparison.poisson_regression import poisson_path
from saebook.evaluation.held_out_units import poisson_readout
from saebook.metrics import bits_per_spike

# Penalties of the Poisson regression on standardised latents, strongest first.
GLM_ALPHAS = (10.0, 1.0, 0.1, 0.01, 0.001)
# Added before a logarithm: this share of a latent's mean, as latents have no unit of their own.
LOG_FLOOR = 1e-3
# Spikes per bin below which no rate is set: the benchmark's offset.
RATE_FLOOR = 1e-4

READOUTS = ("log-linear", "log-linear, of logs", "additive")


@dataclass(frozen=True, eq=False)
class CoSmoothing:
    """Rates of held-out units from latents.

    Parameters
    ----------
    readout : str
        Which of ``READOUTS`` was chosen.
    alpha : float
        Its penalty; NaN for the additive one.
    validation_bits : float
        Bits per spike on validation rows, by which it was chosen.
    tried : dict of str to float
        The same for every readout that was tried.
    rates : callable
        From latents [n, n_latents] to rates [n, n_units], spikes per bin.
    """

    readout: str
    alpha: float
    validation_bits: float
    tried: dict[str, float]
    rates: Callable[[np.ndarray], np.ndarray]


def fit_co_smoothing(
    train: tuple[np.ndarray, np.ndarray],
    validation: tuple[np.ndarray, np.ndarray],
    *,
    readouts: Sequence[str] = READOUTS,
    alphas: Sequence[float] = GLM_ALPHAS,
) -> CoSmoothing:
    """Fit what predicts held-out units from latents, and choose its form on validation rows.

    Parameters
    ----------
    train, validation : (ndarray, ndarray)
        Latents [n, n_latents] and the counts [n, n_units] of units that the method did not see.
    readouts : sequence of str
        Forms to try, of ``READOUTS``. "log-linear": Poisson regression with a log link and an L2
        penalty. The other two where no training latent is negative: the same on logarithms of the
        latents, as the benchmark's smoothing has it, whose latents are rates; and a nonnegative
        sum, as an SAE decodes.
    alphas : sequence of float
        Penalties to choose among, one for all units.

    Returns
    -------
    CoSmoothing

    Raises
    ------
    DataError
        Shapes disagree, or a value is not finite.

    Notes
    -----
    Sources: Pei et al. (2021), Neural Latents Benchmark; for the sum see
    :func:`~saebook.evaluation.held_out_units.poisson_readout`.

    Latents are standardised on training rows. What enters the exponential is kept within its
    range over the training rows: one row far outside could outweigh all others.

    A log-linear readout suits methods whose latents are coordinates, and a sum those whose latents
    are parts. To fix either would decide the comparison, so the better one on validation rows
    counts, and the table names it.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> parts = rng.gamma(0.5, 2.0, (3000, 2))
    >>> counts = rng.poisson(0.2 + parts @ [[1.0, 0.0], [0.3, 2.0]])
    >>> found = fit_co_smoothing((parts[:2000], counts[:2000]), (parts[2000:], counts[2000:]))
    >>> found.readout
    'additive'
    """
    x, y = _checked(*train)
    x_validation, y_validation = _checked(*validation)
    if x.shape[1] != x_validation.shape[1] or y.shape[1] != y_validation.shape[1]:
        raise DataError(
            f"training rows have {x.shape[1]} latents and {y.shape[1]} units, validation rows "
            f"{x_validation.shape[1]} and {y_validation.shape[1]}"
        )
    unknown = [name for name in readouts if name not in READOUTS]
    if unknown or not readouts:
        raise ConfigError(f"readouts {unknown or readouts}: give some of {', '.join(READOUTS)}")
    nonnegative = min(x.min(), x_validation.min()) >= 0
    candidates: list[tuple[str, float, Callable[[np.ndarray], np.ndarray]]] = []
    for name in readouts:
        if name == "log-linear":
            candidates += [(name, a, f) for a, f in _log_linear(x, y, alphas)]
        elif not nonnegative:
            continue
        elif name == "additive":
            candidates.append((name, math.nan, _additive(x, y)))
        else:
            logs = _Logs(LOG_FLOOR * np.where((mean := x.mean(axis=0)) > 0, mean, 1.0))
            candidates += [(name, a, _after(logs, f)) for a, f in _log_linear(logs(x), y, alphas)]
    if not candidates:
        raise ConfigError(f"latents below 0 can only be read by 'log-linear', not by {readouts}")
    tried: dict[str, float] = {}
    best: CoSmoothing | None = None
    for name, alpha, rates in candidates:
        bits = bits_of(y_validation, rates(x_validation))
        tried[name] = max(bits, tried.get(name, -math.inf))
        if best is None or bits > best.validation_bits:
            best = CoSmoothing(name, alpha, bits, tried, rates)
    assert best is not None
    return best


def bits_of(counts: np.ndarray, rates: np.ndarray) -> float:
    """Bits per spike of rates that are floored first; 0 where there is no spike."""
    bits = bits_per_spike(torch.as_tensor(counts), torch.as_tensor(floored_rates(rates)))
    return 0.0 if math.isnan(bits) else bits


def floored_rates(rates: np.ndarray) -> np.ndarray:
    """Rates, none of them below what a single spike could still be scored under."""
    return np.maximum(np.asarray(rates, dtype=float), RATE_FLOOR)


@dataclass(frozen=True, eq=False)
class _Logs:
    floor: np.ndarray

    def __call__(self, latents: np.ndarray) -> np.ndarray:
        return np.log(np.maximum(latents, 0.0) + self.floor)


def _after(first: Callable, then: Callable) -> Callable[[np.ndarray], np.ndarray]:
    return lambda latents: then(first(latents))


def _additive(x: np.ndarray, y: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    readout = poisson_readout(torch.as_tensor(x), torch.as_tensor(y))
    return lambda latents: readout(torch.as_tensor(np.maximum(latents, 0.0))).double().numpy()


@dataclass(frozen=True, eq=False)
class _LogLinear:
    centre: np.ndarray
    scale: np.ndarray
    weights: np.ndarray  # [n_latents, n_units]
    offset: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def __call__(self, latents: np.ndarray) -> np.ndarray:
        drive = (latents - self.centre) / self.scale @ self.weights + self.offset
        return np.exp(np.clip(drive, self.low, self.high))


def _log_linear(
    x: np.ndarray, y: np.ndarray, alphas: Sequence[float]
) -> list[tuple[float, _LogLinear]]:
    """One readout per penalty, the strongest first: each begins where the last one ended."""
    centre, spread = x.mean(axis=0), x.std(axis=0)
    scale = np.where(spread > 1e-12 * np.abs(centre), spread, np.inf)
    standard = (x - centre) / scale
    alphas = sorted(alphas, reverse=True)
    weights = np.zeros((len(alphas), x.shape[1], y.shape[1]))
    offset = np.full((len(alphas), y.shape[1]), math.log(RATE_FLOOR))
    fires = y.sum(axis=0) > 0  # of a silent unit the likelihood has no maximum
    if fires.any():
        weights[:, :, fires], offset[:, fires] = poisson_path(standard, y[:, fires], alphas)
    found = []
    for i, alpha in enumerate(alphas):
        drive = standard @ weights[i] + offset[i]
        ends = drive.min(axis=0), drive.max(axis=0)
        found.append((alpha, _LogLinear(centre, scale, weights[i], offset[i], *ends)))
    return found


def _checked(latents: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(latents, dtype=float), np.asarray(counts, dtype=float)
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or not x.size or not y.size:
        raise DataError(
            f"latents {x.shape} and counts {y.shape}: give [n, n_latents] and [n, n_units] for the "
            "same rows, with at least one of each"
        )
    bad = int((~np.isfinite(x)).sum())
    if bad:
        raise DataError(f"{bad} of {x.size} latents are not finite: check the method")
    return x, y
