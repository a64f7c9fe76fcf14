"""Recordings of spiking neurons: reading, unit quality, selection, binning, preparing.

Public names are imported when first used, so importing this package costs nothing and needs
neither h5py nor torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from saebook import import_when_asked

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

__getattr__, __dir__ = import_when_asked(
    __name__,
    {
        "binning": ("CountsWarning", "bin_spikes"),
        "phy": ("read_phy",),
        "preparing": ("prepare",),
        "quality": (
            "contamination_llobet",
            "isi_violations_fraction",
            "isi_violations_ratio",
            "presence_ratio",
        ),
        "reading": ("read_recording",),
        "recording": ("GroundTruth", "Interval", "Recording", "Series"),
        "selection": ("UnitCriteria", "select_units"),
    },
)
