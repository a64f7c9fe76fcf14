"""What changes along a run, as functions of the fraction of it that has passed."""

from saebook.training.schedules.learning_rate import (
    SCHEDULES,
    LearningRate,
    constant,
    ripple,
    warmup_constant,
    warmup_hold_cosine,
    warmup_linear,
)
from saebook.training.schedules.loss_dependent import FEEDBACK, LossDependentDecay
from saebook.training.schedules.sparsity import (
    SPARSITY_SCHEDULES,
    full_strength,
    ramp,
    ramp_from_start,
    two_phase,
)

__all__ = [
    "FEEDBACK",
    "SCHEDULES",
    "SPARSITY_SCHEDULES",
    "LearningRate",
    "LossDependentDecay",
    "constant",
    "full_strength",
    "ramp",
    "ramp_from_start",
    "ripple",
    "two_phase",
    "warmup_constant",
    "warmup_hold_cosine",
    "warmup_linear",
]
