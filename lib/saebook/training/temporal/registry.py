"""Temporal terms by name."""

from __future__ import annotations

from saebook.training.temporal.base import TemporalTerm
from saebook.training.temporal.contrastive import Contrastive
from saebook.training.temporal.smoothness import Smoothness
from saebook.training.temporal.tsae import TSAE

TEMPORAL: dict[str, type[TemporalTerm]] = {
    "contrastive": Contrastive,
    "tsae": TSAE,
    "smoothness": Smoothness,
}
