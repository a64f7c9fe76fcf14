"""Orders of examples: drawn from whole numbers, and drawn ahead for a device that must not wait."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch


def permutation(n: int, *of: int) -> torch.Tensor:
    """Draw an order of n from whole numbers such as (seed, epoch), the same on every device."""
    import torch

    # Mixed, so that (seed 0, epoch 1) and (seed 1, epoch 0) have nothing in common.
    mixed = np.random.SeedSequence(of).generate_state(1, np.uint64)[0]
    # On the CPU whatever the device: its order is the same everywhere.
    generator = torch.Generator().manual_seed(int(mixed >> np.uint64(1)))
    return torch.randperm(n, generator=generator)


class OrdersAhead:
    """Orders of successive epochs; while one is used the next is drawn.

    Parameters
    ----------
    draw
        Gives the order of an epoch.

    Examples
    --------
    >>> orders = OrdersAhead(lambda epoch: [epoch, epoch + 1])
    >>> orders.of(0), orders.of(1)
    ([0, 1], [1, 2])
    >>> orders.close()
    """

    def __init__(self, draw: Callable[[int], Any]) -> None:
        self._draw = draw
        self._thread = ThreadPoolExecutor(1, "saebook-order")
        self._next: tuple[int, Future[Any]] | None = None

    def of(self, epoch: int) -> Any:
        """Return the order of an epoch, and have that of the next drawn."""
        ready = self._next is not None and self._next[0] == epoch
        order = self._next[1].result() if ready and self._next is not None else self._draw(epoch)
        self._next = epoch + 1, self._thread.submit(self._draw, epoch + 1)
        return order

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(cancel_futures=True)
