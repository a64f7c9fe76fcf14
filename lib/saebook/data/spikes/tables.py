"""HDF5 tables of an NWB file as data frames: units, trials, epochs and any other."""

from __future__ import annotations

from collections.abc import Iterator

import h5py
import numpy as np
import pandas as pd


def text(value: object) -> str:
    """Return an HDF5 attribute or scalar as text, whichever way the file stores it.

    Examples
    --------
    >>> text(b"SpatialSeries"), text(None)
    ('SpatialSeries', '')
    """
    if value is None or isinstance(value, h5py.Empty):
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    return str(value)


def dataset_in(group: h5py.Group, name: str) -> h5py.Dataset | None:
    """Return the dataset `name` of a group, or None: no such name, a group, a broken link."""
    member = group.get(name)
    return member if isinstance(member, h5py.Dataset) else None


def group_in(group: h5py.Group, name: str) -> h5py.Group | None:
    """Return the group `name` inside a group, or None: no such name, a dataset, a broken link."""
    member = group.get(name)
    return member if isinstance(member, h5py.Group) else None


def scalar_text(group: h5py.Group, name: str) -> str:
    """Return the text dataset `name` of a group, or "" where there is none."""
    dataset = dataset_in(group, name)
    if dataset is None or dataset.shape not in ((), (1,)):
        return ""
    return text(np.ravel(np.asarray(dataset[()], dtype=object))[0])


def members(group: h5py.Group) -> Iterator[tuple[str, h5py.Group | h5py.Dataset]]:
    """Yield (name, object) of a group, leaving out links that lead nowhere."""
    for name in map(str, group):
        member = group.get(name)
        if isinstance(member, h5py.Group | h5py.Dataset):
            yield name, member


def column_names(table: h5py.Group) -> list[str]:
    """Return the columns of a table in the order that the file states, then any other."""
    names = [name for name, member in members(table) if isinstance(member, h5py.Dataset)]
    stated = [text(name) for name in np.ravel(table.attrs.get("colnames", []))]
    ordered = [name for name in stated if name in names]
    rest = [
        name
        for name in names
        if name not in ordered and name != "id" and not name.endswith("_index")
    ]
    return ordered + rest


def read_column(dataset: h5py.Dataset) -> np.ndarray | None:
    """Return a column with one number, text, boolean or object's name per row, else None.

    Parameters
    ----------
    dataset
        Values [n_rows] of any type that NWB allows; arrays per row and records give None.
    """
    if dataset.ndim != 1 or dataset.dtype.names is not None:
        return None
    if h5py.check_string_dtype(dataset.dtype) is not None:
        return np.asarray(dataset.asstr(errors="replace")[:], dtype=object)
    if h5py.check_ref_dtype(dataset.dtype) is h5py.Reference:
        return np.array([_target_name(dataset, ref) for ref in dataset[:]], dtype=object)
    if dataset.dtype.kind not in "biuf":
        return None
    values = dataset[:]
    elements = dataset.attrs.get("elements")
    target = dataset.file[elements] if isinstance(elements, h5py.Reference) else None
    if isinstance(target, h5py.Dataset) and dataset.dtype.kind in "iu":
        # An enumeration stores indices into a second dataset that holds the words.
        words = read_column(target)
        if words is not None and (
            not len(values) or 0 <= values.min() <= values.max() < len(words)
        ):
            return words[values]
    return values


def read_table(
    table: h5py.Group, n_rows: int, *, skip: tuple[str, ...] = (), join_text: bool = False
) -> tuple[pd.DataFrame, list[str]]:
    """Read the scalar columns of a table, and notes on columns that don't fit it.

    Parameters
    ----------
    table
        HDF5 group with one dataset per column.
    n_rows
        Number of rows that each column must have.
    skip
        Columns not to read.
    join_text
        Join several texts of one row, such as the tags of an epoch, with ", "; otherwise
        columns with several values per row are left out.

    Returns
    -------
    frame
        One row per row of the table, index `id` (0, 1, … where ids are missing or repeated).
    notes
        In words, columns left out since their length is wrong, and unusable ids.
    """
    notes: list[str] = []
    columns: dict[str, np.ndarray] = {}
    where = (table.name or "").strip("/")
    for name in column_names(table):
        if name in skip:
            continue
        dataset = dataset_in(table, name)
        if dataset is None:
            continue
        index = dataset_in(table, f"{name}_index")
        if index is not None:
            if not join_text or h5py.check_string_dtype(dataset.dtype) is None:
                continue
            parts = ragged(dataset, index)
            if parts is not None and len(parts) == n_rows:
                columns[name] = np.array([", ".join(part) for part in parts], dtype=object)
            continue
        if dataset.ndim == 1 and len(dataset) != n_rows:
            notes.append(
                f"column {name} of {where} left out: {len(dataset)} values for {n_rows} rows"
            )
            continue
        values = read_column(dataset)
        if values is not None:
            columns[name] = values
    index_values, id_note = _row_ids(table, n_rows)
    if id_note:
        notes.append(f"{where}: {id_note}")
    index = pd.Index(index_values, name="id")
    return pd.DataFrame(columns, index=index), notes


def ragged(dataset: h5py.Dataset, index: h5py.Dataset) -> list[np.ndarray] | None:
    """Return one array per row of a ragged column, or None where its index is unusable."""
    ends = index[:].astype(np.int64)
    bounds = np.concatenate([[0], ends])
    if (np.diff(bounds) < 0).any() or bounds[-1] > len(dataset):
        return None
    values = read_column(dataset)
    return None if values is None else np.split(values[: bounds[-1]], ends[:-1])


def electrode_properties(units: h5py.Group, n_units: int) -> dict[str, np.ndarray]:
    """Return each unit's `location` and `electrode_group`, where its electrodes give them.

    A unit over several electrodes gets their distinct values, joined with "/".

    Parameters
    ----------
    units
        HDF5 group of the units table; its `electrodes` column points into the table of
        electrodes.
    n_units
        Number of units.
    """
    regions = dataset_in(units, "electrodes")
    if regions is None:
        return _group_locations(units, n_units)
    index = dataset_in(units, "electrodes_index")
    rows = (
        ragged(regions, index)
        if index is not None
        else ([np.atleast_1d(row) for row in regions[:]] if regions.ndim == 1 else None)
    )
    reference = regions.attrs.get("table")
    electrodes = (
        regions.file[reference]
        if isinstance(reference, h5py.Reference) and reference
        else regions.file.get("general/extracellular_ephys/electrodes")
    )
    if rows is None or len(rows) != n_units or not isinstance(electrodes, h5py.Group):
        return {}
    found = {}
    for column, name in (("location", "location"), ("group_name", "electrode_group")):
        dataset = dataset_in(electrodes, column)
        values = None if dataset is None else read_column(dataset)
        if values is None or any(
            len(r) and not 0 <= r.min() <= r.max() < len(values) for r in rows
        ):
            continue
        found[name] = np.array(
            ["/".join(dict.fromkeys(str(v) for v in values[row])) for row in rows], dtype=object
        )
    return found


def _group_locations(units: h5py.Group, n_units: int) -> dict[str, np.ndarray]:
    groups = dataset_in(units, "electrode_group")
    if (
        groups is None
        or groups.shape != (n_units,)
        or h5py.check_ref_dtype(groups.dtype) is not h5py.Reference
    ):
        return {}
    targets = [groups.file[ref] if ref else None for ref in groups[:]]
    places = ["" if t is None else text(t.attrs.get("location")) for t in targets]
    return {"location": np.array(places, dtype=object)} if any(places) else {}


def _target_name(dataset: h5py.Dataset, reference: h5py.Reference) -> str:
    if not reference:
        return ""
    return (dataset.file[reference].name or "").rsplit("/", 1)[-1]


def _row_ids(table: h5py.Group, n_rows: int) -> tuple[np.ndarray, str]:
    dataset = dataset_in(table, "id")
    if dataset is None:
        return np.arange(n_rows), ""
    ids = read_column(dataset)
    if ids is None or len(ids) != n_rows:
        return np.arange(n_rows), f"its id column doesn't fit its {n_rows} rows; rows are numbered"
    if len(np.unique(ids)) < n_rows:
        return np.arange(n_rows), "ids appear more than once; rows are numbered instead"
    return ids, ""
