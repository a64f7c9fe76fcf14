"""LFADS, written anew in torch: a dynamical system inferred behind each trial's counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from saebook import import_when_asked
from saebook.baselines.lfads.config import LFADSConfig
from saebook.baselines.lfads.estimator import LFADS

if TYPE_CHECKING:
    from saebook.baselines.lfads.model import LFADSModel

__all__ = ["LFADS", "LFADSConfig", "LFADSModel"]

# The networks need torch, which nobody has to wait for who only looks for a method.
__getattr__, __dir__ = import_when_asked(__name__, {"model": ["LFADSModel"]})
