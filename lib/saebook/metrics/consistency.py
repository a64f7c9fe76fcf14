"""Whether embeddings agree up to a linear map: across runs, and across sessions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from saebook.errors import DataError
from saebook.metrics.decoding import r2


def consistency_between_runs(embeddings: Sequence[np.ndarray]) -> np.ndarray:
    """R² of the linear fit from each embedding to each other one, of the same rows.

    Parameters
    ----------
    embeddings : sequence of ndarray
        At least two of [n, d], rows in the same order; widths may differ.

    Returns
    -------
    ndarray
        [n_runs, n_runs], entry (i, j) from run i to run j, averaged over the dimensions of j
        that vary; NaN on the diagonal. Identical up to a linear map: 1.

    Raises
    ------
    DataError
        Fewer than two, lengths differ, a value is not finite, or no more rows than dimensions, of
        which any fit is perfect.

    Notes
    -----
    Source: Schneider, Lee & Mathis (2023), CEBRA. The fit is scored on its own rows, as there:
    with wide embeddings and few rows chance is far above 0. Give beside it what shuffled rows
    score.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> first = rng.normal(size=(500, 2))
    >>> turned = first @ np.array([[0.6, -0.8], [0.8, 0.6]]) + 3
    >>> consistency_between_runs([first, turned]).round(3).tolist()
    [[nan, 1.0], [1.0, nan]]
    """
    rows = [np.asarray(embedding, dtype=float) for embedding in embeddings]
    if len(rows) < 2:
        raise DataError(f"{len(rows)} embedding: give at least two to compare")
    for embedding in rows:
        if embedding.ndim != 2 or len(embedding) != len(rows[0]):
            raise DataError(
                f"embeddings have shapes {[e.shape for e in rows]}: give [n, d] of the same rows"
            )
        if not np.isfinite(embedding).all():
            raise DataError("an embedding holds values that are not finite: drop those rows first")
        if len(embedding) <= embedding.shape[1] + 1:
            raise DataError(
                f"{len(embedding)} rows of {embedding.shape[1]} dimensions: a linear fit is then "
                "perfect whatever they are; give more rows, or labels with more values"
            )
    scores = np.full((len(rows), len(rows)), np.nan)
    for i, source in enumerate(rows):
        design = np.concatenate([source, np.ones((len(source), 1))], axis=1)
        basis, lengths, _ = np.linalg.svd(design, full_matrices=False)
        basis = basis[:, lengths > lengths[0] * len(design) * np.finfo(float).eps]
        for j, target in enumerate(rows):
            if i != j:
                scores[i, j] = r2(target, basis @ (basis.T @ target))
    return scores


def consistency_between_sessions(
    embeddings: Sequence[np.ndarray], labels: Sequence[np.ndarray], *, normalise: bool = True
) -> np.ndarray:
    """The same for embeddings of different rows, averaged over rows of the same label first.

    Parameters
    ----------
    embeddings : sequence of ndarray
        At least two of [n_i, d_i].
    labels : sequence of ndarray
        [n_i] int each: what a row was, such as the condition and the step of its trial, or a
        binned position. Labels that are not in every session, or below 0, are left out.
    normalise : bool
        Bring each averaged row to length 1, as CEBRA does, whose embeddings are directions.

    Returns
    -------
    ndarray
        [n_sessions, n_sessions], as from :func:`consistency_between_runs`.

    Raises
    ------
    DataError
        As there, or lengths of embeddings and labels differ.

    Notes
    -----
    Source: Schneider, Lee & Mathis (2023). CEBRA cuts one continuous label into 100 bins and fills
    empty ones from their neighbours; here labels come cut.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> place = rng.integers(0, 20, 600)
    >>> field = np.stack([np.cos(place / 4), np.sin(place / 4)], axis=1)
    >>> other = rng.permutation(600)
    >>> scores = consistency_between_sessions([field, -field[other]], [place, place[other]])
    >>> scores.round(3).tolist()
    [[nan, 1.0], [1.0, nan]]
    """
    if len(embeddings) != len(labels):
        raise DataError(f"{len(embeddings)} embeddings and {len(labels)} sets of labels")
    codes = [np.asarray(label) for label in labels]
    for embedding, code in zip(embeddings, codes):
        if code.shape != (len(embedding),):
            raise DataError(
                f"an embedding of shape {np.shape(embedding)} has labels of shape {code.shape}: "
                "give one label per row"
            )
    shared = codes[0][codes[0] >= 0]
    for code in codes[1:]:
        shared = np.intersect1d(shared, code)
    shared = np.unique(shared)
    if not len(shared):
        raise DataError("no label is in every session: use coarser labels")
    averages = [_by_label(np.asarray(e, float), c, shared) for e, c in zip(embeddings, codes)]
    if normalise:
        lengths = [np.linalg.norm(rows, axis=1, keepdims=True) for rows in averages]
        averages = [rows / np.where(n > 0, n, 1.0) for rows, n in zip(averages, lengths)]
    return consistency_between_runs(averages)


def _by_label(rows: np.ndarray, code: np.ndarray, shared: np.ndarray) -> np.ndarray:
    used = np.isin(code, shared)
    place = np.searchsorted(shared, code[used])
    sums = np.zeros((len(shared), rows.shape[1]))
    np.add.at(sums, place, rows[used])
    return sums / np.bincount(place, minlength=len(shared))[:, None]
