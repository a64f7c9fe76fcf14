"""How well the current token, or a few tokens, tell whether a latent is active."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from saebook.errors import ConfigError, DataError, SelectionError

# Latents whose predictions are dense at once.
CHUNK = 64
# With fewer active positions in either part, an AUC is noise.
FEWEST_ACTIVE = 5


@dataclass(frozen=True, eq=False)
class TokenRows:
    """Tokens of consecutive rows, with the documents that they are from.

    Attributes
    ----------
    tokens
        [n] int, token of each row.
    documents
        [n] int, document of each row; rows of one document follow one another.
    positions
        [n] int, position of each row in its document. Rows that a mask left out are gaps here.

    Examples
    --------
    >>> rows = TokenRows.of([5, 6, 7, 8], documents=[0, 0, 1, 1])
    >>> rows.before(1).tolist()
    [-1, 5, -1, 7]
    """

    tokens: np.ndarray
    documents: np.ndarray
    positions: np.ndarray

    @classmethod
    def of(cls, tokens: Any, documents: Any, positions: Any = None) -> TokenRows:
        """Check and complete; without positions, the rows of a document follow without gaps.

        Raises
        ------
        DataError
            Lengths differ, or rows are not in reading order.
        """
        tokens, documents = np.asarray(tokens), np.asarray(documents)
        if positions is None:
            new = np.r_[True, documents[1:] != documents[:-1]]
            index = np.arange(len(documents))
            positions = index - np.maximum.accumulate(np.where(new, index, 0))
        positions = np.asarray(positions)
        shapes = {tokens.shape, documents.shape, positions.shape}
        if len(shapes) != 1 or tokens.ndim != 1 or not len(tokens):
            raise DataError(f"tokens, documents, positions of shapes {shapes}: give [n] each")
        same = documents[1:] == documents[:-1]
        n_blocks = 1 + int((~same).sum())
        if n_blocks != len(np.unique(documents)) or (np.diff(positions)[same] <= 0).any():
            raise DataError(
                "rows are not in reading order: keep each document's rows together and its "
                "positions increasing, as a store does"
            )
        return cls(tokens, documents, positions)

    def __len__(self) -> int:
        return len(self.tokens)

    def before(self, distance: int) -> np.ndarray:
        """Token so many positions before each row, [n]; -1 where no row holds it."""
        found = np.full(len(self), -1, dtype=np.int64)
        if 0 < distance < len(self):
            adjacent = (self.documents[distance:] == self.documents[:-distance]) & (
                self.positions[distance:] - self.positions[:-distance] == distance
            )
            found[distance:] = np.where(adjacent, self.tokens[:-distance], -1)
        return found


def as_sparse(latents: Any) -> Any:
    """Latents [n, d_sae], a matrix of any kind, as a sparse one of what is active: above 0.

    Raises
    ------
    DataError
        Not a matrix, or a value is not finite.
    """
    if hasattr(latents, "detach"):
        latents = latents.detach().cpu().numpy()
    matrix: Any = sparse.csr_array(latents)
    if matrix.ndim != 2 or not np.isfinite(matrix.data).all():
        raise DataError(f"latents of shape {matrix.shape}: give finite numbers [n, d_sae]")
    # What is given stays as it is.
    matrix = sparse.csr_array((matrix.data.clip(0), matrix.indices, matrix.indptr), matrix.shape)
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    return matrix


def token_predictions(
    latents: Any,
    rows: TokenRows,
    train: Any,
    test: Any,
    *,
    order: int = 3,
    smoothing: float = 2.0,
) -> pd.DataFrame:
    """Predict every latent from the current token, and from it with those before it.

    Parameters
    ----------
    latents : array or sparse matrix
        [n, d_sae]; a latent is active above 0.
    rows : TokenRows
        Of the same n rows.
    train, test : array
        Rows that predictors are fitted on and judged on, as indices or booleans [n]. Documents
        must not be in both.
    order : int
        Tokens that the longer predictor sees, the current one included.
    smoothing : float
        Weight of what the shorter context says, in occurrences of the longer one.

    Returns
    -------
    DataFrame
        One row per latent: ``n_active`` (active test rows), ``density`` (share of all rows on
        which it is active), ``token_auc`` and ``ngram_auc`` (how well predicted probabilities of
        being active tell active test rows from others; 0.5 knows nothing), ``token_r2`` and
        ``ngram_r2`` (share of the variance of its activity that predicted activity explains) and
        ``top_token_share`` (share of its activity in training that fell on its favourite token).
        NaN for latents active on fewer than five rows of either part.

    Raises
    ------
    SelectionError
        A part is empty, or a document is in both.
    DataError, ConfigError
        Lengths or settings don't fit.

    Notes
    -----
    A context's estimate is ``(Σ a + κ p) / (n + κ)``, with p that of the context shortened by
    its earliest token, down to the mean over all training rows; a context that training rows
    never showed is thus predicted by its shorter one. An AUC near 1 for the token alone says that
    a latent names a token: true of many, and true of token embeddings without any SAE.

    Examples
    --------
    >>> tokens = np.arange(40) % 4
    >>> rows = TokenRows.of(tokens, documents=np.repeat([0, 1], 20))
    >>> fires_on_two = (tokens == 2)[:, None] * 3.0
    >>> found = token_predictions(fires_on_two, rows, rows.documents == 0, rows.documents == 1)
    >>> found[["token_auc", "top_token_share"]].round(3).to_numpy().tolist()
    [[1.0, 1.0]]
    """
    matrix = as_sparse(latents)
    if matrix.shape[0] != len(rows):
        raise DataError(f"{matrix.shape[0]} rows of latents for {len(rows)} tokens")
    if order < 1 or not smoothing > 0:
        raise ConfigError(f"order = {order}, smoothing = {smoothing}: give 1 or more, and above 0")
    train, test = parts(rows, train, test)
    active = (matrix > 0).astype(np.float64)
    n_train, n_test = (np.asarray(active[p].sum(axis=0)).ravel() for p in (train, test))
    contexts = _contexts(rows, order)
    table = pd.DataFrame(
        {
            "n_active": n_test.astype(int),
            "density": np.asarray(active.sum(axis=0)).ravel() / len(rows),
        },
        index=pd.RangeIndex(matrix.shape[1], name="latent"),
    )
    enough = np.flatnonzero((n_train >= FEWEST_ACTIVE) & (n_test >= FEWEST_ACTIVE))
    names = ("token_auc", "ngram_auc", "token_r2", "ngram_r2", "top_token_share")
    scores = np.full((matrix.shape[1], len(names)), np.nan)
    when = _Predictor(contexts, train, test, active[:, enough], smoothing)
    much = _Predictor(contexts, train, test, matrix[:, enough].astype(np.float64), smoothing)
    for start in range(0, len(enough), CHUNK):
        chunk = slice(start, start + CHUNK)
        columns = enough[chunk]
        for column, level in enumerate((0, order - 1)):
            scores[columns, column] = when.auc(chunk, level)
            scores[columns, column + 2] = much.r2(chunk, level)
        scores[columns, 4] = much.top_share(chunk)
    return table.assign(**dict(zip(names, scores.T, strict=True)))


def auc_at_chance(n_active: int, n_other: int) -> float:
    """Half-width of the 95 % interval around 0.5 of the AUC of a predictor that knows nothing.

    Parameters
    ----------
    n_active, n_other : int
        Independent rows of the two kinds. Neighbouring tokens are not quite independent, so real
        intervals are wider.

    Notes
    -----
    Mann and Whitney (1947): variance ``(P + N + 1) / (12 P N)``, without ties.

    Examples
    --------
    >>> round(auc_at_chance(50, 950), 3)
    0.082
    """
    return 1.96 * math.sqrt((n_active + n_other + 1) / (12 * n_active * n_other))


def grouped_auc(scores: np.ndarray, positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """AUC where rows with equal scores come in groups.

    Parameters
    ----------
    scores : ndarray
        [n_groups, m], one predictor per column.
    positive, negative : ndarray
        [n_groups, m], rows of the two kinds in each group.

    Returns
    -------
    ndarray
        [m], the probability that a positive row scores above a negative one, ties half; NaN
        without rows of both kinds.

    Examples
    --------
    >>> one = np.ones((3, 1))
    >>> grouped_auc(np.array([[0.1], [0.1], [0.9]]), one * [[0], [1], [1]], one * [[2], [0], [0]])
    array([0.75])
    """
    order = np.argsort(scores, axis=0, kind="stable")
    ranked, above, below = (
        np.take_along_axis(a, order, axis=0) for a in (scores, positive, negative)
    )
    seen = np.cumsum(below, axis=0)
    place = np.arange(len(ranked))[:, None]
    changes = ranked[1:] != ranked[:-1]
    edge = np.ones((1, ranked.shape[1]), dtype=bool)
    first = np.maximum.accumulate(np.where(np.vstack([edge, changes]), place, 0), axis=0)
    last_of = np.where(np.vstack([changes, edge]), place, len(ranked))
    last = np.minimum.accumulate(last_of[::-1], axis=0)[::-1]
    lower = np.take_along_axis(seen - below, first, axis=0)
    upper = np.take_along_axis(seen, last, axis=0)
    pairs = positive.sum(axis=0) * negative.sum(axis=0)
    won = (above * (lower + upper) / 2).sum(axis=0)
    return np.divide(won, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)


def parts(rows: TokenRows, train: Any, test: Any) -> tuple[np.ndarray, np.ndarray]:
    """Indices of two parts that share no document."""
    found = []
    for name, part in (("train", train), ("test", test)):
        part = np.asarray(part)
        indices = np.flatnonzero(part) if part.dtype == bool else part.astype(int)
        if not len(indices) or (part.dtype == bool and len(part) != len(rows)):
            raise SelectionError(f"{name}: {len(indices)} rows of {len(rows)}; give some")
        found.append(indices)
    shared = np.intersect1d(rows.documents[found[0]], rows.documents[found[1]])
    if len(shared):
        raise SelectionError(
            f"{len(shared)} documents are in both parts (first: {shared[0]}): split by document, "
            "or a predictor is judged on what it has read"
        )
    return found[0], found[1]


def _contexts(rows: TokenRows, order: int) -> list[np.ndarray]:
    """Id of the context of each row, for contexts of 1 … order tokens."""
    _, ids = np.unique(rows.tokens, return_inverse=True)
    contexts = [ids.ravel()]
    for distance in range(1, order):
        _, earlier = np.unique(rows.before(distance), return_inverse=True)
        # Numbers below 2^63: ids are below the number of rows.
        both = contexts[-1].astype(np.int64) * (len(rows) + 1) + earlier.ravel()
        contexts.append(np.unique(both, return_inverse=True)[1].ravel())
    return contexts


class _Predictor:
    """Smoothed means of some values per context, at the contexts of the test rows."""

    def __init__(
        self,
        contexts: list[np.ndarray],
        train: np.ndarray,
        test: np.ndarray,
        values: Any,
        smoothing: float,
    ) -> None:
        self._smoothing = smoothing
        self._mean = np.asarray(values[train].mean(axis=0)).ravel()
        self._parents: list[np.ndarray] = []
        self._sums, self._n = [], []
        self._test_sums, self._n_test = [], []
        needed_before = None
        for ids in contexts:
            needed, first = np.unique(ids[test], return_index=True)
            place = np.full(ids.max() + 1, -1)
            place[needed] = np.arange(len(needed))
            for part, sums, counts in (
                (train, self._sums, self._n),
                (test, self._test_sums, self._n_test),
            ):
                at = place[ids[part]]
                kept = at >= 0
                sums.append((_one_hot(at[kept], len(needed)) @ values[part[kept]]).tocsc())
                counts.append(np.bincount(at[kept], minlength=len(needed)))
            self._parents.append(
                np.zeros(len(needed), int) if needed_before is None else needed_before[test[first]]
            )
            needed_before = place[ids]
        # Favourite tokens are sought among all of training, seen in the test rows or not.
        whole = _one_hot(contexts[0][train], contexts[0].max() + 1) @ values[train]
        self._top, total = whole.max(axis=0).toarray().ravel(), np.asarray(whole.sum(0)).ravel()
        self._top = np.divide(self._top, total, out=np.full(len(total), np.nan), where=total > 0)
        square = values[test].power(2)
        self._squares = np.asarray(square.sum(axis=0)).ravel()
        self._test_total = np.asarray(values[test].sum(axis=0)).ravel()

    def predicted(self, chunk: slice, level: int) -> np.ndarray:
        """Estimates [n_contexts, m] at the contexts of the test rows."""
        estimate = self._mean[chunk][None]
        for step in range(level + 1):
            own, n = self._sums[step][:, chunk].toarray(), self._n[step][:, None]
            prior = estimate[self._parents[step]]
            estimate = (own + self._smoothing * prior) / (n + self._smoothing)
        return estimate

    def auc(self, chunk: slice, level: int) -> np.ndarray:
        """AUC on the test rows; values are 0 and 1."""
        positive = self._test_sums[level][:, chunk].toarray()
        negative = self._n_test[level][:, None] - positive
        return grouped_auc(self.predicted(chunk, level), positive, negative)

    def r2(self, chunk: slice, level: int) -> np.ndarray:
        """Share of the variance on the test rows that is explained."""
        made = self.predicted(chunk, level)
        sums, n = self._test_sums[level][:, chunk].toarray(), self._n_test[level][:, None]
        squares, total = self._squares[chunk], self._test_total[chunk]
        error = squares - 2 * (made * sums).sum(0) + (made**2 * n).sum(0)
        variance = squares - total**2 / n.sum()
        varies = variance > 1e-12 * squares
        return np.where(varies, 1 - error / np.where(varies, variance, 1.0), np.nan)

    def top_share(self, chunk: slice) -> np.ndarray:
        """Share of all values in training that fell on one token."""
        return self._top[chunk]


def _one_hot(at: np.ndarray, n: int) -> Any:
    return sparse.csr_array((np.ones(len(at)), (at, np.arange(len(at)))), shape=(n, len(at)))
