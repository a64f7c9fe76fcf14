"""Features embedded non-linearly: a known two-layer map between features and their observation.

Each feature speaks through several hidden terms, switched by the features around it and by its
own strength, so that what it does to the units depends on the context.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# The terms of a feature z: z itself, z unless one of a group of others is active (two groups),
# and what of z exceeds a threshold.
TERMS = ("plain", "unless_a", "unless_b", "strong")
# How an observation may follow a feature: unless group a is active, only with group b, or only
# where the feature is strong.
FORMS = ("unless", "with", "strong")
SHARES = (0.45, 0.45, 0.1)
# So strong that a feature is silenced, not just lowered.
GATE = 3.0
THRESHOLD = 0.5
ACTIVE = 0.25
# A group leaves the feature alone in this share of its active examples, where that is possible.
ALONE = (0.4, 0.6)
CHUNK_ROWS = 16384


@dataclass(frozen=True, eq=False)
class Embedding:
    """Hidden layer between features and observations: h = relu(weights · z + offset).

    Attributes
    ----------
    weights
        [n_hidden, n_features], float64. Row t · n_features + i is term t of feature i.
    offset
        [n_hidden], float64.

    Examples
    --------
    >>> embedding = Embedding(np.array([[1.0, -3.0], [2.0, 0.0]]), np.array([0.0, -1.0]))
    >>> embedding.hidden(np.array([[1.0, 0.0], [1.0, 0.2], [0.2, 0.0]])).round(3).tolist()
    [[1.0, 1.0], [0.4, 1.0], [0.2, 0.0]]
    """

    weights: np.ndarray
    offset: np.ndarray

    def hidden(self, features: np.ndarray) -> np.ndarray:
        """Return the activity of all hidden terms [n, n_hidden] for features [n, n_features]."""
        weights = self.weights.astype(features.dtype)
        return np.maximum(features @ weights.T + self.offset.astype(features.dtype), 0.0)

    def term(self, features: np.ndarray, index: int) -> np.ndarray:
        """Return the activity of one hidden term [n], from the few features that it sees."""
        activity = np.full(len(features), self.offset[index])
        for column in np.flatnonzero(self.weights[index]):
            activity += self.weights[index, column] * features[:, column]
        return np.maximum(activity, 0.0, out=activity)

    def slopes(self, features: np.ndarray) -> np.ndarray:
        """Return the mean slope of each hidden term on each feature, where the feature is active.

        Parameters
        ----------
        features
            Nonnegative [n, n_features].

        Returns
        -------
        ndarray
            [n_hidden, n_features], float64: ∂h/∂z averaged over the examples with z > 0. A
            feature that is never active counts at strength 1, alone. Output weights times this
            are the effective directions.

        Examples
        --------
        A gate that is open in half of the examples passes half of the slope:

        >>> embedding = Embedding(np.array([[1.0, -2.0]]), np.zeros(1))
        >>> embedding.slopes(np.array([[1.0, 0.0], [1.0, 1.0]])).tolist()
        [[0.5, 0.0]]
        """
        n_features = self.weights.shape[1]
        # Counts of at most 16,384 are exact in float32, so the result is the same everywhere.
        both = np.zeros(self.weights.shape)
        n_active = np.zeros(n_features)
        for start in range(0, len(features), CHUNK_ROWS):
            chunk = features[start : start + CHUNK_ROWS]
            active = (chunk > 0).astype(np.float32)
            is_on = (self.hidden(chunk) > 0).astype(np.float32)
            both += is_on.T @ active
            n_active += active.sum(axis=0)
        alone = (self.weights + self.offset[:, None]) > 0
        share = np.where(n_active > 0, both / np.maximum(n_active, 1.0), alone)
        return share * self.weights + 0.0


def draw_embedding(reference: np.ndarray, rng: np.random.Generator) -> Embedding:
    """Draw the hidden terms of each feature.

    Parameters
    ----------
    reference
        Typical features [n, n_features], nonnegative, about 1 at their peak. Groups are chosen
        among features that are sometimes, but not always, active with the one that they switch.
    rng
        Source of randomness.

    Returns
    -------
    Embedding
        Four terms per feature, in the order of `TERMS`.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> embedding = draw_embedding((rng.random((500, 8)) < 0.4).astype(float), rng)
    >>> embedding.weights.shape, int((embedding.weights < 0).any(axis=1).sum())
    ((32, 8), 16)
    """
    n_features = reference.shape[1]
    active = reference > ACTIVE
    counts = active.sum(axis=0)
    together = active.T.astype(np.float32) @ active.astype(np.float32)
    chance = together / np.maximum(counts, 1)[:, None]  # P(column active | row active)
    own = np.eye(n_features)
    weights = np.concatenate([own, own, own, own / (1.0 - THRESHOLD)])
    offset = np.zeros(len(TERMS) * n_features)
    offset[TERMS.index("strong") * n_features :] = -THRESHOLD / (1.0 - THRESHOLD)
    for feature in range(n_features):
        for term in ("unless_a", "unless_b"):
            group = _draw_group(active[active[:, feature]], chance[feature], feature, rng)
            weights[TERMS.index(term) * n_features + feature, group] = -GATE
    return Embedding(weights, offset)


def draw_forms(
    shape: tuple[int, int], embedding: Embedding, rng: np.random.Generator
) -> np.ndarray:
    """Draw in which form each observation follows each feature.

    Parameters
    ----------
    shape
        (n_observations, n_features).
    embedding
        A feature without a group b can't be followed only with it, and gets another form.
    rng
        Source of randomness.

    Returns
    -------
    ndarray
        Indices into `FORMS` [n_observations, n_features], int.
    """
    forms = rng.choice(len(FORMS), shape, p=SHARES)
    n_features = shape[1]
    first = TERMS.index("unless_b") * n_features
    has_group = (embedding.weights[first : first + n_features] < 0).any(axis=1)
    return np.where((forms == FORMS.index("with")) & ~has_group, FORMS.index("unless"), forms)


def output_weights(strength: np.ndarray, forms: np.ndarray) -> np.ndarray:
    """Return the weights of observations on hidden terms.

    Parameters
    ----------
    strength
        What a feature of strength 1 adds where its form lets it [n_observations, n_features].
    forms
        Indices into `FORMS`, same shape.

    Returns
    -------
    ndarray
        [n_observations, n_hidden], float64.

    Examples
    --------
    >>> output_weights(np.array([[2.0], [2.0], [2.0]]), np.array([[0], [1], [2]])).tolist()
    [[0.0, 2.0, 0.0, 0.0], [2.0, 0.0, -2.0, 0.0], [0.0, 0.0, 0.0, 2.0]]
    """
    unless, only_with, strong = (np.where(forms == i, strength, 0.0) for i in range(len(FORMS)))
    # z - (z unless b) is what of z is there together with b.
    return np.concatenate([only_with, unless, -only_with, strong], axis=1) + 0.0


def _draw_group(
    active: np.ndarray, chance: np.ndarray, feature: int, rng: np.random.Generator
) -> list[int]:
    """Draw features of which one at least is active in about half of a feature's examples."""
    likely = chance * (1.0 - chance)
    likely[feature] = 0.0
    n_candidates = int((likely > 0).sum())
    if n_candidates == 0:
        return []
    order = rng.choice(len(chance), n_candidates, replace=False, p=likely / likely.sum())
    group, alone = [], np.ones(len(active), bool)
    for other in order:
        left = alone & ~active[:, other]
        if left.mean() < ALONE[0]:
            continue
        group.append(int(other))
        alone = left
        if alone.mean() < ALONE[1]:
            break
    return group
