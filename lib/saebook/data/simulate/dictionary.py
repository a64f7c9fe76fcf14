"""Activations from a dictionary that is known: linear, nested, or embedded non-linearly."""

from __future__ import annotations

import numpy as np

from saebook.data.simulate.embedding import draw_embedding, draw_forms, output_weights
from saebook.data.simulate.examples import (
    REFERENCE_ROWS,
    KnownExamples,
    feature_law,
    fill_blocks,
)
from saebook.data.simulate.settings import check_amounts, check_whole_numbers
from saebook.errors import ConfigError

DICTIONARIES = ("linear", "nonlinear", "nested")


def simulate_dictionary(
    n_examples: int,
    d_in: int,
    n_features: int,
    *,
    mean_l0: float,
    noise: float = 0.05,
    zipf: float = 0.5,
    kind: str = "linear",
    seed: int = 0,
) -> KnownExamples:
    """Draw activations from sparse features with known directions.

    Parameters
    ----------
    n_examples
        Number of examples. The first n are the same whatever their number.
    d_in
        Width of an example.
    n_features
        Number of features, more than `d_in` for superposition.
    mean_l0
        Mean number of active features per example.
    noise
        Standard deviation of Gaussian noise, relative to that of x without it: the smallest FVU
        that can be reached is about noise².
    zipf
        Exponent of the features' frequencies; 0 for equal ones.
    kind
        "linear": x = features · directions + noise. "nested": the same, with features in
        families of up to seven (a root, its two children and their four), a child active only
        when its parent is. "nonlinear": what a feature adds depends on the features around it
        and on its own strength, by a two-layer map of hidden terms.
    seed
        The same seed gives the same examples.

    Returns
    -------
    KnownExamples
        Examples, features and directions.

    Raises
    ------
    ConfigError
        A setting is unknown or out of range.

    Source
    ------
    Sparse nonnegative features in superposition after Elhage et al. (2022), Toy Models of
    Superposition.

    Examples
    --------
    >>> known = simulate_dictionary(2000, 16, 64, mean_l0=4, noise=0.1)
    >>> float(round((known.features > 0).sum(axis=1).mean(), 1))
    4.0
    >>> left = known.x - known.features @ known.directions
    >>> float(round(left.var() / known.x.var(axis=0).mean(), 2))
    0.01
    >>> short = simulate_dictionary(10, 16, 64, mean_l0=4, noise=0.1)
    >>> bool((short.x == known.x[:10]).all())
    True

    In a nested dictionary no child is active without its parent:

    >>> known = simulate_dictionary(500, 16, 70, mean_l0=6, kind="nested")
    >>> child, active = known.parent >= 0, known.features > 0
    >>> int(child.sum()), bool((active[:, child] <= active[:, known.parent[child]]).all())
    (60, True)
    """
    check_whole_numbers(0, seed=seed)
    check_whole_numbers(1, n_examples=n_examples, d_in=d_in, n_features=n_features)
    check_amounts(mean_l0=mean_l0, noise=noise, zipf=zipf)
    if kind not in DICTIONARIES:
        raise ConfigError(f"kind={kind!r} is unknown. Give one of {', '.join(DICTIONARIES)}.")
    rng = np.random.default_rng([seed, 0])
    law = feature_law(n_features, mean_l0, zipf, nested=kind == "nested")
    weights = rng.standard_normal((n_features, d_in))
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    reference = law.draw(REFERENCE_ROWS, np.random.default_rng([seed, 1]))
    if kind == "nonlinear":
        embedding = draw_embedding(reference, rng)
        forms = draw_forms((d_in, n_features), embedding, rng)
        output = output_weights(weights.T, forms)  # [d_in, n_hidden]
        weights = (output @ embedding.slopes(reference)).T
        decoder = output.T.astype(np.float32)
    else:
        embedding, decoder = None, weights.astype(np.float32)

    def signal(features: np.ndarray) -> np.ndarray:
        return (features if embedding is None else embedding.hidden(features)) @ decoder

    spread = float(np.sqrt(signal(reference).var(axis=0).mean()))

    def observe(features: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray]:
        x = signal(features)
        if noise > 0:
            x += noise * spread * rng.standard_normal(x.shape, dtype=np.float32)
        return (x,)

    features, x = fill_blocks(n_examples, law, observe, (d_in,), seed)
    return KnownExamples(x, features, weights, np.zeros(d_in), law.parent)
