"""What a mode of input scaling has to say about itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from saebook.models.scaling.scaling import InputScaling

Context = tuple[Tensor, ...]


class ScalingMode:
    """One way to bring inputs to scale; holds no state of its own.

    What it fits are buffers of the :class:`InputScaling`: ``shift`` and ``gain`` [d_in] for all,
    others as declared by :meth:`buffers`.
    """

    folds: bool = True
    inverts: bool = True
    per_example: bool = False

    def buffers(self, d_in: int) -> dict[str, Tensor]:
        """Buffers beyond ``shift`` and ``gain``."""
        del d_in
        return {}

    def fit(self, scaling: InputScaling, x: Tensor) -> None:
        """Fit the buffers on finite float64 rows x [n, d_in]."""
        shift, gain = self.shift_and_gain(x)
        scaling.shift.copy_(shift)
        scaling.gain.copy_(gain)

    def shift_and_gain(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Shift and gain, each [d_in], of rows x [n, d_in]."""
        return torch.zeros_like(x[0]), torch.ones_like(x[0])

    def context(self, x: Tensor) -> Context:
        """What inverting an example needs to know about it; nothing, for most modes."""
        del x
        return ()

    def apply(self, scaling: InputScaling, x: Tensor, context: Context) -> Tensor:
        """Scaled inputs [..., d_in]."""
        del context
        return (x - scaling.shift).mul_(scaling.gain)

    def invert(self, scaling: InputScaling, scaled: Tensor, context: Context) -> Tensor:
        """Back to the caller's units."""
        del context
        return scaled / scaling.gain + scaling.shift
