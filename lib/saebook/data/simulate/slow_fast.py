"""Sequences of slow and fast sparse features in superposition: which ones does a dictionary keep?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from saebook.data.simulate.counts import calibrate_baseline, draw_gains
from saebook.data.simulate.examples import (
    BEYOND_WEAKEST,
    REFERENCE_ROWS,
    WEAKEST,
    KnownExamples,
    feature_law,
)
from saebook.data.simulate.settings import check_amounts, check_whole_numbers
from saebook.data.simulate.spiking import softplus, softplus_inverse
from saebook.errors import ConfigError

OBSERVED = ("activations", "counts")


@dataclass(frozen=True, eq=False, kw_only=True)
class KnownSequences(KnownExamples):
    """Examples in sequences, of features that last and features that don't.

    Rows of one sequence are consecutive, in the order of time; sequences are independent.

    Attributes
    ----------
    group
        Sequence of each row [n], int.
    position
        Row within its sequence [n], int.
    persistence
        Correlation of each feature's being active at one row and at the next [n_features]: 0
        for fast ones; k rows apart it is ``persistence**k``.

    Examples
    --------
    >>> from saebook.data.simulate import simulate_slow_fast
    >>> known = simulate_slow_fast(3, 100, 16, n_slow=4, n_fast=12)
    >>> known.x.shape, known.group[[0, 99, 100]].tolist(), int(known.is_slow.sum())
    ((300, 16), [0, 0, 1], 4)
    """

    group: np.ndarray
    position: np.ndarray
    persistence: np.ndarray

    @property
    def is_slow(self) -> np.ndarray:
        """Which features last longer than a row [n_features], bool."""
        return self.persistence > 0


def simulate_slow_fast(
    n_sequences: int,
    length: int,
    d_in: int,
    *,
    n_slow: int = 16,
    n_fast: int = 48,
    slow_l0: float = 2.0,
    fast_l0: float = 4.0,
    slow_strength: float = 0.5,
    dwell: float = 32.0,
    zipf: float = 0.5,
    noise: float = 0.05,
    observed: str = "activations",
    mean_rate_hz: float = 10.0,
    bin_size_s: float = 0.05,
    driven: float = 0.15,
    seed: int = 0,
) -> KnownSequences:
    """Draw sequences from slow and fast features with known directions.

    A dictionary with fewer latents than there are features has to choose. Error alone favours
    the strong ones, and nothing in a single row tells slow from fast: with slow features the
    weaker ones, only what compares rows in time can prefer them.

    Parameters
    ----------
    n_sequences, length
        Number of sequences, and rows of each. The first n sequences are the same whatever their
        number.
    d_in
        Width of a row: of the activations, or number of units.
    n_slow, n_fast
        Features of each kind; slow ones come first.
    slow_l0, fast_l0
        Mean number of active features of each kind per row.
    slow_strength
        Strength of slow features relative to fast ones, of which each active one has
        0.5 + Exp of mean 0.5.
    dwell
        Mean rows for which a slow feature stays active, at least 1, at constant strength. Fast
        features are drawn anew at every row.
    zipf
        Exponent of the frequencies among the features of a kind; 0 for equal ones.
    noise
        Of activations: standard deviation of Gaussian noise, relative to that of x without it.
    observed
        ``"activations"``: features · directions + noise. ``"counts"``: Poisson counts of units
        whose rates are the softplus of it, as in `simulate_counts`.
    mean_rate_hz, bin_size_s, driven
        Of counts, as in `simulate_counts`.
    seed
        The same seed gives the same sequences.

    Returns
    -------
    KnownSequences
        Rows, their features, directions, sequences and positions.

    Raises
    ------
    ConfigError
        A setting is unknown or out of range.

    Notes
    -----
    Being active is a two-state Markov chain for slow features: with density p and mean dwell D
    its autocorrelation at lag k is ``(1 - 1 / (D (1 - p)))**k``.

    Examples
    --------
    >>> known = simulate_slow_fast(100, 200, 32, dwell=20.0, seed=1)
    >>> active = known.features > 0
    >>> active[:, known.is_slow].sum(axis=1).mean().round(), active.sum(axis=1).mean().round()
    (np.float64(2.0), np.float64(6.0))
    >>> short = simulate_slow_fast(2, 200, 32, dwell=20.0, seed=1)
    >>> bool((short.x == known.x[:400]).all())
    True
    """
    check_whole_numbers(0, seed=seed)
    check_whole_numbers(
        1, n_sequences=n_sequences, length=length, d_in=d_in, n_slow=n_slow, n_fast=n_fast
    )
    check_amounts(slow_l0=slow_l0, fast_l0=fast_l0, zipf=zipf, noise=noise)
    check_amounts(slow_strength=slow_strength, dwell=dwell)
    if observed not in OBSERVED:
        raise ConfigError(f"observed={observed!r} is unknown. Give one of {', '.join(OBSERVED)}.")
    for name, value, least in (("slow_strength", slow_strength, 0.0), ("dwell", dwell, 1.0)):
        if value < least or value == 0:
            raise ConfigError(f"{name}={value}. Give at least {least:g}, and more than 0.")
    rng = np.random.default_rng([seed, 0])
    n_features = n_slow + n_fast
    slow = feature_law(n_slow, slow_l0, zipf).probability
    if (slow / (1 - slow) > dwell).any() or dwell * (1 - slow.max()) < 1:
        raise ConfigError(
            f"dwell={dwell} is too short for features active in {slow.max():.0%} of the rows: give "
            "a longer dwell, or a smaller slow_l0"
        )
    fast = feature_law(n_fast, fast_l0, zipf)
    strength = np.r_[np.full(n_slow, slow_strength), np.ones(n_fast)].astype(np.float32)

    def draw(rows: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        uniform = rng.random((rows, n_slow), dtype=np.float32)
        levels = WEAKEST + BEYOND_WEAKEST * rng.standard_exponential((rows, n_slow), np.float32)
        return uniform, levels, fast.draw(rows, rng)

    def assemble(drawn: list[tuple[np.ndarray, ...]]) -> np.ndarray:
        uniform, levels, other = (np.stack(part) for part in zip(*drawn, strict=True))
        return np.concatenate([_lasting(uniform, levels, slow, dwell), other], axis=2) * strength

    # Scales are settled by rows of their own, so that they don't depend on how many are asked for.
    reference_rng = np.random.default_rng([seed, 1])
    n_reference = -(-REFERENCE_ROWS // length)
    reference = assemble([draw(length, reference_rng) for _ in range(n_reference)])
    reference = reference.reshape(-1, n_features)
    streams = [np.random.default_rng([seed, 2, i]) for i in range(n_sequences)]
    # A product per sequence: one over all rows would round by their number.
    features = assemble([draw(length, stream) for stream in streams])  # [sequence, row, feature]
    rates = None
    if observed == "activations":
        weights = rng.standard_normal((n_features, d_in))
        weights /= np.linalg.norm(weights, axis=1, keepdims=True)
        offset = np.zeros(d_in)
        x = features @ weights.astype(np.float32)
        spread = (reference @ weights.astype(np.float32)).var(axis=0).mean() ** 0.5
        x += np.float32(noise * spread) * np.stack(
            [stream.standard_normal((length, d_in), np.float32) for stream in streams]
        )
    else:
        gains = draw_gains(d_in, n_features, driven, "softplus", rng)
        baseline = calibrate_baseline(
            reference.astype(np.float64) @ gains, np.full(d_in, mean_rate_hz), "softplus"
        )
        weights, offset = gains * baseline, softplus_inverse(baseline)
        rates = softplus(features @ weights.astype(np.float32) + offset.astype(np.float32))
        x = np.stack(
            [stream.poisson(part * bin_size_s) for stream, part in zip(streams, rates, strict=True)]
        ).astype(np.float32)
        rates = rates.reshape(-1, d_in)
    return KnownSequences(
        x=x.reshape(-1, d_in),
        features=features.reshape(-1, n_features),
        weights=weights,
        offset=offset,
        parent=np.full(n_features, -1),
        rates=rates,
        group=np.arange(n_sequences).repeat(length),
        position=np.tile(np.arange(length), n_sequences),
        persistence=np.r_[1 - 1 / (dwell * (1 - slow)), np.zeros(n_fast)],
    )


def _lasting(
    uniform: np.ndarray, levels: np.ndarray, density: np.ndarray, dwell: float
) -> np.ndarray:
    """Strengths [n_sequences, length, n_slow] of features that switch on and off by a chain."""
    leave, enter = 1 / dwell, density / (1 - density) / dwell
    active = uniform[:, 0] < density  # a stationary start
    level = levels[:, 0]
    strengths = np.empty_like(levels)
    strengths[:, 0] = np.where(active, level, 0.0)
    for t in range(1, uniform.shape[1]):
        begins = ~active & (uniform[:, t] < enter)
        active = np.where(active, uniform[:, t] >= leave, begins)
        level = np.where(begins, levels[:, t], level)
        strengths[:, t] = np.where(active, level, 0.0)
    return strengths
