"""Recordings of spiking neurons: reading, unit quality, selection, binning, preparing.

Public names are imported when first used, so importing this package costs nothing and needs
neither h5py nor torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saebook.data.spikes.binning import CountsWarning, bin_spikes
    from saebook.data.spikes.phy import read_phy
    from saebook.data.spikes.preparing import prepare
    from saebook.data.spikes.quality import (
        contamination_llobet,
        isi_violations_fraction,
        isi_violations_ratio,
        presence_ratio,
    )
    from saebook.data.spikes.reading import read_recording
    from saebook.data.spikes.recording import GroundTruth, Interval, Recording, Series
    from saebook.data.spikes.selection import UnitCriteria, select_units

__all__ = [
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
]

_MODULES = {
    "CountsWarning": "binning",
    "GroundTruth": "recording",
    "Interval": "recording",
    "Recording": "recording",
    "Series": "recording",
    "UnitCriteria": "selection",
    "bin_spikes": "binning",
    "contamination_llobet": "quality",
    "isi_violations_fraction": "quality",
    "isi_violations_ratio": "quality",
    "prepare": "preparing",
    "presence_ratio": "quality",
    "read_phy": "phy",
    "read_recording": "reading",
    "select_units": "selection",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
