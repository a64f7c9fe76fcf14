"""Training pairs and windows of CEBRA that stay within their trials."""

from __future__ import annotations

from types import MethodType
from typing import Any

import numpy as np

from saebook.baselines.method import Trials
from saebook.errors import DataError


def long_trials(trials: Trials, n_bins: int) -> np.ndarray:
    """Trials long enough to learn from.

    Parameters
    ----------
    trials
        Rows of each trial.
    n_bins
        Least length.

    Returns
    -------
    ndarray
        Truths [n_trials].

    Raises
    ------
    DataError
        None is.

    Examples
    --------
    >>> long_trials({0: slice(0, 3), 1: slice(3, 9)}, 5).tolist()
    [False, True]
    """
    lengths = _lengths(trials)
    if lengths.max() < n_bins:
        raise DataError(
            f"the longest of {len(trials)} trials has {lengths.max()} bins, and {n_bins} are needed "
            "for the model's window and for a pair: lower time_offsets, choose a model_architecture "
            "that sees fewer bins, or give longer trials"
        )
    return lengths >= n_bins


def keep_within_trials(loader: Any, trials: Trials) -> None:
    """Change a loader of the package so that nothing that it draws crosses trials.

    The package knows one session, and moves windows at its ends inwards. Here the same is done at
    the ends of each trial, and pairs in time, or changes of behaviour over time, are drawn from
    those within a trial.

    Parameters
    ----------
    loader
        A loader of the package, its dataset configured for a model. It is changed.
    trials
        Rows of each trial, none shorter than the model's window or a pair.
    """
    import torch

    dataset, distribution = loader.dataset, loader.distribution
    device, offset = dataset.neural.device, dataset.offset
    lengths = _lengths(trials)
    starts = np.array([rows.start for rows in trials.values()])
    first = torch.as_tensor(np.repeat(starts + offset.left, lengths), device=device)
    last = torch.as_tensor(np.repeat(starts + lengths - offset.right, lengths), device=device)
    around = torch.arange(-offset.left, offset.right, device=device)

    def expand_index(self: Any, index: Any) -> Any:
        index = index.to(device)
        inside = torch.minimum(torch.maximum(index, first[index]), last[index])
        return inside[:, None] + around[None]  # [batch, window]

    dataset.expand_index = MethodType(expand_index, dataset)
    place = np.concatenate([np.arange(length) for length in lengths])
    if hasattr(distribution, "time_difference"):
        # The package has 0 where a session has no earlier bin, and so would every trial.
        has_earlier = torch.as_tensor(place >= distribution.time_delta, device=device)
        distribution.time_difference = distribution.time_difference[has_earlier]
    elif hasattr(distribution, "time_offset"):
        ahead = np.repeat(lengths, lengths) - place > distribution.time_offset
        references = torch.as_tensor(np.flatnonzero(ahead), device=device)

        def sample_prior(self: Any, num_samples: int, offset: Any = None) -> Any:
            return references[self.randint(0, len(references), (num_samples,))]

        distribution.sample_prior = MethodType(sample_prior, distribution)


def _lengths(trials: Trials) -> np.ndarray:
    return np.array([rows.stop - rows.start for rows in trials.values()])
