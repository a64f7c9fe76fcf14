"""Sums over the entries of a batch, on a GPU.

Every tensor has a leading axis of members, so that a stack of SAEs is one launch.

Memory traffic: each of the four sums of a step (reconstruction, gradients of latents and of both
matrices) reads one row of a table for each entry. For n = 8192, k = 64 and d = 4096 in bf16 these
are 524,288 rows of 8 KB, 4.3 GB, less what caches still hold; the matrices' gradients write 1.07 GB
each (d_sae = 65,536, fp32). In all 19.3 GB, 6.4 ms at 3.0 TB/s; products of full size would be four
of 4.4 TFLOP. For n = 1024, k = 16 and d = 128 in fp32 it is 8.4 MB a sum, all of it in caches.
"""

from __future__ import annotations

import torch
from torch import Tensor

from saebook.models.sparse.gpu import summing
from saebook.models.sparse.gpu.launching import launch

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


def values_of_columns(values: Tensor, order: Tensor, starts: Tensor) -> Tensor:
    """Sums of each column's values alone, [members, n_columns]; see :func:`sums_of_columns`."""
    values = values.contiguous()
    (members, n_entries), n_columns = values.shape, starts.shape[1] - 1
    out = values.new_empty(members, n_columns)
    launch(
        summing.sum_values,
        (n_columns, members),
        values,
        order,
        starts,
        out,
        n_columns,
        n_entries,
        warps=1,
        ENTRIES=SUMMED_VALUES,
    )
    return out


def sums_of_examples(
    values: Tensor,
    columns: Tensor,
    rows: Tensor,
    order: Tensor | None,
    starts: Tensor | None,
    table: Tensor,
    n_columns: int,
) -> tuple[Tensor, Tensor]:
    """The transposed matrix of some entries times a table, and its row sums.

    Parameters
    ----------
    values, columns, rows
        [members, n_entries].
    order, starts
        Of :func:`saebook.models.sparse.gpu.searching.by_column`; without them it is a product of
        the matrix itself.
    table
        [members, n, d].
    n_columns
        Of the matrix.

    Returns
    -------
    tuple
        [members, n_columns, d] and [members, n_columns].
    """
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
