"""The raw-unit (identity) control: what copying a few inputs would score."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from saebook.errors import DataError


@dataclass(frozen=True, eq=False)
class RawUnitControl:
    """Scores of copying each example's most telling units and filling in the rest.

    Parameters
    ----------
    fvu : float
        FVU with as many true unit values on each example as were allowed there.
    fill : str
        What the other units get: ``"mean"`` (of the training rows) or ``"zero"``.
    curve : Tensor
        [d_in + 1] float64, the FVU with k units kept on every example, k = 0 … d_in.
    l0 : float
        Mean number of units kept behind ``fvu``.
    """

    fvu: float
    fill: str
    curve: Tensor
    l0: float

    def fvu_at(self, k: float) -> float:
        """FVU at k units per example; between two whole numbers, a mixture of both."""
        k = min(max(k, 0.0), len(self.curve) - 1.0)
        low = math.floor(k)
        high = min(low + 1, len(self.curve) - 1)
        return float(self.curve[low] * (1 - (k - low)) + self.curve[high] * (k - low))


class RawUnitSums:
    """Streaming sums behind ``RawUnitControl``.

    Keeping the k units that lie furthest from the fill leaves the smallest possible error for
    that fill, so no choice of raw units does better. Both fills are followed, since an SAE can
    learn either as its bias: the mean is better at few units, zero once k nears the number of
    units that spiked. The lower one is reported.

    Parameters
    ----------
    centre : Tensor
        [d_in] mean of the training rows.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[4.0, 0.0], [0.0, 2.0]])
    >>> sums = RawUnitSums(x.mean(0))
    >>> sums.update(x, torch.tensor([1, 1]))
    >>> control = sums.control(total=10.0)
    >>> control.fvu, control.fill, control.curve.tolist()
    (0.0, 'zero', [1.0, 0.0, 0.0])
    """

    def __init__(self, centre: Tensor) -> None:
        centre = centre.detach().to(torch.float64)
        self._fills = {"mean": centre, "zero": torch.zeros_like(centre)}
        self._curve: dict[str, Tensor] = {}
        self._matched = dict.fromkeys(self._fills, 0.0)
        self._kept = 0
        self._n = 0

    def update(self, x: Tensor, k: Tensor) -> None:
        """Add one batch.

        Parameters
        ----------
        x : Tensor
            [n, d_in], any dtype.
        k : Tensor
            [n] integers, units allowed on each example; more than d_in counts as d_in.
        """
        x = x.detach().to(torch.float64)
        d_in = x.shape[-1]
        if x.ndim != 2 or d_in != len(self._fills["mean"]):
            raise DataError(
                f"x has shape {tuple(x.shape)}, the training mean {len(self._fills['mean'])} units"
            )
        k = k.to(x.device).clamp(0, d_in)
        for fill, values in self._fills.items():
            squared = (x - values.to(x.device)).square().sort(dim=1).values  # ascending
            # left[:, j] is the error when the j nearest units are filled in, so keeping the k
            # furthest leaves left[:, d_in - k]; summing upwards never gives a negative error.
            left = torch.cat([squared.new_zeros(len(x), 1), squared.cumsum(1)], dim=1)
            curve = left.sum(0).flip(0).cpu()  # [d_in + 1]
            self._curve[fill] = self._curve.get(fill, 0.0) + curve
            self._matched[fill] += float(left.gather(1, (d_in - k)[:, None]).sum())
        self._kept += int(k.sum())
        self._n += len(x)

    def control(self, total: float) -> RawUnitControl:
        """Scores relative to ``total`` = Σ ‖x - mean(x)‖² of the same examples."""
        if not self._n:
            raise DataError("no example was added: there is no control to report")
        fill = min(self._matched, key=lambda name: self._matched[name])
        # The curve takes the better fill at each k, as the single number does.
        curve = torch.stack(list(self._curve.values())).amin(0)
        scale = 1.0 / total if total > 0 else math.nan
        return RawUnitControl(
            fvu=self._matched[fill] * scale,
            fill=fill,
            curve=curve * scale,
            l0=self._kept / self._n,
        )
