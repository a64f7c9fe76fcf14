"""Public recordings: the list of them, downloads that resume, and units streamed alone.

Nothing here asks an archive unless a recording is wanted that isn't on this machine yet.

>>> from saebook.data.archive import find_recording
>>> find_recording("mc_maze_small").reference
'dandi:000140@0.220113.0408/sub-Jenkins/sub-Jenkins_ses-small_desc-train_behavior+ecephys.nwb'
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from saebook import import_when_asked

if TYPE_CHECKING:
    from saebook.data.archive.dandi import Asset, find_asset
    from saebook.data.archive.downloading import download
    from saebook.data.archive.fetching import fetch, local_path, read_recording
    from saebook.data.archive.registry import PublicRecording, find_recording, read_registry
    from saebook.data.archive.requesting import Requester
    from saebook.data.archive.streaming import stream_units

__all__ = [
    "Asset",
    "PublicRecording",
    "Requester",
    "download",
    "fetch",
    "find_asset",
    "find_recording",
    "local_path",
    "read_recording",
    "read_registry",
    "stream_units",
]

__getattr__, __dir__ = import_when_asked(
    __name__,
    {
        "dandi": ("Asset", "find_asset"),
        "downloading": ("download",),
        "fetching": ("fetch", "local_path", "read_recording"),
        "registry": ("PublicRecording", "find_recording", "read_registry"),
        "requesting": ("Requester",),
        "streaming": ("stream_units",),
    },
)
