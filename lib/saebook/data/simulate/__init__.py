"""Known truth: simulated sessions, in memory and as NWB files, and bare examples.

Public names are imported when first used, so importing this package costs nothing and needs no
pynwb.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from saebook import import_when_asked

if TYPE_CHECKING:
    from saebook.data.simulate.counts import simulate_counts
    from saebook.data.simulate.dataset import (
        rebuild_simulation,
        simulate_dataset,
        simulate_session,
    )
    from saebook.data.simulate.dictionary import simulate_dictionary
    from saebook.data.simulate.embedding import Embedding
    from saebook.data.simulate.examples import KnownExamples
    from saebook.data.simulate.features import NESTED_PAIRS, REACH_FEATURES
    from saebook.data.simulate.nwb import write_simulation
    from saebook.data.simulate.place_cells import simulate_place_cells, true_fields, true_rate_map
    from saebook.data.simulate.reach import simulate_reach
    from saebook.data.simulate.simulation import RateModel, Simulation
    from saebook.data.simulate.slow_fast import KnownSequences, simulate_slow_fast
    from saebook.data.simulate.task import ReachTask

__all__ = [
    "NESTED_PAIRS",
    "REACH_FEATURES",
    "Embedding",
    "KnownExamples",
    "KnownSequences",
    "RateModel",
    "ReachTask",
    "Simulation",
    "rebuild_simulation",
    "simulate_counts",
    "simulate_dataset",
    "simulate_dictionary",
    "simulate_place_cells",
    "simulate_reach",
    "simulate_session",
    "simulate_slow_fast",
    "true_fields",
    "true_rate_map",
    "write_simulation",
]

__getattr__, __dir__ = import_when_asked(
    __name__,
    {
        "counts": ("simulate_counts",),
        "dataset": ("rebuild_simulation", "simulate_dataset", "simulate_session"),
        "dictionary": ("simulate_dictionary",),
        "embedding": ("Embedding",),
        "examples": ("KnownExamples",),
        "features": ("NESTED_PAIRS", "REACH_FEATURES"),
        "nwb": ("write_simulation",),
        "place_cells": ("simulate_place_cells", "true_fields", "true_rate_map"),
        "reach": ("simulate_reach",),
        "simulation": ("RateModel", "Simulation"),
        "slow_fast": ("KnownSequences", "simulate_slow_fast"),
        "task": ("ReachTask",),
    },
)
