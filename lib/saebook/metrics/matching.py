"""Matching learned directions to true ones, and the scores of a match."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from saebook.errors import DataError


def cosine_similarity_matrix(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of every row of a with every row of b; 0 where a row is zero.

    Parameters
    ----------
    a : Tensor
        [n, d] directions, any float dtype, any length.
    b : Tensor
        [m, d] directions.

    Returns
    -------
    Tensor
        [n, m] float32 (float64 where an input is), between -1 and 1. A zero row has no
        direction: its similarity to everything is 0, never NaN.

    Raises
    ------
    DataError
        Widths differ, or a value is not finite.

    Examples
    --------
    >>> import torch
    >>> cosine_similarity_matrix(torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.eye(2))
    tensor([[1., 0.],
            [0., 0.]])
    """
    dtype = torch.float64 if torch.float64 in (a.dtype, b.dtype) else torch.float32
    unit_a, unit_b = _unit_rows(a, "a", dtype), _unit_rows(b, "b", dtype)
    if unit_a.shape[1] != unit_b.shape[1]:
        raise DataError(
            f"directions have widths {unit_a.shape[1]} and {unit_b.shape[1]}: they must agree"
        )
    return (unit_a @ unit_b.to(unit_a.device).T).clamp(-1.0, 1.0)  # [n, m]


def _unit_rows(rows: Tensor, name: str, dtype: torch.dtype) -> Tensor:
    rows = rows.detach()
    if rows.ndim != 2:
        raise DataError(f"{name} has shape {tuple(rows.shape)}: give directions as [n, d]")
    if not bool(torch.isfinite(rows).all()):
        raise DataError(f"{name} holds values that are not finite: check the model or file")
    rows = rows.to(dtype)
    # Scaling by the largest entry first keeps tiny and huge rows from under- and overflowing.
    rows = rows / torch.where((top := rows.abs().amax(1, keepdim=True)) > 0, top, 1.0)
    norm = rows.norm(dim=1, keepdim=True)
    return rows / torch.where(norm > 0, norm, 1.0)


def match_one_to_one(similarity: Tensor) -> tuple[Tensor, Tensor]:
    """One-to-one match of rows to columns with the largest total similarity.

    Parameters
    ----------
    similarity : Tensor
        [n, m], finite.

    Returns
    -------
    rows, columns : Tensor
        [min(n, m)] int64 each, rows ascending; ``similarity[rows, columns]`` are the pairs.

    Raises
    ------
    DataError
        Not a matrix, or a value that is not finite.

    Notes
    -----
    Source: Kuhn (1955), the Hungarian method; scipy's ``linear_sum_assignment``.

    Examples
    --------
    >>> import torch
    >>> rows, columns = match_one_to_one(torch.tensor([[0.9, 0.8], [0.8, 0.1]]))
    >>> list(zip(rows.tolist(), columns.tolist()))
    [(0, 1), (1, 0)]
    """
    # Lazy: a training node imports this room and never matches.
    from scipy.optimize import linear_sum_assignment

    if similarity.ndim != 2 or not bool(torch.isfinite(similarity).all()):
        raise DataError(
            f"similarity of shape {tuple(similarity.shape)} must be a matrix of finite values"
        )
    rows, columns = linear_sum_assignment(similarity.detach().cpu().numpy(), maximize=True)
    return torch.from_numpy(rows), torch.from_numpy(columns)


def mmcs(learned: Tensor, true: Tensor) -> tuple[float, float]:
    """Mean maximum cosine similarity, both ways.

    Parameters
    ----------
    learned : Tensor
        [n, d] learned directions.
    true : Tensor
        [m, d] true directions.

    Returns
    -------
    of_true, of_learned : float
        Mean over true directions of the best learned one (is everything found?), and mean
        over learned directions of the best true one (is everything found true?). Zero rows
        have no direction and are left out; NaN where nothing is left on the averaged side.

    Raises
    ------
    DataError
        Widths differ, or a value is not finite.

    Notes
    -----
    Source: Sharkey, Braun & Millidge (2022). It is many-to-one: ten copies of one feature
    score as well as one, which is why recall is counted one-to-one.

    Examples
    --------
    >>> import torch
    >>> mmcs(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.eye(2))
    (0.5, 1.0)
    """
    alive = learned.detach().abs().amax(1) > 0
    real = true.detach().abs().amax(1) > 0
    return _mmcs(cosine_similarity_matrix(learned[alive], true[real]))


def _mmcs(similarity: Tensor) -> tuple[float, float]:
    if similarity.shape[0] == 0 or similarity.shape[1] == 0:
        # A side with directions but nothing to meet them scores 0; an empty side is undefined.
        return (
            0.0 if similarity.shape[1] else math.nan,
            0.0 if similarity.shape[0] else math.nan,
        )
    return float(similarity.amax(0).mean()), float(similarity.amax(1).mean())


@dataclass(frozen=True, eq=False)
class MatchScores:
    """One-to-one match of learned to true directions and its scores.

    Parameters
    ----------
    recall : float
        Matched features / features that have a direction.
    precision : float
        Matched latents / alive latents; NaN where none is alive.
    mmcs_true, mmcs_learned : float
        Mean maximum cosine similarity of true and of alive learned directions.
    threshold : float
        Cosine at or above which a pair counts as matched.
    n_matched, n_features, n_alive : int
        The counts behind recall and precision.
    n_degenerate : int
        True directions that are zero, which nothing can recover; not among ``n_features``.
    latent_of_feature : Tensor
        [n_true] int64, the latent paired with each feature, -1 for none.
    cosine_of_feature : Tensor
        [n_true] float, the cosine of that pair, NaN for none.
    """

    recall: float
    precision: float
    mmcs_true: float
    mmcs_learned: float
    threshold: float
    n_matched: int
    n_features: int
    n_alive: int
    n_degenerate: int
    latent_of_feature: Tensor
    cosine_of_feature: Tensor


def match_scores(
    learned: Tensor, true: Tensor, threshold: float = 0.9, alive: Tensor | None = None
) -> MatchScores:
    """Match learned to true directions one-to-one and score the match.

    Parameters
    ----------
    learned : Tensor
        [n_latents, d] learned directions (rows of ``W_dec``).
    true : Tensor
        [n_features, d] true directions.
    threshold : float
        Cosine at or above which a pair counts as matched, in (0, 1].
    alive : Tensor, optional
        [n_latents] bool, latents that are ever active. Latents whose direction is zero are
        never alive. A dead latent is no discovery: it can't match.

    Returns
    -------
    MatchScores
        The pairs maximise the total cosine; a pair below the threshold stays in
        ``latent_of_feature`` for inspection but does not count.

    Raises
    ------
    DataError
        Widths differ, a value is not finite, no true direction, or a threshold outside (0, 1].

    Examples
    --------
    >>> import torch
    >>> learned = torch.tensor([[0.0, 3.0], [1.0, 1.0], [0.0, 0.0]])
    >>> scores = match_scores(learned, torch.eye(2))
    >>> scores.recall, scores.precision, scores.latent_of_feature.tolist()
    (0.5, 0.5, [1, 0])
    """
    if not 0.0 < threshold <= 1.0:
        raise DataError(f"threshold is {threshold}: give a cosine above 0 and up to 1")
    if true.ndim != 2 or not len(true):
        raise DataError(f"true directions have shape {tuple(true.shape)}: give [n_features, d]")
    similarity = cosine_similarity_matrix(learned, true)  # [n_latents, n_features]
    is_alive = learned.detach().abs().amax(1) > 0
    if alive is not None:
        if alive.shape != is_alive.shape:
            raise DataError(f"alive has shape {tuple(alive.shape)}, want ({len(learned)},)")
        is_alive &= alive.to(is_alive.device, torch.bool)
    latents = torch.nonzero(is_alive).flatten().cpu()
    features = torch.nonzero(true.detach().abs().amax(1) > 0).flatten().cpu()
    similarity = similarity.cpu()[latents][:, features]
    rows, columns = match_one_to_one(similarity)
    pairs = similarity[rows, columns]
    n_matched = int((pairs >= threshold).sum())
    latent_of = torch.full((len(true),), -1)
    cosine_of = torch.full((len(true),), math.nan, dtype=similarity.dtype)
    latent_of[features[columns]] = latents[rows]
    cosine_of[features[columns]] = pairs
    of_true, of_learned = _mmcs(similarity)
    return MatchScores(
        recall=n_matched / len(features) if len(features) else math.nan,
        precision=n_matched / len(latents) if len(latents) else math.nan,
        mmcs_true=of_true,
        mmcs_learned=of_learned,
        threshold=threshold,
        n_matched=n_matched,
        n_features=len(features),
        n_alive=len(latents),
        n_degenerate=len(true) - len(features),
        latent_of_feature=latent_of,
        cosine_of_feature=cosine_of,
    )
