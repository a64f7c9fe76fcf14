"""Writing example stores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from saebook.data.store import layout, shards
from saebook.data.store.folder import StoreFolder
from saebook.data.store.segments import (
    check_activations,
    check_counts,
    check_labels,
    check_times,
    column,
    pieces,
)
from saebook.errors import ConfigError, DataError, SelectionError

if TYPE_CHECKING:
    import torch

_OWN_COLUMNS = ("row", "session", "segment", "trial", "time", "split", "shard", "shard_row")


class StoreWriter(StoreFolder):
    """Write an example store: safetensors shards, a Parquet index, a manifest.

    A context manager. The store appears at `path` when the block ends without an error, and not
    at all otherwise. A trial or segment is not split over shards unless longer than one shard.

    Parameters
    ----------
    path : str or Path
        Folder to write. Must not exist, unless `overwrite`.
    kind : {"counts", "activations"}
        Counts are kept in the smallest unsigned type that holds all of them; activations as
        bfloat16 where every segment is a bfloat16 tensor, else as float32.
    features : pandas.DataFrame, optional
        One row per column of x: the units, or the dimensions of the model.
    provenance : mapping, optional
        How the examples came about; anything JSON can hold. The library's version and the time
        are added.
    bin_size_s : float, optional
        Width of a bin in s. With it, times within a segment must advance by one bin per row.
    shard_rows : int
        Most rows per shard.
    overwrite : bool
        Replace an existing store, in one step at the end.

    Raises
    ------
    StoreError
        If `path` exists, or is being written by this process.
    ConfigError
        If a setting is out of its range.
    SelectionError
        At the end of the block, if no row was added.

    Examples
    --------
    >>> import tempfile
    >>> from saebook.data.store import ExampleStore, StoreWriter
    >>> folder = tempfile.mkdtemp()
    >>> with StoreWriter(f"{folder}/store", kind="counts", bin_size_s=0.5) as writer:
    ...     writer.add([[0, 1], [2, 0]], session="a", time=[3.0, 3.5], split="train")
    >>> store = ExampleStore.open(f"{folder}/store")
    >>> store.array().tolist(), str(store.array().dtype)
    ([[0, 1], [2, 0]], 'uint8')
    """

    def __init__(
        self,
        path: str | Path,
        kind: Literal["counts", "activations"],
        features: pd.DataFrame | None = None,
        provenance: Mapping[str, Any] | None = None,
        bin_size_s: float | None = None,
        shard_rows: int = 262144,
        *,
        overwrite: bool = False,
    ) -> None:
        super().__init__(path, provenance=provenance, overwrite=overwrite)
        if kind not in layout.KINDS:
            raise ConfigError(f"kind={kind!r}: a store holds one of {', '.join(layout.KINDS)}")
        if bin_size_s is not None and not (np.isfinite(bin_size_s) and bin_size_s > 0):
            raise ConfigError(f"bin_size_s={bin_size_s!r}: give a positive width in s, or None")
        if isinstance(shard_rows, bool) or not isinstance(shard_rows, int) or shard_rows < 1:
            raise ConfigError(f"shard_rows={shard_rows!r}: give a number of rows, at least 1")
        self.kind = kind
        self.bin_size_s = None if bin_size_s is None else float(bin_size_s)
        self.shard_rows = shard_rows
        self._features = features
        self._d_in = None if features is None else len(features)
        self._buffer: list[Any] = []
        self._buffered = 0
        self._shards: list[dict[str, Any]] = []
        self._columns: list[dict[str, np.ndarray]] = []
        self._sessions: list[str] = []

    def add(
        self,
        x: np.ndarray | torch.Tensor | Sequence[Sequence[float]],
        *,
        session: str,
        time: np.ndarray | Sequence[float] | None = None,
        trial: np.ndarray | Sequence[int] | int | None = None,
        split: np.ndarray | Sequence[str] | str | None = None,
        **extra_columns: Any,
    ) -> None:
        """Add one contiguous segment; windows never cross from one call to the next.

        Parameters
        ----------
        x : array or tensor [n, d_in]
            Counts (non-negative whole numbers) or activations (finite floats). Copied.
        session : str
            Recording, or document, that the rows come from.
        time : array [n], optional
            Start of each bin in s, or position; finite and increasing.
        trial : array [n] or int, optional
            Trial of each row, -1 outside any (the default).
        split : array [n] or str, optional
            "train", "validation", "test" or "guard"; "unassigned" if not given.
        **extra_columns : array [n] or scalar
            Further columns of the index; the same ones in every call.

        Raises
        ------
        DataError
            If a value can't stand in a store of this kind, a column has not one value per row,
            or the number of columns of `x` changes.
        """
        partial = self._folder
        where = f"segment {len(self._columns)} (session {session!r}) of {self.path}"
        if not isinstance(session, str) or not session:
            raise DataError(f"session={session!r} in {where}: give a non-empty text")
        values = (check_counts if self.kind == "counts" else check_activations)(x, where)
        n, d_in = int(values.shape[0]), int(values.shape[1])
        if self._d_in is None:
            self._d_in = d_in
        if d_in != self._d_in:
            raise DataError(
                f"{where} has {d_in} columns where this store has {self._d_in}; a store holds one "
                "set of features: write another set as another partition (PartitionedWriter)"
            )
        columns = {
            "trial": column(-1 if trial is None else trial, n, np.int32, "trial", where),
            "time": check_times(time, n, self.bin_size_s, where),
            "split": check_labels(split, n, where),
        }
        for name, given in extra_columns.items():
            if name in _OWN_COLUMNS:
                raise DataError(f"{name!r} in {where} is a column of the index itself; rename it")
            columns[name] = column(given, n, None, name, where)
        known = self._columns[0].keys() - set(_OWN_COLUMNS) if self._columns else None
        if known is not None and known != extra_columns.keys():
            raise DataError(
                f"{where} has the extra columns {sorted(extra_columns)} where earlier segments "
                f"have {sorted(known)}; give the same ones in every call"
            )
        if n == 0:
            return

        shard, shard_row = np.empty(n, np.int32), np.empty(n, np.int32)
        for start, stop in pieces(columns["trial"], self.shard_rows):
            if self._buffered + (stop - start) > self.shard_rows:
                self._flush(partial)
            shard[start:stop] = len(self._shards)
            shard_row[start:stop] = np.arange(self._buffered, self._buffered + stop - start)
            self._buffer.append(values[start:stop])
            self._buffered += stop - start
        self._columns.append({**columns, "shard": shard, "shard_row": shard_row})
        self._sessions.append(session)

    def _flush(self, folder: Path) -> None:
        if not self._buffer:
            return
        file = f"shard-{len(self._shards):05d}.safetensors"
        dtype = shards.write(folder / file, self._buffer)
        self._shards.append({"file": file, "rows": self._buffered, "dtype": dtype})
        self._buffer, self._buffered = [], 0

    def _contents(self) -> dict[str, Any]:
        folder = self._folder
        self._flush(folder)
        if not self._shards or self._d_in is None:
            raise SelectionError(
                f"nothing was added to the store {self.path}: no bin or example is left; loosen "
                "the selection, or check that the recording has an observed interval"
            )
        dtype = shards.widest([entry["dtype"] for entry in self._shards])
        for entry in self._shards:
            if entry.pop("dtype") != dtype:
                shards.widen(folder / entry["file"], dtype)
            entry.update(layout.describe_file(folder, entry["file"]))

        index = self._index()
        features = self._features
        if features is None:
            features = pd.DataFrame({"feature": np.arange(self._d_in)})
        rows_per_split = index["split"].value_counts(sort=False)
        return {
            "kind": self.kind,
            "n_rows": len(index),
            "d_in": self._d_in,
            "dtype": dtype,
            "bin_size_s": self.bin_size_s,
            "sessions": list(index["session"].cat.categories),
            "rows_per_split": {name: int(n) for name, n in rows_per_split.items() if n},
            "shards": self._shards,
            "index": layout.write_table(folder, layout.INDEX, index),
            "features": layout.write_table(folder, layout.FEATURES, features),
        }

    def _index(self) -> pd.DataFrame:
        """One row per example, in the order in which they were added."""
        lengths = [len(columns["trial"]) for columns in self._columns]
        joined = {
            name: np.concatenate([columns[name] for columns in self._columns])
            for name in self._columns[0]
        }
        names = list(dict.fromkeys(self._sessions))
        number = {name: code for code, name in enumerate(names)}
        codes = np.repeat([number[name] for name in self._sessions], lengths)
        frame = {
            "row": np.arange(sum(lengths), dtype=np.int64),
            "session": pd.Categorical.from_codes(codes, categories=pd.Index(names, dtype="str")),
            "segment": np.repeat(np.arange(len(lengths), dtype=np.int32), lengths),
            "trial": joined.pop("trial"),
            "time": joined.pop("time"),
            "split": pd.Categorical.from_codes(
                joined.pop("split"), categories=pd.Index(layout.SPLITS, dtype="str")
            ),
            "shard": joined.pop("shard"),
            "shard_row": joined.pop("shard_row"),
        }
        for name, values in joined.items():
            frame[name] = pd.Categorical(values) if values.dtype.kind in "OUS" else values
        return pd.DataFrame(frame)
