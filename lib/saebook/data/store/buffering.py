"""Chunks of a store in memory, from which batches are taken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from saebook.data.store.batches import torch_of
from saebook.data.store.orders import permutation
from saebook.data.store.resident import refuse_inexact
from saebook.data.store.stored import StoredExamples

if TYPE_CHECKING:
    import torch

# Of pairs: a chunk is at least that many windows long, so that what is read around it stays a
# share of it.
WINDOWS_PER_CHUNK = 4

Buffer = tuple[np.ndarray, "torch.Tensor"]


def buffered_bytes(stored: StoredExamples, paired: bool = False) -> int:
    """Return the most bytes that one example takes in a buffer, its place in the order included.

    With pairs, a chunk brings along what lies within a window of its ends.
    """
    if not paired:
        return stored.seq_len * stored.row_bytes + 2 * 8
    around = 2 * stored.row_bytes // WINDOWS_PER_CHUNK
    return stored.seq_len * stored.row_bytes + around + 4 * 8


@dataclass(frozen=True)
class Group:
    """Chunks in memory: the examples of an epoch from start to stop."""

    epoch: int
    start: int
    stop: int
    begin: torch.Tensor  # row of the buffer at which each example begins
    numbers: np.ndarray | None  # of each example, where pairs ask for them
    buffer: Buffer

    @property
    def values(self) -> torch.Tensor:
        """Rows of the buffer, in the stored type."""
        return self.buffer[1]


@dataclass
class Part:
    """What a batch takes of one buffer."""

    values: torch.Tensor
    positives: Any = None
    numbers: Any = None
    offsets: Any = None


def read_group(
    stored: StoredExamples,
    parts: list[tuple[int, int]],
    of: tuple[int, ...],
    buffer: Buffer,
    check: Callable[[torch.Tensor], None] | None,
    dtype: torch.dtype,
    margin: int,
) -> tuple[torch.Tensor, np.ndarray]:
    """Fill a buffer; return where in it each example begins, shuffled, and by what order."""
    raw, values = buffer
    begin = torch_of(stored.read(parts, raw, margin))
    rows = values[: stored.rows_read(parts, margin)]
    if not rows.is_floating_point():
        refuse_inexact(rows, dtype)
    if check is not None:
        check(rows)
    order = permutation(len(begin), *of)
    return begin[order], order.numpy()
