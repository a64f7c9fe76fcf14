"""Read a sorter's output folder in Phy's format (Kilosort, SpyKING CIRCUS, Phy itself)."""

from __future__ import annotations

import ast
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from saebook.data.spikes.assembly import assemble
from saebook.data.spikes.recording import Recording
from saebook.errors import RecordingError

CLUSTER_FILES = ("spike_clusters.npy", "spike_templates.npy")
ID_COLUMNS = ("cluster_id", "id")


def read_phy(
    folder: str | os.PathLike[str],
    *,
    sampling_rate_hz: float | None = None,
    labels: Mapping[int, str] | None = None,
    strict: bool = False,
    drop_duplicates: bool = False,
) -> Recording:
    """Read spike times and cluster labels from a folder in Phy's format.

    Nothing in the folder is executed: arrays load without pickle, and ``params.py`` is parsed
    for its sampling rate only.

    Parameters
    ----------
    folder
        Holds ``spike_times.npy`` (in samples), ``spike_clusters.npy`` (or
        ``spike_templates.npy``, before curation), ``params.py`` and any ``cluster_*.tsv``, whose
        columns (`group`, `KSLabel`, …) become columns of the units.
    sampling_rate_hz
        In place of ``sample_rate`` in ``params.py``, Hz.
    labels
        Cluster id -> label, for a further units column `label`.
    strict, drop_duplicates
        As in `read_recording`.

    Raises
    ------
    RecordingError
        A file is missing, damaged, or disagrees with another; no sampling rate.

    Source
    ------
    Phy's format: https://phy.readthedocs.io/en/latest/sorting_user_guide/

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> np.save(folder / "spike_times.npy", np.array([300, 600, 900]))
    >>> np.save(folder / "spike_clusters.npy", np.array([7, 2, 7]))
    >>> recording = read_phy(folder, sampling_rate_hz=30_000)
    >>> recording.units.index.tolist(), recording.spike_times[1].tolist()
    ([2, 7], [0.01, 0.03])
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise RecordingError(
            f"{folder}: {'a file' if folder.exists() else 'there is no such folder'}. "
            "Give the folder that holds spike_times.npy and spike_clusters.npy."
        )
    clusters_name = next((n for n in CLUSTER_FILES if (folder / n).is_file()), CLUSTER_FILES[0])
    samples = _load(folder, "spike_times.npy")
    clusters = _load(folder, clusters_name)
    if len(samples) != len(clusters):
        raise RecordingError(
            f"{folder}: spike_times.npy has {len(samples):,} spikes and {clusters_name} "
            f"{len(clusters):,}. They belong to different runs of the sorter: export it again."
        )
    if samples.dtype.kind == "f" and not np.array_equal(samples, np.floor(samples)):
        raise RecordingError(
            f"{folder}: spike_times.npy holds fractions, so it isn't in samples. "
            "For times in seconds use Recording.from_spike_times."
        )
    rate, notes = _sampling_rate(folder, sampling_rate_hz)
    # A stable sort keeps each unit's spikes in file order, so disorder in the file shows.
    order = np.argsort(clusters, kind="stable")
    ids, first = np.unique(clusters[order], return_index=True)
    flat = samples[order].astype(np.float64) / rate
    trains = np.split(flat, first[1:]) if len(ids) else []
    units = pd.DataFrame(index=pd.Index(ids.astype(np.int64), name="unit"))
    for name, values in _cluster_columns(folder, notes).items():
        units[name] = _aligned(values, units.index)
    if labels is not None:
        units["label"] = [str(labels.get(int(unit), "")) for unit in ids]
    units["file_row"] = np.arange(len(ids))
    return assemble(
        trains,
        units,
        source=str(folder),
        session=folder.resolve().name,
        description=f"{clusters_name} at {rate:g} Hz",
        notes=notes,
        strict=strict,
        drop_repeats=drop_duplicates,
    )


def _load(folder: Path, name: str) -> np.ndarray:
    path = folder / name
    if not path.is_file():
        there = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
        raise RecordingError(
            f"{folder}: {name} is missing (the folder holds {there}). "
            "Give the folder that the sorter or Phy wrote."
        )
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise RecordingError(
            f"{path}: not a plain array ({error}). Export it again from the sorter; "
            "pickled content is never loaded."
        ) from error
    if array.dtype.kind not in "iuf" or array.size != len(np.atleast_1d(array)):
        raise RecordingError(
            f"{path}: {array.dtype} of shape {array.shape}, not one number per spike. "
            "Export it again from the sorter."
        )
    return array.ravel()


def _sampling_rate(folder: Path, given: float | None) -> tuple[float, list[str]]:
    path = folder / "params.py"
    stated = _stated_rate(path) if path.is_file() else None
    rate = stated if given is None else given
    if rate is None:
        missing = "no sample_rate in params.py" if path.is_file() else "no params.py"
        raise RecordingError(
            f"{folder}: {missing}, so samples can't become seconds. "
            "Pass sampling_rate_hz, for example 30000."
        )
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate < np.inf:
        raise RecordingError(
            f"{folder}: a sampling rate of {rate!r}. Pass sampling_rate_hz, for example 30000."
        )
    notes = []
    if stated is not None and stated != rate:
        notes.append(f"sampling rate {rate:g} Hz as given, although params.py says {stated}")
    return float(rate), notes


def _stated_rate(path: Path) -> Any:
    """Return the literal that `params.py` assigns to sample_rate, without running it."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError) as error:
        raise RecordingError(
            f"{path}: not readable as Python ({error}). "
            "Repair it; it needs a line like sample_rate = 30000."
        ) from error
    value = None
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == "sample_rate"
            for target in statement.targets
        ):
            try:
                value = ast.literal_eval(statement.value)
            except ValueError as error:
                raise RecordingError(
                    f"{path}: sample_rate is not a plain number, and the file is never run. "
                    "Write it as a number, or pass sampling_rate_hz."
                ) from error
    return value


def _cluster_columns(folder: Path, notes: list[str]) -> dict[str, pd.Series]:
    """Return every column of the folder's cluster tables, indexed by cluster id.

    `cluster_info` is a digest that Phy writes from the others, so they come after it and win.
    """
    paths = [p for suffix in ("tsv", "csv") for p in sorted(folder.glob(f"cluster_*.{suffix}"))]
    paths.sort(key=lambda path: path.stem != "cluster_info")
    columns: dict[str, pd.Series] = {}
    for path in paths:
        try:
            # Phy separates by tabs, in old versions also in files that end in .csv.
            header = path.read_text(encoding="utf-8").partition("\n")[0]
            table = pd.read_csv(path, sep="\t" if "\t" in header else ",")
        except (ValueError, OSError) as error:
            notes.append(f"{path.name} left out: {error}")
            continue
        key = next((name for name in ID_COLUMNS if name in table), None)
        if key is None or not table[key].is_unique:
            notes.append(f"{path.name} left out: no column of distinct cluster ids")
            continue
        table = table.set_index(key)
        columns.update({str(name): values for name, values in table.items()})
    return columns


def _aligned(values: pd.Series, ids: pd.Index) -> np.ndarray:
    aligned = values.reindex(ids)
    if pd.api.types.is_numeric_dtype(values):
        return aligned.to_numpy()
    return np.array(["" if pd.isna(v) else str(v) for v in aligned], dtype=object)
