"""Sums over the entries of a batch, with their gradients, on a GPU.

Every tensor has a leading axis of members, so that a stack of SAEs is one launch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from saebook.models.sparse.gpu import summing
from saebook.models.sparse.gpu.launching import launch
from saebook.models.sparse.gpu.members import over_members

# Columns of a table that a program reads at once, and numbers that it holds.
WIDEST_PART, PART = 512, 4096
MOST_ENTRIES = 16
SUMMED_VALUES = 64


def sums_of_rows(values: Tensor, indices: Tensor, starts: Tensor, table: Tensor) -> Tensor:
    """Σ value · table[index] of each row's entries.

    Parameters
    ----------
    values, indices
        [members, n_entries].
    starts
        [members, n + 1], int32: where each row's entries begin.
    table
        [members, n_table, d], of single precision or less.

    Returns
    -------
    Tensor
        [members, n, d], of the values' precision.
    """
    out, _ = _sums(values, indices, None, starts, table, False)
    return out


def sums_of_columns(
    values: Tensor, rows: Tensor, order: Tensor, starts: Tensor, table: Tensor
) -> tuple[Tensor, Tensor]:
    """The same for the entries of each column, in ``order``, and the sums of their values.

    Returns
    -------
    tuple
        [members, n_columns, d] and [members, n_columns].
    """
    return _sums(values, rows, order, starts, table, True)


def _sums(
    values: Tensor,
    indices: Tensor,
    order: Tensor | None,
    starts: Tensor,
    table: Tensor,
    alone: bool,
) -> tuple[Tensor, Tensor]:
    values, table = values.contiguous(), _rows_together(table)
    (members, n_entries), n_out, d = values.shape, starts.shape[1] - 1, table.shape[2]
    out = values.new_empty(members, n_out, d)
    sums = values.new_empty(members, n_out) if alone else out
    width = min(WIDEST_PART, _power_up(d))
    launch(
        summing.sum_rows,
        (n_out, -(-d // width), members),
        values,
        indices,
        indices if order is None else order,
        starts,
        table,
        out,
        sums,
        n_out,
        n_entries,
        d,
        starts.stride(0),
        indices.stride(0),
        table.stride(0),
        ORDERED=order is not None,
        SUMMED=alone,
        ENTRIES=max(1, min(MOST_ENTRIES, PART // width)),
        WIDTH=width,
    )
    return out, sums


def products_with_rows(
    values: Tensor | None, indices: Tensor, starts: Tensor, left: Tensor, table: Tensor
) -> Tensor:
    """left[row] · table[index] of each entry; zero for those whose value is.

    Parameters
    ----------
    values, indices
        [members, n_entries]; without values every entry counts.
    starts
        [members, n + 1].
    left, table
        [members, n, d] and [members, n_table, d].

    Returns
    -------
    Tensor
        [members, n_entries], of single precision at least.
    """
    left, table = _rows_together(left), _rows_together(table)
    members, n_entries = indices.shape
    n_rows, d = left.shape[1:]
    exact = torch.float64 if torch.float64 in (left.dtype, table.dtype) else torch.float32
    out = torch.zeros(members, n_entries, dtype=exact, device=left.device)
    width = min(WIDEST_PART, _power_up(d))
    launch(
        summing.multiply_rows,
        (n_rows, members),
        out if values is None else values.contiguous(),
        indices,
        starts,
        left,
        table,
        out,
        n_rows,
        n_entries,
        d,
        starts.stride(0),
        indices.stride(0),
        left.stride(0),
        table.stride(0),
        VALUED=values is not None,
        ENTRIES=max(1, min(MOST_ENTRIES, PART // width)),
        WIDTH=width,
    )
    return out


def matrix(values: Tensor, columns: Tensor, rows: Tensor, n_rows: int, n_columns: int) -> Tensor:
    """The matrices [members, n_rows, n_columns] whose entries these are."""
    flat = values.new_zeros(len(values), n_rows * n_columns)
    live = values != 0
    places = torch.where(live, rows.long() * n_columns + columns, 0)
    # Each place is met once, but for those without a value, which add nothing.
    return flat.scatter_add_(1, places, values).view(-1, n_rows, n_columns)


@over_members
class EncodeAt(Function):
    """``h = (x - b_dec) @ W_enc + b_enc`` at entries that are known already.

    What is added to their values is the gradient, without a product of full size: see
    :class:`saebook.models.sparse.pattern.EncodeAt`. Without an order of columns it is a product
    after all, of the matrix whose entries these are.
    """

    @staticmethod
    def forward(
        encoder_rows: Tensor,
        b_enc: Tensor,
        b_dec: Tensor | None,
        x: Tensor,
        values: Tensor,
        columns: Tensor,
        rows: Tensor,
        order: Tensor | None,
        column_starts: Tensor | None,
    ) -> Tensor:
        """The values [members, n_entries]; ``x`` [members, n, d] is what the encoder multiplies."""
        return values.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Keep what the gradients need."""
        encoder_rows, _, b_dec, x, _, columns, rows, order, starts = inputs
        ctx.has_b_dec = b_dec is not None
        ctx.save_for_backward(encoder_rows, x, columns, rows, order, starts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the weights and both biases."""
        encoder_rows, x, columns, rows, order, starts = ctx.saved_tensors
        with torch.autocast(x.device.type, enabled=False):
            weights, bias = _towards_rows(
                gradients[0], columns, rows, order, starts, x, encoder_rows.shape[1]
            )
            towards_input = None
            if ctx.has_b_dec:
                towards_input = -(bias[:, None] @ encoder_rows)[:, 0]
        return weights, bias, towards_input, *[None] * 6


@over_members
class DecodeAt(Function):
    """``latents @ W_dec`` for latents that are zero outside some entries.

    ``table`` holds the numbers of ``decoder_rows``, of lower precision under autocast.
    """

    @staticmethod
    def forward(
        values: Tensor,
        decoder_rows: Tensor,
        table: Tensor,
        columns: Tensor,
        rows: Tensor,
        starts: Tensor,
        order: Tensor | None,
        column_starts: Tensor | None,
    ) -> Tensor:
        """Values [members, n_entries] and rows [members, d_sae, d] -> [members, n, d]."""
        return sums_of_rows(values, columns, starts, table)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Keep what the gradients need."""
        values, _, table, *places = inputs
        ctx.save_for_backward(values, table, *places)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the values, and of the rows if they learn."""
        values, table, columns, rows, starts, order, column_starts = ctx.saved_tensors
        # Read once for each entry, twice: it is worth being of the table's precision.
        gradient = gradients[0].to(table.dtype)
        towards_values = towards_rows = None
        with torch.autocast(table.device.type, enabled=False):
            if ctx.needs_input_grad[0]:
                towards_values = products_with_rows(values, columns, starts, gradient, table)
            if ctx.needs_input_grad[1]:
                towards_rows, _ = _towards_rows(
                    values, columns, rows, order, column_starts, gradient, table.shape[1]
                )
        return towards_values, towards_rows, *[None] * 6


@over_members
class Products(Function):
    """``(x @ table.T)`` at some entries, without gradients."""

    @staticmethod
    def forward(columns: Tensor, starts: Tensor, x: Tensor, table: Tensor) -> Tensor:
        """[members, n_entries]."""
        return products_with_rows(None, columns, starts, x, table)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """There is nothing to keep."""
        ctx.mark_non_differentiable(output)


@over_members
class ColumnSums(Function):
    """Sums of the entries of each column."""

    @staticmethod
    def forward(
        values: Tensor,
        columns: Tensor,
        rows: Tensor,
        order: Tensor | None,
        column_starts: Tensor | None,
        n_rows: int,
        n_columns: int,
    ) -> Tensor:
        """[members, n_columns]."""
        if order is None or column_starts is None:
            return matrix(values, columns, rows, n_rows, n_columns).sum(dim=1)
        values = values.contiguous()
        out = values.new_empty(len(values), n_columns)
        launch(
            summing.sum_values,
            (n_columns, len(values)),
            values,
            order,
            column_starts,
            out,
            n_columns,
            values.shape[1],
            warps=1,
            ENTRIES=SUMMED_VALUES,
        )
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Keep what the gradients need."""
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """What belongs to each entry's column."""
        (columns,) = ctx.saved_tensors
        return gradients[0].gather(1, columns.long()), *[None] * 6


def _towards_rows(
    values: Tensor,
    columns: Tensor,
    rows: Tensor,
    order: Tensor | None,
    starts: Tensor | None,
    table: Tensor,
    n_columns: int,
) -> tuple[Tensor, Tensor]:
    """The transposed matrix of these entries times a table [members, n, d], and its row sums."""
    if order is not None and starts is not None:
        return sums_of_columns(values, rows, order, starts, table)
    whole = matrix(values, columns, rows, table.shape[1], n_columns)
    return (whole.to(table.dtype).mT @ table).to(values.dtype), whole.sum(dim=1)


def _rows_together(table: Tensor) -> Tensor:
    """With rows that lie one after another; members may share them."""
    d = table.shape[2]
    return table if table.stride()[1:] == (d, 1) else table.contiguous()


def _power_up(n: int) -> int:
    """The power of two that is not less."""
    return 1 << max(0, n - 1).bit_length()
