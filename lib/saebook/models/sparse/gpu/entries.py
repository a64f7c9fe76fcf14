"""A number of entries that is fixed beforehand, so that nothing has to wait for what is found."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from saebook.models.entries import Entries
from saebook.models.sparse.gpu.functions import ColumnSums, DecodeAt, Products

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, eq=False)
class FixedEntries(Entries):
    """Entries of a matrix [n, d_sae], row by row, on a GPU; values are [n_entries].

    Where fewer were found than there is room for, the rest have the value 0, belong to any
    column, and take up no gradient. Narrower entries (``band``, ``rows``) keep the places of all
    and set values outside to 0.

    Attributes
    ----------
    columns, row_of
        [n_entries], int32: latent and example of each entry.
    starts
        [n + 1], int32: where the entries of each example begin.
    d_sae
        Columns of the matrix.
    order
        [n_entries]: the entries by column, and in each column by example, those without a value
        last. None where the gradients of weights are products with the matrix itself.
    column_starts
        [d_sae + 1], int32: where in ``order`` those of each column begin.
    """

    columns: Tensor
    row_of: Tensor
    starts: Tensor
    d_sae: int
    order: Tensor | None = None
    column_starts: Tensor | None = None

    @property
    def n_rows(self) -> int:
        """Rows of the matrix."""
        return self.starts.shape[-1] - 1

    @property
    def n_summed(self) -> int:
        """Penalties read all entries as one example."""
        return self.n_rows

    def at(self, per_latent: Tensor) -> Tensor:
        """[n_entries]."""
        return per_latent[self.columns.long()]

    def products(self, x: Tensor, rows: Tensor) -> Tensor:
        """[n_entries]."""
        with torch.no_grad():
            found = Products.apply(*_alone(self.columns, self.starts, x, rows))
        assert isinstance(found, Tensor)
        return found[0]

    def times(self, values: Tensor, rows: Tensor) -> Tensor:
        """[n, d]; under autocast from rows of its lower precision, summed in full."""
        kind, table = rows.device.type, rows.detach()
        if torch.is_autocast_enabled(kind):
            table = table.to(torch.get_autocast_dtype(kind))
        places = (self.columns, self.row_of, self.starts, self.order, self.column_starts)
        found = DecodeAt.apply(*_alone(values, rows, table, *places))
        assert isinstance(found, Tensor)
        return found[0]

    def column_sums(self, values: Tensor) -> Tensor:
        """[d_sae]; of booleans their number."""
        values = values.to(torch.float32) if values.dtype == torch.bool else values
        places = (self.columns, self.row_of, self.order, self.column_starts)
        found = ColumnSums.apply(*_alone(values, *places), self.n_rows, self.d_sae)
        assert isinstance(found, Tensor)
        return found[0]

    def n_examples(self, values: Tensor) -> int:
        """Rows."""
        del values
        return self.n_rows

    def band(self, values: Tensor, first: int, last: int) -> tuple[Entries, Tensor]:
        """The same entries, without the other latents' values."""
        if first == 0 and last == self.d_sae:
            return self, values
        return self, values.where((self.columns >= first) & (self.columns < last), 0.0)

    def rows(self, values: Tensor, first: int, last: int) -> tuple[Entries, Tensor]:
        """The same entries, without the other examples' values."""
        inside = (self.row_of >= first) & (self.row_of < last)
        narrower = replace(self, row_of=self.row_of - first, starts=self.starts[first : last + 1])
        return narrower, values.where(inside, 0.0)

    def prefix(self, values: Tensor, width: int) -> Tensor:
        """Zero where there is no entry."""
        inside = (self.columns < width) & (self.row_of >= 0) & (self.row_of < self.n_rows)
        places = (self.row_of * width + self.columns).where(inside, 0).long()
        # Each place is met once, but for those outside, which add nothing.
        flat = values.new_zeros(self.n_rows * width)
        return flat.index_add(0, places, values.where(inside, 0.0)).view(self.n_rows, width)

    def places(self, width: int) -> tuple[np.ndarray, np.ndarray] | None:
        """All, rather than wait for the device."""
        del width


def _alone(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """As those of one member."""
    return tuple(None if tensor is None else tensor[None] for tensor in tensors)
