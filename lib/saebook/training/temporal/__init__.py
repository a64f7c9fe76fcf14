"""Terms that compare latents at nearby times. One file each, one line in the registry."""

from saebook.training.temporal.config import TemporalConfig
from saebook.training.temporal.registry import TEMPORAL
from saebook.training.temporal.state import Temporal

__all__ = ["TEMPORAL", "Temporal", "TemporalConfig"]
