"""What an SAE's scores must be set against: raw units, PCA, random dictionaries, shuffles."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from saebook.errors import DataError
from saebook.evaluation.examples import Examples, same_width
from saebook.evaluation.random_dictionary import random_dictionary_control
from saebook.evaluation.scorecard import evaluate, reconstruct, scoring
from saebook.metrics import (
    MeanInterval,
    RawUnitControl,
    RawUnitSums,
    ReconstructionSums,
    ScoreCard,
    mean_interval,
)


def raw_unit_control(x: Tensor, k: int | Tensor, centre: Tensor | None = None) -> RawUnitControl:
    """Score of copying k raw units per example and filling in the rest.

    Parameters
    ----------
    x : Tensor
        [n, d_in] examples.
    k : int or Tensor
        Units kept: one number, or [n] integers (the SAE's active latents per example).
    centre : Tensor, optional
        [d_in] mean of the training rows; the mean of ``x`` by default.

    Returns
    -------
    RawUnitControl
        ``fvu``, the ``fill`` that did better (mean or zero) and the whole ``curve`` over k.

    Raises
    ------
    DataError
        Shapes disagree or a value is not finite.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[3.0, 0.0, 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 2.0]])
    >>> [round(raw_unit_control(x, k).fvu, 3) for k in (0, 1, 2, 3)]
    [1.0, 0.115, 0.0, 0.0]
    """
    if x.ndim != 2 or not len(x):
        raise DataError(f"x has shape {tuple(x.shape)}: examples must come as [n, d_in]")
    sums = ReconstructionSums()
    sums.update(x, torch.zeros_like(x))
    raw = RawUnitSums(sums.mean if centre is None else centre)
    raw.update(x, torch.as_tensor(k, device=x.device).expand(len(x)))
    return raw.control(float(sums.squares_per_feature.sum()))


@dataclass(frozen=True, eq=False)
class PCAControl:
    """FVU of principal components fitted on training rows.

    Parameters
    ----------
    curve : Tensor
        [d_in + 1] float64, FVU on the scored rows with 0 … d_in components. Above d_in
        components nothing is left out: FVU 0 by construction.
    components : Tensor
        [d_in, d_in] float64, rows are components by decreasing training variance.
    """

    curve: Tensor
    components: Tensor

    def fvu_at(self, n_components: float) -> float:
        """FVU with this many components; between two whole numbers, interpolated."""
        return RawUnitControl(float("nan"), "mean", self.curve, 0.0).fvu_at(n_components)


def pca_control(
    data: Any,
    test_data: Any = None,
    *,
    split: str = "test",
    train_split: str = "train",
    batch_size: int = 16384,
) -> PCAControl:
    """Fit PCA on training rows and score every number of components on the others.

    Parameters
    ----------
    data : Tensor, ndarray or ExampleStore
        [n, d_in] training rows, or a store with splits.
    test_data : Tensor or ndarray, optional
        [m, d_in] rows to score, where ``data`` is a bare tensor; without them the training
        rows are scored, which favours PCA.
    split, train_split : str
        Splits of a store to score and to fit on.
    batch_size : int
        Rows per batch; it changes memory, not results.

    Returns
    -------
    PCAControl
        FVU by number of components. PCA is dense: compare it at as many components as the
        SAE has active latents (equal numbers per example) and say so.

    Raises
    ------
    DataError, SelectionError
        Widths differ, a value is not finite, or a split is empty.

    Notes
    -----
    Source: Pearson (1901); eigenvectors of the training covariance, in float64.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[0.0, 0.0], [1.0, 2.0], [2.0, 4.0]])
    >>> [abs(round(value, 6)) for value in pca_control(x).curve.tolist()]
    [1.0, 0.0, 0.0]
    """
    train = Examples(data, train_split)
    test = train if test_data is None and train.split == "given" else None
    if test is None:
        test = Examples(data if test_data is None else test_data, split)
    if train.d_in != test.d_in:
        raise DataError(f"training rows have {train.d_in} columns, the others {test.d_in}")
    centre = train.mean()
    scatter = torch.zeros(train.d_in, train.d_in, dtype=torch.float64)
    for x in train.batches(batch_size):
        deviation = x.to("cpu", torch.float64) - centre
        scatter += deviation.T @ deviation
    components = torch.linalg.eigh(scatter).eigenvectors.flip(1).T.contiguous()
    sums = ReconstructionSums()
    captured = torch.zeros(train.d_in, dtype=torch.float64)
    for x in test.batches(batch_size):
        x = x.to("cpu", torch.float64)
        sums.update(x, centre.expand_as(x))
        captured += ((x - centre) @ components.T).square().sum(0)
    left = sums.squared_error - torch.cat([captured.new_zeros(1), captured.cumsum(0)])
    total = float(sums.squares_per_feature.sum())
    curve = left.clamp_min(0.0) / total if total > 0 else torch.full_like(left, float("nan"))
    return PCAControl(curve=curve, components=components)


def shuffle_units(x: Tensor, seed: int = 0) -> Tensor:
    """Permute each unit's values over examples, each unit by its own permutation.

    Every unit keeps its distribution; what units do together is gone.

    Parameters
    ----------
    x : Tensor
        [n, d_in].
    seed : int
        Of the permutations.

    Returns
    -------
    Tensor
        [n, d_in], same dtype and device.

    Examples
    --------
    >>> import torch
    >>> x = torch.arange(8).reshape(4, 2)
    >>> bool((shuffle_units(x).sort(dim=0).values == x).all())
    True
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(x.shape, generator=generator, dtype=torch.float64).argsort(dim=0)
    return x.gather(0, order.to(x.device))


@dataclass(frozen=True, eq=False)
class ShuffleControl:
    """FVU of a trained SAE on data whose co-activity was destroyed.

    Parameters
    ----------
    fvu : MeanInterval
        Over seeds of the shuffle.
    intact_fvu : float
        On the same rows, not shuffled.
    n_examples : int
        Rows used.
    """

    fvu: MeanInterval
    intact_fvu: float
    n_examples: int


def shuffle_control(
    sae: Any,
    data: Any,
    *,
    split: str = "test",
    seeds: Iterable[int] = range(5),
    max_rows: int = 65536,
    batch_size: int = 4096,
) -> ShuffleControl:
    """Score an SAE on data in which each unit was shuffled over time on its own.

    An SAE that only copies units does as well on shuffled data; one that learned which units
    fire together does worse.

    Parameters
    ----------
    sae : SAE
        Anything with ``encode`` and ``decode``.
    data : Tensor, ndarray or ExampleStore
        [n, d_in] examples, or a store.
    split : str
        Split of a store.
    seeds : iterable of int
        One shuffle each.
    max_rows : int
        Rows held in memory; more are sampled down, evenly over seeds.
    batch_size : int
        Rows per batch.

    Returns
    -------
    ShuffleControl
        Both scores, on the same rows.

    Raises
    ------
    DataError, SelectionError
        The width differs from the model's, or the split is empty.

    Examples
    --------
    >>> import torch
    >>> class Copy:
    ...     def encode(self, x): return x
    ...     def decode(self, latents): return latents
    >>> control = shuffle_control(Copy(), torch.eye(4), seeds=(0, 1))
    >>> control.fvu.mean, control.intact_fvu
    (0.0, 0.0)
    """
    examples = Examples(data, split)
    same_width(sae, examples)
    x = examples.sample(max_rows, seed=0)
    scores = [_fvu(sae, shuffle_units(x, seed), batch_size) for seed in seeds]
    return ShuffleControl(mean_interval(scores), _fvu(sae, x, batch_size), len(x))


def _fvu(sae: Any, x: Tensor, batch_size: int) -> float:
    sums = ReconstructionSums()
    with scoring(sae):
        for rows in x.split(batch_size):
            _, reconstruction = reconstruct(sae, rows)
            sums.update(rows.to(reconstruction.device), reconstruction)
    return sums.fvu()


def control_table(
    sae: Any,
    data: Any,
    *,
    card: ScoreCard | None = None,
    split: str = "test",
    train_split: str = "train",
    train_data: Any = None,
    seeds: Iterable[int] = range(5),
) -> pd.DataFrame:
    """The SAE's FVU beside every control at the same L0, one row each.

    Parameters
    ----------
    sae : SAE
        A trained model.
    data : Tensor, ndarray or ExampleStore
        A store with splits, or [n, d_in] rows to score together with ``train_data``.
    card : ScoreCard, optional
        Of this SAE on this split, where it was already computed.
    split, train_split : str
        Splits of a store to score and to fit on.
    train_data : Tensor or ndarray, optional
        [n, d_in] training rows where ``data`` is a bare tensor; controls are then fitted on
        them, else on ``data`` itself, which favours the controls.
    seeds : iterable of int
        Of the random dictionaries and shuffles.

    Returns
    -------
    DataFrame
        Index: SAE, raw units, random dictionary, PCA, SAE on shuffled units, mean. Columns:
        ``fvu``, ``low``, ``high`` (95 % interval over seeds, NaN without seeds), ``l0``
        (active latents, units or components per example), ``n_seeds``, ``note``.

    Raises
    ------
    DataError, SelectionError
        The width differs from the model's, or a split is empty.

    Examples
    --------
    >>> import torch
    >>> from saebook.evaluation import RandomDictionary
    >>> x = torch.rand(256, 4, generator=torch.Generator().manual_seed(0))
    >>> sae = RandomDictionary(4, 16, k=2, seed=9)
    >>> table = control_table(sae, x, seeds=(0, 1))
    >>> table["n_seeds"].tolist()
    [0, 0, 2, 0, 2, 0]
    """
    seeds = list(seeds)
    where: dict[str, Any] = {"split": split, "train_split": train_split}
    if card is None:
        card = evaluate(sae, data, train_data=train_data, **where)
    raw = card.raw_unit
    if raw is None:
        raw = _raw_units_at(card.l0, data, train_data, where)
    bare = isinstance(data, Tensor | np.ndarray)
    fitted_on = data if train_data is None else train_data
    pca = pca_control(fitted_on, data if bare else None, **where)
    random = random_dictionary_control(
        sae, data, train_data=train_data, l0=card.l0, seeds=seeds, **where
    )
    shuffled = shuffle_control(sae, data, split=split, seeds=seeds)
    none = float("nan")
    rows = {
        "SAE": (card.fvu, none, none, card.l0, 0, f"{card.d_sae} latents"),
        "raw units": (raw.fvu, none, none, raw.l0, 0, f"the rest at {raw.fill}"),
        "random dictionary": (
            *_ends(random.fvu),
            random.l0.mean,
            len(seeds),
            f"{card.d_sae} random directions",
        ),
        "PCA": (pca.fvu_at(card.l0), none, none, card.l0, 0, "dense components"),
        "SAE on shuffled units": (
            *_ends(shuffled.fvu),
            none,
            len(seeds),
            "co-activity destroyed",
        ),
        "mean": (1.0, none, none, 0.0, 0, "by definition"),
    }
    columns = ["fvu", "low", "high", "l0", "n_seeds", "note"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("model")


def _ends(interval: MeanInterval) -> tuple[float, float, float]:
    return interval.mean, interval.low, interval.high


def _raw_units_at(l0: float, data: Any, train_data: Any, where: dict) -> RawUnitControl:
    """The control at one mean L0, for data (activations) whose card does not hold it."""
    examples = Examples(data, where["split"])
    bare = examples.split == "given"
    fitted = Examples(train_data if train_data is not None else data, where["train_split"])
    raw = RawUnitSums(examples.mean() if bare and train_data is None else fitted.mean())
    sums = ReconstructionSums()
    for x in examples.batches(4096):
        sums.update(x, torch.zeros_like(x))
        raw.update(x, torch.full((len(x),), round(l0)))
    found = raw.control(float(sums.squares_per_feature.sum()))
    return RawUnitControl(found.fvu_at(l0), found.fill, found.curve, l0)
