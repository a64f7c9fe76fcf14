"""Batches: an endless, seeded, resumable stream of shuffled examples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, runtime_checkable

import numpy as np

from saebook.data.store.orders import OrdersAhead, permutation
from saebook.data.store.pairs import Pairs
from saebook.data.store.resident import ResidentRows, RowSource
from saebook.data.store.sending import send, sendable
from saebook.data.store.store import ExampleStore
from saebook.errors import CheckpointError, ConfigError, DataError, SelectionError

if TYPE_CHECKING:
    import torch


@dataclass
class Batch:
    """One batch of examples; the first axis of every field is examples.

    Attributes
    ----------
    x : torch.Tensor [batch, ..., d_in]
        The examples.
    positive : torch.Tensor [batch, ..., d_in], optional
        The positive of each anchor, in the same units.
    group : torch.Tensor [batch] of int, optional
        Trial or sequence of each example; rows of one group are no negatives of each other.
    position : torch.Tensor [batch] of int, optional
        Row of each example within its trial or sequence.
    valid : torch.Tensor [batch] of bool, optional
        Examples that count; all without it.
    target : torch.Tensor [batch, ..., d_out], optional
        What the examples should become; themselves without it.
    paired : torch.Tensor [batch] of bool, optional
        Examples that have a positive; all without it. The positive of any other is itself.

    Examples
    --------
    >>> import torch
    >>> len(Batch(torch.zeros(4, 3)))
    4
    """

    x: torch.Tensor
    positive: torch.Tensor | None = None
    group: torch.Tensor | None = None
    position: torch.Tensor | None = None
    valid: torch.Tensor | None = None
    target: torch.Tensor | None = None
    paired: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, examples: slice) -> Batch:
        """Some of the examples, with all that belongs to them."""
        return self.map(lambda values: values[examples])

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        """The same function of every field that is there."""
        found: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        changed: dict[str, Any] = {n: v if v is None else change(v) for n, v in found.items()}
        return Batch(**changed)


@runtime_checkable
class Batches(Protocol):
    """Endless batches of shuffled examples, from memory or from disk.

    `BatchStream` and `StreamedBatches` both are; training takes either.
    """

    n_examples: int
    batch_size: int
    seed: int

    @property
    def epoch(self) -> int:
        """Epoch of the next batch, from 0."""
        ...

    @property
    def batches_per_epoch(self) -> int:
        """Number of batches of one epoch."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the batches are."""
        ...

    def __next__(self) -> torch.Tensor:
        """Return the next batch [batch, ..., d_in]."""
        ...

    def next_batch(self) -> Batch:
        """Return the next batch, with its positives where the stream was given pairs."""
        ...

    def examples_at(self, step: int) -> torch.Tensor:
        """Return the numbers [batch] of the examples in the batch of a step, from 1."""
        ...

    def take(self, numbers: torch.Tensor) -> torch.Tensor:
        """Return examples by number, in the stream's dtype."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return what a stream over the same data needs to go on exactly here."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where a saved stream stood."""
        ...

    def close(self) -> None:
        """Give back what the stream holds beside its data."""
        ...


class BatchStream:
    """Endless batches of shuffled examples; each epoch takes every example once.

    The order of an epoch depends on the seed, the epoch and the number of examples alone, not on
    the device, so the whole state is an epoch and a cursor.

    Parameters
    ----------
    data : torch.Tensor or numpy.ndarray [n, ..., d_in], ExampleStore or RowSource
        The examples. A store gives the rows of `split`.
    batch_size : int
        Examples per batch.
    split : str or None
        Split of a store to take, all its rows if None. Of no effect on other data.
    seed : int
        Draws the order of each epoch.
    drop_last : bool
        Leave out the incomplete batch at the end of an epoch (other examples each time), so that
        all batches have one size; else yield it.
    device : torch.device or str, optional
        Keep the data there and yield batches there.
    dtype : torch.dtype, optional
        Type of the batches; float32 without it.
    pairs : Pairs, optional
        Gives each example of a `next_batch` its positive, drawn anew every epoch.

    Raises
    ------
    ConfigError
        If a setting is out of its range, or `drop_last` would drop everything.
    SelectionError
        If the store has no row in the split.
    DataError
        If the data can't be used, as `ResidentRows` says.

    Examples
    --------
    >>> import torch
    >>> stream = BatchStream(torch.arange(8).reshape(4, 2), batch_size=2)
    >>> epoch = torch.cat([next(stream), next(stream)])
    >>> sorted(epoch[:, 0].tolist())
    [0.0, 2.0, 4.0, 6.0]
    >>> state = stream.state_dict()
    >>> resumed = BatchStream(torch.arange(8).reshape(4, 2), batch_size=2)
    >>> resumed.load_state_dict(state)
    >>> bool((next(resumed) == next(stream)).all())
    True
    """

    def __init__(
        self,
        data: torch.Tensor | np.ndarray | ExampleStore | RowSource,
        batch_size: int,
        *,
        split: str | None = "train",
        seed: int = 0,
        drop_last: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        pairs: Pairs | None = None,
    ) -> None:
        check_whole(batch_size=(batch_size, 1), seed=(seed, 0))
        if isinstance(data, ExampleStore):
            data = _rows_of(data, split)
        self._source = _source(data, device, dtype)
        self.n_examples = len(self._source)
        self.batch_size = int(batch_size)
        self.seed = int(seed)
        self.drop_last = bool(drop_last)
        if self.drop_last and self.batch_size > self.n_examples:
            raise ConfigError(
                f"batch_size={self.batch_size} with drop_last=True leaves no batch of "
                f"{self.n_examples} examples; give batch_size of at most {self.n_examples}, or "
                "drop_last=False"
            )
        self._pairs = pairs
        check_pairs(pairs, self.n_examples)
        self._epoch = 0
        self._cursor = 0
        self._order: torch.Tensor | None = None
        self._ahead: OrdersAhead | None = None

    @property
    def epoch(self) -> int:
        """Epoch of the next batch, from 0."""
        return self._epoch + (self._cursor >= self._end)

    @property
    def batches_per_epoch(self) -> int:
        """Number of batches until every example was taken once."""
        return -(-self._end // self.batch_size)

    @property
    def device(self) -> torch.device:
        """Where the batches are."""
        return self._source.device

    @property
    def _end(self) -> int:
        n = self.n_examples
        return n - n % self.batch_size if self.drop_last else n

    def __iter__(self) -> Iterator[torch.Tensor]:
        return self

    def __next__(self) -> torch.Tensor:
        """Return the next batch [batch, ..., d_in]."""
        return self.take(self._next_numbers())

    def next_batch(self) -> Batch:
        """Return the next batch, with its positives where the stream was given pairs."""
        numbers = self._next_numbers()
        x = self.take(numbers)
        if self._pairs is None:
            return Batch(x)
        anchors = numbers.cpu().numpy()
        offsets = self._pairs.offsets(anchors, seed=self.seed, epoch=self._epoch)
        positive = self.take(numbers + torch_of(offsets).to(numbers.device))
        return Batch(x, positive, **self._pairs.columns(anchors, offsets, self.device))

    def _next_numbers(self) -> torch.Tensor:
        """Numbers of the examples of the next batch; the stream goes on."""
        if self._cursor >= self._end:
            self._epoch, self._cursor, self._order = self._epoch + 1, 0, None
        if self._order is None:
            self._order = self._order_of(self._epoch)
        stop = min(self._cursor + self.batch_size, self._end)
        numbers = self._order[self._cursor : stop]
        self._cursor = stop
        return numbers

    def _order_of(self, epoch: int) -> torch.Tensor:
        """Order of an epoch, on the device; positives are drawn on the host, and there it stays."""
        if self.device.type == "cpu":
            return self._permutation(epoch)
        if self._ahead is None:
            self._ahead = OrdersAhead(lambda n: sendable(self._permutation(n), self.device))
        order = self._ahead.of(epoch)
        return send(order, self.device) if self._pairs is None else order

    def _permutation(self, epoch: int) -> torch.Tensor:
        return permutation(self.n_examples, self.seed, epoch)

    def examples_at(self, step: int) -> torch.Tensor:
        """Return the numbers [batch] of the examples in the batch of a step.

        Parameters
        ----------
        step : int
            Which batch, counted from 1 at the first of epoch 0. The stream stays where it is.
        """
        epoch, batch = divmod(step - 1, self.batches_per_epoch)
        start = batch * self.batch_size
        return self._permutation(epoch)[start : min(start + self.batch_size, self._end)]

    def take(self, numbers: torch.Tensor) -> torch.Tensor:
        """Return the examples of given numbers [batch], in the stream's dtype."""
        return self._source.take(send(numbers, self.device))

    def close(self) -> None:
        """End what draws orders for a device, if anything does."""
        if self._ahead is not None:
            self._ahead.close()
            self._ahead = None

    def state_dict(self) -> dict[str, Any]:
        """Return what a stream over the same data needs to go on exactly here."""
        return {
            "epoch": self._epoch,
            "cursor": self._cursor,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "drop_last": self.drop_last,
            "n_examples": self.n_examples,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where a saved stream stood.

        Raises
        ------
        CheckpointError
            If the state is incomplete, or of other data or settings: the stream could not go on
            exactly.
        """
        check_state(state, self.state_dict(), self._end)
        self._epoch, self._cursor, self._order = int(state["epoch"]), int(state["cursor"]), None


def torch_of(values: np.ndarray) -> torch.Tensor:
    """Return the same memory as a tensor; torch is only then imported."""
    import torch

    return torch.from_numpy(values)


def check_pairs(pairs: Pairs | None, n_examples: int) -> None:
    """Refuse pairs of other examples."""
    if pairs is not None and len(pairs) != n_examples:
        raise DataError(
            f"pairs of {len(pairs)} examples were given with {n_examples} examples; the groups "
            "must be those of the rows, one for each"
        )


def check_whole(**settings: tuple[Any, int]) -> None:
    """Refuse settings, each given as (value, least), that are no whole numbers from there on."""
    for name, (value, least) in settings.items():
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if not whole or value < least:
            raise ConfigError(f"{name}={value!r}: give a whole number, at least {least}")


def check_state(state: dict[str, Any], own: dict[str, Any], end: int) -> None:
    """Refuse a saved state from which a stream whose state is `own` can't go on exactly."""
    if set(state) != set(own):
        raise CheckpointError(
            f"the state of a batch stream has {sorted(own)}, this one has {sorted(state)}; "
            "load what state_dict() gave"
        )
    for name in own.keys() - {"epoch", "cursor"}:
        if state[name] != own[name]:
            raise CheckpointError(
                f"the saved batch stream has {name}={state[name]}, this one {own[name]}, so it "
                "can't go on exactly; use the same data and settings, or start anew"
            )
    if not (state["epoch"] >= 0 and 0 <= state["cursor"] <= end):
        raise CheckpointError(
            f"the saved batch stream stands at epoch {state['epoch']}, example "
            f"{state['cursor']} of {end}, which is nowhere; the checkpoint is damaged"
        )


def _source(
    data: torch.Tensor | np.ndarray | RowSource,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
) -> RowSource:
    import torch

    if isinstance(data, torch.Tensor | np.ndarray):
        return ResidentRows(data, device=device, dtype=dtype)
    if not isinstance(data, RowSource):
        raise DataError(
            f"data is a {type(data).__name__}; give a tensor or an array [n, …, d_in], an "
            "ExampleStore, or an object with the members of RowSource"
        )
    if device is not None or dtype is not None:
        raise ConfigError(
            "device and dtype of the batches are the row source's own; set them there"
        )
    return data


def _rows_of(store: ExampleStore, split: str | None) -> torch.Tensor:
    x = store.tensor(split)
    if not len(x):
        refuse_empty(store, split)
    return x


def refuse_empty(store: ExampleStore, split: str | None) -> NoReturn:
    """Say that a store has no row in a split."""
    found = ", ".join(f"{n} {name}" for name, n in store.manifest["rows_per_split"].items())
    raise SelectionError(
        f"{store.path} has no row in split {split!r} (rows: {found}); give another split, "
        "split=None for all rows, or write the store with splits assigned"
    )
