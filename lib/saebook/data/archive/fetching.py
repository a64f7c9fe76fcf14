"""Public recordings here: fetched once, checked, with a note of where they came from beside them."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from saebook.data.archive.dandi import Asset, find_asset
from saebook.data.archive.downloading import BLOCK_BYTES, download
from saebook.data.archive.registry import (
    PublicRecording,
    data_folder,
    find_recording,
    is_reference,
    read_registry,
)
from saebook.data.archive.requesting import Requester
from saebook.data.spikes import Recording
from saebook.data.spikes import read_recording as read_file
from saebook.errors import ConfigError, RecordingError, RecordingWarning

SOURCE_SUFFIX = ".source.json"


def fetch(
    name: str,
    out: str | os.PathLike[str] | None = None,
    *,
    stream: bool = False,
    behavior: bool = False,
    progress: bool = True,
    requester: Requester | None = None,
) -> Path:
    """Bring a public recording here, or its units alone, and return its path.

    A file that is already here, and is what its note says, is used without asking the archive.

    Parameters
    ----------
    name
        Name in ``data/registry.yaml``, or ``dandi:ID[@VERSION]/PATH``.
    out
        Folder to write to; by default a place of its own below the data folder.
    stream
        Copy only units, electrodes, trials and other intervals out of the remote file.
    behavior
        With `stream`: copy the processing modules too, such as position and velocity.
    progress
        Show a bar.
    requester
        What asks the archive, and how patiently.

    Raises
    ------
    RecordingError
        No such recording; its size or checksum isn't what it should be; another file lies where
        it should go.
    EnvironmentProblem
        The archive can't be reached, or a package is missing.

    Examples
    --------
    >>> fetch("dandi:140/a.nwb")
    Traceback (most recent call last):
    ...
    saebook.errors.RecordingError: 'dandi:140/a.nwb' is no reference to a file on DANDI: ...
    """
    recording = find_recording(name)
    if recording.path:
        whole = local_path(recording, out)
        wanted = local_path(recording, out, units_only=stream, behavior=behavior)
        for path in dict.fromkeys((whole, wanted)):
            if _is_known(path, recording):
                return path
    requester = Requester() if requester is None else requester
    asset = find_asset(recording, requester)
    place = PublicRecording(name, asset.id, asset.path, recording.version)
    path = local_path(place, out, units_only=stream, behavior=behavior)
    note = {
        "archive": "dandi",
        "id": asset.id,
        "version": asset.version,
        "path": asset.path,
        "url": asset.url,
        "licence": recording.licence,
        "citation": recording.citation,
    }
    if stream:
        from saebook.data.archive.streaming import stream_units

        left_out = stream_units(
            asset.direct_url,
            path,
            requester=requester,
            size=asset.size,
            behavior=behavior,
            progress=progress,
        )
        note |= {"units_only": True, "left_out": left_out, "original_bytes": asset.size}
        return _with_note(path, note, _sha256(path))
    if path.exists():
        return _with_note(path, note, _same_as(path, asset))
    found = download(
        asset.url,
        path,
        requester=requester,
        size=asset.size,
        sha256=asset.sha256 or recording.sha256,
        etag=asset.etag,
        progress=progress,
    )
    return _with_note(path, note, found)


def read_recording(
    source: str | os.PathLike[str], *, stream: bool = False, **options: Any
) -> Recording:
    """Read a recording: an NWB file here, or a public one, which is fetched first.

    Parameters
    ----------
    source
        Path of an NWB file; ``dandi:ID[@VERSION]/PATH``; or, where no such file is here, a name in
        ``data/registry.yaml``, such as ``mc_maze_small``.
    stream
        Of a public recording, fetch the units, electrodes, trials and other intervals alone.
    **options
        As for :func:`saebook.data.spikes.read_recording`.

    Raises
    ------
    RecordingError
        No such recording, or not one that can be used.
    EnvironmentProblem
        The archive can't be reached.

    Examples
    --------
    >>> read_recording("nowhere.nwb")
    Traceback (most recent call last):
    saebook.errors.RecordingError: nowhere.nwb: there is no such file. Check the path ...
    """
    name = str(source)
    if not is_reference(name) and (Path(name).exists() or not _is_listed(name)):
        return read_file(source, **options)
    path = fetch(name, stream=stream)
    recording = read_file(path, **options)
    if _note_of(path).get("units_only") and recording.interval_source != "obs_intervals":
        warnings.warn(
            f"{path.name}: behaviour was left in the archive and no unit has obs_intervals, so the "
            f"observed span comes from {recording.interval_source} alone. Fetch the whole file "
            "where its ends matter.",
            RecordingWarning,
            stacklevel=2,
        )
    return recording


def local_path(
    recording: PublicRecording,
    out: str | os.PathLike[str] | None = None,
    *,
    units_only: bool = False,
    behavior: bool = False,
) -> Path:
    """Where a fetched recording is kept; units alone lie apart, under the same file name.

    Examples
    --------
    >>> entry = find_recording("mc_rtt")
    >>> local_path(entry, "x").name, local_path(entry, "x", units_only=True).parent.name
    ('sub-Indy_desc-train_behavior+ecephys.nwb', 'units')
    """
    parts = PurePosixPath(recording.path).parts
    if not parts or ".." in parts or parts[0] == "/":
        raise RecordingError(f"{recording.reference}: {recording.path!r} is no path inside a set")
    kind = "units-and-behavior" if behavior else "units"
    if out is not None:
        return Path(out).expanduser() / (kind if units_only else "") / parts[-1]
    archive = f"dandi-{kind}" if units_only else "dandi"
    return data_folder() / archive / recording.id / (recording.version or "latest") / Path(*parts)


def _is_listed(name: str) -> bool:
    try:
        return name in read_registry()
    except ConfigError:
        return False


def _is_known(path: Path, recording: PublicRecording) -> bool:
    """Whether a file is here, is as long as its note says, and the registry doesn't object."""
    note = _note_of(path)
    if not path.is_file() or note.get("size") != path.stat().st_size:
        return False
    return (
        note.get("units_only", False)
        or recording.sha256 is None
        or (recording.sha256 == note.get("sha256"))
    )


def _note_of(path: Path) -> dict[str, Any]:
    try:
        note = json.loads(_note_path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}


def _note_path(path: Path) -> Path:
    return path.with_name(path.name + SOURCE_SUFFIX)


def _with_note(path: Path, note: dict[str, Any], sha256: str) -> Path:
    """Write what a file was found to be beside it, whole or not at all; return its path."""
    content = {
        **note,
        "size": path.stat().st_size,
        "sha256": sha256,
        "fetched": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    partial = path.with_name(f".{path.name}.note-{os.getpid()}")
    partial.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, _note_path(path))
    return path


def _same_as(path: Path, asset: Asset) -> str:
    """Checksum of a file that was here already, where it is the archive's.

    Raises
    ------
    RecordingError
        It is another file; nothing of somebody's is ever overwritten.
    """
    size, found = path.stat().st_size, _sha256(path)
    if size != asset.size or (asset.sha256 is not None and found != asset.sha256):
        raise RecordingError(
            f"{path} exists and isn't the archive's file ({size:,} of {asset.size:,} bytes, sha256 "
            f"{found}). Move it away, or name another folder with --out."
        )
    return found


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        total = hashlib.sha256()
        while block := file.read(BLOCK_BYTES):
            total.update(block)
    return total.hexdigest()
