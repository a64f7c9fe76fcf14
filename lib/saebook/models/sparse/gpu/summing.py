"""Triton kernels that sum over entries: values times rows of a table, and products with them.

Entries are [members, n_entries], each with a value and two indices; those without a value belong
to nothing and cost nothing. Sums are of single precision, or double, in a fixed order.
"""

from __future__ import annotations

import triton
import triton.language as tl


# fmt: off
@triton.jit
def sum_rows(values, indices, order, starts, table, out, sums, n_out, n_entries, d, starts_stride,
             indices_stride, table_stride, ORDERED: tl.constexpr, SUMMED: tl.constexpr,
             ENTRIES: tl.constexpr, WIDTH: tl.constexpr):
    """Σ value · table[index] over the entries of each output [members, n_out, d].

    The i-th output has entries ``starts[i]`` to ``starts[i + 1]``, counted in ``order`` where
    there is one; ``sums`` are of the values alone.
    """
    i, part, member = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    begin = tl.load(starts + member * starts_stride + i)
    end = tl.load(starts + member * starts_stride + i + 1)
    values += member * n_entries
    order += member * n_entries
    indices += member * indices_stride
    table += member * table_stride
    column = part * WIDTH + tl.arange(0, WIDTH)
    exact = out.dtype.element_ty
    total = tl.full([ENTRIES, WIDTH], 0, exact)
    if SUMMED:
        alone = tl.full([ENTRIES], 0, exact)
    for first in range(begin, end, ENTRIES):
        entry = first + tl.arange(0, ENTRIES)
        inside = entry < end
        if ORDERED:
            entry = tl.load(order + entry, mask=inside, other=0)
        value = tl.load(values + entry, mask=inside, other=0.0)
        live = inside & (value != 0)
        index = tl.load(indices + entry, mask=live, other=0).to(tl.int64)
        rows = tl.load(
            table + index[:, None] * d + column[None, :],
            mask=live[:, None] & (column < d)[None, :],
            other=0.0,
        )
        total += value[:, None].to(exact) * rows.to(exact)
        if SUMMED:
            alone += value.to(exact)
    place = out + (member * n_out + i) * d
    tl.store(place + column, tl.sum(total, axis=0), mask=column < d)
    if SUMMED and part == 0:
        tl.store(sums + member * n_out + i, tl.sum(alone, axis=0))


@triton.jit
def multiply_rows(values, indices, starts, left, table, out, n_rows, n_entries, d, starts_stride,
                  indices_stride, left_stride, table_stride, VALUED: tl.constexpr,
                  ENTRIES: tl.constexpr, WIDTH: tl.constexpr):
    """left[row] · table[index] of each entry; where entries are ``VALUED``, of those with one."""
    row, member = tl.program_id(0), tl.program_id(1).to(tl.int64)
    begin = tl.load(starts + member * starts_stride + row)
    end = tl.load(starts + member * starts_stride + row + 1)
    values += member * n_entries
    out += member * n_entries
    indices += member * indices_stride
    table += member * table_stride
    left += member * left_stride + row.to(tl.int64) * d
    exact = out.dtype.element_ty
    for first in range(begin, end, ENTRIES):
        entry = first + tl.arange(0, ENTRIES)
        inside = entry < end
        live = inside
        if VALUED:
            live = inside & (tl.load(values + entry, mask=inside, other=0.0) != 0)
        index = tl.load(indices + entry, mask=live, other=0).to(tl.int64)
        total = tl.full([ENTRIES, WIDTH], 0, exact)
        for begin_column in range(0, d, WIDTH):
            column = begin_column + tl.arange(0, WIDTH)
            known = tl.load(left + column, mask=column < d, other=0.0)
            rows = tl.load(
                table + index[:, None] * d + column[None, :],
                mask=live[:, None] & (column < d)[None, :],
                other=0.0,
            )
            total += known[None, :].to(exact) * rows.to(exact)
        tl.store(out + entry, tl.sum(total, axis=1), mask=inside)


@triton.jit
def sum_values(values, order, starts, out, n_out, n_entries, ENTRIES: tl.constexpr):
    """Σ value over the entries of each output [members, n_out]."""
    i, member = tl.program_id(0), tl.program_id(1).to(tl.int64)
    begin = tl.load(starts + member * (n_out + 1) + i)
    end = tl.load(starts + member * (n_out + 1) + i + 1)
    total = tl.full([ENTRIES], 0, out.dtype.element_ty)
    for first in range(begin, end, ENTRIES):
        place = first + tl.arange(0, ENTRIES)
        entry = tl.load(order + member * n_entries + place, mask=place < end, other=0)
        value = tl.load(values + member * n_entries + entry, mask=place < end, other=0.0)
        total += value.to(out.dtype.element_ty)
    tl.store(out + member * n_out + i, tl.sum(total, axis=0))
