"""Examples drawn from known sparse features, block by block, so that the first n never depend on n."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from saebook.errors import ConfigError

BLOCK_ROWS = 4096
# Settles scales (noise, rates, average slopes) before the first example, whatever their number.
REFERENCE_ROWS = 8192
MOST_OFTEN = 0.5
CHILD_SHARE = 0.4
WEAKEST = 0.5
BEYOND_WEAKEST = 0.5
N_LEVELS = 3


@dataclass(frozen=True, eq=False)
class KnownExamples:
    """Examples, and everything that is true of them.

    Attributes
    ----------
    x
        What is observed [n, d_in], float32: activations, or counts per bin.
    features
        True features [n, n_features], float32, sparse and nonnegative.
    weights
        What each feature adds at strength 1 [n_features, d_in], float64: to x, or in Hz before
        the link. Embedded non-linearly: on average over the examples in which it is active.
    offset
        What there is without any feature [d_in], float64, in the same units.
    parent
        Feature without which each feature is never active [n_features], int; -1 for none.
    rates
        True rates [n, d_in], float32, Hz; None where x are no counts.

    Examples
    --------
    >>> from saebook.data.simulate import simulate_dictionary
    >>> known = simulate_dictionary(1000, 16, 32, mean_l0=3, noise=0.0)
    >>> known.x.shape, known.features.shape, known.directions.shape
    ((1000, 16), (1000, 32), (32, 16))
    >>> bool(np.allclose(known.x, known.features @ known.directions, atol=1e-5))
    True
    """

    x: np.ndarray
    features: np.ndarray
    weights: np.ndarray
    offset: np.ndarray
    parent: np.ndarray
    rates: np.ndarray | None = None

    @property
    def directions(self) -> np.ndarray:
        """`weights` as unit rows [n_features, d_in], what a recovered dictionary is held to."""
        return self.weights / np.linalg.norm(self.weights, axis=1, keepdims=True)

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True, eq=False)
class FeatureLaw:
    """How sparse nonnegative features are drawn.

    Attributes
    ----------
    probability
        Of being active, for a child given that its parent is [n_features].
    parent
        As in `KnownExamples`; smaller than the feature's own number.
    """

    probability: np.ndarray
    parent: np.ndarray

    @property
    def density(self) -> np.ndarray:
        """Probability of being active, whatever the parent does [n_features]."""
        density = self.probability.copy()
        for rows in _levels(self.parent):
            density[rows] *= density[self.parent[rows]]
        return density

    def draw(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Draw features [n, n_features], float32: active ones are 0.5 + Exp of mean 0.5."""
        shape = (n, len(self.probability))
        # Points of a Poisson process fall into the cells; a cell that got any is active. With
        # -log(1 - p) points expected per cell, cells are independent and active with p, and a
        # point per active cell is drawn instead of a number for every cell.
        n_points = rng.poisson(-n * np.log1p(-self.probability))
        active = np.zeros(shape, bool)
        active[rng.integers(0, n, n_points.sum()), np.arange(shape[1]).repeat(n_points)] = True
        for rows in _levels(self.parent):
            active[:, rows] &= active[:, self.parent[rows]]
        features = np.zeros(shape, np.float32)
        where = np.flatnonzero(active)
        strength = rng.standard_exponential(len(where), dtype=np.float32)
        features.ravel()[where] = WEAKEST + BEYOND_WEAKEST * strength
        return features


def feature_law(n_features: int, mean_l0: float, zipf: float, nested: bool = False) -> FeatureLaw:
    """Return the law of features that fire by Zipf's law.

    Parameters
    ----------
    n_features
        Number of features, most frequent first within a level.
    mean_l0
        Mean number of active features per example, met exactly.
    zipf
        Exponent: the probability of feature i is proportional to (i + 1)^-zipf, and capped at
        one half.
    nested
        A forest of three levels, two children each; Zipf's law holds among the roots, and a
        child is active in 40 % of its parent's examples.

    Raises
    ------
    ConfigError
        More features would have to be active than can be.

    Examples
    --------
    >>> law = feature_law(4, 1.0, 1.0)
    >>> law.probability.round(3).tolist()
    [0.48, 0.24, 0.16, 0.12]
    >>> feature_law(7, 1.0, 0.5, nested=True).parent.tolist()
    [-1, 0, 0, 1, 1, 2, 2]
    """
    parent = np.full(n_features, -1)
    if nested:
        n_roots = -(-n_features // (2**N_LEVELS - 1))
        parent[n_roots:] = np.arange(n_features - n_roots) // 2
    root = np.arange(n_features)
    share = np.ones(n_features)
    for rows in _levels(parent):
        root[rows], share[rows] = root[parent[rows]], CHILD_SHARE * share[parent[rows]]
    n_roots = int((parent < 0).sum())
    family = np.bincount(root, share, n_roots)  # active features per active root
    if mean_l0 > MOST_OFTEN * family.sum():
        raise ConfigError(
            f"mean_l0={mean_l0} of {n_features} features: each is active in at most half of the "
            f"examples{' and children less often' if nested else ''}, which makes "
            f"{MOST_OFTEN * family.sum():g}. Give more features or a smaller mean_l0."
        )
    relative = np.arange(1.0, n_roots + 1.0) ** -zipf
    probability = np.zeros(n_roots)
    capped = np.zeros(n_roots, bool)
    while True:
        left = mean_l0 - MOST_OFTEN * family[capped].sum()
        total = (family * relative)[~capped].sum()
        probability = np.where(capped, MOST_OFTEN, relative * left / max(total, 1e-300))
        beyond = probability > MOST_OFTEN
        if not beyond.any():
            break
        capped |= beyond
    given_parent = np.full(n_features, CHILD_SHARE)
    given_parent[:n_roots] = probability
    return FeatureLaw(given_parent, parent)


def fill_blocks(
    n_examples: int,
    law: FeatureLaw,
    observe: Callable[[np.ndarray, np.random.Generator], tuple[np.ndarray, ...]],
    widths: tuple[int, ...],
    seed: int,
) -> tuple[np.ndarray, ...]:
    """Draw features and what is observed of them, 4,096 examples at a time.

    Parameters
    ----------
    n_examples
        Number of examples.
    law
        Of the features.
    observe
        Takes features [4096, n_features] and a source of randomness; returns one array
        [4096, width] for each of `widths`.
    widths
        Widths of the observed arrays.
    seed
        Each block has its own source of randomness, and is always drawn whole.

    Returns
    -------
    tuple of ndarray
        Features [n_examples, n_features], then the observed arrays, all float32.
    """
    n_features = len(law.probability)
    filled = tuple(np.empty((n_examples, width), np.float32) for width in (n_features, *widths))
    for block, start in enumerate(range(0, n_examples, BLOCK_ROWS)):
        rng = np.random.default_rng([seed, 2, block])
        features = law.draw(BLOCK_ROWS, rng)
        n = min(BLOCK_ROWS, n_examples - start)
        for whole, part in zip(filled, (features, *observe(features, rng)), strict=True):
            whole[start : start + n] = part[:n]
    return filled


def _levels(parent: np.ndarray) -> list[np.ndarray]:
    """Rows of the children of each level, parents first."""
    depth = np.zeros(len(parent), int)
    for row in np.flatnonzero(parent >= 0):
        depth[row] = depth[parent[row]] + 1
    return [np.flatnonzero(depth == level) for level in range(1, depth.max(initial=0) + 1)]
