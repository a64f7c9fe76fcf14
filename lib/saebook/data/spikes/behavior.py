"""Signals and intervals of an NWB file: position, velocity, epochs, simulated truth.

Objects are recognised by what they hold (data with timestamps, start and stop times) and not by
their declared type, so a series or table of an extension that isn't installed reads like any
other.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import h5py
import numpy as np
import pandas as pd

from saebook.data.spikes.recording import GroundTruth, Series
from saebook.data.spikes.tables import dataset_in, group_in, members, read_table, scalar_text, text

# What a simulated recording says of itself, in its module `misc`.
TRUE_FEATURES, TRUE_MIXING = "ground_truth_features", "ground_truth_mixing"
MOST_COLUMNS = 16
# 50 million values are half a day of position at 1 kHz; more is a raw signal, whatever its name.
MOST_VALUES = 50_000_000
BEHAVIOR_CONTAINERS = {
    "Position",
    "CompassDirection",
    "EyeTracking",
    "PupilTracking",
    "BehavioralTimeSeries",
    "BehavioralEvents",
    "BehavioralEpochs",
}
NEURAL_CONTAINERS = {"LFP", "FilteredEphys", "Fluorescence", "DfOverF", "EventDetection"}
# What only voltage, imaging or video series have.
NEURAL_MEMBERS = {"electrodes", "electrode", "rois", "imaging_plane", "external_file", "format"}


@dataclass
class Signals:
    """What was found beside the units."""

    behavior: dict[str, Series] = field(default_factory=dict)
    intervals: dict[str, pd.DataFrame] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_signals(file: h5py.File) -> Signals:
    """Read every behaviour series and table of intervals of an NWB file.

    From `processing`, every series of at most 16 columns that isn't voltage, imaging or video;
    from `acquisition`, only spatial series and the content of behaviour containers. Raw signals
    stay on disk; what was left out is noted.

    Parameters
    ----------
    file
        An open NWB file.
    """
    signals = Signals()
    if (tables := group_in(file, "intervals")) is not None:
        for name, table in members(tables):
            if isinstance(table, h5py.Group) and _is_intervals(table):
                _add_intervals(signals, name, table)
    seen: set[int] = set()
    left_out: list[str] = []
    if (processing := group_in(file, "processing")) is not None:
        for _, module in members(processing):
            if isinstance(module, h5py.Group):
                _walk(module, signals, seen, left_out, everything=True)
    if (acquisition := group_in(file, "acquisition")) is not None:
        _walk(acquisition, signals, seen, left_out, everything=False)
    if left_out:
        named = "; ".join(left_out[:5]) + (f"; and {len(left_out) - 5} more" * (len(left_out) > 5))
        signals.notes.append(f"left in the file: {named}")
    return signals


def read_ground_truth(file: h5py.File, units: pd.DataFrame) -> tuple[GroundTruth | None, list[str]]:
    """Read what a simulated recording says of itself, or None, and notes.

    Parameters
    ----------
    file
        An open NWB file. Its module `misc` holds the series `ground_truth_features` (their names
        as a JSON list in its comments) and the table `ground_truth_mixing`, one row per unit, in
        file order.
    units
        Table of every unit of the file; its columns `true_…` are the truth of single units.
    """
    features = group_in(file, f"processing/misc/{TRUE_FEATURES}")
    mixing = group_in(file, f"processing/misc/{TRUE_MIXING}")
    if features is None and mixing is None:
        return None, []
    if features is None or mixing is None or not _is_series(features):
        return None, [f"{TRUE_FEATURES} or {TRUE_MIXING} is missing: no ground truth read"]
    series = read_series("features", features, most_columns=None)
    if isinstance(series, str):
        return None, [f"no ground truth read: its features have {series}"]
    frame, notes = read_table(mixing, len(units))
    if "unit" in frame:
        frame = frame.set_index("unit")
    else:
        frame.index = units.index
    truth = units.filter(regex="^true_")
    return GroundTruth(features=series, mixing=frame, units=truth), notes


def read_series(name: str, group: h5py.Group, *, most_columns: int | None) -> Series | str:
    """Read one time series, or say why it is left out.

    Parameters
    ----------
    name
        Name of the series.
    group
        HDF5 group with `data` and either `timestamps` or `starting_time` with its rate.
    most_columns
        Largest number of columns to read; None for any.
    """
    data = dataset_in(group, "data")
    if data is None or data.ndim not in (1, 2) or data.dtype.kind not in "biuf":
        return "no numbers" if data is None else f"shape {data.shape} of {data.dtype}"
    n, n_columns = data.shape if data.ndim == 2 else (data.shape[0], 1)
    if most_columns is not None and n_columns > most_columns:
        return f"{n_columns} columns"
    if n * n_columns > MOST_VALUES:
        return f"{n * n_columns:,} values"
    timestamps = _timestamps(group, n)
    if isinstance(timestamps, str):
        return timestamps
    values = np.asarray(data[:]).reshape(n, n_columns)
    if values.dtype.kind != "f":
        values = values.astype(np.float64)
    factor, offset = (float(data.attrs.get(k, d)) for k, d in (("conversion", 1), ("offset", 0)))
    if (factor, offset) != (1.0, 0.0) and np.isfinite([factor, offset]).all():
        values = values.astype(np.float64) * factor + offset
    columns = _column_names(name, group, n_columns)
    return Series(name, values, timestamps, text(data.attrs.get("unit")), columns)


def _walk(
    group: h5py.Group, signals: Signals, seen: set[int], left_out: list[str], *, everything: bool
) -> None:
    for name, member in members(group):
        # Links can lead to one object under several names; low-level handles hash by object.
        if not isinstance(member, h5py.Group) or hash(member.id) in seen:
            continue
        if name in (TRUE_FEATURES, TRUE_MIXING):
            continue
        seen.add(hash(member.id))
        path = (member.name or "").strip("/")
        kind = text(member.attrs.get("neurodata_type"))
        if _is_intervals(member):
            _add_intervals(signals, _free_name(name, path, signals.intervals), member)
        elif _is_series(member):
            if not (everything or kind == "SpatialSeries") or NEURAL_MEMBERS & set(member):
                left_out.append(f"{path} {getattr(member.get('data'), 'shape', '')}")
                continue
            series = read_series(name, member, most_columns=MOST_COLUMNS)
            if isinstance(series, str):
                left_out.append(f"{path} ({series})")
                continue
            key = _free_name(name, path, signals.behavior)
            signals.behavior[key] = series
            signals.notes += _clock_notes(key, series.timestamps)
        elif kind not in NEURAL_CONTAINERS:
            inside = everything or kind in BEHAVIOR_CONTAINERS
            _walk(member, signals, seen, left_out, everything=inside)


def _add_intervals(signals: Signals, name: str, table: h5py.Group) -> None:
    starts = dataset_in(table, "start_time")
    frame, notes = read_table(table, (0 if starts is None else starts.size) or 0, join_text=True)
    signals.notes += notes
    if not {"start_time", "stop_time"} <= set(frame.columns):
        signals.notes.append(f"intervals {name} left out: start and stop times don't fit")
        return
    limits = frame[["start_time", "stop_time"]].to_numpy(np.float64)
    unknown = int((~np.isfinite(limits)).any(axis=1).sum())
    backwards = int((limits[:, 1] < limits[:, 0]).sum())
    if unknown or backwards:
        signals.notes.append(
            f"{name}: {unknown} of {len(frame)} rows without a start or stop time, "
            f"{backwards} that stop before they start"
        )
    signals.intervals[name] = frame


def _timestamps(group: h5py.Group, n: int) -> np.ndarray | str:
    times = dataset_in(group, "timestamps")
    if times is not None:
        if times.shape != (n,):
            return f"{n} samples and timestamps of shape {times.shape}"
        return times[:].astype(np.float64, copy=False)
    start = dataset_in(group, "starting_time")
    if start is None:
        return "neither timestamps nor a starting time"
    rate = float(start.attrs.get("rate", np.nan))
    if not (np.isfinite(rate) and rate > 0):
        return f"a sampling rate of {rate}"
    return float(np.ravel(start[()])[0]) + np.arange(n) / rate


def _clock_notes(name: str, timestamps: np.ndarray) -> list[str]:
    notes = []
    not_finite = int((~np.isfinite(timestamps)).sum())
    if not_finite:
        notes.append(f"{name}: {not_finite} of {len(timestamps)} timestamps not finite, kept")
    with np.errstate(invalid="ignore"):
        back = np.flatnonzero(np.diff(timestamps) <= 0)
    if len(back):
        first = int(back[0]) + 1
        notes.append(
            f"{name}: {len(back)} of {len(timestamps)} timestamps not later than the one before, "
            f"first at sample {first} ({timestamps[first]:.6g} s), kept"
        )
    return notes


def _column_names(name: str, group: h5py.Group, n_columns: int) -> tuple[str, ...]:
    comments = text(group.attrs.get("comments"))
    if comments.startswith("["):
        try:
            names = json.loads(comments)
        except ValueError:
            names = []
        if len(names) == n_columns and all(isinstance(word, str) for word in names):
            return tuple(names)
    if n_columns == 1:
        return (name,)
    if n_columns <= 3 and scalar_text(group, "reference_frame"):
        return ("x", "y", "z")[:n_columns]
    return tuple(f"{name}_{i}" for i in range(n_columns))


def _free_name(name: str, path: str, taken: dict) -> str:
    return name if name not in taken else path


def _is_intervals(group: h5py.Group) -> bool:
    return all(dataset_in(group, name) is not None for name in ("start_time", "stop_time"))


def _is_series(group: h5py.Group) -> bool:
    return dataset_in(group, "data") is not None and (
        "timestamps" in group or "starting_time" in group
    )
