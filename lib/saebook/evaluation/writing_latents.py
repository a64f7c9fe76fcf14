"""Writing latents back beside the recording that they came from, as NWB."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from saebook import __version__
from saebook.errors import DataError, RecordingError
from saebook.evaluation.latent_source import LatentSource
from saebook.evaluation.stored_latents import (
    ACTIVATIONS,
    CONFIGURATION,
    DECODER,
    DISCOVERY,
    MODULE,
    PROVENANCE,
    regular_times,
)

# A megabyte of one chunk: a few latents over all time read fast, and so do all over little time.
CHUNK = (4096, 64)
# What hdmf keeps for itself in a table.
RESERVED = {"id", "name", "description", "colnames", "columns", "parent", "data", "table", "unit"}


def write_latents(
    latents: Any,
    nwb_path: str | os.PathLike[str],
    out_path: str | os.PathLike[str],
    *,
    data: Any = None,
    timestamps: Any = None,
    bin_size_s: float | None = None,
    unit_ids: Sequence[Any] | None = None,
    decoder: Any = None,
    configuration: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
    discovery: pd.DataFrame | None = None,
    name: str = "sae",
    overwrite: bool = False,
) -> Path:
    """Write latents into a copy of the NWB file of their recording.

    The copy gets, in its processing module ``misc``, the activations as the time series
    ``<name>_latents`` (float32, compressed), the decoder as the table ``<name>_decoder`` with a
    row per unit that points into the units table, and the table ``<name>_discovery``; its scratch
    gets configuration and provenance as JSON. The original is only read. The copy appears
    complete or not at all.

    Parameters
    ----------
    latents : SAE, Tensor or ndarray
        A trained SAE, which encodes `data`; or latents [n, d_sae] (a scipy sparse matrix will do).
    nwb_path
        The recording.
    out_path
        NWB file to write.
    data : ExampleStore, Tensor or ndarray
        For an SAE: a store made from the recording, of which this session's rows are encoded in
        order; or examples [n, d_in] ([n, seq_len, d_in] windows).
    timestamps
        Start of each bin [n], s, rising, on the recording's clock (of a window: of its last bin).
        A store knows them.
    bin_size_s
        Width of a bin, s. A store knows it.
    unit_ids
        Ids of the decoder's units, as in the file. A store knows them.
    decoder
        [d_sae, n_units], in spikes per bin, or [d_sae, seq_len, n_units]; an SAE has its own.
    configuration, provenance
        Anything JSON can hold; an SAE's configuration and a store's provenance are written anyway.
    discovery
        What latents stand for. Columns of numbers, booleans and text; missing text becomes "".
    name
        Under which the parts lie; a file may hold several sets.
    overwrite
        Replace a file that is there.

    Returns
    -------
    Path
        `out_path`.

    Raises
    ------
    RecordingError
        The recording can't be read as NWB, lacks one of the units, already holds latents of that
        name, or something lies at `out_path`.
    DataError
        Shapes, times or values that don't fit.

    Examples
    --------
    >>> import tempfile
    >>> from saebook.data import simulate_session
    >>> folder = Path(tempfile.mkdtemp())
    >>> session = simulate_session(folder / "session.nwb", n_units=20, n_trials=8)
    >>> latents, times = np.eye(3), [0.0, 0.05, 0.1]
    >>> path = write_latents(latents, session, folder / "out.nwb", timestamps=times)
    >>> from saebook.evaluation import read_latents
    >>> read_latents(path).activations.tolist() == latents.tolist()
    True
    """
    source, out = Path(nwb_path).expanduser(), Path(out_path).expanduser()
    _check_paths(source, out, overwrite)
    if not name.isidentifier():
        raise DataError(f"name {name!r} can't name an object of a file: use letters, digits and _")
    given = LatentSource(latents, data, timestamps, unit_ids, decoder, bin_size_s, source)
    digest = _sha256(source)
    facts = {
        **given.provenance,
        **(provenance or {}),
        "saebook": __version__,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "recording": {"file": source.name, "sha256": digest},
        "bin_size_s": given.bin_size_s,
        "d_sae": given.d_sae,
    }
    table = None
    if discovery is not None:
        table, facts["discovery"] = _plain_table(discovery)
    texts = {
        CONFIGURATION: _json({**given.configuration, **(configuration or {})}, "configuration"),
        PROVENANCE: _json(facts, "provenance"),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    # Not ending in .nwb, so that no search for recordings finds a half-written file.
    partial = out.with_name(f".{out.name}.partial-{os.getpid()}")
    try:
        shutil.copyfile(source, partial)
        _add(partial, source, given, table, texts, name)
        os.replace(partial, out)
    finally:
        partial.unlink(missing_ok=True)
    return out


def _add(
    partial: Path,
    source: Path,
    given: LatentSource,
    discovery: pd.DataFrame | None,
    texts: Mapping[str, str],
    name: str,
) -> None:
    import h5py
    from pynwb import NWBHDF5IO

    try:
        # What pynwb says of an older file's schema, its reader has been told before.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with h5py.File(partial, "r+") as file, NWBHDF5IO(file=file, mode="a") as io:
                nwbfile: Any = io.read()
                _add_objects(nwbfile, source, given, discovery, texts, name)
                io.write(container=nwbfile)
    except (RecordingError, DataError):
        raise
    except Exception as error:
        # pynwb raises many kinds, and none names the file.
        raise RecordingError(
            f"{source}: pynwb can't add to it ({type(error).__name__}: {error}). Check the file "
            "with pynwb.validate."
        ) from error
    with h5py.File(partial, "r+") as file:
        dataset = file[f"processing/{MODULE}/{name}{ACTIVATIONS}/data"]
        assert isinstance(dataset, h5py.Dataset)
        done = 0
        for block in given.blocks(CHUNK[0]):
            dataset[done : done + len(block)] = block
            done += len(block)


def _add_objects(
    nwbfile: Any,
    source: Path,
    given: LatentSource,
    discovery: pd.DataFrame | None,
    texts: Mapping[str, str],
    name: str,
) -> None:
    module = nwbfile.processing.get(MODULE)
    taken = set(nwbfile.scratch or {}) | (set(module.data_interfaces) if module else set())
    there = sorted(taken & {f"{name}{e}" for e in (ACTIVATIONS, DECODER, DISCOVERY, *texts)})
    if there:
        raise RecordingError(
            f"{source}: it already holds {', '.join(there)}. Choose another name=."
        )
    if module is None:
        module = nwbfile.create_processing_module(MODULE, "Latents of sparse autoencoders")
    module.add(_series(given, name))
    if given.decoder is not None:
        module.add(_decoder_table(nwbfile, source, given, name))
    if discovery is not None:
        module.add(_discovery_table(discovery, name))
    for end, text in texts.items():
        nwbfile.add_scratch(
            text, name=f"{name}{end}", description=f"{end[1:].capitalize()} of {name}_latents, JSON"
        )


def _series(given: LatentSource, name: str) -> Any:
    from pynwb import H5DataIO, TimeSeries

    width = "" if given.bin_size_s is None else f" of {given.bin_size_s:g} s"
    values: Any = H5DataIO(
        shape=(given.n, given.d_sae),
        dtype=np.dtype(np.float32),
        chunks=(min(CHUNK[0], given.n), min(CHUNK[1], given.d_sae)),
        compression="gzip",
        compression_opts=4,
        shuffle=True,
    )
    return TimeSeries(
        name=f"{name}{ACTIVATIONS}",
        data=values,
        unit="a.u.",
        description=f"Latents of a sparse autoencoder, one column each; times are starts of bins{width}",
        comments=f"Configuration and provenance: scratch/{name}{CONFIGURATION}, {name}{PROVENANCE}",
        **_clock(given.timestamps),
    )


def _clock(times: np.ndarray) -> dict[str, Any]:
    """Start and rate where times are regular, to a nanosecond, else the times themselves."""
    if len(times) > 1:
        # Rounded where that is exact enough: a bin of 0.05 s is 20 Hz, not 20.000000000000004.
        step = (times[-1] - times[0]) / (len(times) - 1)
        for rate in (float(round(1 / step, 9)), float(1 / step)):
            if rate and np.abs(regular_times(times[0], rate, len(times)) - times).max() < 1e-9:
                return {"starting_time": float(times[0]), "rate": rate}
    return {"timestamps": times}


def _decoder_table(nwbfile: Any, source: Path, given: LatentSource, name: str) -> Any:
    from hdmf.common import DynamicTable, DynamicTableRegion, VectorData
    from pynwb import H5DataIO

    if nwbfile.units is None:
        raise RecordingError(f"{source}: it has no units table for the decoder to point into.")
    ids = np.asarray(nwbfile.units.id[:]).tolist()
    # Where ids repeat, read_recording numbers the rows instead.
    ids = ids if len(set(ids)) == len(ids) else list(range(len(ids)))
    rows = {unit: row for row, unit in enumerate(ids)}
    missing = [unit for unit in given.unit_ids if unit not in rows]
    if missing or len(set(given.unit_ids)) < len(given.unit_ids):
        raise RecordingError(
            f"{source}: it lacks units {missing[:10]}. Give the recording that the SAE was trained "
            "on."
            if missing
            else f"unit_ids repeat: {given.unit_ids}. Give each unit of the decoder once."
        )
    region = DynamicTableRegion(
        name="unit",
        data=[rows[unit] for unit in given.unit_ids],
        description="The unit, a row of the units table",
        table=nwbfile.units,
    )
    assert given.decoder is not None
    weights: Any = H5DataIO(
        data=np.ascontiguousarray(np.moveaxis(given.decoder, -1, 0)),
        compression="gzip",
        shuffle=True,
    )
    meaning = "What one unit of each latent adds to the unit's reconstructed count in a bin"
    axes = "latents" if given.decoder.ndim == 2 else "latents, bins of the window"
    return DynamicTable(
        name=f"{name}{DECODER}",
        description=f"Decoder of {name}{ACTIVATIONS}, one row per unit",
        columns=[
            region,
            VectorData(name="weights", description=f"{meaning} [units, {axes}]", data=weights),
        ],
    )


def _discovery_table(frame: pd.DataFrame, name: str) -> Any:
    from hdmf.common import DynamicTable, VectorData

    columns = [
        VectorData(
            name=column,
            description=f"Column {column} of the findings",
            data=frame[column].to_numpy()
            if frame[column].dtype.kind in "biuf"
            else frame[column].tolist(),
        )
        for column in frame.columns
    ]
    return DynamicTable(
        name=f"{name}{DISCOVERY}",
        description=f"What latents of {name}{ACTIVATIONS} stand for, one row per finding",
        columns=columns,
    )


def _plain_table(discovery: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return a table of plain columns under names that a file can have, and how to undo that."""
    index = [str(name) for name in discovery.index.names if name is not None]
    frame = discovery.reset_index() if index else discovery.reset_index(drop=True)
    if not len(frame) or not len(frame.columns):
        raise DataError(f"the discovery table has shape {discovery.shape}: leave it out instead")
    if not frame.columns.is_unique:
        raise DataError(f"columns of the discovery table repeat: {list(frame.columns)}")
    plain, about = {}, []
    for name in frame.columns:
        values: Any = frame[name]
        text = not (
            pd.api.types.is_bool_dtype(values.dtype) or pd.api.types.is_numeric_dtype(values.dtype)
        )
        if text:
            other = {
                type(value).__name__ for value in values.dropna() if not isinstance(value, str)
            }
            if other:
                raise DataError(
                    f"column {name!r} of the discovery table holds {', '.join(sorted(other))}: "
                    "only numbers, booleans and text can be written"
                )
            values = values.astype(object).where(values.notna(), "")
        elif values.dtype.kind == "c" or (values.dtype.kind != "f" and values.isna().any()):
            raise DataError(
                f"column {name!r} of the discovery table is {values.dtype}, some of it missing or "
                "complex: make it float"
            )
        elif values.dtype.kind == "f" and pd.api.types.is_extension_array_dtype(values.dtype):
            # Missing values of pandas' own floats are no numbers; those of numpy's are NaN.
            values = values.astype(np.float64)
        stored = str(name).replace("/", "_").replace(":", "_")
        while stored in plain or stored in RESERVED:
            stored += "_"
        plain[stored] = values.to_numpy(dtype=object) if text else values.to_numpy()
        about.append(
            {"name": str(name), "stored": stored, "dtype": "str" if text else str(values.dtype)}
        )
    return pd.DataFrame(plain), {"index": index, "columns": about}


def _json(content: Mapping[str, Any], what: str) -> str:
    try:
        return json.dumps(content, default=_plain, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise DataError(f"{what} can't be written as JSON: {error}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"a {type(value).__name__}")


def _check_paths(source: Path, out: Path, overwrite: bool) -> None:
    if not source.is_file():
        raise RecordingError(f"{source}: there is no such file. Check the path.")
    if out.exists() and out.samefile(source):
        raise RecordingError(
            f"{out} is the recording itself, which is only read. Name another file for the copy."
        )
    if out.exists() and not overwrite:
        raise RecordingError(f"{out} exists. Name another file, or give overwrite=True.")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
