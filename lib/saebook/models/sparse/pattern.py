"""Which pre-activations of a batch take part, and sums over them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function

from saebook.models.entries import Entries
from saebook.models.sparse import compiled
from saebook.models.sparse.threads import spread_evenly


@dataclass(frozen=True, eq=False)
class Pattern(Entries):
    """A few entries of a matrix [n_rows, d_sae], row by row; values are [n_entries].

    Attributes
    ----------
    columns
        [n_entries], int32: the latent of each entry.
    starts
        [n_rows + 1], int64: where the entries of each row begin.
    d_sae
        Columns of the matrix.
    """

    columns: np.ndarray
    starts: np.ndarray
    d_sae: int

    def __len__(self) -> int:
        return len(self.columns)

    @property
    def n_rows(self) -> int:
        """Rows of the matrix."""
        return len(self.starts) - 1

    @cached_property
    def index(self) -> Tensor:
        """``columns``, for looking up what belongs to each entry's latent."""
        return torch.from_numpy(self.columns)

    @property
    def n_summed(self) -> int:
        """Penalties read all entries as one example."""
        return self.n_rows

    @cached_property
    def transposed(self) -> tuple[Pattern, Tensor]:
        """Entries of the transposed matrix, and where each of them is in this one [n_entries]."""
        order = np.empty(len(self), np.int32)
        rows = np.empty(len(self), np.int32)
        starts = np.empty(self.d_sae + 1, np.int64)
        compiled.transpose(self.columns, self.starts, order, rows, starts)
        return Pattern(rows, starts, self.n_rows), torch.from_numpy(order)

    def at(self, per_latent: Tensor) -> Tensor:
        """[n_entries]."""
        return per_latent[self.index]

    def band(self, values: Tensor, first: int, last: int) -> tuple[Entries, Tensor]:
        """A pattern of its own."""
        if first == 0 and last == self.d_sae:
            return self, values
        chosen = np.flatnonzero((self.columns >= first) & (self.columns < last))
        starts = np.searchsorted(chosen, self.starts)
        return Pattern(self.columns[chosen], starts, self.d_sae), values[torch.from_numpy(chosen)]

    def rows(self, values: Tensor, first: int, last: int) -> tuple[Entries, Tensor]:
        """A pattern of its own."""
        begin, end = int(self.starts[first]), int(self.starts[last])
        starts = self.starts[first : last + 1] - begin
        return Pattern(self.columns[begin:end], starts, self.d_sae), values[begin:end]

    def prefix(self, values: Tensor, width: int) -> Tensor:
        """Zero where there is no entry."""
        chosen = np.flatnonzero(self.columns < width)
        row = np.repeat(np.arange(self.n_rows), np.diff(self.starts))[chosen]
        places = torch.from_numpy(row * width + self.columns[chosen])
        flat = values.new_zeros(self.n_rows * width)
        flat = flat.index_put((places,), values[torch.from_numpy(chosen)])
        return flat.view(self.n_rows, width)

    def places(self, width: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Those of the pattern."""
        chosen = np.flatnonzero(self.columns < width)
        return self.columns[chosen], np.searchsorted(chosen, self.starts)

    def times(self, values: Tensor, rows: Tensor) -> Tensor:
        """[n_rows, d]: a sum of decoder rows for each example."""
        return DecodeAt.apply(values, rows, self)  # pyright: ignore[reportReturnType]

    def products(self, x: Tensor, rows: Tensor) -> Tensor:
        """[n_entries], each a product of two vectors."""
        out = rows.new_empty(len(self))
        left, right, made = (part.detach().numpy() for part in (x, rows, out))

        def loop(first: int, last: int) -> None:
            compiled.products(left, right, self.columns, self.starts, first, last, made)

        spread_evenly(loop, self.starts, len(self) * rows.shape[1])
        return out

    def column_sums(self, values: Tensor) -> Tensor:
        """[d_sae]; of booleans their number."""
        return SumOfColumns.apply(values, self)  # pyright: ignore[reportReturnType]

    def column_counts(self) -> Tensor:
        """Entries of each column, [d_sae]."""
        return torch.from_numpy(np.diff(self.transposed[0].starts))

    def n_examples(self, values: Tensor) -> int:
        """Rows."""
        del values
        return self.n_rows

    def sums_of_rows(self, values: Tensor, table: Tensor) -> Tensor:
        """The matrix of these values times a table [d_sae, d], without gradients: [n_rows, d]."""
        out = table.new_empty(self.n_rows, table.shape[1])
        entries, rows, made = (part.detach().numpy() for part in (values, table, out))

        def loop(first: int, last: int) -> None:
            compiled.sum_rows(entries, self.columns, self.starts, rows, first, last, made)

        spread_evenly(loop, self.starts, len(self) * table.shape[1])
        return out

    def sums_of_examples(self, values: Tensor, table: Tensor) -> Tensor:
        """The transposed matrix times a table [n_rows, d], without gradients: [d_sae, d]."""
        pattern, order = self.transposed
        return pattern.sums_of_rows(values.detach().index_select(0, order), table)


class SumOfColumns(Function):
    """Sums over examples of values at the entries of a pattern."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, pattern: Pattern) -> Tensor:
        """[n_entries] -> [d_sae]."""
        ctx.pattern = pattern
        dtype = torch.float32 if values.dtype == torch.bool else values.dtype
        sums = values.new_zeros(pattern.d_sae, dtype=dtype)
        compiled.sum_columns(values.detach().numpy(), pattern.columns, sums.numpy())
        return sums

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Each value has the gradient of its column."""
        return gradients[0].index_select(0, ctx.pattern.index), None


class DecodeAt(Function):
    """``latents @ W_dec`` for latents that are zero outside a pattern."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, rows: Tensor, pattern: Pattern) -> Tensor:
        """Values [n_entries] and rows [d_sae, d] -> [n, d]."""
        ctx.save_for_backward(values, rows)
        ctx.pattern = pattern
        return pattern.sums_of_rows(values, rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the values, and of the rows if they learn."""
        gradient = gradients[0].contiguous()
        values, rows = ctx.saved_tensors
        learns = ctx.needs_input_grad[1]
        towards_rows = ctx.pattern.sums_of_examples(values, gradient) if learns else None
        return ctx.pattern.products(gradient, rows), towards_rows, None


class EncodeAt(Function):
    """``h = (x - b_dec) @ W_enc + b_enc`` at the entries of a pattern.

    The values are known already, from the search for the pattern; what is added here is their
    gradient, which costs no product of full size: the input needs none, and ``b_dec`` gets
    minus the gradient of ``b_enc`` through the encoder, a product with one vector.
    """

    @staticmethod
    def forward(
        ctx: Any,
        encoder_rows: Tensor,
        b_enc: Tensor,
        b_dec: Tensor | None,
        x: Tensor,
        values: Tensor,
        pattern: Pattern,
    ) -> Tensor:
        """The values [n_entries]; ``x`` [n, d] is what the encoder multiplies."""
        ctx.save_for_backward(encoder_rows, x)
        ctx.pattern, ctx.has_b_dec = pattern, b_dec is not None
        return values.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the weights and both biases."""
        (gradient,) = gradients
        encoder_rows, x = ctx.saved_tensors
        bias = ctx.pattern.column_sums(gradient)
        towards_input = -(bias @ encoder_rows) if ctx.has_b_dec else None
        rows = ctx.pattern.sums_of_examples(gradient, x)
        return rows, bias, towards_input, None, None, None
