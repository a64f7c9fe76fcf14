"""The random dictionary: what d_sae directions that learned nothing would score."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from saebook.errors import ConfigError
from saebook.evaluation.examples import Examples
from saebook.evaluation.scorecard import evaluate
from saebook.metrics import MeanInterval, ScoreCard, mean_interval

CALIBRATION_ENTRIES = 2**24


class RandomDictionary:
    """An SAE with random unit-norm directions, its encoder their transpose.

    Latents are ``gain · ReLU((x - centre) · dᵢ)``, kept where they are among the example's k
    largest, or above a threshold; the reconstruction is ``centre + Σ latentᵢ dᵢ``.

    Parameters
    ----------
    d_in, d_sae : int
        Sizes.
    k : int, optional
        Active latents per example; without it, ``threshold`` decides.
    seed : int
        Of the Gaussian directions.

    Attributes
    ----------
    W_dec : Tensor [d_sae, d_in]
    centre : Tensor [d_in]
    threshold, gain : float
        Set by ``fit``.

    Examples
    --------
    >>> import torch
    >>> x = torch.rand(64, 4, generator=torch.Generator().manual_seed(0))
    >>> random = RandomDictionary(4, 32, k=3, seed=0)
    >>> random.fit(x, x.mean(0))
    >>> int((random.encode(x) > 0).sum(dim=1).max())
    3
    """

    def __init__(self, d_in: int, d_sae: int, k: int | None = None, seed: int = 0) -> None:
        if k is not None and not 1 <= k <= d_sae:
            raise ConfigError(f"k = {k}: it must be between 1 and d_sae = {d_sae}")
        generator = torch.Generator().manual_seed(seed)
        self.W_dec = F.normalize(torch.randn(d_sae, d_in, generator=generator), dim=1)
        self.k = k
        self.threshold = 0.0
        self.gain = 1.0
        self.centre = torch.zeros(d_in)

    def to(self, device: torch.device | str) -> RandomDictionary:
        """Move directions and centre; returns this object."""
        self.W_dec, self.centre = self.W_dec.to(device), self.centre.to(device)
        return self

    def fit(self, x: Tensor, centre: Tensor, l0: float | None = None) -> None:
        """Set centre, threshold (where k is None) and the one gain, on training rows.

        Parameters
        ----------
        x : Tensor
            [n, d_in] training rows.
        centre : Tensor
            [d_in] mean of all training rows.
        l0 : float, optional
            Mean number of active latents the threshold has to give; needed where k is None.
        """
        self.centre = centre.to(self.W_dec)
        x = x.to(self.W_dec)
        if self.k is None:
            if l0 is None:
                raise ConfigError("a random dictionary without k needs the l0 it has to match")
            rows = x[:: max(1, -(-x.shape[0] * len(self.W_dec) // CALIBRATION_ENTRIES))]
            h = self._positive(rows).flatten()
            n_active = min(round(l0 * len(rows)), len(h))
            # The largest value left out: exactly n_active lie above it, ties apart.
            self.threshold = (
                float(h.kthvalue(len(h) - n_active).values) if n_active < len(h) else 0.0
            )
        products = squares = 0.0
        for rows in x.split(4096):
            target = (rows - self.centre).double()
            unscaled = (self._select(self._positive(rows)) @ self.W_dec).double()
            products += float((target * unscaled).sum())
            squares += float(unscaled.square().sum())
        self.gain = products / squares if squares > 0 else 1.0

    def encode(self, x: Tensor) -> Tensor:
        """Latents [n, d_sae] of rows [n, d_in]."""
        return self.gain * self._select(self._positive(x.to(self.W_dec)))

    def decode(self, latents: Tensor) -> Tensor:
        """Reconstruction [n, d_in] of latents [n, d_sae]."""
        return latents @ self.W_dec + self.centre

    def _positive(self, x: Tensor) -> Tensor:
        return ((x - self.centre) @ self.W_dec.T).relu()

    def _select(self, positive: Tensor) -> Tensor:
        if self.k is None:
            return positive * (positive > self.threshold)
        values, indices = positive.topk(self.k, dim=-1, sorted=False)
        return torch.zeros_like(positive).scatter(-1, indices, values)


@dataclass(frozen=True, eq=False)
class RandomDictionaryControl:
    """Scores of several random dictionaries of one size.

    Parameters
    ----------
    fvu, l0 : MeanInterval
        Over seeds.
    cards : tuple of ScoreCard
        One per seed.
    seeds : tuple of int
        Seeds of the directions.
    """

    fvu: MeanInterval
    l0: MeanInterval
    cards: tuple[ScoreCard, ...]
    seeds: tuple[int, ...]


def random_dictionary_control(
    sae: Any,
    data: Any,
    *,
    split: str = "test",
    train_split: str = "train",
    train_data: Any = None,
    l0: float | None = None,
    seeds: Iterable[int] = range(5),
    fit_rows: int = 16384,
    batch_size: int = 4096,
) -> RandomDictionaryControl:
    """Score random dictionaries as wide and as sparse as an SAE.

    A TopK SAE is matched by its k. Any other is matched in mean L0, by a threshold set on
    training rows; on the scored rows the L0 can differ a little and is reported.

    Parameters
    ----------
    sae : SAE
        The model to match; its ``W_dec`` gives the sizes, its ``config`` the architecture.
    data : Tensor, ndarray or ExampleStore
        [n, d_in] rows to score, or a store.
    split, train_split : str
        Splits of a store to score and to fit on.
    train_data : Tensor or ndarray, optional
        [n, d_in] rows to fit on where ``data`` is a bare tensor; ``data`` itself by default.
    l0 : float, optional
        Mean L0 to match; measured on the scored rows by default.
    seeds : iterable of int
        One dictionary each; at least three for an interval worth having.
    fit_rows : int
        Training rows sampled for threshold and gain; the centre uses all of them.
    batch_size : int
        Rows per batch.

    Returns
    -------
    RandomDictionaryControl
        FVU and L0 over seeds, and each seed's card.

    Raises
    ------
    DataError, SelectionError
        The width differs from the model's, or a split is empty.

    Examples
    --------
    >>> import torch
    >>> x = torch.rand(256, 4, generator=torch.Generator().manual_seed(0))
    >>> control = random_dictionary_control(RandomDictionary(4, 16, k=2), x, seeds=(0, 1, 2))
    >>> control.fvu.n, control.fvu.mean < 1.0
    (3, True)
    """
    seeds = tuple(seeds)
    d_sae, d_in = sae.W_dec.shape
    config = getattr(sae, "config", None)
    if config is None:
        k = getattr(sae, "k", None)
    else:
        k = config.k if config.architecture == "topk" else None
    if k is None and l0 is None:
        l0 = evaluate(sae, data, split=split, counts=False, batch_size=batch_size).l0
    train = Examples(data if train_data is None else train_data, train_split)
    centre, sample = train.mean(), train.sample(fit_rows, seed=0)
    cards = []
    for seed in seeds:
        random = RandomDictionary(d_in, d_sae, k=k, seed=seed).to(sae.W_dec.device)
        random.fit(sample, centre, l0=l0)
        cards.append(evaluate(random, data, split=split, counts=False, batch_size=batch_size))
    return RandomDictionaryControl(
        fvu=mean_interval(_finite([card.fvu for card in cards])),
        l0=mean_interval([card.l0 for card in cards]),
        cards=tuple(cards),
        seeds=seeds,
    )


def _finite(values: list[float]) -> list[float]:
    if not np.isfinite(values).all():
        # Same data for every seed: one undefined score means that all are.
        raise ConfigError(
            "the scored rows are constant, so no dictionary has an FVU: score other rows"
        )
    return values
