"""Batches taken by another thread while those before are used, and sent to a device."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from saebook.data.store.batches import Batch, Batches
from saebook.data.store.resident import refuse_inexact
from saebook.data.store.sending import sendable

if TYPE_CHECKING:
    import torch

# Batches there may be at once: one in use, one on its way, and two ready, so that the thread may
# be late at times.
SLOTS = 4
# Fields of a batch that hold examples; the others say something about them.
EXAMPLES = ("x", "positive", "target")


class BatchesAhead:
    """The batches of a stream, taken by a thread of their own while those before are used.

    They are the stream's, in its order; the state is that after the batch handed out last, so that
    a run goes on exactly, whatever was read ahead. To a GPU they travel from page-locked memory,
    beside the work that it does; the thread waits where that work is more than a few batches
    behind, so that they don't pile up in its memory.

    Parameters
    ----------
    stream : Batches
        Is used by nobody else from here on. What it holds in a type narrower than float32 is best
        given, and so sent, in that type. Of one that draws on the device itself, the thread does
        what is left to the host.
    device : torch.device or str, optional
        Where batches are sent, in the type that the stream gives them; where it gives them
        without it.
    dtype : torch.dtype, optional
        Type of the examples once they are there; as they come without it.

    Raises
    ------
    DataError
        By the batch that has them: counts that `dtype` doesn't hold exactly.

    Examples
    --------
    >>> import torch
    >>> from saebook.data.store import BatchStream
    >>> x = torch.arange(12.0).reshape(6, 2)
    >>> ahead = BatchesAhead(BatchStream(x, 2))
    >>> bool((ahead.next_batch().x == BatchStream(x, 2).next_batch().x).all())
    True
    >>> ahead.close()
    """

    def __init__(
        self,
        stream: Batches,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        import torch

        self.device = torch.device(stream.device if device is None else device)
        if self.device.type == "cuda" and self.device.index is None:
            # Without a number it would be another thread's own, which is the first one.
            self.device = torch.device("cuda", torch.cuda.current_device())
        self._dtype = dtype
        self.n_examples, self.batch_size = stream.n_examples, stream.batch_size
        self.seed = stream.seed
        self._stream = stream
        # Held by whoever uses the stream.
        self._using = threading.Lock()
        self._state, self._epoch = stream.state_dict(), stream.epoch
        self._thread: ThreadPoolExecutor | None = None
        self._side: torch.cuda.Stream | None = None
        self._asked: deque[tuple[_Slot, Future[_Made]]] = deque()
        self._in_use: _Slot | None = None

    @property
    def epoch(self) -> int:
        """Epoch of the next batch, from 0."""
        return self._epoch

    @property
    def batches_per_epoch(self) -> int:
        """Number of batches of one epoch."""
        return self._stream.batches_per_epoch

    def __iter__(self) -> Iterator[torch.Tensor]:
        return self

    def __next__(self) -> torch.Tensor:
        """Return the next batch [batch, ..., d_in]."""
        return self.next_batch().x

    def next_batch(self) -> Batch:
        """Return the next batch; what failed while it was read is raised here."""
        if self._thread is None:
            self._start()
        elif self._in_use is not None:
            self._give_back(self._in_use)
        slot, future = self._asked[0]
        wait([future])  # an interrupt leaves the batch to the next call
        error = future.exception()
        if error is not None:
            self._stop()
            raise error
        self._asked.popleft()
        made = future.result()
        self._in_use, self._state, self._epoch = slot, made.state, made.epoch
        self._await(made)
        return made.batch

    def _start(self) -> None:
        import torch

        self._thread = ThreadPoolExecutor(1, "saebook-batches")
        if self.device.type == "cuda":
            self._side = torch.cuda.Stream(self.device)
            # Examples may still be on their way there.
            self._side.wait_stream(torch.cuda.current_stream(self.device))
        for _ in range(SLOTS):
            self._ask(_Slot(self.device))

    def _ask(self, slot: _Slot) -> None:
        assert self._thread is not None
        # Nothing that the thread is given leads back here, so that this can be collected.
        task = (self._stream, self._using, slot, self.device, self._dtype, self._side)
        self._asked.append((slot, self._thread.submit(_make, *task)))

    def _give_back(self, slot: _Slot) -> None:
        """Have a slot filled again, once the device has done what it was asked of its batch."""
        import torch

        self._in_use = None
        if self._side is not None:
            slot.free_after = _point_in(torch.cuda.current_stream(self.device))
        self._ask(slot)

    def _await(self, made: _Made) -> None:
        """Have the device, not the host, wait for a batch to arrive."""
        import torch

        if made.arrived is None:
            return
        current = torch.cuda.current_stream(self.device)
        current.wait_event(made.arrived)
        for field in fields(made.batch):
            values = getattr(made.batch, field.name)
            if values is not None:
                # It was made beside that stream, whose work its memory has to outlast.
                values.record_stream(current)

    def _stop(self) -> None:
        """End the thread; the stream stands after the batch handed out last."""
        if self._thread is None:
            return
        self._thread.shutdown(cancel_futures=True)
        self._thread, self._in_use = None, None
        self._asked.clear()
        self._stream.load_state_dict(self._state)

    def examples_at(self, step: int) -> torch.Tensor:
        """Return the numbers [batch] of the examples in the batch of a step, from 1."""
        with self._using:
            return self._stream.examples_at(step)

    def take(self, numbers: torch.Tensor) -> torch.Tensor:
        """Return examples by number, as batches have them, on the device."""
        with self._using:
            found = self._stream.take(numbers)
        return _typed(found, found.to(self.device), self._dtype)

    def state_dict(self) -> dict[str, Any]:
        """Return what a stream over the same data needs to go on after the last batch."""
        return dict(self._state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where a saved stream stood.

        Raises
        ------
        CheckpointError
            As the stream says; it then stays where it is.
        """
        self._stop()
        self._stream.load_state_dict(state)
        self._state, self._epoch = self._stream.state_dict(), self._stream.epoch

    def close(self) -> None:
        """End the thread, and give back what the stream holds; a later batch begins anew."""
        self._stop()
        self._stream.close()


class _Slot:
    """Memory of the host for one batch, from which a device copies it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._memory: dict[str, torch.Tensor] = {}
        # What the device has to come to before the memory is written to again.
        self.free_after: torch.cuda.Event | None = None

    def hold(self, name: str, values: torch.Tensor) -> torch.Tensor:
        """The same values in this memory."""
        import torch

        kept = self._memory.get(name)
        if kept is None or kept.dtype != values.dtype or kept.shape != values.shape:
            kept = sendable(torch.empty(values.shape, dtype=values.dtype), self._device)
            self._memory[name] = kept
        return kept.copy_(values)


@dataclass(frozen=True)
class _Made:
    """A batch on its way, and where its stream stands after it."""

    batch: Batch
    state: dict[str, Any]
    epoch: int
    arrived: torch.cuda.Event | None


def _make(
    stream: Batches,
    using: threading.Lock,
    slot: _Slot,
    device: torch.device,
    dtype: torch.dtype | None,
    side: torch.cuda.Stream | None,
) -> _Made:
    import torch

    if slot.free_after is not None:
        slot.free_after.synchronize()
    arrived = None
    # Where there is no such stream this changes nothing.
    with torch.cuda.stream(side):
        with using:
            batch = stream.next_batch()
            state, epoch = stream.state_dict(), stream.epoch
        found = {field.name: getattr(batch, field.name) for field in fields(batch)}
        there = {
            name: _sent(name, values, slot, device, dtype)
            for name, values in found.items()
            if values is not None
        }
        if side is not None:
            slot.free_after = arrived = _point_in(side)
    return _Made(Batch(**there), state, epoch, arrived)


def _point_in(stream: torch.cuda.Stream) -> torch.cuda.Event:
    """What a stream was asked for until now; a thread that waits for it sleeps."""
    import torch

    event = torch.cuda.Event(blocking=True)
    event.record(stream)
    return event


def _sent(
    name: str, values: torch.Tensor, slot: _Slot, device: torch.device, dtype: torch.dtype | None
) -> torch.Tensor:
    there = values
    if values.device.type == "cpu":
        # A copy on the CPU too: the slot is filled again while its batch may still be looked at.
        there = slot.hold(name, values).to(device, non_blocking=True, copy=True)
    return _typed(values, there, dtype) if name in EXAMPLES else there


def _typed(values: torch.Tensor, there: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    """Examples on a device in another type, if they survive it; `values` are those that came."""
    if dtype is None:
        return there
    if not values.is_floating_point():
        refuse_inexact(values, dtype)
    return there.to(dtype)
