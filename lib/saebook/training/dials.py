"""Numbers that change with every step of a run, where the step reads them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# Steps whose numbers are sent to the device at once.
ROWS = 1024

Rates = Sequence[float | Tensor]


class Dials:
    """Learning rates and the sparsity term's share of the coming step.

    A step that was recorded on a GPU does again exactly what it did, with the numbers of the host
    that it saw; so there these are tensors, set before each step from a table that is already on
    the device. Elsewhere they are plain numbers.

    Parameters
    ----------
    numbers
        Gives those of a step: learning rates of the optimiser's groups, then the share.
    device
        Where they are kept as tensors; None keeps plain numbers.
    foreseeable
        Whether the numbers of later steps are known now: those that follow the loss are not.

    Attributes
    ----------
    rates : sequence
        Learning rate of each group of parameters.
    share
        Of the sparsity coefficient's full value.

    Examples
    --------
    >>> dials = Dials(lambda step: [0.1 * step, 0.5], torch.device("cpu"))
    >>> dials.turn(3)
    >>> [round(float(rate), 3) for rate in dials.rates], float(dials.share)
    ([0.3], 0.5)
    """

    def __init__(
        self,
        numbers: Callable[[int], list[float]],
        device: torch.device | None = None,
        foreseeable: bool = True,
    ):
        self._numbers, self._device = numbers, device
        self._n_rows = ROWS if foreseeable else 1
        self._first = -1
        self.rates: Rates = []
        self.share: float | Tensor = 1.0
        if device is not None:
            self._now = torch.zeros(len(numbers(0)), device=device)
            *self.rates, self.share = self._now.unbind()

    def turn(self, step: int) -> None:
        """Set the numbers of a step, counted from 0."""
        if self._device is None:
            *self.rates, self.share = self._numbers(step)
            return
        first = step - step % self._n_rows
        if first != self._first or self._n_rows == 1:
            rows = torch.tensor([self._numbers(first + i) for i in range(self._n_rows)])
            rows = rows.pin_memory() if self._device.type == "cuda" else rows
            self._table, self._first = rows.to(self._device, non_blocking=True), first
        self._now.copy_(self._table[step - first])
