"""Read an NWB file into a `Recording`.

The file is read with h5py alone. Opening a file with pynwb builds an object for every column
and series and parses the cached schema: on 400 units and one hour of spikes that alone takes
three times as long as reading all spike times, and it checks nothing about them. Read as plain
HDF5, types of extensions that aren't installed are no obstacle either.
"""

from __future__ import annotations

import os
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from saebook.data.spikes.assembly import assemble
from saebook.data.spikes.behavior import read_ground_truth, read_signals
from saebook.data.spikes.recording import Interval, Recording
from saebook.data.spikes.tables import (
    dataset_in,
    electrode_properties,
    group_in,
    members,
    read_table,
    scalar_text,
    text,
)
from saebook.errors import RecordingError

# Columns of arrays and pointers that have their own place.
TRAIN_COLUMNS = ("spike_times", "obs_intervals", "electrodes")
ZARR_NAMES = (".zgroup", ".zattrs", ".zmetadata", "zarr.json")


def read_recording(
    path: str | os.PathLike[str],
    *,
    strict: bool = False,
    drop_duplicates: bool = False,
    times_in_seconds: bool | None = None,
) -> Recording:
    """Read units, trials, intervals and behaviour from an NWB file (2.0 and later, HDF5).

    Faulty units (unsorted or non-finite spike times, an empty train, a train past the end that
    `obs_intervals` give) go to `faults` with a warning. Times stay on the file's own clock.

    Parameters
    ----------
    path
        The file.
    strict
        Refuse the file where a unit is faulty, instead of setting the unit aside.
    drop_duplicates
        Drop spikes at exactly the time of the same unit's spike before them.
    times_in_seconds
        True: take spike times as seconds, whatever the evidence.

    Raises
    ------
    RecordingError
        No file, or not one that can be read; no units or no usable ones; an index of spike
        times that doesn't fit them; spike times evidently not in seconds; a faulty unit with
        `strict`.

    Source
    ------
    NWB format: https://nwb-schema.readthedocs.io

    Examples
    --------
    >>> read_recording("nowhere.nwb")
    Traceback (most recent call last):
    saebook.errors.RecordingError: nowhere.nwb: there is no such file. Check the path ...
    """
    path = Path(path).expanduser()
    with _open(path) as file:
        try:
            content = _read(file, path)
        except RecordingError:
            raise
        except (OSError, KeyError, RuntimeError, ValueError) as error:
            # Damage deep inside a file, or a broken link, surfaces as one of these.
            raise RecordingError(
                f"{path}: it opens, but a part can't be read ({error}). "
                "The file is damaged or a linked file is missing: copy or download it again."
            ) from error
    return assemble(
        **content,
        source=str(path),
        session=path.name.removesuffix(".nwb"),
        strict=strict,
        drop_repeats=drop_duplicates,
        times_in_seconds=times_in_seconds,
    )


def _read(file: h5py.File, path: Path) -> dict[str, Any]:
    """Return all that a file holds, as `assemble` takes it."""
    notes = _check_version(file, path)
    table = group_in(file, "units")
    if table is None:
        raise RecordingError(
            f"{path}: it has no units table (it holds {_content(file)}). "
            "Give a file with sorted units, or read a sorter's output with read_phy."
        )
    trains, train_notes = _read_trains(table, path)
    units, unit_notes = _read_units(table, len(trains))
    signals = read_signals(file)
    truth, truth_notes = read_ground_truth(file, units)
    interval, observed, interval_notes = _observed(table, trains)
    if observed is not None:
        signals.intervals.setdefault("obs_intervals", observed)
    notes += [*train_notes, *unit_notes, *interval_notes, *signals.notes, *truth_notes]
    return {
        "trains": trains,
        "units": units,
        "trials": signals.intervals.pop("trials", None),
        "intervals": signals.intervals,
        "behavior": signals.behavior,
        "interval": interval,
        "interval_source": "obs_intervals",
        "description": scalar_text(file, "session_description"),
        "ground_truth": truth,
        "notes": notes,
    }


def _open(path: Path) -> h5py.File:
    if not path.exists():
        raise RecordingError(
            f"{path}: there is no such file. Check the path (the working folder is {Path.cwd()})."
        )
    if path.is_dir():
        names = {entry.name for entry in path.iterdir()}
        if names & set(ZARR_NAMES):
            raise RecordingError(
                f"{path}: an NWB file in Zarr format, and only HDF5 can be read. "
                "Convert it, for example with hdmf-zarr's NWBZarrIO and NWBHDF5IO.export."
            )
        hint = (
            "It looks like a sorter's output: use read_phy."
            if "spike_times.npy" in names
            else "Give one NWB file inside it."
        )
        raise RecordingError(f"{path}: a folder, not a file. {hint}")
    size = path.stat().st_size
    if size == 0:
        raise RecordingError(f"{path}: an empty file (0 bytes). Copy or download it again.")
    try:
        with path.open("rb") as stream:
            head = stream.read(64)
        if not h5py.is_hdf5(path):
            raise RecordingError(f"{path}: not an HDF5 file, {_looks_like(head)}")
        # Locks fail on read-only and network file systems, where nothing needs them.
        return h5py.File(path, "r", locking="best-effort")
    except OSError as error:
        sizes = re.search(r"truncated file: eof = (\d+).*stored_eof = (\d+)", str(error))
        if sizes:
            raise RecordingError(
                f"{path}: truncated, {int(sizes[1]):,} of {int(sizes[2]):,} bytes are there. "
                "Copy or download it again."
            ) from error
        raise RecordingError(
            f"{path}: it can't be opened ({error}). Check that it is complete, readable for you, "
            "and not open for writing in another program."
        ) from error


def _looks_like(head: bytes) -> str:
    if head.startswith(b"version https://git-lfs"):
        return "but a git-lfs pointer. Fetch its content with `git lfs pull`."
    if head.startswith(b"PK"):
        return "but a zip archive. Unpack it and give the NWB file inside."
    if head.lstrip()[:1] == b"<":
        return "but looks like a web page. Download the file itself."
    return f"but starts with {head[:8]!r}. Give an NWB file in HDF5 format."


def _check_version(file: h5py.File, path: Path) -> list[str]:
    version = text(file.attrs.get("nwb_version")) or scalar_text(file, "nwb_version")
    if not version and text(file.attrs.get("neurodata_type")) != "NWBFile":
        raise RecordingError(
            f"{path}: an HDF5 file, but not NWB (no nwb_version at its root, which holds "
            f"{_content(file)}). Convert it to NWB, or pass the spike times to "
            "Recording.from_spike_times."
        )
    number = re.match(r"(?:NWB-)?(\d+)\.", version)
    if number and int(number[1]) < 2:
        raise RecordingError(
            f"{path}: written in NWB {version}, and the format changed with 2.0. "
            "Convert it to NWB 2, or pass its spike times to Recording.from_spike_times."
        )
    if not number or int(number[1]) > 2:
        return [f"NWB version {version or 'not stated'}, read as NWB 2"]
    return []


def _content(file: h5py.File) -> str:
    """Name what a file holds, in a few words."""
    words = []
    for name, member in members(file):
        if isinstance(member, h5py.Dataset):
            words.append(name)
        elif len(member) and name != "specifications":
            inside = [inner for inner, _ in members(member)]
            words.append(f"{name}: {', '.join(inside[:3])}{', …' if len(inside) > 3 else ''}")
    return "; ".join(words[:6]) or "nothing"


def _read_trains(table: h5py.Group, path: Path) -> tuple[list[np.ndarray], list[str]]:
    times, index = dataset_in(table, "spike_times"), dataset_in(table, "spike_times_index")
    if times is None:
        columns = [name for name, _ in members(table) if not name.endswith("_index")]
        raise RecordingError(
            f"{path}: its units have no spike_times (columns: {', '.join(columns) or 'none'}). "
            "Write the spike times into the file, or pass them to Recording.from_spike_times."
        )
    if index is None:
        raise RecordingError(
            f"{path}: units/spike_times has no spike_times_index, so nobody knows which of its "
            f"{times.size:,} values belongs to which unit. Write the file again with pynwb."
        )
    if times.ndim != 1 or times.dtype.kind not in "iuf" or index.ndim != 1:
        raise RecordingError(
            f"{path}: units/spike_times is {times.dtype} {times.shape}, not one row of numbers. "
            "Write the file again with pynwb."
        )
    # Unsigned differences would wrap round and hide an index that goes backwards.
    bounds = np.concatenate([[0], index[:].astype(np.int64)])
    backwards = np.flatnonzero(np.diff(bounds) < 0)
    if len(backwards):
        row = int(backwards[0])
        raise RecordingError(
            f"{path}: units/spike_times_index goes backwards at row {row} (from {bounds[row]:,} "
            f"to {bounds[row + 1]:,}), so trains would mix units. Write the file again."
        )
    if bounds[-1] > len(times):
        row = int(np.argmax(bounds > len(times))) - 1
        raise RecordingError(
            f"{path}: units/spike_times_index points to {bounds[-1]:,}, past the end of the "
            f"{len(times):,} spike times (from row {row}). The file lacks spikes: write it again."
        )
    ids = dataset_in(table, "id")
    if ids is not None and ids.ndim == 1 and len(ids) != len(index):
        raise RecordingError(
            f"{path}: {len(ids)} units, but units/spike_times_index has {len(index)} rows. "
            "Write the file again."
        )
    # One allocation and one read, whatever the stored type; each train is a view into it.
    flat = np.empty(len(times), np.float64)
    if len(flat):
        times.read_direct(flat)
    notes = []
    if bounds[-1] < len(times):
        notes.append(f"{len(times) - bounds[-1]:,} spike times at the end belong to no unit")
    if times.dtype.kind == "f" and times.dtype.itemsize < 8 and len(flat):
        latest = np.nanmax(np.abs(flat[np.isfinite(flat)]), initial=0.0)
        step = np.spacing(np.asarray(latest, dtype=times.dtype))
        notes.append(
            f"spike times are stored as {times.dtype}: steps of {float(step) * 1e3:.2g} ms "
            f"at {latest:,.0f} s"
        )
    trains = [flat[a:b] for a, b in pairwise(bounds)]
    return trains, notes


def _read_units(table: h5py.Group, n_units: int) -> tuple[pd.DataFrame, list[str]]:
    units, notes = read_table(table, n_units, skip=TRAIN_COLUMNS)
    units.index.name = "unit"
    for name, values in electrode_properties(table, n_units).items():
        if name not in units:
            units[name] = values
    units["file_row"] = np.arange(n_units)
    for name in units.select_dtypes("floating"):
        missing = np.count_nonzero(np.isnan(units[name].to_numpy()))
        if missing:
            notes.append(f"units column {name}: {missing} of {n_units} values are NaN")
    return units, notes


def _observed(
    table: h5py.Group, trains: list[np.ndarray]
) -> tuple[Interval | None, pd.DataFrame | None, list[str]]:
    """Return the span of the units' obs_intervals, their union where it has gaps, and notes."""
    limits, index = dataset_in(table, "obs_intervals"), dataset_in(table, "obs_intervals_index")
    if limits is None or index is None or not limits.size:
        return None, None, []
    values = limits[:].astype(np.float64)
    bounds = np.concatenate([[0], index[:].astype(np.int64)])
    if (
        values.ndim != 2
        or values.shape[1] != 2
        or len(bounds) != len(trains) + 1
        or (np.diff(bounds) < 0).any()
        or bounds[-1] > len(values)
        or not np.isfinite(values).all()
        or (values[:, 1] < values[:, 0]).any()
    ):
        return None, None, ["obs_intervals are not (start, stop) per unit and were ignored"]
    interval = Interval(float(values[:, 0].min()), float(values[:, 1].max()))
    if interval.duration <= 0:
        return None, None, ["obs_intervals have no length and were ignored"]
    union = _union(values)
    covered = float((union[:, 1] - union[:, 0]).sum())
    notes = []
    if len(union) > 1:
        notes.append(
            f"observed in {len(union)} pieces, {covered:,.6g} of {interval.duration:,.6g} s: "
            "bins in between hold no spikes (see intervals['obs_intervals'])"
        )
    pieces = [values[a:b] for a, b in pairwise(bounds)]
    seconds = np.array([(p[:, 1] - p[:, 0]).sum() for p in pieces])
    if np.ptp(seconds) > 1e-6:
        notes.append(
            f"units were observed for {seconds.min():,.6g} to {seconds.max():,.6g} s; "
            "the interval is their union"
        )
    outside = [
        len(t) - int((np.searchsorted(t, p[:, 1], "right") - np.searchsorted(t, p[:, 0])).sum())
        for t, p in zip(trains, map(_union, pieces), strict=True)
        if len(p)
    ]
    outside = [n for n in outside if n > 0]
    if outside:
        notes.append(f"{sum(outside):,} spikes of {len(outside)} units outside their obs_intervals")
    frame = pd.DataFrame({"start_time": union[:, 0], "stop_time": union[:, 1]})
    return interval, frame if len(union) > 1 else None, notes


def _union(limits: np.ndarray) -> np.ndarray:
    """Merge overlapping or touching (start, stop) rows [n, 2], s."""
    merged: list[list[float]] = []
    for start, stop in limits[np.lexsort((limits[:, 1], limits[:, 0]))]:
        if merged and start <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], stop)
        else:
            merged.append([start, stop])
    return np.array(merged).reshape(-1, 2)
