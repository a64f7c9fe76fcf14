"""Batches taken by another thread while those before are used."""

from __future__ import annotations

import dataclasses
import queue
import threading
from typing import TYPE_CHECKING, Any

from saebook.data.store.batches import Batch, Batches

if TYPE_CHECKING:
    import torch

# Batches made ready beside the one in use: one could be late when an epoch ends.
READY = 2


class BatchesAhead:
    """The batches of a stream, taken by a thread of their own while those before are used.

    They are the stream's, in its order; a state that is saved is that after the
    batch handed out last, so that a run goes on exactly, whatever was read ahead.

    Parameters
    ----------
    stream
        Is used by nobody else from here on.
    device : torch.device, optional
        Where batches are sent, in the type that the stream gives them.
    dtype : torch.dtype, optional
        Type of the examples once they are there.

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
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.device = stream.device if device is None else device
        self._dtype = dtype
        self.n_examples, self.batch_size = stream.n_examples, stream.batch_size
        self.seed = stream.seed
        self._stream = stream
        # Held by whoever uses the stream.
        self._using = threading.Lock()
        self._state, self._epoch = stream.state_dict(), stream.epoch
        self._thread: threading.Thread | None = None

    @property
    def epoch(self) -> int:
        """Epoch of the next batch, from 0."""
        return self._epoch

    @property
    def batches_per_epoch(self) -> int:
        """Number of batches of one epoch."""
        return self._stream.batches_per_epoch

    def __next__(self) -> torch.Tensor:
        """Return the next batch [batch, ..., d_in]."""
        return self.next_batch().x

    def next_batch(self) -> Batch:
        """Return the next batch; what failed while it was read is raised here."""
        import torch

        if self._thread is None:
            self._start()
        batch, self._state, self._epoch, arrived = self._taken()
        if arrived is not None:
            current = torch.cuda.current_stream(self.device)
            current.wait_event(arrived)
            # Its memory is free again once what is asked of it now is done.
            batch.map(lambda values: _mark_used(values, current))
        return batch

    def _taken(self) -> Any:
        made = self._ready.get()
        if isinstance(made, BaseException):
            self._stop()
            raise made
        return made

    def _start(self) -> None:
        self._ready: queue.Queue[Any] = queue.Queue(READY)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._read, name="saebook-batches", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        import torch

        on_gpu = self.device.type == "cuda"
        side = torch.cuda.Stream(self.device) if on_gpu else None
        while not self._stopping.is_set():
            try:
                # On the CPU there is no such stream, and nothing changes.
                with self._using, torch.cuda.stream(side):
                    batch = self._sent(self._stream.next_batch())
                    arrived = side.record_event() if side is not None else None
                    made = (batch, self._stream.state_dict(), self._stream.epoch, arrived)
            except BaseException as error:
                made = error
            self._offer(made)
            if isinstance(made, BaseException):
                return

    def _sent(self, batch: Batch) -> Batch:
        there = batch.map(self._send)
        if self._dtype is None:
            return there
        examples = {name: getattr(there, name) for name in ("x", "positive", "target")}
        typed = {n: v if v is None else v.to(self._dtype) for n, v in examples.items()}
        return dataclasses.replace(there, **typed)

    def _send(self, values: torch.Tensor) -> torch.Tensor:
        if values.device.type == "cpu" and self.device.type == "cuda":
            values = values.pin_memory()
        return values.to(self.device, non_blocking=True)

    def _offer(self, made: Any) -> None:
        """Wait for room, unless nobody wants it any more."""
        while not self._stopping.is_set():
            try:
                self._ready.put(made, timeout=0.1)
            except queue.Full:
                continue
            return

    def _stop(self) -> None:
        if self._thread is not None:
            self._stopping.set()
            self._thread.join()
            self._thread = None

    def examples_at(self, step: int) -> torch.Tensor:
        """Return the numbers [batch] of the examples in the batch of a step, from 1."""
        with self._using:
            return self._stream.examples_at(step)

    def take(self, numbers: torch.Tensor) -> torch.Tensor:
        """Return examples by number, in the stream's dtype."""
        with self._using:
            return self._stream.take(numbers)

    def state_dict(self) -> dict[str, Any]:
        """Return what a stream over the same data needs to go on after the last batch."""
        return self._state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where a saved stream stood."""
        self._stop()
        self._stream.load_state_dict(state)
        self._state, self._epoch = self._stream.state_dict(), self._stream.epoch

    def close(self) -> None:
        """End the thread, and give back what the stream holds."""
        self._stop()
        self._stream.close()


def _mark_used(values: torch.Tensor, stream: Any) -> torch.Tensor:
    if values.is_cuda:
        values.record_stream(stream)
    return values
