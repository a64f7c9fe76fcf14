"""Latents of a recording, with all that says what they are: in memory, and read from NWB."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from saebook.errors import DataError, RecordingError

# A module named after its content would get a remark from nwbinspector, which knows a fixed list.
MODULE = "misc"
# Ends of the names under which the parts of one set of latents lie.
ACTIVATIONS, DECODER, DISCOVERY = "_latents", "_decoder", "_discovery"
CONFIGURATION, PROVENANCE = "_configuration", "_provenance"


@dataclass
class StoredLatents:
    """Latents over time, and what they were made by and from.

    Attributes
    ----------
    activations
        Float32 [n, d_sae].
    timestamps
        Start of each bin [n], s, on the recording's clock; of a window, of its last bin.
    bin_size_s
        Width of a bin, s; None where not known.
    decoder
        What one unit of each latent adds to the reconstruction, in spikes per bin of each unit:
        [d_sae, n_units], or [d_sae, seq_len, n_units] where every bin of a window is
        reconstructed; None without a model.
    units
        One row per column of the decoder; index `unit`: the id in the file; with `location` and
        `electrode_group` where the file says so. None without a decoder.
    latents
        Numbers of the columns of `activations` [d_sae].
    configuration, provenance
        How the latents were made, and from what.
    discovery
        What latents stand for, one row per finding, or None.
    name
        Under which they lie in the file.

    Examples
    --------
    >>> stored = StoredLatents(np.zeros((3, 2), np.float32), np.arange(3) * 0.1)
    >>> stored.latents.tolist()
    [0, 1]
    """

    activations: np.ndarray
    timestamps: np.ndarray
    bin_size_s: float | None = None
    decoder: np.ndarray | None = None
    units: pd.DataFrame | None = None
    latents: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    configuration: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    discovery: pd.DataFrame | None = None
    name: str = "sae"

    def __post_init__(self) -> None:
        if np.ndim(self.activations) != 2 or np.shape(self.timestamps) != (len(self.activations),):
            raise DataError(
                f"latents of shape {np.shape(self.activations)} at times of shape "
                f"{np.shape(self.timestamps)}: give [n, d_sae] and one time per row"
            )
        if not len(self.latents):
            self.latents = np.arange(self.activations.shape[1])


def read_latents(
    path: str | os.PathLike[str],
    *,
    name: str | None = None,
    latents: Sequence[int] | None = None,
) -> StoredLatents:
    """Read what `write_latents` wrote.

    Parameters
    ----------
    path
        NWB file.
    name
        Which latents, where the file holds several sets.
    latents
        Numbers of the latents to read, each once; all by default. The file is laid out so that a
        few are read without the others.

    Raises
    ------
    RecordingError
        No NWB file, or none with such latents.
    DataError
        A latent that isn't there.

    Examples
    --------
    >>> read_latents("nowhere.nwb")
    Traceback (most recent call last):
    ...
    saebook.errors.RecordingError: nowhere.nwb: there is no such file. ...
    """
    import h5py

    path = Path(path).expanduser()
    if not path.is_file():
        raise RecordingError(f"{path}: there is no such file. Check the path.")
    try:
        with h5py.File(path, "r", locking="best-effort") as file:
            name = _chosen(file, name, path)
            return _read(file, name, latents, path)
    except OSError as error:
        raise RecordingError(
            f"{path}: it can't be read ({error}). Give an NWB file that write_latents wrote."
        ) from error


def _chosen(file: Any, name: str | None, path: Path) -> str:
    module = file.get(f"processing/{MODULE}", {})
    there = [
        key.removesuffix(ACTIVATIONS)
        for key in module
        if key.endswith(ACTIVATIONS)
        and f"scratch/{key.removesuffix(ACTIVATIONS)}{PROVENANCE}" in file
    ]
    if name is None and len(there) == 1:
        return there[0]
    if name is None or name not in there:
        raise RecordingError(
            f"{path}: it holds latents named {', '.join(there) or '(none)'}"
            + (f", not {name!r}." if name is not None else ".")
            + (" Choose with name=." if there else " Write them with write_latents.")
        )
    return name


def _read(file: Any, name: str, latents: Sequence[int] | None, path: Path) -> StoredLatents:
    from saebook.data.spikes.tables import text

    module = file[f"processing/{MODULE}"]
    series = module[f"{name}{ACTIVATIONS}"]
    data = series["data"]
    d_sae = data.shape[1]
    chosen = np.arange(d_sae) if latents is None else np.asarray(latents, np.int64).ravel()
    if len(np.unique(chosen)) < len(chosen) or ((chosen < 0) | (chosen >= d_sae)).any():
        raise DataError(f"{path}: latents {chosen.tolist()} of 0 to {d_sae - 1}: give each once")
    if latents is None:
        activations = data[:]
    else:
        # HDF5 takes columns in rising order.
        order = np.argsort(chosen)
        activations = np.empty((len(data), len(chosen)), data.dtype)
        activations[:, order] = data[:, chosen[order]]
    if "timestamps" in series:
        timestamps = series["timestamps"][:].astype(np.float64)
    else:
        start = series["starting_time"]
        timestamps = regular_times(float(start[()]), float(start.attrs["rate"]), len(data))
    configuration, provenance = (
        json.loads(text(file[f"scratch/{name}{end}"][()])) for end in (CONFIGURATION, PROVENANCE)
    )
    decoder, units = _decoder(file, module.get(f"{name}{DECODER}"))
    return StoredLatents(
        activations=activations,
        timestamps=timestamps,
        bin_size_s=provenance.get("bin_size_s"),
        decoder=None if decoder is None else decoder[chosen],
        units=units,
        latents=chosen,
        configuration=configuration,
        provenance=provenance,
        discovery=_discovery(module.get(f"{name}{DISCOVERY}"), provenance.get("discovery")),
        name=name,
    )


def regular_times(start: float, rate: float, n: int) -> np.ndarray:
    """Times of n samples at a rate, Hz, from a start, s, as every reader of NWB computes them.

    Examples
    --------
    >>> regular_times(1.0, 4.0, 3).tolist()
    [1.0, 1.25, 1.5]
    """
    return start + np.arange(n) / rate


def _decoder(file: Any, table: Any) -> tuple[np.ndarray | None, pd.DataFrame | None]:
    from saebook.data.spikes.tables import electrode_properties, group_in, read_table

    if table is None:
        return None, None
    rows = table["unit"][:]
    weights = np.moveaxis(table["weights"][:], 0, -1)  # [n_units, d_sae, ...] to [..., n_units]
    in_file = group_in(file, "units")
    assert in_file is not None, "the decoder's rows point into the units table"
    n_units = len(np.asarray(in_file["id"]))
    every, _ = read_table(in_file, n_units, skip=("electrodes", "spike_times", "obs_intervals"))
    units = pd.DataFrame(electrode_properties(in_file, n_units), index=every.index)
    if "location" not in units and "location" in every:
        units["location"] = every["location"]
    return weights, units.iloc[rows].rename_axis("unit")


def _discovery(table: Any, about: dict[str, Any] | None) -> pd.DataFrame | None:
    from saebook.data.spikes.tables import read_column

    if table is None or about is None:
        return None
    columns = {}
    for column in about["columns"]:
        values = pd.Series(read_column(table[column["stored"]]))
        columns[column["name"]] = values.astype(column["dtype"])
    frame = pd.DataFrame(columns)
    return frame.set_index(about["index"]) if about["index"] else frame
