"""Which kind of feature did a dictionary keep? Recovery of slow and of fast ones, apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from saebook.data.simulate import KnownSequences
from saebook.evaluation.recovery import decoder_directions, recover_activity
from saebook.evaluation.scorecard import reconstruct, scoring
from saebook.evaluation.temporal import consistency
from saebook.metrics import fvu, match_scores

CHOSEN_ON = 4096


def score_slow_fast(
    sae: Any, known: KnownSequences, n_train: int, *, prefix: int, lag: int = 1
) -> dict[str, float]:
    """Recovery of slow and fast features, with what it cost, on sequences left out.

    Parameters
    ----------
    sae : SAE
        Anything with ``encode``, ``decode`` and ``W_dec``.
    known : KnownSequences
        The sequences, from :func:`saebook.data.simulate.simulate_slow_fast`.
    n_train : int
        Rows it was trained on: the first ones, whole sequences. The others are scored.
    prefix : int
        Latents that the temporal term saw; the same number for models without one.
    lag : int
        Of the autocorrelation, rows.

    Returns
    -------
    dict
        ``fvu``, ``l0``; of each kind ``recall`` (share of features whose one-to-one latent has
        cosine 0.9 or above), ``cosine`` (mean of those pairs) and ``r`` (mean correlation, on
        rows left out, of each feature and the latent chosen for it on training rows);
        ``prefix_ac`` and ``ac`` (autocorrelation of latents alive in the prefix and of all),
        ``prefix_l0`` and ``prefix_alive``. Features and latents are matched all together, so
        that a latent can't serve two features.

    Examples
    --------
    >>> from saebook.data.simulate import simulate_slow_fast
    >>> from saebook.evaluation import RandomDictionary
    >>> known = simulate_slow_fast(40, 50, 16, n_slow=4, n_fast=12)
    >>> scores = score_slow_fast(RandomDictionary(16, 24, k=3), known, 1500, prefix=6)
    >>> scores["slow_recall"], scores["l0"]
    (0.0, 3.0)
    """
    x, features = torch.from_numpy(known.x), torch.from_numpy(known.features)
    slow = torch.from_numpy(known.is_slow)
    with scoring(sae):
        latents, reconstruction = reconstruct(sae, x[n_train:])
        chosen_on, _ = reconstruct(sae, x[: min(n_train, CHOSEN_ON)])
    on = (latents > 0).sum(0)
    match = match_scores(
        decoder_directions(sae).cpu(), torch.from_numpy(known.directions), alive=(on > 0).cpu()
    )
    cosine = match.cosine_of_feature.nan_to_num(0.0)
    followed = recover_activity(
        chosen_on.cpu(), features[: len(chosen_on)], latents.cpu(), features[n_train:], n_shifts=0
    )
    r = torch.from_numpy(np.nan_to_num(followed.features["r_test"].to_numpy()))
    group = torch.from_numpy(known.group[n_train:])
    lasting = {
        name: consistency(part.cpu(), group, max_lag=lag, lag=lag, correction="none")
        for name, part in (("prefix_", latents[:, :prefix]), ("", latents))
    }
    scores = {"fvu": fvu(x[n_train:], reconstruction.cpu()), "l0": lasting[""].l0}
    for name, which in (("slow", slow), ("fast", ~slow)):
        scores[f"{name}_recall"] = float((cosine[which] >= match.threshold).double().mean())
        scores[f"{name}_cosine"] = float(cosine[which].mean())
        scores[f"{name}_r"] = float(r[which].mean())
    for name, found in lasting.items():
        scores[f"{name}ac"] = found.at(lag)
    scores["prefix_l0"] = lasting["prefix_"].l0
    scores["prefix_alive"] = float(lasting["prefix_"].n_latents)
    return scores
