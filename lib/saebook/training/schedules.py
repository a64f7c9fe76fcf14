"""Schedules: multipliers as functions of the fraction of the run that has passed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from saebook.training.config import TrainConfig


def constant(fraction: float, config: TrainConfig) -> float:
    """Always 1."""
    del fraction, config
    return 1.0


def _rise(fraction: float, config: TrainConfig) -> float | None:
    if fraction < config.warmup_fraction:
        return fraction / config.warmup_fraction
    return 1.0 if fraction <= config.hold_fraction else None


def _decayed(fraction: float, config: TrainConfig) -> float:
    return (fraction - config.hold_fraction) / (1 - config.hold_fraction)


def warmup_hold_cosine(fraction: float, config: TrainConfig) -> float:
    """Rise linearly, hold, then follow half a cosine down to ``final_fraction``."""
    rising = _rise(fraction, config)
    if rising is not None:
        return rising
    shape = (1 + math.cos(math.pi * _decayed(fraction, config))) / 2
    return config.final_fraction + (1 - config.final_fraction) * shape


def warmup_linear(fraction: float, config: TrainConfig) -> float:
    """Rise linearly, hold, then fall linearly to ``final_fraction``."""
    rising = _rise(fraction, config)
    if rising is not None:
        return rising
    return 1 - (1 - config.final_fraction) * _decayed(fraction, config)


SCHEDULES: dict[str, Callable[[float, TrainConfig], float]] = {
    "constant": constant,
    "warmup_hold_cosine": warmup_hold_cosine,
    "warmup_linear": warmup_linear,
}


def ramp(fraction: float, ramp_fraction: float) -> float:
    """Linear ramp from 0 to 1 over the first ``ramp_fraction`` of the run.

    Examples
    --------
    >>> ramp(0.025, 0.05), ramp(0.5, 0.05), ramp(0.0, 0.0)
    (0.5, 1.0, 1.0)
    """
    return 1.0 if fraction >= ramp_fraction else fraction / ramp_fraction
