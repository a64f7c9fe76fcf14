"""Known truth: simulated sessions, in memory and as NWB files, and bare examples.

Public names are imported when first used, so importing this package costs nothing and needs no
pynwb.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

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
    from saebook.data.simulate.task import ReachTask

__all__ = [
    "NESTED_PAIRS",
    "REACH_FEATURES",
    "Embedding",
    "KnownExamples",
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
    "true_fields",
    "true_rate_map",
    "write_simulation",
]

_MODULES = {
    "Embedding": "embedding",
    "KnownExamples": "examples",
    "NESTED_PAIRS": "features",
    "REACH_FEATURES": "features",
    "RateModel": "simulation",
    "ReachTask": "task",
    "Simulation": "simulation",
    "rebuild_simulation": "dataset",
    "simulate_counts": "counts",
    "simulate_dataset": "dataset",
    "simulate_dictionary": "dictionary",
    "simulate_place_cells": "place_cells",
    "simulate_reach": "reach",
    "simulate_session": "dataset",
    "true_fields": "place_cells",
    "true_rate_map": "place_cells",
    "write_simulation": "nwb",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
