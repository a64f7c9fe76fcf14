"""Stores that take hours to write: shard by shard, and on from the last one after a kill.

::

    <name>.partial/
        progress.json                 what is safe, and where the caller goes on; replaced at once
        shard-00000.safetensors …     complete shards
        index-00000.parquet …         their rows of the index
        rest-00000.safetensors        rows of a document that the last shard did not end
        rest-00000.parquet            their rows of the index

``progress.json`` decides: files it does not name are removed when the writing goes on.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd

import saebook
from saebook.data.store import layout, shards
from saebook.data.store.segments import check_activations, check_labels, column
from saebook.data.store.store import ExampleStore
from saebook.data.store.unfinished import (
    PROGRESS,
    check_same,
    index_part,
    index_rows,
    lock,
    read_state,
    remove_others,
    room_for,
    settle,
    unfinished_folder,
    write_state,
)
from saebook.errors import ConfigError, DataError, SelectionError, StoreError

if TYPE_CHECKING:
    import torch


class GrowingStore:
    """Write activations over hours; a killed writer goes on where it was.

    A context manager. Shards appear one by one in ``<path>.partial``; the folder gets its name
    when :meth:`finish` is called. What follows from the same calls is the same bytes, however
    often the writer was killed in between, so the manifest has no time of writing. Memory: the
    rows of one shard. Rows of one trial are not split over shards unless longer than one.

    Parameters
    ----------
    path : str or Path
        Folder of the store.
    d_in : int
        Columns of x.
    dtype : {"float32", "bfloat16"}
        Stored type.
    settings : mapping
        What the examples depend on, as JSON holds it; kept in the provenance under
        ``collection``. An unfinished store of other settings is refused.
    session : str
        Source of all rows.
    shard_rows : int
        Most rows per shard.
    restart : bool
        Throw away what is unfinished at `path`.

    Attributes
    ----------
    progress : dict
        As given to the last :meth:`add` whose rows are safe; empty at the beginning.
    n_rows : int
        Rows that are safe.

    Raises
    ------
    StoreError
        If `path` exists, another process writes it, or what is unfinished there has other
        settings.

    Examples
    --------
    >>> import tempfile, torch
    >>> path = f"{tempfile.mkdtemp()}/store"
    >>> settings = dict(d_in=2, dtype="float32", settings={"layer": 3}, session="a", shard_rows=2)
    >>> rows = torch.arange(6.0).view(3, 2)
    >>> with GrowingStore(path, **settings) as store:  # interrupted: finish() isn't called
    ...     store.add(rows, segment=[0, 0, 1], trial=[0, 0, 1], split="train", progress={"at": 3})
    >>> with GrowingStore(path, **settings) as store:
    ...     store.progress, store.n_rows
    ...     len(store.finish())
    ({'at': 3}, 3)
    3
    """

    def __init__(
        self,
        path: str | Path,
        *,
        d_in: int,
        dtype: str,
        settings: Mapping[str, Any],
        session: str,
        shard_rows: int,
        restart: bool = False,
    ) -> None:
        if isinstance(shard_rows, bool) or not isinstance(shard_rows, int) or shard_rows < 1:
            raise ConfigError(f"shard_rows={shard_rows!r}: give a number of rows, at least 1")
        self.path = Path(path).resolve()
        layout.check_name(self.path.name, "store")
        self.folder = unfinished_folder(self.path)
        self.d_in, self.dtype, self.session = d_in, dtype, session
        self.shard_rows = shard_rows
        stated = {"d_in": d_in, "dtype": dtype, "shard_rows": shard_rows, **settings}
        self._settings = layout.plain_json(stated, "settings")
        self._restart = restart
        self._lock: int | None = None
        self._shards: list[dict[str, Any]] = []
        self._splits: dict[str, int] = {}
        self._held = 0  # rows in the buffer
        self._safe = 0
        self._whole = True
        self._columns: dict[str, np.ndarray] = {}
        self.progress: dict[str, Any] = {}

    @property
    def n_rows(self) -> int:
        """Rows added so far."""
        return sum(entry["rows"] for entry in self._shards) + self._held

    def __enter__(self) -> Self:
        import torch

        if self.path.exists():
            raise StoreError(
                f"{self.path} already exists; open it, or give another path (or remove it)"
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{self.folder} can't be made ({error}); give another path") from error
        self._lock = lock(self.folder)
        try:
            if self._restart:
                for entry in self.folder.iterdir():
                    shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            self._buffer = torch.empty((0, self.d_in), dtype=getattr(torch, self.dtype))
            self._go_on()
        except BaseException:
            self._unlock()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self.folder.exists() and not self.n_rows:
                shutil.rmtree(self.folder, ignore_errors=True)
            # An interrupt inside of add() may lie between rows and the progress that goes with
            # them; then what was safe before is what the next writer finds.
            elif self.folder.exists() and self._whole:
                self.save()
        finally:
            self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _go_on(self) -> None:
        """Take up what an earlier writer left, once it is of these settings and whole."""
        state = read_state(self.folder)
        if state is not None:
            check_same(state["settings"], self._settings, self.folder)
            self._shards, self._splits = state["shards"], state["rows_per_split"]
            self.progress = state["progress"]
            for entry in self._shards:
                layout.check_present(self.folder, entry)
            if state["rest"]:
                for entry in state["rest"]:
                    layout.check_content(self.folder, entry)
                x, index = (self.folder / entry["file"] for entry in state["rest"])
                values = shards.read(x, counts=False)
                self._put(
                    values,
                    {str(k): v.to_numpy() for k, v in pd.read_parquet(index).items()},
                )
        self._safe = self.n_rows
        remove_others(self.folder, state)

    def add(
        self,
        x: torch.Tensor,
        *,
        segment: Any,
        trial: Any,
        split: Any,
        progress: Mapping[str, Any],
        **extra_columns: Any,
    ) -> None:
        """Add rows, and say where the caller would go on behind them.

        Parameters
        ----------
        x : Tensor [n, d_in]
            Finite activations.
        segment : array [n] of int
            Number of the run of consecutive rows, ascending; windows never cross from one to
            the next.
        trial : array [n] of int
            Number of the document or sequence; its rows are added one after the other.
        split : array [n] of str, or str
            As for `StoreWriter`.
        progress : mapping
            Anything JSON can hold; :attr:`progress` of the next writer, once these rows are safe.
        **extra_columns : array [n]
            Further columns of the index; the same ones in every call.

        Raises
        ------
        DataError
            If a value can't stand in the store, or a column has not one value per row.
        StoreError
            If the disk is full: what was safe before still is.
        """
        where = f"row {self.n_rows} of {self.path}"
        if tuple(x.shape[1:]) != (self.d_in,):
            raise DataError(f"rows {tuple(x.shape)} for a store of {self.d_in} columns")
        values = check_activations(x.to(self._buffer.dtype), where)
        n = len(values)
        columns = {
            "segment": column(segment, n, np.int32, "segment", where),
            "trial": column(trial, n, np.int32, "trial", where),
            "split": check_labels(split, n, where),
        }
        columns |= {name: column(v, n, None, name, where) for name, v in extra_columns.items()}
        if self._columns and columns.keys() != self._columns.keys():
            raise DataError(
                f"columns {sorted(columns)} at {where}, earlier {sorted(self._columns)}"
            )
        stated = layout.plain_json(progress, "progress")
        self._whole = False
        self._put(values, columns)
        self.progress = stated
        if self._held >= self.shard_rows:
            while self._held >= self.shard_rows:
                self._write_shard(self._cut())
            self.save()
        self._whole = True

    def _put(self, values: torch.Tensor, columns: dict[str, np.ndarray]) -> None:
        """Append rows to the buffer, which grows to a shard and one batch, and no further."""
        import torch

        wanted = self._held + len(values)
        if wanted > len(self._buffer):
            size = min(max(wanted, 2 * len(self._buffer)), max(wanted, self.shard_rows))
            buffer = torch.empty((size, self.d_in), dtype=self._buffer.dtype)
            buffer[: self._held] = self._buffer[: self._held]
            self._buffer = buffer
        self._buffer[self._held : wanted] = values
        before = self._columns or {name: new[:0] for name, new in columns.items()}
        self._columns = {name: np.append(before[name], new) for name, new in columns.items()}
        self._held = wanted

    def _cut(self) -> int:
        """Rows of the next shard: up to the last document that begins inside it."""
        trial = self._columns["trial"]
        begins = np.flatnonzero(np.diff(trial[: self.shard_rows + 1])) + 1
        return int(begins[-1]) if len(begins) else self.shard_rows

    def _write_shard(self, n: int) -> None:
        number = len(self._shards)
        file = f"shard-{number:05d}.safetensors"
        first = sum(entry["rows"] for entry in self._shards)
        held = {name: values[:n] for name, values in self._columns.items()}
        index = index_rows(held, self.session, first, number)
        with room_for(self.folder, file, self._safe):
            shards.write(self.folder / f"{file}.tmp", [self._buffer[:n]])
            os.replace(self.folder / f"{file}.tmp", self.folder / file)
            index.to_parquet(self.folder / index_part(number), index=False)
        self._shards.append({"file": file, "rows": n, **layout.describe_file(self.folder, file)})
        for name, rows in index["split"].value_counts(sort=False).items():
            if rows:
                self._splits[str(name)] = self._splits.get(str(name), 0) + int(rows)
        rest = self._held - n
        self._buffer[:rest] = self._buffer[n : self._held].clone()
        self._columns = {name: values[n:] for name, values in self._columns.items()}
        self._held = rest

    def save(self) -> None:
        """Make everything added so far safe: the held rows too, then the state that names them."""
        old = read_state(self.folder)
        rest: list[dict[str, Any]] = []
        with room_for(self.folder, "the rows of an unfinished shard", self._safe):
            if self._held:
                # A name of its own each time: the state of before stays true until replaced.
                last = old["rest"][0]["file"] if old and old["rest"] else "rest-00000."
                stem = f"rest-{int(last[5:10]) + 1:05d}"
                shards.write(self.folder / f"{stem}.safetensors", [self._buffer[: self._held]])
                index = pd.DataFrame(self._columns)
                index.to_parquet(self.folder / f"{stem}.parquet", index=False)
                rest = [
                    layout.describe_file(self.folder, f"{stem}.{end}")
                    for end in ("safetensors", "parquet")
                ]
            state = {
                "settings": self._settings,
                "shards": self._shards,
                "rows_per_split": self._splits,
                "rest": rest,
                "progress": self.progress,
            }
            write_state(self.folder, state)
        self._safe = self.n_rows
        for entry in old["rest"] if old else ():
            (self.folder / entry["file"]).unlink(missing_ok=True)

    def finish(
        self,
        features: pd.DataFrame | None = None,
        tables: Mapping[str, pd.DataFrame] | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> ExampleStore:
        """Write the last shard, join the index, and give the folder its name.

        Parameters
        ----------
        features : DataFrame, optional
            One row per column of x.
        tables : mapping of DataFrame, optional
            Further tables.
        provenance : mapping, optional
            Beside the settings.

        Returns
        -------
        ExampleStore

        Raises
        ------
        SelectionError
            If no row was added.
        """
        self._whole = False
        while self._held:
            self._write_shard(self._cut() if self._held > self.shard_rows else self._held)
        if not self._shards:
            raise SelectionError(
                f"nothing was added to the store {self.path}: no row is left; give more text, or "
                "loosen the mask rule"
            )
        self.save()
        if features is None:
            features = pd.DataFrame({"feature": np.arange(self.d_in)})
        with room_for(self.folder, layout.MANIFEST, self._safe):
            manifest = {
                "format": layout.FORMAT,
                "schema_version": layout.SCHEMA_VERSION,
                "kind": "activations",
                "n_rows": self.n_rows,
                "d_in": self.d_in,
                "dtype": self.dtype,
                "bin_size_s": None,
                "sessions": [self.session],
                "rows_per_split": {s: self._splits[s] for s in layout.SPLITS if s in self._splits},
                "shards": self._shards,
                "index": self._joined_index(),
                "features": layout.write_table(self.folder, layout.FEATURES, features),
                "tables": {
                    name: layout.write_table(self.folder, f"tables/{name}.parquet", table)
                    for name, table in (tables or {}).items()
                },
                "provenance": {
                    **layout.plain_json(provenance or {}, "provenance"),
                    "collection": self._settings,
                    "saebook_version": saebook.__version__,
                },
            }
            layout.write_manifest(self.folder, manifest)
            (self.folder / PROGRESS).unlink()
            settle(self.path)
        return ExampleStore.open(self.path)

    def _joined_index(self) -> dict[str, Any]:
        """Join the parts of the index, one in memory at a time."""
        import pyarrow.parquet as pq

        parts = [self.folder / index_part(i) for i in range(len(self._shards))]
        with pq.ParquetWriter(self.folder / layout.INDEX, pq.read_schema(parts[0])) as joined:
            for part in parts:
                joined.write_table(pq.read_table(part))
        return layout.describe_file(self.folder, layout.INDEX)
