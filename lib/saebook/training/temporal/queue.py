"""Rows of earlier batches, kept as negatives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from saebook.errors import CheckpointError

if TYPE_CHECKING:
    from saebook.training.temporal.sparse import Rows


class Queue:
    """A ring of detached unit rows; the newest overwrite the oldest.

    Parameters
    ----------
    size
        Rows that it holds.
    width
        Latents of a row.
    like
        Its type and device are those of the rows.

    Attributes
    ----------
    rows : Tensor [size, width]
        Of unit norm; zero where a row had no active latent, or none was added yet.
    group : Tensor [size]
        Sequence of each row.
    step : Tensor [size]
        Addition, counted from 0, in which each row came; -1 where none was yet.
    n_added : int
        Additions so far.

    Examples
    --------
    >>> import torch
    >>> queue = Queue(size=3, width=2, like=torch.zeros(1))
    >>> queue.add(torch.eye(2), torch.tensor([5, 6]))
    >>> queue.add(-torch.eye(2), torch.tensor([7, 8]))
    >>> queue.group.tolist(), queue.step.tolist(), queue.mean_age().item()
    ([8, 6, 7], [1, 0, 1], 0.3333333432674408)
    """

    def __init__(self, size: int, width: int, like: Tensor):
        self.rows = like.detach().new_zeros(size, width)
        self.group = torch.full((size,), -1, dtype=torch.int64, device=like.device)
        self.step = torch.full_like(self.group, -1)
        self._next = 0
        self.n_added = 0
        # Active entries of the rows held, oldest first, once somebody asked for them.
        self._active: list[Rows] | None = None

    @torch.no_grad()
    def add(self, rows: Tensor, group: Tensor) -> None:
        """Take unit rows [n, width] of some sequences [n]. Not between a loss and its gradients."""
        size = len(self.group)
        rows, group = rows[-size:], group[-size:]
        first = min(len(rows), size - self._next)
        # At most two plain copies: an index would cost more than the rows do.
        for place, part in ((self._next, slice(0, first)), (0, slice(first, len(rows)))):
            n = len(rows[part])
            self.rows[place : place + n] = rows[part]
            self.group[place : place + n] = group[part]
            self.step[place : place + n] = self.n_added
        self._next = (self._next + len(rows)) % size
        self.n_added += 1
        if self._active is not None:
            self._active.append(as_active(rows))
            surplus = sum(map(len, self._active)) - size
            while surplus > 0 and surplus >= len(self._active[0]):
                surplus -= len(self._active.pop(0))
            if surplus > 0:
                self._active[0] = self._active[0].without_first(surplus)

    def active(self) -> tuple[list[Rows], Tensor]:
        """The rows held by their active entries, and their sequences, oldest first; on a CPU.

        They are followed from batch to batch: to look through all rows every time would take as
        long as a fifth of the term.
        """
        held = int((self.step >= 0).sum())
        if self._active is None:
            self._active = [as_active(_oldest_first(self.rows, self._next, held))]
        return self._active, _oldest_first(self.group, self._next, held)

    def mean_age(self) -> Tensor:
        """Additions since each row came, 0 for the newest, averaged over rows; 0 when empty."""
        held = self.step >= 0
        ages = (self.n_added - 1 - self.step).where(held, 0)
        return ages.sum() / held.sum().clamp_min(1)

    def state_dict(self) -> dict[str, Any]:
        """All rows, and where the next ones go."""
        return {
            "rows": self.rows,
            "group": self.group,
            "step": self.step,
            "next": self._next,
            "n_added": self.n_added,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another one stood.

        Raises
        ------
        CheckpointError
            It held rows of another number or width.
        """
        if state["rows"].shape != self.rows.shape:
            raise CheckpointError(
                f"the checkpoint's queue holds {tuple(state['rows'].shape)} values, this one "
                f"{tuple(self.rows.shape)}: queue_size or prefix_fraction differ"
            )
        for name in ("rows", "group", "step"):
            getattr(self, name).copy_(state[name])
        self._next, self.n_added = state["next"], state["n_added"]
        self._active = None


def as_active(rows: Tensor) -> Rows:
    """Rows by their active entries."""
    # numba takes half a second to import.
    from saebook.training.temporal.sparse import Rows

    return Rows.of(rows)


def _oldest_first(ring: Tensor, begin: int, held: int) -> Tensor:
    """What a ring holds, which is overwritten next at ``begin``."""
    return torch.cat([ring[begin:], ring[:begin]])[len(ring) - held :]
