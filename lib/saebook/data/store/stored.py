"""Examples of a store where they lie: numbered, and read from disk a few at a time."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from saebook.data.store import layout, shards
from saebook.data.store.batches import check_whole, refuse_empty
from saebook.data.store.resident import as_indexable
from saebook.data.store.store import ExampleStore
from saebook.errors import ConfigError, SelectionError, StoreError

if TYPE_CHECKING:
    import torch

INDEX_ROWS = 2**20  # of the index in memory at once


class StoredExamples:
    """The examples of one split of a store, none of them in memory.

    They are numbered from 0 in the order of the store. An example is a row, or a window of rows
    as `saebook.data.store.windows` gives them: within one segment, trial and split.

    Parameters
    ----------
    store : ExampleStore
        The store. Its index is read in pieces; what stays is the first row and the length of
        each run of rows without a border.
    split : str or None
        Split to take, all rows if None.
    seq_len : int
        Rows per example; above 1 examples are windows.
    within_trials : bool
        Have runs of single rows end where segments and trials do, as those of windows always do.
        It changes no example, only what lies near what (:class:`saebook.data.store.Pairs`).

    Attributes
    ----------
    store : ExampleStore
        The store.
    shape : tuple of int
        Of one example: (d_in,), or (seq_len, d_in) for windows.
    device : torch.device
        The CPU, where examples are read to.

    Raises
    ------
    ConfigError
        If `seq_len` is out of its range, or there is no such split.
    SelectionError
        If the split has no row, or none of its trials is as long as a window.
    StoreError
        If the store is damaged.

    Examples
    --------
    >>> import tempfile, torch
    >>> from saebook.data.store import ExampleStore, StoredExamples, StoreWriter
    >>> folder = tempfile.mkdtemp()
    >>> with StoreWriter(f"{folder}/store", kind="counts") as writer:
    ...     writer.add([[0], [1], [2], [3]], session="a", trial=[0, 0, 0, 1], split="train")
    >>> stored = StoredExamples(ExampleStore.open(f"{folder}/store"), seq_len=2)
    >>> len(stored), stored.take(torch.tensor([1])).tolist()
    (2, [[[1], [2]]])
    """

    def __init__(
        self,
        store: ExampleStore,
        split: str | None = "train",
        seq_len: int = 1,
        *,
        within_trials: bool = False,
    ) -> None:
        import torch

        check_whole(seq_len=(seq_len, 1))
        if split is not None and split not in layout.SPLITS:
            raise ConfigError(f"split={split!r}; the splits are {', '.join(layout.SPLITS)}")
        self.store, self.seq_len = store, int(seq_len)
        self.shape = (store.d_in,) if seq_len == 1 else (self.seq_len, store.d_in)
        self.device = torch.device("cpu")
        self._shards: list[dict[str, Any]] = store.manifest["shards"]
        self._offsets = np.cumsum([0, *(entry["rows"] for entry in self._shards)])
        starts, lengths = self._runs(split, within_trials or seq_len > 1)
        if not len(starts):
            refuse_empty(store, split)
        fits = lengths >= self.seq_len
        if not fits.any():
            raise SelectionError(
                f"{store.path} has no window of seq_len={self.seq_len} rows in split {split!r}: its "
                f"longest trial has {int(lengths.max())}; give a shorter seq_len"
            )
        self._starts = starts[fits]
        # Number of the first example after each run.
        self._ends = np.cumsum(lengths[fits] - self.seq_len + 1)
        self._firsts = np.concatenate([[0], self._ends[:-1]])

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def dtype(self) -> torch.dtype:
        """Stored type."""
        import torch

        return getattr(torch, self.store.dtype)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.store.d_in * self.dtype.itemsize

    @cached_property
    def digest(self) -> str:
        """Sha256 over what identifies the examples: the shards, and which rows are taken."""
        found = hashlib.sha256("".join(entry["sha256"] for entry in self._shards).encode())
        for numbers in (self._starts, self._ends, np.array([self.seq_len])):
            found.update(numbers.astype("<i8").tobytes())
        return found.hexdigest()

    @property
    def run_lengths(self) -> np.ndarray:
        """Examples of each run of rows that no border divides, [n_runs]."""
        return self._ends - self._firsts

    def _runs(self, split: str | None, within_trials: bool) -> tuple[np.ndarray, np.ndarray]:
        """First row and length of each run of rows that no border divides."""
        import pyarrow.parquet as pq

        borders = ["split", "segment", "trial"] if within_trials else ["split"]
        wanted = None if split is None else layout.SPLITS.index(split)
        path = self.store.checked(self.store.manifest["index"])
        begins, inside, row, before = [], [], 0, None
        try:
            file = pq.ParquetFile(path)
            for piece in file.iter_batches(INDEX_ROWS, columns=[*borders, "shard", "shard_row"]):
                columns = [_whole_numbers(piece.column(name)) for name in borders]
                self._check_order(row, piece.column("shard"), piece.column("shard_row"))
                new = np.zeros(len(piece), bool)
                for i, values in enumerate(columns):
                    new[1:] |= np.diff(values) != 0
                    new[0] |= before is None or values[0] != before[i]
                begins.append(np.flatnonzero(new) + row)
                taken = np.ones(len(piece), bool) if wanted is None else columns[0] == wanted
                inside.append(taken[new])
                row, before = row + len(piece), [values[-1] for values in columns]
        except (OSError, ValueError, KeyError) as error:
            if isinstance(error, StoreError):
                raise
            raise StoreError(
                f"{path} is not readable as Parquet ({error}); {layout.REWRITE}"
            ) from error
        if row != len(self.store):
            raise StoreError(
                f"{path} has {row} rows where {layout.MANIFEST} says {len(self.store)}; "
                f"{layout.REWRITE}"
            )
        starts = np.concatenate(begins)
        lengths = np.diff(np.append(starts, row))
        kept = np.concatenate(inside)
        return starts[kept], lengths[kept]

    def _check_order(self, row: int, shard: Any, shard_row: Any) -> None:
        """Rows are numbered as the shards hold them; all reading below counts on it."""
        rows = np.arange(row, row + len(shard))
        expected = np.searchsorted(self._offsets, rows, side="right") - 1
        within = rows - self._offsets[np.minimum(expected, len(self._shards) - 1)]
        if not ((shard.to_numpy() == expected) & (shard_row.to_numpy() == within)).all():
            raise StoreError(
                f"{self.store.path / layout.INDEX} does not number the rows as the shards hold "
                f"them, at rows {row} to {row + len(shard) - 1}; {layout.REWRITE}"
            )

    def rows(self, numbers: np.ndarray) -> np.ndarray:
        """Return the row of the store at which each of the examples [n] begins."""
        run = np.searchsorted(self._ends, numbers, side="right")
        return self._starts[run] + numbers - self._firsts[run]

    def most_rows(self, n: int, margin: int = 0) -> int:
        """Return the most rows that any n consecutive examples take up, with those around them."""
        if self.seq_len == 1 and not margin:
            return n
        most = 0
        for first in range(0, len(self), n):
            begin, end, _, _ = self._part(first, min(first + n, len(self)), margin)
            most = max(most, int((end - begin).sum()))
        return most

    def _part(
        self, first: int, last: int, margin: int = 0
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Rows [begin, end) in each run that examples first to last take up.

        They include up to `margin` examples of the run on either side; how many come before the
        first of those asked for, and how many are asked for, are returned too.
        """
        chosen = slice(bisect_right(self._ends, first), bisect_right(self._ends, last - 1) + 1)
        firsts, ends = self._firsts[chosen], self._ends[chosen]
        own, own_end = np.maximum(firsts, first), np.minimum(ends, last)
        wide, wide_end = np.maximum(firsts, own - margin), np.minimum(ends, own_end + margin)
        begin = self._starts[chosen] + wide - firsts
        return begin, begin + wide_end - wide + self.seq_len - 1, own - wide, own_end - own

    def read(self, parts: list[tuple[int, int]], out: np.ndarray, margin: int = 0) -> np.ndarray:
        """Read consecutive examples, and return where in `out` each begins.

        Parameters
        ----------
        parts : list of (first, last)
            Numbers of the examples, last excluded; in ascending order the file is read in order.
        out : numpy.ndarray [rows, row_bytes] of uint8
            Where the rows go, one part after the other; windows of a part share rows.
        margin : int
            Read that many examples on either side too, where the run has them: the example that
            lies δ ≤ `margin` after one of those asked for begins δ rows after it in `out`.

        Returns
        -------
        numpy.ndarray [n] of int64
            Row of `out` at which each example begins.

        Raises
        ------
        StoreError
            If a shard is missing, truncated or altered.
        """
        ranges = [self._part(first, last, margin) for first, last in parts]
        begin, end, lead, n = (np.concatenate(of) for of in zip(*ranges, strict=True))
        self._read_rows(begin, end, out)
        offsets = np.cumsum(end - begin) - (end - begin) + lead
        within = np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n)
        return np.repeat(offsets, n) + within

    def rows_read(self, parts: list[tuple[int, int]], margin: int = 0) -> int:
        """Return how many rows of `out` a `read` fills."""
        ranges = (self._part(first, last, margin) for first, last in parts)
        return sum(int((end - begin).sum()) for begin, end, _, _ in ranges)

    def _read_rows(self, begin: np.ndarray, end: np.ndarray, out: np.ndarray) -> None:
        """Fill `out` with the rows of each range [begin, end), one range after the other."""
        if not len(begin):
            return
        # Ranges that touch are one read.
        new = np.append(True, begin[1:] != end[:-1])
        begin, end = begin[new], end[np.append(new[1:], True)]
        at, number, opened = 0, -1, None
        offsets = self._offsets.tolist()
        try:
            for row, stop in zip(begin.tolist(), end.tolist(), strict=True):
                while row < stop:
                    if opened is None or not offsets[number] <= row < offsets[number + 1]:
                        if opened is not None:
                            opened.close()
                        number = bisect_right(offsets, row) - 1
                        opened = self._open(number)
                    n = min(stop, offsets[number + 1]) - row
                    opened.read_into(row - offsets[number], out[at : at + n])
                    row, at = row + n, at + n
        finally:
            if opened is not None:
                opened.close()

    def _open(self, number: int) -> shards.OpenShard:
        entry = self._shards[number]
        opened = shards.OpenShard(self.store.checked(entry))
        expected = (entry["rows"], self.store.d_in)
        if opened.shape != expected or opened.dtype != self.store.dtype:
            opened.close()
            raise StoreError(
                f"{self.store.path / entry['file']} holds {opened.dtype} {opened.shape} where the "
                f"manifest says {self.store.dtype} {expected}; {layout.REWRITE}"
            )
        return opened

    def verify(self, progress: bool = False) -> None:
        """Compare the checksum of every shard that the examples lie in, once per opened store.

        Parameters
        ----------
        progress : bool
            Show a progress bar of bytes, where there are any to read.

        Raises
        ------
        StoreError
            Naming the first shard that is missing, truncated or altered.
        """
        from tqdm.auto import tqdm

        unread = [entry for entry in self._touched() if not self.store.was_checked(entry)]
        n_bytes = sum(entry["bytes"] for entry in unread)
        hidden = not (progress and unread)
        with tqdm(
            total=n_bytes, desc="checking the store", unit="B", unit_scale=True, disable=hidden
        ) as bar:
            for entry in unread:
                self.store.checked(entry)
                bar.update(entry["bytes"])

    def _touched(self) -> Iterator[dict[str, Any]]:
        """Entries of the shards that the examples lie in."""
        stops = self._starts + self._ends - self._firsts + self.seq_len - 1
        touched = zip(self._offsets[:-1].tolist(), self._offsets[1:].tolist(), strict=True)
        for entry, (first, last) in zip(self._shards, touched, strict=True):
            # The first run that ends after the shard begins is in it, or none is.
            run = int(np.searchsorted(stops, first, side="right"))
            if run < len(stops) and self._starts[run] < last:
                yield entry

    def buffer(self, rows: int) -> tuple[np.ndarray, torch.Tensor]:
        """Return memory for rows, as bytes [rows, row_bytes] and as values [rows, d_in]."""
        import torch

        raw = np.empty((rows, self.row_bytes), np.uint8)
        return raw, torch.from_numpy(raw).view(self.dtype)

    def take(self, rows: torch.Tensor) -> torch.Tensor:
        """Return examples [n, ...] by number, in the stored type, in the given order."""
        ascending, order = rows.cpu().sort()
        raw, values = self.buffer(len(rows) * self.seq_len)
        begin = self.rows(ascending.numpy())
        self._read_rows(begin, begin + self.seq_len, raw)
        values = values.view(len(rows), *self.shape)
        if bool((order.diff() == 1).all()):
            return values
        return as_indexable(values)[order.argsort()].view(self.dtype)


def _whole_numbers(column: Any) -> np.ndarray:
    """Values of a column of the index; of the split, its place in SPLITS."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_integer(column.type):
        return column.to_numpy()
    places = pc.SetLookupOptions(value_set=pa.array(layout.SPLITS, pa.string()))
    found = pc.call_function("index_in", [column.cast(pa.string())], places)
    return found.to_numpy(zero_copy_only=False)
