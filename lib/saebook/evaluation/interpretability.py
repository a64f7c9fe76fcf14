"""Interpretability of latents judged by counting, without a model that writes explanations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy import sparse
from torch import Tensor

from saebook.errors import ConfigError, DataError
from saebook.evaluation.coherence import context_coherence
from saebook.evaluation.random_dictionary import RandomDictionary
from saebook.evaluation.scorecard import reconstruct, scoring
from saebook.evaluation.token_prediction import TokenRows, token_predictions

# A latent of which the current token explains this share is trivial.
TRIVIAL = 0.5
# Two latents at this cosine write nearly the same.
ALIKE = 0.9
RANDOM = "random dictionary"
FIT_ROWS = 16384


def latent_interpretability(
    latents: Any,
    rows: TokenRows,
    train: Any,
    test: Any,
    *,
    directions: Tensor | None = None,
    order: int = 3,
    n_contexts: int = 10,
    window: int = 8,
    seed: int = 0,
) -> pd.DataFrame:
    """How far each latent can be told from tokens, and whether its contexts belong together.

    Parameters
    ----------
    latents : array or sparse matrix
        [n, d_sae]; a latent is active above 0.
    rows : TokenRows
        Tokens, documents and positions of the same n rows.
    train, test : array
        Rows to fit on and rows to judge on, of different documents: indices or booleans [n].
    directions : Tensor, optional
        [d_sae, d], decoder rows, for the likeness of neighbours.
    order : int
        Tokens that the longer predictor sees, the current one included.
    n_contexts, window : int
        Strongest contexts per latent, and tokens on either side of each.
    seed : int
        Of random positions.

    Returns
    -------
    DataFrame
        One row per latent: the columns of :func:`~saebook.evaluation.token_predictions` and
        :func:`~saebook.evaluation.context_coherence`; and with directions ``neighbour``, the
        latent with the most similar direction, and ``neighbour_cosine``.

    Notes
    -----
    A high AUC is easily had: on random models and random dictionaries too, since tokens are what
    activations are made of. Read it beside these controls (:func:`interpretability_table`), and
    what the longer predictor adds beside what the token alone gives.

    References
    ----------
    Bills et al. 2023, "Language models can explain neurons in language models", for detection as
    a score; Heap et al. 2025, "Sparse autoencoders can interpret randomly initialized
    transformers" (arXiv 2501.17727).

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> tokens, documents = rng.integers(0, 20, 4000), np.repeat(np.arange(40), 100)
    >>> rows = TokenRows.of(tokens, documents)
    >>> latents = np.stack([tokens == 3, rng.random(4000) < 0.05], axis=1) * 1.0
    >>> found = latent_interpretability(latents, rows, documents < 30, documents >= 30)
    >>> on_a_token, at_random = found["token_auc"]
    >>> on_a_token == 1.0 and abs(at_random - 0.5) < 0.15
    True
    """
    table = token_predictions(latents, rows, train, test, order=order)
    about = context_coherence(
        latents, rows, train, test, n_contexts=n_contexts, window=window, seed=seed
    )
    table = table.join(about)
    if directions is not None:
        if len(directions) != len(table):
            raise DataError(f"{len(directions)} directions for {len(table)} latents")
        neighbour, cosine = nearest_directions(directions)
        table = table.assign(neighbour=neighbour.numpy(), neighbour_cosine=cosine.numpy())
    return table


@torch.no_grad()
def nearest_directions(directions: Tensor, *, chunk: int = 2048) -> tuple[Tensor, Tensor]:
    """The most similar other direction of each.

    Parameters
    ----------
    directions : Tensor
        [n, d], at least two; a row of zeros is similar to nothing (cosine 0).
    chunk : int
        Rows compared at once; memory is ``chunk · n``.

    Returns
    -------
    neighbour : Tensor
        [n] int, on the CPU.
    cosine : Tensor
        [n] float, signed.

    Examples
    --------
    >>> neighbour, cosine = nearest_directions(torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 4.0]]))
    >>> neighbour.tolist(), [round(c, 2) for c in cosine.tolist()]
    ([2, 2, 1], [0.6, 0.8, 0.8])
    """
    if directions.ndim != 2 or len(directions) < 2:
        raise DataError(f"directions of shape {tuple(directions.shape)}: give [n >= 2, d]")
    unit = F.normalize(directions.detach().float(), dim=1)
    neighbours, cosines = [], []
    for start in range(0, len(unit), chunk):
        similar = unit[start : start + chunk] @ unit.T
        own = torch.arange(len(similar), device=unit.device)
        similar[own, own + start] = -torch.inf
        cosine, neighbour = similar.max(dim=1)
        neighbours.append(neighbour.cpu())
        cosines.append(cosine.cpu())
    return torch.cat(neighbours), torch.cat(cosines)


def latents_of(sae: Any, x: Tensor, *, batch_size: int = 4096) -> Any:
    """Latents of activations x [n, d_in] as a sparse matrix [n, d_sae]."""
    with scoring(sae):
        blocks = [
            sparse.csr_array(reconstruct(sae, batch)[0].float().cpu().numpy())
            for batch in x.split(batch_size)
        ]
    return sparse.csr_array(sparse.vstack(blocks, format="csr"))


def interpretability_table(
    saes: Mapping[str, Any],
    x: Tensor,
    rows: TokenRows,
    train: Any,
    test: Any,
    *,
    random_seeds: Sequence[int] = (0,),
    **settings: Any,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Judge several SAEs on the same tokens, a random dictionary always among them.

    Parameters
    ----------
    saes : mapping
        By name, SAEs for ``x``, or pairs of an SAE and activations of its own for the same rows:
        those of a randomly initialised model, say. An SAE whose decoder stayed as it was drawn
        belongs among them.
    x : Tensor
        [n, d_in] activations.
    rows : TokenRows
        Of the same n rows.
    train, test : array
        Rows to fit on and rows to judge on, of different documents.
    random_seeds : sequence of int
        Random dictionaries as wide and as sparse as the first SAE, fitted on training rows; none
        where empty.
    **settings
        Of :func:`latent_interpretability`.

    Returns
    -------
    summary : DataFrame
        One row per SAE: ``d_sae``; ``scored``, latents active often enough to be judged; over
        these, medians of ``token_auc``, ``ngram_auc``, ``token_r2``, ``ngram_r2``,
        ``coherence``, ``coherence_random``, ``coherence_z`` and ``neighbour_cosine``;
        ``ngram_gain``, the median of what earlier tokens add to the AUC; and the shares
        ``trivial`` (``token_r2`` of at least 0.5), ``coherent`` (``coherence_z`` above 2) and
        ``alike`` (``neighbour_cosine`` above 0.9).
    latents : DataFrame
        Every latent of every SAE, indexed by SAE and latent.

    Raises
    ------
    DataError, ConfigError
        Numbers of rows differ, or a name is taken.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> tokens, documents = rng.integers(0, 8, 2000), np.repeat(np.arange(20), 100)
    >>> x = torch.eye(8)[torch.from_numpy(tokens)] + 0.1 * torch.randn(
    ...     2000, 8, generator=torch.Generator().manual_seed(0)
    ... )
    >>> sae = RandomDictionary(8, 16, k=2)
    >>> sae.fit(x, x.mean(0))
    >>> summary, latents = interpretability_table(
    ...     {"SAE": sae}, x, TokenRows.of(tokens, documents), documents < 12, documents >= 12
    ... )
    >>> summary.index.tolist(), len(latents)
    (['SAE', 'random dictionary'], 32)
    """
    if not saes:
        raise ConfigError("no SAE was given")
    with_own = {n: s if isinstance(s, tuple) else (s, x) for n, s in saes.items()}
    first, own = next(iter(with_own.values()))
    train = np.asarray(train)
    for seed in random_seeds:
        name = RANDOM if len(random_seeds) == 1 else f"{RANDOM} {seed}"
        if name in with_own:
            raise ConfigError(f"an SAE is named {name!r}, as the control is: give it another name")
        with_own[name] = (_random_like(first, own, train, seed), own)
    tables = {}
    for name, (sae, activations) in with_own.items():
        if len(activations) != len(rows):
            raise DataError(f"{name}: {len(activations)} activations for {len(rows)} tokens")
        found = latents_of(sae, activations)
        directions = sae.directions if hasattr(sae, "directions") else sae.W_dec
        tables[name] = latent_interpretability(
            found, rows, train, test, directions=directions, **settings
        )
    latents = pd.concat(tables, names=["sae", "latent"])
    return pd.DataFrame({n: _summary(t) for n, t in tables.items()}).T.infer_objects(), latents


def _summary(table: pd.DataFrame) -> pd.Series:
    scored = table.loc[table["token_auc"].notna()]
    medians = ("token_auc", "ngram_auc", "token_r2", "ngram_r2", "coherence")
    medians += ("coherence_random", "coherence_z", "neighbour_cosine")
    row: dict[str, Any] = {"d_sae": len(table), "scored": len(scored)}
    row |= {name: scored[name].median() for name in medians}
    row["ngram_gain"] = (scored["ngram_auc"] - scored["token_auc"]).median()
    shares = {
        "trivial": scored["token_r2"] >= TRIVIAL,
        "coherent": scored["coherence_z"] > 2,
        "alike": scored["neighbour_cosine"] > ALIKE,
    }
    row |= {name: of.mean() if len(scored) else np.nan for name, of in shares.items()}
    return pd.Series(row)


def _random_like(sae: Any, x: Tensor, train: np.ndarray, seed: int) -> RandomDictionary:
    """A random dictionary of the same size and mean L0 on training rows."""
    indices = np.flatnonzero(train) if train.dtype == bool else train
    chosen = np.random.default_rng(seed).permutation(indices)[:FIT_ROWS]
    sample = x[torch.from_numpy(np.sort(chosen))]
    with scoring(sae):
        latents, _ = reconstruct(sae, sample)
    d_sae, d_in = sae.W_dec.shape
    random = RandomDictionary(d_in, d_sae, seed=seed).to(sae.W_dec.device)
    sample = sample.to(latents)
    random.fit(sample, sample.mean(dim=0), l0=float((latents > 0).sum(dim=1).float().mean()))
    return random
