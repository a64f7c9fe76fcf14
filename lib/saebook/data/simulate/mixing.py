"""Mixed selectivity: which features drive which units, and how strongly."""

from __future__ import annotations

import numpy as np

from saebook.errors import ConfigError

DRIVEN = (0.05, 0.15)
MIXED_FRACTION = 0.6
PER_MIXED_UNIT = (2, 4)
LOG_GAIN = (1.8, 2.8)
SUPPRESSED_FRACTION = 0.15


def draw_selectivity(
    n_units: int, n_features: int, rng: np.random.Generator, n_copies: int = 0
) -> np.ndarray:
    """Draw which features drive which units.

    Each feature drives 5-15 % of the units; 60 % of the units are mixed (2-4 features), the
    others follow one feature. Where there are too many features for both, the mixed units take
    more of them.

    Parameters
    ----------
    n_units
        Number of units, `n_copies` included.
    n_features
        Number of features.
    rng
        Source of randomness.
    n_copies
        Units that will be copies of others. They get no row here, but count as units that a
        feature may come to drive.

    Returns
    -------
    ndarray
        Booleans [n_units - n_copies, n_features].

    Raises
    ------
    ConfigError
        Fewer than 20 units: no feature could drive 5-15 % of them.

    Examples
    --------
    >>> driven = draw_selectivity(60, 32, np.random.default_rng(0))
    >>> fraction = driven.mean(axis=0)
    >>> bool(fraction.min() >= 0.05), bool(fraction.max() <= 0.15)
    (True, True)
    >>> float((driven.sum(axis=1) >= 2).mean())
    0.6
    """
    if n_units < 20:
        raise ConfigError(
            f"n_units={n_units} is too few for features that each drive 5-15 % of the units. "
            "Give at least 20."
        )
    n_rows = n_units - n_copies
    fewest = int(np.ceil(DRIVEN[0] * n_units))
    most = int(np.floor(DRIVEN[1] * n_units)) - n_copies
    n_mixed = round(MIXED_FRACTION * n_units)
    per_unit = np.ones(n_rows, int)
    mixed = rng.choice(n_rows, min(n_mixed, n_rows), replace=False)
    per_unit[mixed] = rng.integers(PER_MIXED_UNIT[0], PER_MIXED_UNIT[1] + 1, len(mixed))
    most = max(most, fewest)
    low, high = fewest * n_features, most * n_features
    while per_unit.sum() < low:
        per_unit[rng.choice(mixed)] += 1
    while per_unit.sum() > high:
        per_unit[rng.choice(mixed[per_unit[mixed] > PER_MIXED_UNIT[0]])] -= 1
    per_feature = np.full(n_features, fewest)
    for _ in range(per_unit.sum() - low):
        per_feature[rng.choice(np.flatnonzero(per_feature < most))] += 1
    return _shuffle_edges(_pair_up(per_unit, per_feature, rng), rng)


def reshuffle_rows(driven: np.ndarray, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Redraw the selectivity of some units; how many units each feature drives stays.

    Parameters
    ----------
    driven
        Booleans [n_units, n_features].
    rows
        Rows to redraw, int.
    rng
        Source of randomness.

    Examples
    --------
    >>> driven = np.eye(6, dtype=bool)
    >>> again = reshuffle_rows(driven, np.arange(3, 6), np.random.default_rng(0))
    >>> again.sum(axis=0).tolist(), bool((again[:3] == driven[:3]).all())
    ([1, 1, 1, 1, 1, 1], True)
    """
    redrawn = driven.copy()
    redrawn[rows] = _shuffle_edges(driven[rows], rng)
    return redrawn


def draw_log_gains(driven: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw the weight of each drive, in units of log rate at a feature's peak [n, n_features].

    Most drives multiply the rate by 6 to 16 (units that would grow too fast are toned down
    later); 15 % divide it instead. A unit with only suppressing drives would fall silent, and a
    feature that only suppresses would hardly show, so each unit gets one exciting drive at least
    and each feature two.

    Examples
    --------
    >>> gains = draw_log_gains(np.ones((50, 2), bool), np.random.default_rng(0))
    >>> bool((abs(gains) >= 1.8).all() and (gains.max(axis=1) > 0).all())
    True
    """
    gains = rng.uniform(*LOG_GAIN, driven.shape)
    gains *= np.where(rng.random(driven.shape) < SUPPRESSED_FRACTION, -1.0, 1.0)
    gains = np.where(driven, gains, 0.0)
    for lines, least in ((gains, 1), (gains.T, 2)):
        for line in lines:
            suppressed = np.flatnonzero(line < 0)
            line[suppressed[: max(least - int((line > 0).sum()), 0)]] *= -1.0
    return gains


def _pair_up(per_unit: np.ndarray, per_feature: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Give each unit and feature its number of partners: busiest features take the freest units."""
    driven = np.zeros((len(per_unit), len(per_feature)), bool)
    left = per_unit.copy()
    for feature in np.argsort(-per_feature, kind="stable"):
        order = np.lexsort((rng.random(len(left)), -left))
        chosen = order[: per_feature[feature]]
        driven[chosen, feature] = True
        left[chosen] -= 1
    return driven


def _shuffle_edges(driven: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Swap partners at random; both margins stay."""
    driven = driven.copy()
    rows, columns = np.nonzero(driven)
    n = len(rows)
    if n < 2:
        return driven
    for a, b in rng.integers(0, n, (20 * n, 2)):
        r, s, c, d = rows[a], rows[b], columns[a], columns[b]
        if r == s or c == d or driven[r, d] or driven[s, c]:
            continue
        driven[r, c] = driven[s, d] = False
        driven[r, d] = driven[s, c] = True
        columns[a], columns[b] = d, c
    return driven
