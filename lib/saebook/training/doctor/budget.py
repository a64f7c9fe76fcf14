"""Runs that end before they began: warm-up, revival and the reach of the learning rate."""

from __future__ import annotations

from saebook.errors import ConfigError
from saebook.training.config import TrainConfig
from saebook.training.doctor.evidence import ADAM_FAMILY, Evidence
from saebook.training.doctor.finding import Finding

# Reach of Adam, in typical weights, below which a run has hardly left its initial weights.
LEAST_REACH = 0.5
# A fall of FVU by this much shows that something was learned all the same.
LEARNED = 0.5


def check_budget(
    n_steps: int, *, warmup_steps: float = 0, revival_steps: float | None = None
) -> None:
    """Refuse a run that ends before its warm-up, or before dead latents can be revived.

    Parameters
    ----------
    n_steps
        Length of the run. From a budget of tokens it is ``tokens // batch_size``.
    warmup_steps
        Steps over which the learning rate rises.
    revival_steps
        Steps before dead latents are first revived; ``None`` where they never are.

    Raises
    ------
    ConfigError
        The warm-up or the revival period is longer than the run.

    Examples
    --------
    A hundred thousand tokens in batches of 2,048:

    >>> check_budget(100_000 // 2048, warmup_steps=2000, revival_steps=1000)
    Traceback (most recent call last):
    ...
    saebook.errors.ConfigError: n_steps = 48: the warm-up takes 2000 steps, so the learning rate \
would end at 2.4 % of its peak and be 1.2 % of it on average; dead latents would first be revived \
at step 1000, which never comes. Train for longer, or give both as fractions of the run
    """
    problems = []
    if n_steps < warmup_steps:
        reached = n_steps / warmup_steps
        problems.append(
            f"the warm-up takes {warmup_steps:g} steps, so the learning rate would end at "
            f"{reached:.1%} of its peak and be {reached / 2:.1%} of it on average".replace(
                "%", " %"
            )
        )
    if revival_steps is not None and n_steps < revival_steps:
        problems.append(
            f"dead latents would first be revived at step {revival_steps:g}, which never comes"
        )
    if problems:
        raise ConfigError(
            f"n_steps = {n_steps}: {'; '.join(problems)}. Train for longer, or give both as "
            "fractions of the run"
        )


def check_schedule(train: TrainConfig, n_steps: int, dead_after_steps: float) -> None:
    """Refuse settings under which resampling could never act.

    Fractions of the run can't outlast it, but the last resampling may come before any latent
    can have been silent for long enough.

    Raises
    ------
    ConfigError
        No latent can be dead by the time of the last resampling.
    """
    if train.resample_every is None:
        return
    last = int(train.resample_until / train.resample_every) * train.resample_every * n_steps
    if last < dead_after_steps:
        raise ConfigError(
            f"n_steps = {n_steps}: the last resampling is at step {last:g} and a latent counts as "
            f"dead after {dead_after_steps:g} silent ones, so none would ever be resampled. Raise "
            "resample_until, or train for longer"
        )


def barely_trained(evidence: Evidence) -> Finding | None:
    """Find runs whose learning rate, summed over steps, can't have turned the weights."""
    train, history = evidence.train, evidence.history
    if train is None or train.optimizer not in ADAM_FAMILY or "learning_rate" not in history:
        return None
    steps = evidence.column("step").diff().fillna(evidence.first("step"))
    reach = float((evidence.column("learning_rate") * steps).sum())
    relative = reach * evidence.config.d_encoder**0.5
    needed = (1 - LEARNED) * evidence.first("fvu")
    if not relative < LEAST_REACH or evidence.late("fvu") <= needed:
        return None
    n_steps = int(evidence.column("step").iloc[-1])
    return Finding(
        "barely_trained",
        "error",
        f"over {n_steps:,} steps the learning rates add up to {reach:.2g}, {relative:.1%} of a "
        f"typical weight of {1 / evidence.config.d_encoder**0.5:.2g}; the batches' FVU went from "
        f"{evidence.first('fvu'):.2f} to {evidence.late('fvu'):.2f}",
        "under Adam no weight moves further than that sum: the model is still its initial one",
        "train for longer or at a higher learning rate, and keep the warm-up a small fraction",
    )
