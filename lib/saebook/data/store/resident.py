"""Examples in memory, as a source of batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from saebook.errors import DataError

if TYPE_CHECKING:
    import torch

# float32 holds every whole number up to this one.
_EXACT_IN_FLOAT32 = 2**24
_PART = 2**16


@runtime_checkable
class RowSource(Protocol):
    """Where a stream takes its examples from: anything with a length that yields rows.

    `ResidentRows` keeps them all in memory. A source that reads shards as it goes is a class with
    these members.
    """

    device: torch.device

    def __len__(self) -> int:
        """Return the number of examples."""
        ...

    def take(self, rows: torch.Tensor) -> torch.Tensor:
        """Return examples [batch, ...] in the stream's dtype; rows is int64 on `device`."""
        ...


class ResidentRows:
    """All examples in one tensor on one device, in the type they are stored in.

    Counts stay integers, a quarter or less of their size in float32, until a batch is taken.

    Parameters
    ----------
    data : torch.Tensor or numpy.ndarray [n, ..., d_in]
        Counts or finite floats.
    device : torch.device or str, optional
        Where to keep them; where they are without it.
    dtype : torch.dtype, optional
        Type of the batches; float32 without it.

    Raises
    ------
    DataError
        If there is not at least one axis beside the first, values are not finite numbers, or
        counts are too large for float32 to hold exactly.

    Examples
    --------
    >>> import torch
    >>> rows = ResidentRows(torch.tensor([[1, 2], [3, 4]], dtype=torch.uint8))
    >>> rows.take(torch.tensor([1]))
    tensor([[3., 4.]])
    """

    def __init__(
        self,
        data: torch.Tensor | np.ndarray,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        import torch

        if not isinstance(data, torch.Tensor):
            data = _from_array(np.asarray(data))
        if data.ndim < 2 or not data[:1].numel():
            raise DataError(
                f"data has shape {tuple(data.shape)}; give [n, …, d_in] with at least one example"
            )
        if data.is_complex():
            raise DataError(f"data has type {data.dtype}; give real numbers")
        data = data.detach().to(device)
        self.dtype = torch.float32 if dtype is None else dtype
        self.device = data.device
        if data.is_floating_point():
            bad = not_finite(data)
            if len(bad):
                raise DataError(
                    f"{len(bad)} of {len(data)} examples hold NaN or infinity, the first in row "
                    f"{int(bad[0])}; leave those rows out, or find where they come from"
                )
        else:
            refuse_inexact(data, self.dtype)
        self._data = data
        self._bits = as_indexable(data)

    def __len__(self) -> int:
        return len(self._data)

    def take(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the examples of the given rows [batch] in the given order."""
        return self._bits.index_select(0, rows).view(self._data.dtype).to(self.dtype)


def not_finite(data: torch.Tensor) -> torch.Tensor:
    """Return the numbers of examples [n, ...] that hold NaN or infinity, ascending."""
    import torch

    # By parts: what it takes to look at all at once is several times the data.
    parts = [torch.isfinite(part).flatten(1).all(dim=1) for part in data.split(_PART)]
    return (~torch.cat(parts)).nonzero().flatten()


def refuse_inexact(counts: torch.Tensor, dtype: torch.dtype) -> None:
    """Refuse counts that batches of `dtype` would not hold exactly."""
    import torch

    if dtype != torch.float32 or counts.dtype.itemsize < 4:
        return
    # By parts: the wider type of all of them at once could take twice their memory.
    largest = max(int(part.to(torch.int64).abs().max()) for part in counts.split(_PART))
    if largest > _EXACT_IN_FLOAT32:
        raise DataError(
            f"data holds {largest}, and float32 can't hold every whole number above "
            f"{_EXACT_IN_FLOAT32}; give dtype=torch.float64, or check the counts"
        )


def as_indexable(data: torch.Tensor) -> torch.Tensor:
    """View the same bits in a type whose rows torch can pick out.

    It indexes few unsigned types wider than 8 bits; the signed type of the same width carries
    the same bits.
    """
    import torch

    signed = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}
    return data.view(signed[data.dtype]) if data.dtype in signed else data


def _from_array(data: np.ndarray) -> torch.Tensor:
    import torch

    if data.dtype.kind not in "buif":
        raise DataError(f"data has values of type {data.dtype}; give numbers")
    native = data.astype(data.dtype.newbyteorder("="), copy=False)
    native = np.ascontiguousarray(native)
    if not native.flags.writeable:  # torch can't promise to leave such memory alone
        native = native.copy()
    try:
        return torch.from_numpy(native)
    except TypeError as error:
        raise DataError(f"data has values of type {data.dtype}, which torch lacks") from error
