"""Training: settings, one step at a time, or a whole run with checkpoints, and its diagnosis."""

from saebook.training.config import TrainConfig
from saebook.training.devices import resolve_device
from saebook.training.doctor import Diagnosis, Finding, check_budget, diagnose
from saebook.training.fit import fit
from saebook.training.fit_many import fit_many
from saebook.training.recommending import Recommendation, recommend_config
from saebook.training.run import Run, load_run
from saebook.training.selecting import select_run
from saebook.training.temporal import TemporalConfig
from saebook.training.trainer import Trainer

__all__ = [
    "Diagnosis",
    "Finding",
    "Recommendation",
    "Run",
    "TemporalConfig",
    "TrainConfig",
    "Trainer",
    "check_budget",
    "diagnose",
    "fit",
    "fit_many",
    "load_run",
    "recommend_config",
    "resolve_device",
    "select_run",
]
