"""From rates to spikes: links, Poisson trains with a refractory period, planted defects."""

from __future__ import annotations

import numpy as np

SAMPLING_RATE_HZ = 30_000
# 61 to 90 samples are 2.03 to 3 ms: one sample more than 2 ms, so that rounding of times in
# seconds can never make the shortest interval look shorter than 2 ms.
REFRACTORY_SAMPLES = (61, 90)
DUPLICATE_JITTER_SAMPLES = 9
MAX_RATE_HZ = 200.0


def softplus(x: np.ndarray) -> np.ndarray:
    """Return log(1 + exp(x)), without overflow.

    Examples
    --------
    >>> softplus(np.array([-50.0, 0.0, 50.0])).round(4).tolist()
    [0.0, 0.6931, 50.0]
    """
    return np.logaddexp(0.0, x)


def softplus_inverse(y: np.ndarray) -> np.ndarray:
    """Return the x for which softplus(x) is `y` (y > 0).

    Examples
    --------
    >>> softplus(softplus_inverse(np.array([0.1, 4.0]))).round(12).tolist()
    [0.1, 4.0]
    """
    y = np.asarray(y, dtype=np.float64)
    return y + np.log(-np.expm1(-y))


def poisson_train(
    rate_hz: np.ndarray,
    step_s: float,
    start: float,
    refractory: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Draw an inhomogeneous Poisson train with an absolute refractory period.

    The hazard outside the refractory period τ is λ / (1 - λτ), so that the rate of spikes is λ.
    Deleting every spike of a Poisson process of that hazard that falls within τ of the last
    one kept gives exactly this process, and needs no loop over spikes.

    Parameters
    ----------
    rate_hz
        λ, constant within each step [n], Hz.
    step_s
        Length of a step, s.
    start
        Time of the first step's beginning, s.
    refractory
        Absolute refractory period in samples of 1/30,000 s (0: none).
    rng
        Source of randomness.

    Returns
    -------
    ndarray
        Spike times as sample numbers [n_spikes], int64, strictly increasing.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> samples = poisson_train(np.full(1000, 50.0), 0.1, 0.0, 75, rng)
    >>> bool(np.diff(samples).min() >= 75), abs(len(samples) / 100.0 - 50.0) < 2.0
    (True, True)
    """
    dead_s = refractory / SAMPLING_RATE_HZ
    # At λτ = 0.95 the train is a clock already; beyond it no such process exists.
    hazard = rate_hz / np.maximum(1.0 - rate_hz * dead_s, 0.05)
    expected = np.empty(len(hazard) + 1)
    expected[0] = 0.0
    np.cumsum(hazard, out=expected[1:])
    expected *= step_s
    n = rng.poisson(expected[-1])
    at = np.sort(rng.uniform(0.0, expected[-1], n))
    edges = start + step_s * np.arange(len(expected))
    samples = np.floor(np.interp(at, expected, edges) * SAMPLING_RATE_HZ).astype(np.int64)
    samples = samples[(samples > start * SAMPLING_RATE_HZ) & (samples >= 0)]
    return drop_within(samples, max(refractory, 1))


def drop_within(samples: np.ndarray, dead: int) -> np.ndarray:
    """Drop each event that comes less than `dead` samples after the last one kept.

    Parameters
    ----------
    samples
        Sorted sample numbers [n], int64.
    dead
        Dead time, samples; 1 drops duplicates only.

    Examples
    --------
    >>> drop_within(np.array([0, 4, 8, 12, 30]), 10).tolist()
    [0, 12, 30]
    """
    while len(samples) > 1:
        close = np.diff(samples) < dead
        if not close.any():
            break
        # The first event of each run of close ones is kept, so the second certainly goes.
        second = close & ~np.concatenate([[False], close[:-1]])
        samples = np.delete(samples, np.flatnonzero(second) + 1)
    return samples


def add_foreign(
    samples: np.ndarray, fraction: float, start: float, stop: float, rng: np.random.Generator
) -> tuple[np.ndarray, float]:
    """Add spikes of other neurons to a train, at random times.

    Parameters
    ----------
    samples
        The unit's own spikes as sample numbers [n], int64.
    fraction
        Foreign share of the resulting train.
    start, stop
        Span of the recording, s.
    rng
        Source of randomness.

    Returns
    -------
    ndarray
        The merged train as sample numbers, without duplicates.
    float
        The foreign share of it: a foreign spike on a sample that is taken is lost.
    """
    n = round(len(samples) * fraction / (1.0 - fraction))
    low, high = int(np.ceil(start * SAMPLING_RATE_HZ)), int(stop * SAMPLING_RATE_HZ)
    foreign = rng.integers(low, high, n)
    merged = np.union1d(samples, foreign)
    share = (len(merged) - len(samples)) / max(len(merged), 1)
    return merged, share


def jittered_copy(
    samples: np.ndarray, start: float, stop: float, rng: np.random.Generator
) -> np.ndarray:
    """Return a train with each spike moved by up to ±0.3 ms, as sorters split one neuron."""
    moved = samples + rng.integers(
        -DUPLICATE_JITTER_SAMPLES, DUPLICATE_JITTER_SAMPLES + 1, len(samples)
    )
    low, high = int(np.ceil(start * SAMPLING_RATE_HZ)), int(stop * SAMPLING_RATE_HZ) - 1
    return np.unique(np.clip(moved, low, high))
