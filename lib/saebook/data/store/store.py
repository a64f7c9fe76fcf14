"""Reading example stores."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from saebook.data.store import layout, shards
from saebook.errors import ConfigError, DataError, StoreError

if TYPE_CHECKING:
    import torch


class ExampleStore:
    """Examples on disk, one row each, with the index that says where each row comes from.

    The same type for binned spikes and for activations. Open one with `ExampleStore.open`; write
    one with `StoreWriter`. A shard's checksum is compared when it is first read.

    Attributes
    ----------
    path : Path
        Folder of the store.

    Examples
    --------
    >>> import tempfile
    >>> from saebook.data.store import ExampleStore, StoreWriter
    >>> folder = tempfile.mkdtemp()
    >>> with StoreWriter(f"{folder}/store", kind="counts") as writer:
    ...     writer.add([[0, 1], [2, 0], [0, 3]], session="a", split=["train", "train", "test"])
    >>> store = ExampleStore.open(f"{folder}/store")
    >>> len(store), store.d_in, store.rows("train").tolist()
    (3, 2, [0, 1])
    >>> store.tensor("test")
    tensor([[0, 3]], dtype=torch.uint8)
    """

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self._manifest = manifest
        self._verified: dict[str, tuple[int, ...]] = {}

    @classmethod
    def open(cls, path: str | Path, verify: bool = False) -> ExampleStore:
        """Open a store, checking that every file is there with its stated size.

        Parameters
        ----------
        path : str or Path
            Folder of the store.
        verify : bool
            Also compare every checksum, which reads the whole store once.

        Raises
        ------
        StoreError
            If `path` is no store, of a newer schema, or incomplete or altered.
        """
        folder = Path(path)
        store = cls(folder, layout.read_manifest(folder))
        try:
            for entry in store._entries():
                layout.check_present(folder, entry)
        except (KeyError, TypeError, AttributeError) as error:
            raise StoreError(
                f"{folder / layout.MANIFEST} is not complete ({error!r}); {layout.REWRITE}"
            ) from error
        if verify:
            store.verify()
        return store

    def _entries(self) -> list[dict[str, Any]]:
        manifest = self._manifest
        if "partitions" in manifest:
            own = list(manifest["partitions"].values())
        else:
            own = [*manifest["shards"], manifest["index"], manifest["features"]]
        return [*own, *manifest["tables"].values()]

    def verify(self) -> None:
        """Compare the checksum of every file, those of partitions too, with the manifest.

        Raises
        ------
        StoreError
            Naming the first file that is missing, truncated or altered.
        """
        self._verified.clear()
        for entry in self._entries():
            self.checked(entry)
        for name in self.partitions:
            self.partition(name).verify()

    def checked(self, entry: dict[str, Any]) -> Path:
        """Path of a file of the manifest whose content is what the manifest says.

        Its checksum is compared when the file is first asked for, and again whenever it was
        written to or replaced since.

        Parameters
        ----------
        entry : dict
            The file's entry in the manifest: file, bytes and sha256.

        Raises
        ------
        StoreError
            If the file is missing, truncated or altered.
        """
        path = layout.check_present(self.path, entry)
        version = _version(path)
        if self._verified.get(entry["file"]) != version:
            layout.check_content(self.path, entry)
            self._verified[entry["file"]] = version
        return path

    def was_checked(self, entry: dict[str, Any]) -> bool:
        """Whether `checked` would find that a file is as it was when its checksum was compared."""
        path = layout.check_present(self.path, entry)
        return self._verified.get(entry["file"]) == _version(path)

    def _read_table(self, entry: dict[str, Any]) -> pd.DataFrame:
        path = self.checked(entry)
        try:
            return pd.read_parquet(path, engine="pyarrow")
        except (OSError, ValueError) as error:
            raise StoreError(
                f"{path} is not readable as Parquet ({error}); {layout.REWRITE}"
            ) from error

    def _own(self, key: str) -> Any:
        """Value of the manifest that only a store with rows of its own has."""
        if self.partitions:
            raise StoreError(
                f"{self.path} has partitions with units of their own, so it has no {key} itself; "
                f"take one: store.partition(name), name one of {', '.join(self.partitions)}"
            )
        return self._manifest[key]

    @property
    def manifest(self) -> dict[str, Any]:
        """What manifest.json says (a copy)."""
        return json.loads(json.dumps(self._manifest))

    @property
    def provenance(self) -> dict[str, Any]:
        """How the examples came about, with the library's version and the time of writing."""
        return self.manifest["provenance"]

    @property
    def kind(self) -> str:
        """Return "counts" or "activations"."""
        return self._own("kind")

    @property
    def d_in(self) -> int:
        """Number of columns of x: units, or dimensions of the model."""
        return self._own("d_in")

    @property
    def dtype(self) -> str:
        """Name of the stored type, such as "uint8" or "bfloat16"."""
        return self._own("dtype")

    @property
    def bin_size_s(self) -> float | None:
        """Width of a bin in s, if the rows are bins."""
        return self._own("bin_size_s")

    def __len__(self) -> int:
        return self._own("n_rows")

    def __repr__(self) -> str:
        if self.partitions:
            return f"ExampleStore({str(self.path)!r}, partitions={list(self.partitions)})"
        splits = ", ".join(f"{n} {name}" for name, n in self._manifest["rows_per_split"].items())
        return (
            f"ExampleStore({str(self.path)!r}: {self.kind} [{len(self)}, {self.d_in}] "
            f"{self.dtype}, {splits})"
        )

    @cached_property
    def _index(self) -> pd.DataFrame:
        index = self._read_table(self._own("index"))
        stated = [entry["rows"] for entry in self._manifest["shards"]]
        found = np.bincount(index["shard"], minlength=len(stated)).tolist()
        if found != stated or len(index) != self._manifest["n_rows"]:
            raise StoreError(
                f"{self.path / layout.INDEX} and {layout.MANIFEST} disagree about the rows of each "
                f"shard ({found[:5]} and {stated[:5]}); {layout.REWRITE}"
            )
        return index

    @cached_property
    def _features(self) -> pd.DataFrame:
        return self._read_table(self._own("features"))

    @property
    def index(self) -> pd.DataFrame:
        """One row per example: row, session, segment, trial, time (s), split, shard, shard_row.

        Further columns follow if the writer was given any. A copy-on-write view: changing it
        changes nothing in the store.
        """
        return self._index.copy(deep=False)

    @property
    def features(self) -> pd.DataFrame:
        """One row per column of x: the unit table, or the dimensions of the model."""
        return self._features.copy(deep=False)

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the further tables."""
        return tuple(self._manifest["tables"])

    def table(self, name: str) -> pd.DataFrame:
        """Return a further table.

        Raises
        ------
        StoreError
            If the store has none of that name; the message lists those it has.
        """
        if name not in self._manifest["tables"]:
            raise StoreError(
                f"{self.path} has no table {name!r}; it has: {', '.join(self.tables) or 'none'}"
            )
        return self._read_table(self._manifest["tables"][name])

    @property
    def trials(self) -> pd.DataFrame | None:
        """The table "trials", if there is one."""
        return self.table("trials") if "trials" in self.tables else None

    @property
    def quality(self) -> pd.DataFrame | None:
        """The table "quality", if there is one: why each unit was kept or dropped."""
        return self.table("quality") if "quality" in self.tables else None

    @property
    def partitions(self) -> tuple[str, ...]:
        """Names of the partitions, none for a store with rows of its own."""
        return tuple(self._manifest.get("partitions", ()))

    def partition(self, name: str) -> ExampleStore:
        """Open one partition.

        Raises
        ------
        StoreError
            If there is none of that name, or it is damaged.
        """
        if name not in self.partitions:
            raise StoreError(
                f"{self.path} has no partition {name!r}; it has: "
                f"{', '.join(self.partitions) or 'none, its rows are its own'}"
            )
        self.checked(self._manifest["partitions"][name])
        return ExampleStore.open(self.path / "partitions" / name)

    def rows(self, split: str | None = None) -> np.ndarray:
        """Return the rows of a split, ascending; all rows, guard included, without one.

        Parameters
        ----------
        split : {"train", "validation", "test", "guard", "unassigned"}, optional
            Which rows.

        Returns
        -------
        numpy.ndarray [n] of int64

        Raises
        ------
        ConfigError
            If there is no split of that name.
        """
        if split is None:
            return np.arange(len(self), dtype=np.int64)
        if split not in layout.SPLITS:
            raise ConfigError(f"split={split!r}; the splits are {', '.join(layout.SPLITS)}")
        codes = self._index["split"].cat
        return np.flatnonzero(codes.codes == codes.categories.get_loc(split)).astype(np.int64)

    def _chosen(self, split: str | None, rows: Any) -> np.ndarray:
        if rows is None:
            return self.rows(split)
        if split is not None:
            raise ConfigError(f"give split={split!r} or rows, not both")
        chosen = np.asarray(rows)
        if chosen.ndim != 1 or (chosen.size and chosen.dtype.kind not in "iu"):
            raise DataError(
                f"rows has shape {chosen.shape} and type {chosen.dtype}; give whole numbers [n]"
            )
        if chosen.size and not (chosen.min() >= 0 and chosen.max() < len(self)):
            raise DataError(
                f"rows run from {chosen.min()} to {chosen.max()}; {self.path} has rows 0 to "
                f"{len(self) - 1}"
            )
        return chosen.astype(np.int64)

    def _read(self, rows: np.ndarray) -> Any:
        """Rows in the given order, as an array for counts and a tensor for activations."""
        dtype = self.dtype
        out = shards.empty(len(rows), self.d_in, dtype)
        shard = self._index["shard"].to_numpy()[rows]
        shard_row = self._index["shard_row"].to_numpy()[rows]
        for number, entry in enumerate(self._manifest["shards"]):
            places = np.flatnonzero(shard == number)
            if not len(places):
                continue
            x = shards.read(self.checked(entry), shards.is_count_type(dtype))
            if tuple(x.shape) != (entry["rows"], self.d_in) or shards.dtype_name(x) != dtype:
                raise StoreError(
                    f"{self.path / entry['file']} holds {shards.dtype_name(x)} {tuple(x.shape)} where "
                    f"the manifest says {dtype} {(entry['rows'], self.d_in)}; {layout.REWRITE}"
                )
            whole = len(places) == len(x) and bool(
                (np.diff(places) == 1).all() and (np.diff(shard_row[places]) == 1).all()
            )
            if whole:  # a plain copy, several times faster than indexing
                out[places[0] : places[-1] + 1] = x
            else:
                out[places] = x[shard_row[places]]
        return out

    def tensor(
        self,
        split: str | None = None,
        rows: np.ndarray | Sequence[int] | None = None,
        dtype: torch.dtype | None = None,
    ) -> torch.Tensor:
        """Return rows as a tensor on the CPU.

        Parameters
        ----------
        split : str, optional
            Rows of this split; all rows without one.
        rows : array of int [n], optional
            These rows instead, in this order.
        dtype : torch.dtype, optional
            The stored type unless given.

        Returns
        -------
        torch.Tensor [n, d_in]

        Raises
        ------
        StoreError
            If a shard is missing, truncated or altered.
        ConfigError, DataError
            If there is no such split or row.
        """
        import torch

        x = self._read(self._chosen(split, rows))
        x = torch.from_numpy(x) if isinstance(x, np.ndarray) else x
        return x if dtype is None else x.to(dtype)

    def array(
        self, split: str | None = None, rows: np.ndarray | Sequence[int] | None = None
    ) -> np.ndarray:
        """Return rows as an array; bfloat16 activations come as float32, which NumPy has.

        Parameters
        ----------
        split : str, optional
            Rows of this split; all rows without one.
        rows : array of int [n], optional
            These rows instead, in this order.

        Returns
        -------
        numpy.ndarray [n, d_in]

        Raises
        ------
        StoreError
            If a shard is missing, truncated or altered.
        ConfigError, DataError
            If there is no such split or row.
        """
        x = self._read(self._chosen(split, rows))
        return x if isinstance(x, np.ndarray) else x.float().numpy()


def _version(path: Path) -> tuple[int, int, int, int]:
    """What changes when a file is written to or replaced."""
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
