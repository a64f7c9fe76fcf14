"""Factors and rates of a trained LFADS: means over draws from the posterior."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from saebook.baselines.lfads.model import LFADSModel, Posterior
from saebook.baselines.lfads.training import one_thread_if_small
from saebook.errors import EnvironmentProblem

# Windows times draws that are computed at once.
AT_ONCE = 1024


@torch.no_grad()
def posterior_means(
    model: LFADSModel, windows: Sequence[np.ndarray], *, seed: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Factors and rates of windows, averaged over draws.

    Parameters
    ----------
    model
        Trained.
    windows
        Counts [T, n_units], of any lengths.
    seed
        Of the draws. They are the same for every window, so that what comes out of one depends
        on no other.

    Returns
    -------
    tuple of lists
        Of each window, factors [T, n_factors] and rates [T, n_targets], spikes per bin.
    """
    n_samples, device = model.config.n_samples, model.prior_mean.device
    size = max(1, AT_ONCE // n_samples)
    by_length: dict[int, list[int]] = {}
    for i, window in enumerate(windows):
        by_length.setdefault(len(window), []).append(i)
    found: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    with one_thread_if_small(model):
        for length, members in by_length.items():
            noise = model.noise(length, n_samples, torch.Generator(device).manual_seed(seed))
            for first in range(0, len(members), size):
                some = members[first : first + size]
                seen = torch.from_numpy(np.stack([windows[i] for i in some])).float()
                means = _mean_over_draws(model, seen.to(device), noise)
                found.update(zip(some, zip(*means)))
    each = [found[i] for i in range(len(windows))]
    return [factors for factors, _ in each], [rates for _, rates in each]


def _mean_over_draws(
    model: LFADSModel, seen: Tensor, noise: tuple[Tensor, Tensor]
) -> tuple[np.ndarray, np.ndarray]:
    """Factors and rates [B, T, …] of windows [B, T, n_units], means over draws."""
    n, n_samples = len(seen), noise[0].shape[0]
    posterior = model.encode(seen)
    # Draw s of window b is row b · n_samples + s.
    each = Posterior(
        posterior.mean.repeat_interleave(n_samples, dim=0),
        posterior.logvar.repeat_interleave(n_samples, dim=0),
        None if posterior.drive is None else posterior.drive.repeat_interleave(n_samples, dim=1),
    )
    output = model.decode(each, noise[0].repeat(n, 1), noise[1].repeat(1, n, 1))
    means = (
        values.unflatten(1, (n, n_samples)).mean(dim=2).transpose(0, 1).cpu().numpy()
        for values in (output.factors, output.log_rates.exp())
    )
    factors, rates = means
    return factors, rates


def resolve_device(name: str) -> torch.device:
    """Turn "auto" or a device's name into a device that exists here.

    Raises
    ------
    EnvironmentProblem
        The device is not to be had on this machine.

    Examples
    --------
    >>> resolve_device("cpu").type
    'cpu'
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise EnvironmentProblem(
            f"device {name!r} can't be used here ({str(error).splitlines()[0]}); give 'cpu' or 'auto'"
        ) from error
    return torch.device(name)
