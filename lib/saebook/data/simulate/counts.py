"""Poisson counts whose rates are known: sparse features that add to the rates of units."""

from __future__ import annotations

import numpy as np

from saebook.data.simulate.examples import (
    REFERENCE_ROWS,
    KnownExamples,
    feature_law,
    fill_blocks,
)
from saebook.data.simulate.settings import check_amounts, check_whole_numbers
from saebook.data.simulate.spiking import softplus, softplus_inverse
from saebook.errors import ConfigError

# A feature at strength 1 adds this many times the baseline rate, as in the simulated reach.
GAIN = (5.0, 15.0)
SUPPRESSED_FRACTION = 0.15
SUPPRESSION = -0.9
RATE_SIGMA = 0.9
MOST_CALIBRATIONS = 10
CALIBRATED = 1e-3


def simulate_counts(
    n_examples: int,
    n_units: int,
    n_features: int,
    *,
    mean_rate_hz: float = 5.0,
    bin_size_s: float = 0.05,
    mean_l0: float = 4.0,
    zipf: float = 0.5,
    driven: float = 0.1,
    link: str = "softplus",
    seed: int = 0,
) -> KnownExamples:
    """Draw Poisson counts of units that follow sparse features additively.

    Bins are independent of each other. For trains with refractory periods, trials and bad units
    see `simulate_session`.

    Parameters
    ----------
    n_examples
        Number of bins. The first n are the same whatever their number.
    n_units, n_features
        Sizes.
    mean_rate_hz
        Mean rate over all units, Hz; the rates of single units are lognormal (σ 0.9) about it.
    bin_size_s
        Width of a bin, s.
    mean_l0
        Mean number of active features per bin.
    zipf
        Exponent of the features' frequencies; 0 for equal ones.
    driven
        Share of the units that each feature drives (one at least); each unit follows one feature
        at least. A feature of strength 1 adds 5 to 15 times the unit's baseline.
    link
        "linear": rates are offset + features · weights, all nonnegative. "softplus": the
        softplus of it, with 15 % of the weights negative.
    seed
        The same seed gives the same counts.

    Returns
    -------
    KnownExamples
        Counts as `x`, features, weights and offset in Hz, and true rates.

    Raises
    ------
    ConfigError
        A setting is unknown or out of range.

    Examples
    --------
    >>> known = simulate_counts(4000, 20, 30, mean_rate_hz=8.0, bin_size_s=0.02, link="linear")
    >>> bool(np.allclose(known.rates, known.offset + known.features @ known.weights, rtol=1e-5))
    True
    >>> float(round(known.rates.mean())), float(round(known.x.mean() / 0.02))
    (8.0, 8.0)
    """
    check_whole_numbers(0, seed=seed)
    check_whole_numbers(1, n_examples=n_examples, n_units=n_units, n_features=n_features)
    amounts = {"mean_rate_hz": mean_rate_hz, "bin_size_s": bin_size_s, "driven": driven}
    check_amounts(mean_l0=mean_l0, zipf=zipf, **amounts)
    for name, value in amounts.items():
        if value == 0 or (name == "driven" and value > 1):
            raise ConfigError(f"{name}={value}. Give more than 0{', and 1 at most' * (value > 0)}.")
    if link not in ("linear", "softplus"):
        raise ConfigError(f"link={link!r} is unknown. Give 'linear' or 'softplus'.")
    rng = np.random.default_rng([seed, 0])
    law = feature_law(n_features, mean_l0, zipf)
    gains = draw_gains(n_units, n_features, driven, link, rng)
    target = np.exp(RATE_SIGMA * rng.standard_normal(n_units))
    target *= mean_rate_hz / target.mean()
    reference = law.draw(REFERENCE_ROWS, np.random.default_rng([seed, 1]))
    baseline = calibrate_baseline(reference.astype(np.float64) @ gains, target, link)
    offset = baseline if link == "linear" else softplus_inverse(baseline)
    weights = gains * baseline
    in_float = weights.astype(np.float32), offset.astype(np.float32)

    def observe(features: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        rates = features @ in_float[0] + in_float[1]
        if link == "softplus":
            rates = softplus(rates)
        return rng.poisson(rates * bin_size_s), rates

    widths = (n_units, n_units)
    features, x, rates = fill_blocks(n_examples, law, observe, widths, seed)
    return KnownExamples(x, features, weights, offset, law.parent, rates)


def draw_gains(
    n_units: int, n_features: int, driven: float, link: str, rng: np.random.Generator
) -> np.ndarray:
    """What each feature adds to each unit, in baselines [n_features, n_units]."""
    n_driven = max(1, round(driven * n_units))
    order = rng.random((n_features, n_units)).argsort(axis=1)
    is_driven = order < n_driven
    idle = np.flatnonzero(~is_driven.any(axis=0))
    is_driven[rng.integers(0, n_features, len(idle)), idle] = True
    gains = rng.uniform(*GAIN, is_driven.shape)
    if link == "softplus":
        gains[rng.random(is_driven.shape) < SUPPRESSED_FRACTION] = SUPPRESSION
    return np.where(is_driven, gains, 0.0)


def calibrate_baseline(drive: np.ndarray, target: np.ndarray, link: str) -> np.ndarray:
    """Find the baselines [n_units] that give each unit its mean rate over the reference."""
    baseline = target / np.maximum(1.0 + drive.mean(axis=0), 0.1)
    if link == "linear":
        return baseline
    for _ in range(MOST_CALIBRATIONS):
        mean = softplus(softplus_inverse(baseline) + baseline * drive).mean(axis=0)
        baseline *= target / mean
        if np.abs(mean / target - 1.0).max() < CALIBRATED:
            break
    return baseline
