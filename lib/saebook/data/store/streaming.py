"""Batches from a store larger than memory: chunks read ahead into a shuffled buffer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any

import numpy as np

from saebook.data.store.batches import (
    Batch,
    check_pairs,
    check_state,
    check_whole,
    torch_of,
)
from saebook.data.store.buffering import (
    WINDOWS_PER_CHUNK,
    Buffer,
    Group,
    Part,
    buffered_bytes,
    read_group,
)
from saebook.data.store.orders import permutation
from saebook.data.store.pairs import Pairs
from saebook.data.store.resident import as_indexable
from saebook.data.store.store import ExampleStore
from saebook.data.store.stored import StoredExamples
from saebook.errors import ConfigError

if TYPE_CHECKING:
    import torch

BUFFER_BYTES = 2**28
# Long enough for a disk to read at full speed, short enough that a buffer holds many.
CHUNK_BYTES = 2**20
LEAST_CHUNKS = 256


class StreamedBatches:
    """Endless batches of shuffled examples, read from a store as they are needed.

    The split is cut into chunks of consecutive examples. Every epoch deals them out to buffers
    in a new order; a buffer is read in order of the file, shuffled, and cut into batches, while a
    thread reads the next one: two are in memory, and no more. A batch may lie across two
    buffers, and every epoch takes each example once, but for an incomplete last batch, which is
    left out (other examples each time). All of this depends on the seed, the epoch and the sizes
    alone, so the whole state is an epoch and a cursor.

    Two examples of one batch can only come from chunks that share a buffer: the more chunks it
    holds, the nearer is a batch to one of a full shuffle
    (:func:`saebook.metrics.same_group_pairs` measures it).

    Parameters
    ----------
    data : ExampleStore or StoredExamples
        What to read. A store gives the examples of `split`, in windows of `seq_len` rows.
    batch_size : int
        Examples per batch.
    split : str or None
        Split of a store to take, all its rows if None.
    seq_len : int
        Rows per example of a store; above 1, windows that cross no segment, trial or split.
    seed : int
        Draws the order of each epoch.
    buffer_examples : int, optional
        Examples per buffer; as many as 256 MiB hold without it.
    chunk_examples : int, optional
        Examples per chunk; about 1 MiB without it, but at most a 256th of the buffer.
    device : torch.device or str, optional
        Where to yield batches; the CPU without it. Buffers stay on the CPU.
    dtype : torch.dtype, optional
        Type of the batches; float32 without it. Buffers keep the stored type.
    check : callable, optional
        Called with the rows [n, d_in] of every buffer, as they are stored; what it raises is
        raised by the batch that needs them.
    pairs : Pairs, optional
        Gives each example of a `next_batch` its positive, drawn anew every epoch. Chunks are then
        read with the rows around them, and at least four windows long.

    Attributes
    ----------
    n_examples, batch_size, buffer_examples, chunk_examples, seed : int
        As given, or as chosen.
    waited_s : float
        Time (s) that batches have waited for the disk.

    Raises
    ------
    ConfigError
        If a setting is out of its range, the buffer is smaller than a batch, or there are fewer
        examples than a batch takes.
    SelectionError
        If the store has no example in the split.
    StoreError
        If a shard is missing, truncated or altered: at once, or by the batch that needed it.

    Examples
    --------
    >>> import tempfile
    >>> from saebook.data.store import ExampleStore, StoreWriter, StreamedBatches
    >>> folder = tempfile.mkdtemp()
    >>> with StoreWriter(f"{folder}/store", kind="counts") as writer:
    ...     writer.add([[i] for i in range(8)], session="a", split="train")
    >>> stream = StreamedBatches(ExampleStore.open(f"{folder}/store"), 2, buffer_examples=4)
    >>> sorted(int(row) for _ in range(4) for row in next(stream))
    [0, 1, 2, 3, 4, 5, 6, 7]
    >>> stream.close()
    """

    def __init__(
        self,
        data: ExampleStore | StoredExamples,
        batch_size: int,
        *,
        split: str | None = "train",
        seq_len: int = 1,
        seed: int = 0,
        buffer_examples: int | None = None,
        chunk_examples: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        check: Callable[[torch.Tensor], None] | None = None,
        pairs: Pairs | None = None,
    ) -> None:
        import torch

        check_whole(batch_size=(batch_size, 1), seed=(seed, 0))
        if isinstance(data, ExampleStore):
            data = StoredExamples(data, split, seq_len, within_trials=pairs is not None)
        self._stored, self._pairs = data, pairs
        check_pairs(pairs, len(data))
        margin = 0 if pairs is None else pairs.window
        if buffer_examples is None:
            buffer_examples = max(BUFFER_BYTES // buffered_bytes(data, margin > 0), batch_size)
        if chunk_examples is None:
            chunk_examples = min(CHUNK_BYTES // data.row_bytes, buffer_examples // LEAST_CHUNKS)
            chunk_examples = max(chunk_examples, WINDOWS_PER_CHUNK * margin, 1)
            chunk_examples = min(chunk_examples, buffer_examples)
        check_whole(buffer_examples=(buffer_examples, 1), chunk_examples=(chunk_examples, 1))
        self.n_examples = len(data)
        self.batch_size, self.seed = int(batch_size), int(seed)
        self.buffer_examples, self.chunk_examples = int(buffer_examples), int(chunk_examples)
        self.device = torch.device("cpu" if device is None else device)
        self.dtype = torch.float32 if dtype is None else dtype
        self.waited_s = 0.0
        self._check_sizes()
        self._check = check
        data.verify()

        self._n_chunks = -(-self.n_examples // self.chunk_examples)
        per_buffer = self.buffer_examples // self.chunk_examples
        # Of equal size, so that an epoch doesn't end with a few chunks alone.
        self._n_groups = -(-self._n_chunks // per_buffer)
        largest = -(-self._n_chunks // self._n_groups)
        self._rows_per_buffer = largest * data.most_rows(self.chunk_examples, margin)
        self._epoch = 0
        self._cursor = 0
        self._current: Group | None = None
        self._ahead: (
            tuple[tuple[int, int], Buffer, Future[tuple[torch.Tensor, np.ndarray]]] | None
        ) = None
        self._free: list[Buffer] = []
        self._reader: ThreadPoolExecutor | None = None

    def _check_sizes(self) -> None:
        if self.batch_size > self.n_examples:
            raise ConfigError(
                f"batch_size={self.batch_size} leaves no batch of {self.n_examples} examples; give "
                f"batch_size of at most {self.n_examples}"
            )
        if self.buffer_examples < self.batch_size:
            raise ConfigError(
                f"buffer_examples={self.buffer_examples} is less than batch_size="
                f"{self.batch_size}; give the buffer more memory, or take smaller batches"
            )
        if self.chunk_examples > self.buffer_examples:
            raise ConfigError(
                f"chunk_examples={self.chunk_examples} is more than buffer_examples="
                f"{self.buffer_examples}; a buffer holds whole chunks, and mixes well with "
                f"{LEAST_CHUNKS} or more"
            )

    @property
    def epoch(self) -> int:
        """Epoch of the next batch, from 0."""
        return self._epoch + (self._cursor >= self._end)

    @property
    def batches_per_epoch(self) -> int:
        """Number of batches of one epoch."""
        return self._end // self.batch_size

    @property
    def _end(self) -> int:
        return self.n_examples - self.n_examples % self.batch_size

    def __iter__(self) -> Iterator[torch.Tensor]:
        return self

    def __next__(self) -> torch.Tensor:
        """Return the next batch [batch, ..., d_in]."""
        return self._in_dtype([part.values for part in self._next_parts()])

    def next_batch(self) -> Batch:
        """Return the next batch, with its positives where the stream was given pairs."""
        parts = self._next_parts(self._pairs)
        x = self._in_dtype([part.values for part in parts])
        if self._pairs is None:
            return Batch(x)
        positive = self._in_dtype([part.positives for part in parts])
        numbers, offsets = (
            np.concatenate([getattr(p, n) for p in parts]) for n in ("numbers", "offsets")
        )
        return Batch(x, positive, **self._pairs.columns(numbers, offsets, self.device))

    def _next_parts(self, pairs: Pairs | None = None) -> list[Part]:
        """What the next batch takes of each buffer that it lies in; with pairs, positives too."""
        over = self._cursor >= self._end
        epoch, at = (self._epoch + 1, 0) if over else (self._epoch, self._cursor)
        stop, parts = at + self.batch_size, []
        while at < stop:
            group = self._group_at(epoch, at)
            last = min(stop, group.stop)
            chosen = slice(at - group.start, last - group.start)
            begin = group.begin[chosen]
            part = Part(self._rows_of(group.values, begin))
            if pairs is not None and group.numbers is not None:
                # Here and now: the next group's buffer may be this one's.
                part.numbers = group.numbers[chosen]
                part.offsets = pairs.offsets(part.numbers, seed=self.seed, epoch=epoch)
                part.positives = self._rows_of(group.values, begin + torch_of(part.offsets))
            parts.append(part)
            at = last
        self._epoch, self._cursor = epoch, at
        return parts

    def _in_dtype(self, parts: list[torch.Tensor]) -> torch.Tensor:
        import torch

        batch = parts[0] if len(parts) == 1 else torch.cat(parts)
        return batch.view(self._stored.dtype).to(self.device).to(self.dtype)

    def _rows_of(self, values: torch.Tensor, begin: torch.Tensor) -> torch.Tensor:
        import torch

        bits = as_indexable(values)
        if self._stored.seq_len == 1:
            return bits.index_select(0, begin)
        rows = begin[:, None] + torch.arange(self._stored.seq_len)
        return bits.index_select(0, rows.flatten()).view(len(begin), *self._stored.shape)

    def _groups(self, epoch: int) -> tuple[list[np.ndarray], np.ndarray]:
        """Chunks of each group of an epoch, in order of the file, and where each group ends."""
        order = permutation(self._n_chunks, self.seed, epoch).numpy()
        groups = [np.sort(chunks) for chunks in np.array_split(order, self._n_groups)]
        missing = self._n_chunks * self.chunk_examples - self.n_examples
        sizes = [
            len(chunks) * self.chunk_examples - missing * (chunks[-1] == self._n_chunks - 1)
            for chunks in groups
        ]
        return groups, np.cumsum(sizes)

    def _parts(self, chunks: np.ndarray) -> list[tuple[int, int]]:
        size = self.chunk_examples
        return [(i * size, min((i + 1) * size, self.n_examples)) for i in chunks.tolist()]

    def _group_at(self, epoch: int, at: int) -> Group:
        """The group that holds an example of an epoch; begins to read the one after it."""
        held = self._current
        if held is not None and held.epoch == epoch and held.start <= at < held.stop:
            return held
        groups, ends = self._groups(epoch)
        number = int(np.searchsorted(ends, at, side="right"))
        if held is not None:
            self._free.append(held.buffer)
            self._current = None
        if self._ahead is None or self._ahead[0] != (epoch, number):
            self._drop_ahead()
            self._read_ahead((epoch, number), groups[number])
        assert self._ahead is not None
        _, buffer, future = self._ahead
        began = time.perf_counter()
        wait([future])  # an interrupt leaves the buffer to the thread
        self.waited_s += time.perf_counter() - began
        self._ahead = None
        error = future.exception()
        if error is not None:
            self._free.append(buffer)
            raise error
        stop = int(ends[number])
        begin, within = future.result()
        numbers = None
        if self._pairs is not None:
            parts = self._parts(groups[number])
            numbers = np.concatenate([np.arange(*part) for part in parts])[within]
        self._current = Group(epoch, stop - len(begin), stop, begin, numbers, buffer)
        if stop < self._end:
            self._read_ahead((epoch, number + 1), groups[number + 1])
        else:
            self._read_ahead((epoch + 1, 0), self._groups(epoch + 1)[0][0])
        return self._current

    def _read_ahead(self, key: tuple[int, int], chunks: np.ndarray) -> None:
        if self._reader is None:
            self._reader = ThreadPoolExecutor(1, thread_name_prefix="saebook-stream")
        buffer = self._free.pop() if self._free else self._stored.buffer(self._rows_per_buffer)
        epoch, number = key
        # Nothing that the thread is given leads back to the stream, which can then be collected.
        future = self._reader.submit(
            read_group,
            self._stored,
            self._parts(chunks),
            (self.seed, epoch, number + 1),
            buffer,
            self._check,
            self.dtype,
            0 if self._pairs is None else self._pairs.window,
        )
        self._ahead = key, buffer, future

    def _drop_ahead(self) -> None:
        if self._ahead is not None:
            _, buffer, future = self._ahead
            wait([future])
            self._ahead = None
            self._free.append(buffer)

    def examples_at(self, step: int) -> torch.Tensor:
        """Return the numbers [batch] of the examples in the batch of a step.

        Parameters
        ----------
        step : int
            Which batch, counted from 1 at the first of epoch 0. The stream stays where it is,
            and nothing is read.
        """
        import torch

        epoch, batch = divmod(step - 1, self.batches_per_epoch)
        at = batch * self.batch_size
        groups, ends = self._groups(epoch)
        first, last = np.searchsorted(ends, [at, at + self.batch_size - 1], side="right")
        numbers = []
        for number in range(first, last + 1):
            parts = self._parts(groups[number])
            inside = torch.cat([torch.arange(*part) for part in parts])
            numbers.append(inside[permutation(len(inside), self.seed, epoch, number + 1)])
        start = at - int(ends[first]) + len(numbers[0])
        return torch.cat(numbers)[start : start + self.batch_size]

    def take(self, numbers: torch.Tensor) -> torch.Tensor:
        """Return examples by number [n], read from disk, in the stream's dtype."""
        return self._stored.take(numbers).to(self.device).to(self.dtype)

    def state_dict(self) -> dict[str, Any]:
        """Return what a stream over the same store needs to go on exactly here."""
        return {
            "epoch": self._epoch,
            "cursor": self._cursor,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "n_examples": self.n_examples,
            "buffer_examples": self.buffer_examples,
            "chunk_examples": self.chunk_examples,
            "store": self._stored.digest,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where a saved stream stood.

        Raises
        ------
        CheckpointError
            If the state is incomplete, or of another store or other settings: the stream could
            not go on exactly.
        """
        check_state(state, self.state_dict(), self._end)
        self._epoch, self._cursor = int(state["epoch"]), int(state["cursor"])

    def close(self) -> None:
        """Stop reading ahead and free the buffers; a later batch reads its own again."""
        self._drop_ahead()
        self._current = None
        self._free.clear()
        if self._reader is not None:
            self._reader.shutdown()
            self._reader = None
