"""Whether a latent's strongest contexts are about the same thing, against random positions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from saebook.errors import ConfigError, DataError
from saebook.evaluation.token_prediction import TokenRows, as_sparse, parts

# Random rows looked through for one in each of several documents.
ROWS_PER_CONTEXT = 8
# Groups whose sums of bags of words are held at once.
CHUNK = 1024


def context_coherence(
    latents: Any,
    rows: TokenRows,
    train: Any,
    test: Any,
    *,
    n_contexts: int = 10,
    window: int = 8,
    n_random: int = 8,
    seed: int = 0,
) -> pd.DataFrame:
    """Likeness of the words around each latent's strongest activations.

    Parameters
    ----------
    latents : array or sparse matrix
        [n, d_sae]; a latent is active above 0.
    rows : TokenRows
        Of the same n rows.
    train, test : array
        Rows whose token frequencies weigh words, and rows whose contexts are compared.
    n_contexts : int
        Strongest contexts per latent, of as many documents: two from one document would share
        its subject. Fewer where a latent is active in fewer documents.
    window : int
        Tokens taken on either side; the current token itself is left out, since
        :func:`~saebook.evaluation.token_predictions` looks at it alone.
    n_random : int
        Random latents, active on as many rows, per latent.
    seed : int
        Of the random latents, and of the order of equal activations.

    Returns
    -------
    DataFrame
        One row per latent: ``n_contexts``, ``coherence`` (mean cosine between the contexts'
        bags of words, each word counting once and weighing its information ``-log p``),
        ``coherence_random`` (the same for random latents) and ``coherence_z`` (their
        difference in standard deviations of random latents with as many contexts). NaN where a
        latent is active in fewer than two documents.

    Raises
    ------
    DataError, ConfigError, SelectionError
        Lengths or settings don't fit, or a document is in both parts.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> documents = np.repeat(np.arange(40), 50)
    >>> about_cats = documents % 2 == 0
    >>> tokens = rng.integers(0, 500, 2000) + np.where(about_cats, 0, 500)
    >>> rows = TokenRows.of(tokens, documents)
    >>> found = context_coherence(
    ...     (about_cats & (tokens % 10 == 0))[:, None] * 1.0, rows, documents < 20, documents >= 20
    ... )
    >>> bool(found["coherence"].iloc[0] > found["coherence_random"].iloc[0])
    True
    """
    matrix = as_sparse(latents)
    if matrix.shape[0] != len(rows):
        raise DataError(f"{matrix.shape[0]} rows of latents for {len(rows)} tokens")
    if n_contexts < 2 or window < 1 or n_random < 2:
        raise ConfigError(
            f"n_contexts = {n_contexts}, window = {window}, n_random = {n_random}: give at least "
            "2, 1 and 2"
        )
    train, test = parts(rows, train, test)
    rng = np.random.default_rng(seed)
    columns = matrix[test].tocsc()
    own: list[np.ndarray] = []
    random: list[np.ndarray] = []
    for latent in range(columns.shape[1]):
        stored = slice(columns.indptr[latent], columns.indptr[latent + 1])
        at, values = columns.indices[stored], columns.data[stored]
        at, values = at[values > 0], values[values > 0]
        shuffled = rng.permutation(len(at))
        strongest = shuffled[np.argsort(-values[shuffled], kind="stable")]
        own.append(_apart(test[at[strongest]], rows.documents, n_contexts))
        for _ in range(n_random):
            n_drawn = min(len(at), ROWS_PER_CONTEXT * n_contexts)
            drawn = test[rng.integers(0, len(test), n_drawn)]
            random.append(_apart(drawn, rows.documents, n_contexts))
    found = mean_cosines([*own, *random], rows, train, window)
    coherent, null = found[: len(own)], found[len(own) :]
    sizes = np.array([len(group) for group in own])
    spread = _spread_by_size(null, np.array([len(group) for group in random]))
    with np.errstate(invalid="ignore", divide="ignore"):
        null_mean = _nanmean(null.reshape(len(own), n_random))
        z = (coherent - null_mean) / np.array([spread.get(size, np.nan) for size in sizes])
    return pd.DataFrame(
        {
            "n_contexts": sizes,
            "coherence": coherent,
            "coherence_random": null_mean,
            "coherence_z": np.where(np.isfinite(z), z, np.nan),
        },
        index=pd.RangeIndex(len(own), name="latent"),
    )


def mean_cosines(
    groups: list[np.ndarray], rows: TokenRows, train: np.ndarray, window: int
) -> np.ndarray:
    """Mean cosine between the bags of words around the rows of each group, [n_groups].

    NaN for groups of fewer than two rows. Words weigh ``-log p`` in the training rows; what
    these never showed weighs as much as what they showed once.
    """
    vocabulary, ids = np.unique(rows.tokens, return_inverse=True)
    counts = np.bincount(ids.ravel()[train], minlength=len(vocabulary))
    weight = -np.log(np.maximum(counts, 1) / (len(train) + 1))
    found = np.full(len(groups), np.nan)
    for start in range(0, len(groups), CHUNK):
        chunk = groups[start : start + CHUNK]
        sizes = np.array([len(group) for group in chunk])
        centres = np.concatenate(chunk).astype(int)
        bags = _bags(centres, rows, ids.ravel(), weight, window)
        member = np.repeat(np.arange(len(chunk)), sizes)
        ones = (np.ones(len(centres)), (member, np.arange(len(centres))))
        sums = sparse.csr_array(ones, shape=(len(chunk), len(centres))) @ bags
        # An empty context is like no other, itself included.
        alone = np.bincount(
            member, np.asarray(bags.power(2).sum(axis=1)).ravel(), minlength=len(chunk)
        )
        pairs = sizes * (sizes - 1)
        both = np.asarray(sums.power(2).sum(axis=1)).ravel() - alone
        found[start : start + CHUNK] = np.divide(
            both, pairs, out=np.full(len(chunk), np.nan), where=pairs > 0
        )
    return found


def _bags(
    centres: np.ndarray, rows: TokenRows, ids: np.ndarray, weight: np.ndarray, window: int
) -> Any:
    """Weighted words around each row, of norm 1, [n_centres, n_words]."""
    offsets = np.r_[-window:0, 1 : window + 1]
    at = centres[:, None] + offsets  # [n_centres, 2 · window]
    inside = (at >= 0) & (at < len(rows))
    at = np.clip(at, 0, len(rows) - 1)
    inside &= rows.documents[at] == rows.documents[centres][:, None]
    inside &= np.abs(rows.positions[at] - rows.positions[centres][:, None]) <= window
    context = np.broadcast_to(np.arange(len(centres))[:, None], at.shape)[inside]
    word = ids[at[inside]]
    # Each word counts once per context.
    distinct = np.unique(context.astype(np.int64) * len(weight) + word)
    context, word = distinct // len(weight), distinct % len(weight)
    bags: Any = sparse.csr_array(
        (weight[word], (context, word)), shape=(len(centres), len(weight)), dtype=np.float64
    )
    norms = np.sqrt(np.asarray(bags.power(2).sum(axis=1)).ravel())
    bags.data /= np.repeat(np.where(norms > 0, norms, 1.0), np.diff(bags.indptr))
    return bags


def _apart(rows: np.ndarray, documents: np.ndarray, n: int) -> np.ndarray:
    """The first n of some rows, at most one per document."""
    _, first = np.unique(documents[rows], return_index=True)
    return rows[np.sort(first)[:n]]


def _spread_by_size(values: np.ndarray, sizes: np.ndarray) -> dict[int, float]:
    spread = {}
    for size in np.unique(sizes):
        group = values[sizes == size]
        group = group[np.isfinite(group)]
        if len(group) > 2:
            spread[int(size)] = float(group.std(ddof=1))
    return spread


def _nanmean(values: np.ndarray) -> np.ndarray:
    """Mean over the second axis of what is defined; NaN where nothing is."""
    known = np.isfinite(values)
    n = known.sum(axis=1)
    total = np.where(known, values, 0.0).sum(axis=1)
    return np.divide(total, n, out=np.full(len(values), np.nan), where=n > 0)
