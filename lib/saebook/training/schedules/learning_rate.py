"""The learning rate along a run: a schedule, a ripple on it, and feedback from the loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from saebook.training.schedules.loss_dependent import FEEDBACK

if TYPE_CHECKING:
    from saebook.training.config import TrainConfig


def constant(fraction: float, config: TrainConfig) -> float:
    """Always 1."""
    del fraction, config
    return 1.0


def warmup_constant(fraction: float, config: TrainConfig) -> float:
    """Rise linearly until ``warmup_fraction``, then stay at 1."""
    return 1.0 if fraction >= config.warmup_fraction else fraction / config.warmup_fraction


def warmup_hold_cosine(fraction: float, config: TrainConfig) -> float:
    """Rise linearly, hold, then follow half a cosine down to ``final_fraction``."""
    shape = (1 + math.cos(math.pi * _decayed(fraction, config))) / 2
    fallen = config.final_fraction + (1 - config.final_fraction) * shape
    return warmup_constant(fraction, config) * fallen


def warmup_linear(fraction: float, config: TrainConfig) -> float:
    """Rise linearly, hold, then fall linearly to ``final_fraction``."""
    fallen = 1 - (1 - config.final_fraction) * _decayed(fraction, config)
    return warmup_constant(fraction, config) * fallen


def _decayed(fraction: float, config: TrainConfig) -> float:
    """Share of the decay that is over: 0 until ``hold_fraction``, 1 at the end and after."""
    fraction = min(fraction, 1.0)
    if fraction <= config.hold_fraction:
        return 0.0
    return (fraction - config.hold_fraction) / (1 - config.hold_fraction)


SCHEDULES: dict[str, Callable[[float, TrainConfig], float]] = {
    "constant": constant,
    "warmup_constant": warmup_constant,
    "warmup_hold_cosine": warmup_hold_cosine,
    "warmup_linear": warmup_linear,
    "loss_dependent": warmup_constant,  # what it decays from; see FEEDBACK
}


def ripple(fraction: float, config: TrainConfig) -> float:
    """Cosine cycle on top of a schedule, between ``1 - cycle_amplitude`` and 1.

    It is 1 at the start of each ``cycle_period`` and lowest half-way through it, so it never
    lifts the rate above its schedule.

    Examples
    --------
    >>> from saebook.training import TrainConfig
    >>> config = TrainConfig(cycle_amplitude=0.1, cycle_period=0.2)
    >>> [round(ripple(fraction, config), 3) for fraction in (0.0, 0.05, 0.1, 0.2)]
    [1.0, 0.95, 0.9, 1.0]
    """
    turn = math.cos(2 * math.pi * fraction / config.cycle_period)
    return 1 - config.cycle_amplitude * (1 - turn) / 2


class LearningRate:
    """Learning rate of a run: its peak × schedule × ripple × feedback from the loss.

    Parameters
    ----------
    config
        Settings of the run.

    Examples
    --------
    >>> from saebook.training import TrainConfig
    >>> rate = LearningRate(TrainConfig(learning_rate=1e-3, final_fraction=0.0))
    >>> rate.at(0.05), rate.at(0.3), rate.at(1.0)
    (0.0005, 0.001, 0.0)
    """

    def __init__(self, config: TrainConfig):
        self.config = config
        make_feedback = FEEDBACK.get(config.schedule)
        self._feedback = make_feedback(config) if make_feedback is not None else None

    def at(self, fraction: float) -> float:
        """Learning rate after this fraction of the run."""
        config = self.config
        rate = config.learning_rate * SCHEDULES[config.schedule](fraction, config)
        feedback = self._feedback.multiplier if self._feedback is not None else 1.0
        return rate * ripple(fraction, config) * feedback

    def observe(self, loss: float, fraction: float) -> None:
        """Take note of a logged loss; only the schedules in ``FEEDBACK`` heed it."""
        if self._feedback is not None:
            self._feedback.update(loss, fraction)

    def state_dict(self) -> dict[str, Any]:
        """What the losses observed so far have done; empty where the schedule heeds none."""
        return self._feedback.state_dict() if self._feedback is not None else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another one of the same settings stood."""
        if self._feedback is not None:
            self._feedback.load_state_dict(state)
