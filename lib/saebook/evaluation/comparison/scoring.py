"""Every score of one method on one set of data."""

from __future__ import annotations

import inspect
import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from saebook.baselines import Method, TrueRates
from saebook.evaluation.comparison.co_smoothing import (
    CoSmoothing,
    bits_of,
    fit_co_smoothing,
    floored_rates,
)
from saebook.evaluation.comparison.data import ComparisonData
from saebook.metrics import (
    dci,
    deviance_explained,
    knn_decoder,
    mean_correlation_coefficient,
    predict_factors,
    psth_r2,
    r2,
    ridge_decoder,
)

# Standard deviation of the benchmark's PSTHs, s.
PSTH_SMOOTHING_S = 0.07
SCORES = {
    "co_bps": "co-smoothing (bits/spike)",
    "deviance_explained": "deviance explained, held-out units",
    "rate_r2": "R² of true rates, held-out units",
    "psth_r2": "R² of PSTHs, held-out units",
    "decoding_r2": "R² of behaviour, ridge",
    "decoding_r2_knn": "R² of behaviour, kNN",
    "mcc": "MCC, Pearson",
    "mcc_spearman": "MCC, Spearman",
    "disentanglement": "disentanglement",
    "completeness": "completeness",
    "informativeness": "informativeness",
}


@dataclass(frozen=True, eq=False)
class Scored:
    """What came of one method.

    Parameters
    ----------
    scores : dict
        Values of ``SCORES``, NaN where the data lack what a score needs; ``validation_bits``,
        ``n_components``, ``readout``, ``seconds``.
    latents : ndarray
        [n, n_components] float32, of every row.
    """

    scores: dict[str, Any]
    latents: np.ndarray


def score_method(method: Method, data: ComparisonData) -> Scored:
    """Fit a method on training rows, and score its latents on test rows.

    Parameters
    ----------
    method : Method
        Not fitted. A transductive one is fitted on all rows: its scores belong apart.
    data : ComparisonData
        The method sees the units that are not held out.

    Returns
    -------
    Scored
        Validation rows choose the readout of held-out units, its penalty, the number of
        neighbours, and when a method whose ``fit`` takes them stops. Pairs of latents and factors
        are made on training rows.

    Raises
    ------
    DataError, ConfigError
        As the method.

    Examples
    --------
    >>> from saebook.baselines import PCA
    >>> from saebook.evaluation.comparison import hold_out_units
    >>> rng = np.random.default_rng(0)
    >>> drive = np.repeat(rng.gamma(1.0, 2.0, (100, 2)), 4, axis=0)
    >>> counts = rng.poisson(drive @ rng.uniform(0, 1, (2, 12)))
    >>> trials, split = np.repeat(np.arange(40), 10), np.repeat(["train", "validation", "test"], 200)
    >>> data = ComparisonData("toy", counts, trials, split[200:], hold_out_units(12, 0.25), 0.05)
    Traceback (most recent call last):
    ...
    saebook.errors.SelectionError: toy has no train rows: it needs all of ('train', 'validation', 'test')
    >>> split = np.repeat(["train", "validation", "test"], [200, 100, 100])
    >>> data = ComparisonData("toy", counts, trials, split, hold_out_units(12, 0.25), 0.05)
    >>> score_method(PCA(n_components=2), data).scores["co_bps"] > 0.1
    True
    """
    began = time.perf_counter()
    _fit(method, data)
    seconds = time.perf_counter() - began
    latents = method.transform(data.inputs, data.trials)
    scores: dict[str, Any] = dict.fromkeys(SCORES, math.nan)
    scores |= _held_out(method, latents, data)
    if data.behaviour is not None:
        scores |= _decoded(latents, data)
    if data.features is not None:
        scores |= _identified(latents, data)
    scores |= {"n_components": latents.shape[1], "seconds": seconds}
    return Scored(scores, latents)


def _fit(method: Method, data: ComparisonData) -> None:
    """Fit on training rows; on all, where a method can describe no others."""
    train = np.arange(len(data.counts)) if method.transductive else data.rows("train")
    further: dict[str, Any] = {}
    if "validation" in inspect.signature(method.fit).parameters:
        # It stops by itself: by the rows that choose everything else, which it doesn't learn from.
        train = np.flatnonzero(data.split != "test")
        further["validation"] = data.split[train] == "validation"
    y = None if data.behaviour is None else data.behaviour[train]
    method.fit(data.inputs[train], data.trials[train], y=y, **further)


def _held_out(method: Method, latents: np.ndarray, data: ComparisonData) -> dict[str, Any]:
    parts = {part: data.rows(part) for part in ("train", "validation", "test")}
    if isinstance(method, TrueRates) and data.rates is not None:
        # The ceiling needs no readout: the rates of the held-out units are known too.
        known = floored_rates(data.rates[:, data.held_out])
        bits = bits_of(data.targets[parts["validation"]], known[parts["validation"]])
        fitted = CoSmoothing("none", math.nan, bits, {}, lambda _: known[parts["test"]])
    else:
        fitted = fit_co_smoothing(
            (latents[parts["train"]], data.targets[parts["train"]]),
            (latents[parts["validation"]], data.targets[parts["validation"]]),
        )
    test = parts["test"]
    rates, counts = floored_rates(fitted.rates(latents[test])), data.targets[test]
    scores: dict[str, Any] = {
        "co_bps": bits_of(counts, rates),
        "deviance_explained": deviance_explained(torch.as_tensor(counts), torch.as_tensor(rates)),
        "validation_bits": fitted.validation_bits,
        "readout": fitted.readout,
    }
    if data.rates is not None:
        true = data.rates[test][:, data.held_out]
        scores["rate_r2"] = r2(true, rates, average="variance_weighted")
    if data.condition is not None and (data.condition[test] >= 0).any():
        smoothing = PSTH_SMOOTHING_S / data.bin_size_s
        scores["psth_r2"] = psth_r2(
            counts, rates, data.condition[test], data.step[test], smoothing=smoothing
        )
    return scores


def _decoded(latents: np.ndarray, data: ComparisonData) -> dict[str, float]:
    behaviour = data.behaviour
    assert behaviour is not None
    parts = {}
    for part in ("train", "validation", "test"):
        rows = data.rows(part)
        parts[part] = rows[np.isfinite(behaviour[rows]).all(axis=1)]
        if len(np.unique(data.trials[parts[part]])) < 2:
            return {}
    train, validation, test = (parts[part] for part in ("train", "validation", "test"))
    linear = ridge_decoder(latents[train], behaviour[train], groups=data.trials[train])
    nearest = knn_decoder(
        latents[train], behaviour[train], (latents[validation], behaviour[validation])
    )
    return {
        "decoding_r2": r2(behaviour[test], linear(latents[test])),
        "decoding_r2_knn": r2(behaviour[test], nearest(latents[test])),
    }


def _identified(latents: np.ndarray, data: ComparisonData) -> dict[str, float]:
    features = data.features
    assert features is not None
    pairs = {}
    for part in ("train", "validation", "test"):
        rows = data.rows(part)
        pairs[part] = latents[rows], features[rows]
    found = predict_factors(pairs["train"], pairs["test"], validation=pairs["validation"])
    # A factor that nothing predicts has no importances to be concentrated or spread.
    known = np.nan_to_num(found.r2) > 0
    shares = dci(found.importance[:, known]) if known.any() else None
    return {
        "mcc": mean_correlation_coefficient(*pairs["test"], matched_on=pairs["train"]),
        "mcc_spearman": mean_correlation_coefficient(
            *pairs["test"], method="spearman", matched_on=pairs["train"]
        ),
        "disentanglement": math.nan if shares is None else shares.disentanglement,
        "completeness": math.nan if shares is None else shares.completeness,
        "informativeness": found.informativeness,
    }
