"""The folder of a store being written: its partial name, further tables, manifest."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pandas as pd

import saebook
from saebook.data.store import atomic, layout
from saebook.errors import ConfigError, StoreError


def _provenance(given: Mapping[str, Any] | None) -> dict[str, Any]:
    provenance = layout.plain_json(dict(given or {}), "provenance")
    own = {
        "saebook_version": saebook.__version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return {**provenance, **own}


class StoreFolder(ABC):
    """What plain and partitioned stores share: the partial folder, its tables, its manifest."""

    def __init__(
        self, path: str | Path, *, provenance: Mapping[str, Any] | None, overwrite: bool
    ) -> None:
        # Resolved once: neither a link nor a change of directory moves the target later.
        self.path = Path(path).resolve()
        layout.check_name(self.path.name, "store")
        self._overwrite = overwrite
        self._provenance = _provenance(provenance)
        self._tables: dict[str, dict[str, Any]] = {}
        self._partial: Path | None = None
        self._used = False

    @property
    def _folder(self) -> Path:
        if self._partial is None:
            raise StoreError(
                f"the writer of {self.path} is not open; use it as `with {type(self).__name__}(…) "
                "as writer:`"
            )
        return self._partial

    def add_table(self, name: str, table: pd.DataFrame) -> None:
        """Keep a further table (trials, quality, …) beside the index.

        Parameters
        ----------
        name : str
            File name without ending, and the name to ask for: ``store.table(name)``.
        table : pandas.DataFrame
            Written as Parquet, with its index; each column of one scalar type.

        Raises
        ------
        ConfigError
            If the name can't be a file name, or was used before.
        DataError
            If Parquet can't hold the table.
        """
        layout.check_name(name, "table")
        if name in self._tables:
            raise ConfigError(f"table {name!r} was added before; give each table its own name")
        file = f"tables/{name}.parquet"
        self._tables[name] = layout.write_table(self._folder, file, table)

    def __enter__(self) -> Self:
        if self._used:
            raise StoreError(
                f"this writer of {self.path} was used before; make a new {type(self).__name__}"
            )
        self._used = True
        atomic.check_target(self.path, self._overwrite)
        self._partial = atomic.begin(self.path)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        partial = self._folder
        try:
            if kind is None:
                layout.write_manifest(
                    partial,
                    {
                        "format": layout.FORMAT,
                        "schema_version": layout.SCHEMA_VERSION,
                        **self._contents(),
                        "tables": self._tables,
                        "provenance": self._provenance,
                    },
                )
                atomic.finish(partial, self.path, self._overwrite)
        finally:
            atomic.abort(partial)
            self._partial = None

    @abstractmethod
    def _contents(self) -> dict[str, Any]:
        """Write what is left, and describe it for the manifest."""
