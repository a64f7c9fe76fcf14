"""Settings of one training run."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from saebook.errors import ConfigError
from saebook.models.config import build, check_choice, check_types
from saebook.training.optimisers import OPTIMIZERS
from saebook.training.schedules import SCHEDULES


@dataclass(frozen=True)
class TrainConfig:
    """How to train; schedules are fractions of the run, never step counts.

    Parameters
    ----------
    n_steps
        Optimiser steps. Leave it out to count in ``n_epochs``; with neither, the run is as
        long as it takes for ``DEFAULT_EXAMPLES`` examples.
    n_epochs
        Passes over the training examples, instead of ``n_steps``.
    batch_size
        Examples per step; a data set smaller than this is one batch.
    learning_rate
        Peak learning rate. The default suits short runs on spike counts: 1e-3 learns more slowly
        there, and 1e-2 can overfit and lose latents. Lower it for longer runs.
    schedule
        ``"warmup_hold_cosine"`` (warm-up, hold, cosine to ``final_fraction``),
        ``"warmup_linear"`` (warm-up, hold, linear to ``final_fraction``) or ``"constant"``.
    warmup_fraction, hold_fraction, final_fraction
        The rate rises linearly until ``warmup_fraction`` of the run, stays until
        ``hold_fraction``, and ends at ``final_fraction`` of its peak.
    optimizer
        ``"adam"``.
    beta1, beta2
        Adam's moment decays.
    clip_norm
        Largest norm of the whole gradient; ``None`` clips nothing.
    sparsity_ramp_fraction
        The sparsity coefficient rises linearly from 0 over this fraction of the run.
    dead_after_firings
        A latent is dead once it has been silent for as long as an average latent takes to
        fire this often, though never longer than a tenth of the run.
    n_logs
        Rows of history, spread over the run.
    n_checkpoints
        Checkpoints, spread over the run; only written when the run has a folder.
    device
        ``"auto"`` (a GPU when there is one), ``"cpu"``, ``"cuda"``, ``"cuda:1"``, …

    Raises
    ------
    ConfigError
        A value is of the wrong type, out of range, or contradicts another one.

    Examples
    --------
    >>> TrainConfig(n_steps=500).learning_rate
    0.003
    >>> TrainConfig(n_steps=500, n_epochs=2)
    Traceback (most recent call last):
    ...
    saebook.errors.ConfigError: n_steps = 500 and n_epochs = 2: give one of them
    """

    n_steps: int | None = None
    n_epochs: float | None = None
    batch_size: int = 1024
    learning_rate: float = 3e-3
    schedule: str = "warmup_hold_cosine"
    warmup_fraction: float = 0.1
    hold_fraction: float = 0.5
    final_fraction: float = 0.01
    optimizer: str = "adam"
    beta1: float = 0.9
    beta2: float = 0.999
    clip_norm: float | None = 1.0
    sparsity_ramp_fraction: float = 0.05
    dead_after_firings: float = 20.0
    n_logs: int = 100
    n_checkpoints: int = 10
    device: str = "auto"

    def __post_init__(self):
        check_types(self)
        if self.n_steps is not None and self.n_epochs is not None:
            raise ConfigError(
                f"n_steps = {self.n_steps} and n_epochs = {self.n_epochs:g}: give one of them"
            )
        check_choice("schedule", self.schedule, SCHEDULES)
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        for name in ("n_steps", "n_epochs", "learning_rate", "clip_norm", "dead_after_firings"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigError(f"{name} = {value}: it must be greater than 0")
        for name in ("batch_size", "n_logs"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name)}: it must be at least 1")
        if self.n_checkpoints < 0:
            raise ConfigError(f"n_checkpoints = {self.n_checkpoints}: it can't be negative")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name)}: it must be in [0, 1)")
        for name in (
            "warmup_fraction",
            "hold_fraction",
            "final_fraction",
            "sparsity_ramp_fraction",
        ):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} = {getattr(self, name)}: a fraction lies in [0, 1]")
        if self.warmup_fraction > self.hold_fraction:
            raise ConfigError(
                f"warmup_fraction = {self.warmup_fraction} is after hold_fraction = "
                f"{self.hold_fraction}: the rate can't hold before it has risen"
            )

    def to_dict(self) -> dict[str, Any]:
        """Every setting, ready for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> TrainConfig:
        """Build from a dictionary, refusing names that it does not know."""
        return build(cls, settings)
