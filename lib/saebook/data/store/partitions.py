"""Writing several stores into one folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saebook.data.store import layout
from saebook.data.store.folder import StoreFolder
from saebook.data.store.writer import StoreWriter
from saebook.errors import ConfigError, SelectionError


class PartitionedWriter(StoreFolder):
    """Write several stores into one folder, one for each set of units.

    An SAE never sees two sets of units; a partitioned store keeps them side by side under one
    path. Everything appears at `path` together, when the block ends without an error. A partition
    whose own block fails is left out, so a caller may catch its error and go on.

    Parameters
    ----------
    path : str or Path
        Folder to write. Must not exist, unless `overwrite`.
    provenance : mapping, optional
        How the examples came about; anything JSON can hold.
    overwrite : bool
        Replace an existing store, in one step at the end.

    Raises
    ------
    StoreError
        If `path` exists, or is being written by this process.
    SelectionError
        At the end of the block, if no partition was finished.

    Examples
    --------
    >>> import tempfile
    >>> from saebook.data.store import ExampleStore, PartitionedWriter
    >>> folder = tempfile.mkdtemp()
    >>> with PartitionedWriter(f"{folder}/store") as parent:
    ...     for name, n_units in [("monday", 2), ("tuesday", 3)]:
    ...         with parent.partition(name, kind="counts") as writer:
    ...             writer.add([[1] * n_units], session=name)
    >>> store = ExampleStore.open(f"{folder}/store")
    >>> store.partitions, store.partition("tuesday").d_in
    (('monday', 'tuesday'), 3)
    """

    def __init__(
        self,
        path: str | Path,
        provenance: Mapping[str, Any] | None = None,
        *,
        overwrite: bool = False,
    ) -> None:
        super().__init__(path, provenance=provenance, overwrite=overwrite)
        self._names: list[str] = []

    def partition(self, name: str, **settings: Any) -> StoreWriter:
        """Return the writer of one partition; use it in a ``with`` block of its own.

        Parameters
        ----------
        name : str
            Name of the set of units, such as a session.
        **settings
            As for `StoreWriter`: kind, features, provenance, bin_size_s, shard_rows.

        Raises
        ------
        ConfigError
            If the name can't be a folder name, or was used before.
        """
        layout.check_name(name, "partition")
        if name in self._names:
            raise ConfigError(f"partition {name!r} was asked for before; give each its own name")
        self._names.append(name)
        return StoreWriter(self._folder / "partitions" / name, **settings)

    def _contents(self) -> dict[str, Any]:
        written = {}
        for name in self._names:
            file = f"partitions/{name}/{layout.MANIFEST}"
            if (self._folder / file).is_file():
                written[name] = layout.describe_file(self._folder, file)
        if not written:
            raise SelectionError(
                f"no partition of the store {self.path} was finished"
                + (f" (begun: {', '.join(self._names)})" if self._names else "")
                + "; look at the error of each, or give other recordings"
            )
        return {"partitions": written}
