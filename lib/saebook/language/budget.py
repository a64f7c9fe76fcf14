"""What a collection will take, before it starts."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from saebook.errors import StoreError

BYTES = {"fp32": 4, "bf16": 2}
# row, segment, trial, time, split, shard, shard_row, position, document and token, before
# Parquet packs them.
INDEX_BYTES_PER_ROW = 56
# Smaller shards are many files, larger ones are more memory.
_SHARD_BYTES = 256 * 2**20


@dataclass(frozen=True)
class DiskBudget:
    """Rows times width times bytes, and what that means for shards, disk and memory.

    Parameters
    ----------
    n_rows : int or None
        Positions that will be kept; None where only the text's end decides.
    d_model : int
        Width of a row.
    dtype : {"fp32", "bf16"}
        Stored type.
    shard_rows : int
        Most rows per shard.

    Examples
    --------
    >>> budget = DiskBudget(10**6, 7168, "bf16", 250_000)
    >>> budget.row_bytes, budget.shard_bytes, budget.n_shards
    (14336, 3584000000, 4)
    >>> print(budget)
    1,000,000 rows x 7,168 x 2 bytes (bf16) = 14.34 GB, index at most 0.06 GB; 4 shards of 250,000 rows, 3.58 GB of memory for one
    """

    n_rows: int | None
    d_model: int
    dtype: str
    shard_rows: int

    @classmethod
    def of(
        cls, n_rows: int | None, d_model: int, dtype: str, *, num_shards: int | None = None
    ) -> DiskBudget:
        """Choose the size of shards: the number asked for, else 256 MiB each."""
        if num_shards is not None and n_rows is not None:
            rows = -(-n_rows // num_shards)
        else:
            rows = max(1, _SHARD_BYTES // (d_model * BYTES[dtype]))
        return cls(n_rows, d_model, dtype, rows)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.d_model * BYTES[self.dtype]

    @property
    def shard_bytes(self) -> int:
        """Bytes of one shard, which are held in memory."""
        rows = self.shard_rows if self.n_rows is None else min(self.shard_rows, self.n_rows)
        return rows * self.row_bytes

    @property
    def n_shards(self) -> int | None:
        """Shards, at least: one that would cut a document ends before it."""
        return None if self.n_rows is None else -(-self.n_rows // self.shard_rows)

    @property
    def n_bytes(self) -> int | None:
        """Bytes in all, without the index."""
        return None if self.n_rows is None else self.n_rows * self.row_bytes

    def check(self, folder: Path, n_there: int = 0) -> int:
        """Return the free bytes of a folder's disk, once what is still to come fits.

        Parameters
        ----------
        folder : Path
            Where the store will be; it may not exist yet.
        n_there : int
            Rows that are written already.

        Raises
        ------
        StoreError
            If it doesn't.
        """
        there = folder
        while not there.exists():
            there = there.parent
        free = shutil.disk_usage(there).free
        if self.n_rows is not None:
            # Rows of an unfinished shard are on disk twice while they become one.
            needed = (self.n_rows - n_there) * (self.row_bytes + INDEX_BYTES_PER_ROW)
            needed += self.shard_bytes
            if needed > free:
                raise StoreError(
                    f"the store needs {needed / 1e9:,.2f} GB ({self}), but the disk of {there} has "
                    f"{free / 1e9:,.2f} GB free; lower n_tokens, store bf16, or give another disk"
                )
        return free

    def __str__(self) -> str:
        width = f"{self.d_model:,} x {BYTES[self.dtype]} bytes ({self.dtype})"
        memory = f"{self.shard_bytes / 1e9:,.2f} GB of memory for one"
        if self.n_rows is None or self.n_bytes is None:
            return (
                f"1,000,000 rows x {width} = {self.row_bytes / 1e3:,.2f} GB; as many as the text "
                f"has, in shards of {self.shard_rows:,} rows, {memory}"
            )
        return (
            f"{self.n_rows:,} rows x {width} = {self.n_bytes / 1e9:,.2f} GB, index at most "
            f"{self.n_rows * INDEX_BYTES_PER_ROW / 1e9:,.2f} GB; {self.n_shards} shard{'s' * (self.n_shards != 1)} of "
            f"{self.shard_rows:,} rows, {memory}"
        )
