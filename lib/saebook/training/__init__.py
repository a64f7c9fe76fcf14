"""Training: settings, one step at a time, or a whole run with checkpoints."""

from saebook.training.config import TrainConfig
from saebook.training.fit import fit
from saebook.training.run import Run, load_run
from saebook.training.trainer import Trainer, resolve_device

__all__ = ["Run", "TrainConfig", "Trainer", "fit", "load_run", "resolve_device"]
