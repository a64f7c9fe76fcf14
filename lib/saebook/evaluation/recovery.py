"""Were the true features found? By direction, and by activity, against chance."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from saebook.errors import DataError
from saebook.metrics import (
    MatchScores,
    MeanInterval,
    match_one_to_one,
    match_scores,
    mean_interval,
)

CHUNK_ROWS = 8192


def decoder_directions(sae: Any) -> Tensor:
    """What one unit of each latent adds to the reconstruction, in the units of the data.

    Parameters
    ----------
    sae : SAE
        Its ``directions`` are taken out of scaled units; of a model without them, ``W_dec`` as
        it is.

    Returns
    -------
    Tensor
        [d_sae, d_target]. For an mlp decoder the local Jacobian averaged over active examples;
        where each example has a scale of its own, in scaled units.

    Examples
    --------
    >>> from saebook.evaluation import RandomDictionary
    >>> sae = RandomDictionary(3, 5, k=1)
    >>> bool((decoder_directions(sae) - sae.W_dec).abs().max() < 1e-6)
    True
    """
    scaling = getattr(sae, "target_scaling", None)
    with torch.no_grad():
        directions = getattr(sae, "directions", sae.W_dec)
        if scaling is None or scaling.mode.per_example:
            return directions.clone()
        bins = directions.unflatten(-1, (-1, len(scaling.shift)))
        return (scaling.invert(bins) - scaling.invert(torch.zeros_like(bins))).flatten(-2)


@dataclass(frozen=True, eq=False)
class Recovery:
    """Recovery of true directions, beside random dictionaries of the same size.

    Parameters
    ----------
    scores : MatchScores
        Of the learned directions.
    random : DataFrame
        One row per random seed: recall, precision, mmcs_true, mmcs_learned.
    null : str
        How random directions were drawn: ``"gaussian"`` or ``"nonnegative"``.
    """

    scores: MatchScores
    random: pd.DataFrame
    null: str

    def random_interval(self, score: str) -> MeanInterval:
        """Mean and 95 % interval of one score over the random dictionaries."""
        return mean_interval(self.random[score])

    def table(self) -> pd.DataFrame:
        """Scores of the learned and random directions, one row per score."""
        rows = {}
        for score in ("recall", "precision", "mmcs_true", "mmcs_learned"):
            random = self.random_interval(score)
            rows[score] = (getattr(self.scores, score), random.mean, random.low, random.high)
        columns = ["learned", "random", "random_low", "random_high"]
        return pd.DataFrame.from_dict(rows, orient="index", columns=columns)

    def to_dict(self) -> dict[str, Any]:
        """Scores as plain numbers, None for NaN: ready for JSON."""
        table = self.table().astype(object)
        return {
            "threshold": self.scores.threshold,
            "n_features": self.scores.n_features,
            "n_alive": self.scores.n_alive,
            "n_matched": self.scores.n_matched,
            "null": self.null,
            **table.where(table.notna(), None).to_dict("index"),
        }


def recover_features(
    learned: Any,
    true_directions: Tensor | np.ndarray,
    *,
    threshold: float = 0.9,
    alive: Tensor | None = None,
    seeds: Iterable[int] = range(5),
    null: str = "auto",
) -> Recovery:
    """Match an SAE's decoder to the true directions of the data, one-to-one.

    Parameters
    ----------
    learned : SAE or Tensor
        A model, or directions [n_latents, d_in] in the units of the data.
    true_directions : Tensor or ndarray
        [n_features, d_in], any length. On spikes behind a log link the SAE's best directions
        need not equal the mixing weights: see ``recover_activity``.
    threshold : float
        Cosine at or above which a pair counts as recovered.
    alive : Tensor, optional
        [n_latents] bool, latents that are ever active (``card.density > 0``). The random
        dictionaries get as many directions as are alive.
    seeds : iterable of int
        One random dictionary each.
    null : str
        ``"gaussian"`` directions, or ``"nonnegative"`` (their absolute values), which is the
        harder and fairer null where every true direction is nonnegative; ``"auto"`` chooses
        by that.

    Returns
    -------
    Recovery
        Recall, precision and MMCS with their values by chance.

    Raises
    ------
    DataError
        Widths differ, a value is not finite, or an unknown null.

    Examples
    --------
    >>> import torch
    >>> true = torch.eye(4)
    >>> found = recover_features(torch.cat([2 * true, torch.ones(4, 4)]), true)
    >>> found.scores.recall, found.scores.precision, found.null
    (1.0, 0.5, 'nonnegative')
    """
    true = torch.as_tensor(true_directions).detach().cpu()
    if true.ndim != 2:
        raise DataError(f"true directions have shape {tuple(true.shape)}: give [n_features, d_in]")
    directions = learned if isinstance(learned, Tensor) else decoder_directions(learned)
    directions = directions.detach().cpu()
    if null == "auto":
        null = "nonnegative" if bool((true >= 0).all()) else "gaussian"
    if null not in ("gaussian", "nonnegative"):
        raise DataError(f"null = {null!r}: choose 'auto', 'gaussian' or 'nonnegative'")
    scores = match_scores(directions, true, threshold, alive=None if alive is None else alive.cpu())
    rows = {}
    for seed in seeds:
        shape = (max(scores.n_alive, 1), true.shape[1])
        random = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        random = random.abs() if null == "nonnegative" else random
        by_chance = match_scores(random, true, threshold)
        rows[seed] = {name: getattr(by_chance, name) for name in _SCORES}
    return Recovery(scores, pd.DataFrame.from_dict(rows, orient="index", columns=_SCORES), null)


_SCORES = ["recall", "precision", "mmcs_true", "mmcs_learned"]


@dataclass(frozen=True, eq=False)
class ActivityRecovery:
    """How well latents follow the time courses of true features, on rows not used to choose.

    Parameters
    ----------
    features : DataFrame
        One row per feature: ``latent``, ``r_train``, ``r_test`` of the one-to-one match and
        ``best_latent``, ``best_r_train``, ``best_r_test`` of the feature's own best latent.
        ``latent`` is -1 and r NaN where nothing could be matched (more features than latents,
        or a constant feature); a latent that is constant has r = 0 with everything.
    recall : float
        Share of features, among those that vary on both sets of rows, whose one-to-one
        latent reaches the threshold on test rows.
    mean_r : float
        Mean r_test over the same features, a missing one counting as 0.
    threshold : float
        Correlation at or above which a feature counts as recovered.
    n_features, n_constant : int
        Features scored, and features left out because they are constant.
    shifted : DataFrame
        One row per circular shift: recall and mean_r by chance.
    correlation : Tensor
        [n_latents, n_features] float32 on training rows, 0 where either is constant.
    """

    features: pd.DataFrame
    recall: float
    mean_r: float
    threshold: float
    n_features: int
    n_constant: int
    shifted: pd.DataFrame
    correlation: Tensor

    def shifted_interval(self, score: str) -> MeanInterval:
        """Mean and 95 % interval of recall or mean_r over the circular shifts."""
        return mean_interval(self.shifted[score])


def recover_activity(
    latents_train: Tensor,
    features_train: Tensor | np.ndarray,
    latents_test: Tensor,
    features_test: Tensor | np.ndarray,
    *,
    threshold: float = 0.7,
    feature_names: Iterable[Any] | None = None,
    n_shifts: int = 5,
    seed: int = 0,
) -> ActivityRecovery:
    """Choose latents that follow the true features on training rows, score them on test rows.

    Parameters
    ----------
    latents_train, latents_test : Tensor
        [n, n_latents] activity, rows in the order of time.
    features_train, features_test : Tensor or ndarray
        [n, n_features] true time courses of the same rows.
    threshold : float
        Correlation at or above which a feature counts as recovered.
    feature_names : iterable, optional
        Index of the returned table; 0, 1, … by default.
    n_shifts : int
        Circular shifts of the features against the latents, by at least a tenth of the rows:
        chance, with both sides' autocorrelation kept. Each is chosen and scored anew.
    seed : int
        Of the shifts.

    Returns
    -------
    ActivityRecovery
        The match, its scores and their values by chance.

    Raises
    ------
    DataError
        Numbers of rows or columns disagree, or a value is not finite.

    Examples
    --------
    >>> import torch
    >>> features = torch.rand(400, 3, generator=torch.Generator().manual_seed(0))
    >>> latents = features[:, [2, 0, 1]]
    >>> found = recover_activity(latents[:200], features[:200], latents[200:], features[200:])
    >>> found.recall, found.features["latent"].tolist()
    (1.0, [1, 2, 0])
    """
    train, test = torch.as_tensor(features_train), torch.as_tensor(features_test)
    if train.shape[1:] != test.shape[1:] or latents_train.shape[1:] != latents_test.shape[1:]:
        raise DataError(
            "training and test rows disagree in width: features "
            f"{tuple(train.shape)} and {tuple(test.shape)}, latents "
            f"{tuple(latents_train.shape)} and {tuple(latents_test.shape)}"
        )
    n_features = train.shape[1]
    offsets = np.random.default_rng(seed).uniform(0.1, 0.9, n_shifts)
    on_train, varies_train = _correlation(latents_train, train, offsets)
    on_test, varies_test = _correlation(latents_test, test, offsets)
    usable = varies_train & varies_test
    names = range(n_features) if feature_names is None else list(feature_names)
    if len(names) != n_features:
        raise DataError(f"{len(names)} feature names for {n_features} features")
    matches = [
        _choose(on_train[:, block], on_test[:, block], usable)
        for block in torch.arange(n_features * (n_shifts + 1)).split(n_features)
    ]
    true_match = matches[0].set_axis(pd.Index(names, name="feature"))
    recall, mean_r = _summary(true_match, usable, threshold)
    by_chance = [_summary(match, usable, threshold) for match in matches[1:]]
    return ActivityRecovery(
        features=true_match,
        recall=recall,
        mean_r=mean_r,
        threshold=threshold,
        n_features=int(usable.sum()),
        n_constant=int((~usable).sum()),
        shifted=pd.DataFrame(by_chance, columns=["recall", "mean_r"]),
        correlation=on_train[:, :n_features],
    )


def _correlation(latents: Tensor, features: Tensor, offsets: np.ndarray) -> tuple[Tensor, Tensor]:
    """Pearson r of latents with features and their shifts, [n_latents, n_features · (1 + s)].

    Products are formed in float32 from centred chunks and added up in float64: as exact as r
    needs, and several times faster than float64 throughout.
    """
    if latents.ndim != 2 or features.ndim != 2 or len(latents) != len(features):
        raise DataError(
            f"latents {tuple(latents.shape)} and features {tuple(features.shape)}: give "
            "[n, n_latents] and [n, n_features] for the same rows"
        )
    n = len(latents)
    if n < 2:
        raise DataError(f"{n} rows: a correlation needs at least two")
    for name, values in (("latents", latents), ("features", features)):
        if not bool(torch.isfinite(values).all()):
            raise DataError(f"{name} hold values that are not finite: drop those rows first")
    device = latents.device
    features = features.to(device, torch.float64)
    varies = features.amax(0) > features.amin(0)
    scale = features.std(0, correction=0)
    standard = torch.where(
        varies, (features - features.mean(0)) / torch.where(varies, scale, 1.0), 0.0
    )
    shifted = [standard] + [standard.roll(int(offset * n), dims=0) for offset in offsets]
    standard = torch.cat(shifted, dim=1).float()  # [n, n_features * (1 + n_shifts)]
    mean = latents.mean(0, dtype=torch.float64).float()
    products = torch.zeros(latents.shape[1], standard.shape[1], dtype=torch.float64, device=device)
    squares = torch.zeros(latents.shape[1], dtype=torch.float64, device=device)
    deviation_sum = torch.zeros_like(squares)
    for start in range(0, n, CHUNK_ROWS):
        centred = latents[start : start + CHUNK_ROWS].float() - mean
        products += (centred.T @ standard[start : start + CHUNK_ROWS]).double()
        squares += centred.square().sum(0, dtype=torch.float64)
        deviation_sum += centred.sum(0, dtype=torch.float64)
    squares -= deviation_sum.square() / n  # what rounding the mean to float32 left over
    moves = latents.amax(0) > latents.amin(0)
    norm = torch.where(moves, squares.clamp_min(1e-300).sqrt(), 1.0)
    r = products / (norm[:, None] * math.sqrt(n))
    r = torch.where(moves[:, None], r, 0.0).clamp(-1.0, 1.0)
    return r.float().cpu(), varies.cpu()


def _choose(on_train: Tensor, on_test: Tensor, usable: Tensor) -> pd.DataFrame:
    n_features = on_train.shape[1]
    table = pd.DataFrame(
        {
            "latent": np.full(n_features, -1),
            "r_train": math.nan,
            "r_test": math.nan,
            "best_latent": np.full(n_features, -1),
            "best_r_train": math.nan,
            "best_r_test": math.nan,
        }
    )
    columns = torch.nonzero(usable).flatten()
    if not len(columns) or not len(on_train):
        return table
    latents, matched = match_one_to_one(on_train[:, columns])
    best = on_train[:, columns].argmax(0)
    for prefix, rows, features in (("", latents, columns[matched]), ("best_", best, columns)):
        table.loc[features.numpy(), f"{prefix}latent"] = rows.numpy()
        table.loc[features.numpy(), f"{prefix}r_train"] = on_train[rows, features].double().numpy()
        table.loc[features.numpy(), f"{prefix}r_test"] = on_test[rows, features].double().numpy()
    return table


def _summary(match: pd.DataFrame, usable: Tensor, threshold: float) -> tuple[float, float]:
    if not bool(usable.any()):
        return math.nan, math.nan
    r = match["r_test"].to_numpy()[usable.numpy()]
    return float((r >= threshold).mean()), float(np.nan_to_num(r).mean())
