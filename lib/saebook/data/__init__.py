"""Data: recordings and activations in, example stores out.

Public names of `saebook.data.store`, `saebook.data.spikes` and `saebook.data.simulate`; each is
imported when it is first asked for, so reading spikes needs no torch and training no pynwb.

>>> from saebook.data import assign_splits
>>> assign_splits.__module__
'saebook.data.store.splits'
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saebook.data.simulate import (
        KnownExamples,
        simulate_counts,
        simulate_dataset,
        simulate_dictionary,
        simulate_session,
    )
    from saebook.data.spikes import (
        CountsWarning,
        GroundTruth,
        Interval,
        Recording,
        Series,
        UnitCriteria,
        bin_spikes,
        contamination_llobet,
        isi_violations_fraction,
        isi_violations_ratio,
        prepare,
        presence_ratio,
        read_phy,
        read_recording,
        select_units,
    )
    from saebook.data.store import (
        SCHEMA_VERSION,
        SPLITS,
        Batch,
        BatchStream,
        ExampleStore,
        PartitionedWriter,
        ResidentRows,
        RowSource,
        StoreWriter,
        assign_splits,
        split_fractions,
        windows,
    )

__all__ = [
    "SCHEMA_VERSION",
    "SPLITS",
    "Batch",
    "BatchStream",
    "CountsWarning",
    "ExampleStore",
    "GroundTruth",
    "Interval",
    "KnownExamples",
    "PartitionedWriter",
    "Recording",
    "ResidentRows",
    "RowSource",
    "Series",
    "StoreWriter",
    "UnitCriteria",
    "assign_splits",
    "bin_spikes",
    "contamination_llobet",
    "isi_violations_fraction",
    "isi_violations_ratio",
    "prepare",
    "presence_ratio",
    "read_phy",
    "read_recording",
    "select_units",
    "simulate_counts",
    "simulate_dataset",
    "simulate_dictionary",
    "simulate_session",
    "split_fractions",
    "windows",
]

_SPIKES = (
    "CountsWarning",
    "GroundTruth",
    "Interval",
    "Recording",
    "Series",
    "UnitCriteria",
    "bin_spikes",
    "contamination_llobet",
    "isi_violations_fraction",
    "isi_violations_ratio",
    "prepare",
    "presence_ratio",
    "read_phy",
    "read_recording",
    "select_units",
)
_SIMULATE = (
    "KnownExamples",
    "simulate_counts",
    "simulate_dataset",
    "simulate_dictionary",
    "simulate_session",
)
_ROOMS = ("simulate", "spikes", "store")
_HOME = {
    **dict.fromkeys(__all__, "store"),
    **dict.fromkeys(_SPIKES, "spikes"),
    **dict.fromkeys(_SIMULATE, "simulate"),
}


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"saebook.data.{name}")
    if name in _HOME:
        value = getattr(importlib.import_module(f"saebook.data.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'saebook.data' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_ROOMS})
