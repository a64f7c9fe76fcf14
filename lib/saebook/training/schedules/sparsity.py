"""The sparsity coefficient along a run, as a share of its full value."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from saebook.training.config import TrainConfig


def ramp(fraction: float, ramp_fraction: float) -> float:
    """Linear ramp from 0 to 1 over the first ``ramp_fraction`` of the run.

    Examples
    --------
    >>> ramp(0.025, 0.05), ramp(0.5, 0.05), ramp(0.0, 0.0)
    (0.5, 1.0, 1.0)
    """
    return 1.0 if fraction >= ramp_fraction else fraction / ramp_fraction


def ramp_from_start(fraction: float, config: TrainConfig) -> float:
    """Rise linearly from 0 over the first ``sparsity_ramp_fraction`` of the run."""
    return ramp(fraction, config.sparsity_ramp_fraction)


def two_phase(fraction: float, config: TrainConfig) -> float:
    """Reconstruct only until ``sparsity_start_fraction``, then ramp as from a start.

    Examples
    --------
    >>> from saebook.training import TrainConfig
    >>> config = TrainConfig(sparsity_schedule="two_phase", sparsity_ramp_fraction=0.25)
    >>> two_phase(0.4, config), two_phase(0.625, config), two_phase(0.8, config)
    (0.0, 0.5, 1.0)
    """
    if fraction < config.sparsity_start_fraction:
        return 0.0
    return ramp(fraction - config.sparsity_start_fraction, config.sparsity_ramp_fraction)


def full_strength(fraction: float, config: TrainConfig) -> float:
    """Always 1."""
    del fraction, config
    return 1.0


def sparsity_reached(config: TrainConfig) -> float:
    """Fraction of the run after which the sparsity coefficient has its full value.

    Examples
    --------
    >>> from saebook.training import TrainConfig
    >>> sparsity_reached(TrainConfig(sparsity_ramp_fraction=0.25))
    0.25
    """
    if config.sparsity_schedule == "two_phase":
        return config.sparsity_start_fraction + config.sparsity_ramp_fraction
    return config.sparsity_ramp_fraction if config.sparsity_schedule == "ramp" else 0.0


SPARSITY_SCHEDULES: dict[str, Callable[[float, TrainConfig], float]] = {
    "ramp": ramp_from_start,
    "two_phase": two_phase,
    "none": full_strength,
}
