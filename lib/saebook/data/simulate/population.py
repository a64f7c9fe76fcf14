"""The units of a session: selectivity, baselines, refractory periods and planted defects."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from saebook.data.simulate.mixing import draw_log_gains, draw_selectivity, reshuffle_rows
from saebook.data.simulate.spiking import MAX_RATE_HZ, REFRACTORY_SAMPLES

BASELINE_MEDIAN_HZ = 4.0
BASELINE_SIGMA = 0.9
BASELINE_CAP_HZ = 60.0
SHARED_FRACTION = 0.6
PERTURBATION = 0.1
CONTAMINATION = (0.05, 0.1, 0.2, 0.4)
CONTAMINATED_FRACTION = 0.1
LOW_RATE_FRACTION = 0.05
LOW_RATE_HZ = (0.05, 0.35)
UNSTABLE_FRACTION = 0.03
DUPLICATE_FRACTION = 0.02
DRIFT_TO = 0.15
N_ELECTRODES = 96
# Contamination of a unit quieter than this could not be seen at any strength.
TESTABLE_HZ = 2.0


@dataclass
class Population:
    """Properties of the units of one session, arrays [n_units] in file order.

    Attributes
    ----------
    unit_id
        Id, the same for the same neuron in every session of an animal.
    baseline_hz, refractory, electrode
        Rate without features, Hz; refractory period, samples; row of the electrodes table.
    log_gains
        Weights in log rate at a feature's peak [n_units, n_features].
    defect
        "none", "contaminated", "low_rate", "drifting", "lost" or "duplicate".
    contamination
        Planted foreign share.
    target_hz
        Mean rate of low-rate units, Hz; NaN elsewhere.
    duplicate_of
        Row of the unit that this one copies, or -1.
    """

    unit_id: np.ndarray
    baseline_hz: np.ndarray
    refractory: np.ndarray
    electrode: np.ndarray
    log_gains: np.ndarray
    defect: np.ndarray
    contamination: np.ndarray
    target_hz: np.ndarray
    duplicate_of: np.ndarray


def n_with_defect(n_units: int, fraction: float) -> int:
    """Return how many units get a defect: the fraction, but at least one.

    Examples
    --------
    >>> n_with_defect(60, 0.1), n_with_defect(20, 0.02)
    (6, 1)
    """
    return max(1, round(fraction * n_units))


def draw_population(
    n_units: int, n_features: int, seed: int, animal: int, session: int, defects: bool
) -> Population:
    """Draw the units of one session of one animal.

    60 % of the units appear in every session of the animal, with weights perturbed by 10 % from
    session to session; the others are drawn afresh. Defects are drawn per session, as sorting is.

    Parameters
    ----------
    n_units, n_features
        Sizes.
    seed, animal, session
        What the draw depends on.
    defects
        Plant bad units.

    Raises
    ------
    ConfigError
        Fewer than 20 units.
    """
    n_copies = n_with_defect(n_units, DUPLICATE_FRACTION) if defects else 0
    n_rows = n_units - n_copies
    n_shared = round(SHARED_FRACTION * n_units)
    rng = np.random.default_rng([seed, animal, 0])
    driven = draw_selectivity(n_units, n_features, rng, n_copies)
    log_gains = draw_log_gains(driven, rng)
    baseline, refractory, electrode = _draw_cells(n_rows, rng)
    rng = np.random.default_rng([seed, animal, session, 1])
    if session > 0:
        own = np.arange(n_shared, n_rows)
        redrawn = draw_log_gains(reshuffle_rows(driven, own, rng), rng)
        log_gains[own] = redrawn[own]
        log_gains *= 1.0 + PERTURBATION * rng.standard_normal(log_gains.shape)
        fresh = _draw_cells(n_rows, rng)
        for kept, new in zip((baseline, refractory, electrode), fresh, strict=True):
            kept[own] = new[own]
    excited = np.clip(log_gains, 0.0, None).sum(axis=1)
    room = np.log(MAX_RATE_HZ / baseline)
    log_gains *= np.minimum(1.0, room / np.maximum(excited, 1e-9))[:, None]

    population = Population(
        unit_id=np.arange(n_rows),
        baseline_hz=baseline,
        refractory=refractory,
        electrode=electrode,
        log_gains=log_gains,
        defect=np.full(n_rows, "none", dtype=object),
        contamination=np.zeros(n_rows),
        target_hz=np.full(n_rows, np.nan),
        duplicate_of=np.full(n_rows, -1),
    )
    if defects:
        _plant_defects(population, n_units, rng)
        population = _with_copies(population, n_copies, n_shared, rng)
    own_ids = n_shared + session * (n_units - n_shared) + np.arange(n_units - n_shared)
    population.unit_id = np.concatenate([np.arange(n_shared), own_ids])
    return population


def _draw_cells(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    baseline = BASELINE_MEDIAN_HZ * np.exp(BASELINE_SIGMA * rng.standard_normal(n))
    low, high = REFRACTORY_SAMPLES
    refractory = rng.integers(low, high + 1, n)
    return np.minimum(baseline, BASELINE_CAP_HZ), refractory, rng.integers(0, N_ELECTRODES, n)


def _plant_defects(population: Population, n_units: int, rng: np.random.Generator) -> None:
    excited = population.log_gains > 0
    rows = rng.permutation(len(population.defect))
    fast = population.baseline_hz[rows] >= TESTABLE_HZ
    n = n_with_defect(n_units, CONTAMINATED_FRACTION)
    contaminated = _spare(np.concatenate([rows[fast], rows[~fast]]), n, excited)
    population.defect[contaminated] = "contaminated"
    population.contamination[contaminated] = np.resize(CONTAMINATION[::-1], n)
    n_low = n_with_defect(n_units, LOW_RATE_FRACTION)
    n_unstable = n_with_defect(n_units, UNSTABLE_FRACTION)
    excited[contaminated] = False
    rows = rng.permutation(np.flatnonzero(population.defect == "none"))
    chosen = _spare(rows, n_low + n_unstable, excited)
    low, unstable = chosen[:n_low], chosen[n_low:]
    population.defect[low] = "low_rate"
    population.target_hz[low] = rng.uniform(*LOW_RATE_HZ, n_low)
    population.defect[unstable] = np.resize(np.array(["lost", "drifting"], object), n_unstable)


def _spare(rows: np.ndarray, n: int, excited: np.ndarray) -> np.ndarray:
    """Choose n rows whose loss leaves each feature two clean units, where that is possible.

    A feature that no clean unit follows could be recovered by nobody.
    """
    left = excited.sum(axis=0)
    spared, needed = [], []
    for row in rows:
        if len(spared) < n and (left[excited[row]] > 2).all():
            spared.append(row)
            left -= excited[row]
        else:
            needed.append(row)
    return np.array([*spared, *needed][:n], dtype=int)


def _with_copies(
    population: Population, n_copies: int, n_shared: int, rng: np.random.Generator
) -> Population:
    """Append duplicates of clean units, at random places among the session's own units."""
    clean = rng.permutation(np.flatnonzero(population.defect == "none"))
    fast = population.baseline_hz[clean] >= TESTABLE_HZ
    sources = np.concatenate([clean[fast], clean[~fast]])[:n_copies]
    n = len(population.defect) + n_copies
    taken = np.concatenate([np.arange(n - n_copies), sources])
    order = np.concatenate([np.arange(n_shared), n_shared + rng.permutation(n - n_shared)])
    place = np.empty(n, int)
    place[order] = np.arange(n)  # place[row before] = row after
    is_copy = (np.arange(n) >= n - n_copies)[order]
    rows = taken[order]
    return Population(
        unit_id=np.arange(n),
        baseline_hz=population.baseline_hz[rows],
        refractory=population.refractory[rows],
        electrode=population.electrode[rows],
        log_gains=population.log_gains[rows],
        defect=np.where(is_copy, "duplicate", population.defect[rows]),
        contamination=population.contamination[rows],
        target_hz=population.target_hz[rows],
        duplicate_of=np.where(is_copy, place[rows], -1),
    )
