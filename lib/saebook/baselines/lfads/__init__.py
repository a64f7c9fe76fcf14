"""LFADS, written anew in torch: a dynamical system inferred behind each trial's counts."""

from saebook.baselines.lfads.config import LFADSConfig
from saebook.baselines.lfads.estimator import LFADS
from saebook.baselines.lfads.model import LFADSModel

__all__ = ["LFADS", "LFADSConfig", "LFADSModel"]
