"""Compiled loops over the few entries of a batch that take part; ranges of rows, no state.

Each loop releases the interpreter and works on rows ``first`` to ``last`` alone, so that
:mod:`saebook.models.sparse.threads` may hand parts of a batch to several threads. Kept apart
because numba takes half a second to import. The machine code is cached beside this file (or in
the user's cache folder), so it is compiled once per installation.
"""

from __future__ import annotations

from collections.abc import Callable

import numba
import numpy as np
from numba.cpython.unsafe.numbers import trailing_zeros

# Reordered sums run in vector instructions; NaN and infinity keep their meaning.
SUMS = {"reassoc", "contract", "nsz"}
# Groups of a row for each entry that is looked for: the k-th largest group maximum then lets
# hardly more than k entries pass.
GROUPS_PER_ENTRY = 4
LANES = 8
# Entries tested at once before any of them is looked at: as many as a number has bits.
BLOCK = 64


def _compile(fast: bool = False) -> Callable[[Callable], Callable]:
    settings = {"nogil": True, "fastmath": SUMS if fast else False, "error_model": "numpy"}

    def compiled(function: Callable) -> Callable:
        try:
            return numba.njit(cache=True, **settings)(function)
        except RuntimeError:
            # Neither the library's folder nor the user's cache can be written.
            return numba.njit(**settings)(function)

    return compiled


@_compile()
def _kth_largest(values, n, k):
    """Return the k-th largest of the first n values, which change places."""
    low, high = 0, n - 1
    while low < high:
        pivot = values[(low + high) // 2]
        i, j = low, high
        while i <= j:
            while values[i] > pivot:
                i += 1
            while values[j] < pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if k - 1 <= j:
            high = j
        elif k - 1 >= i:
            low = i
        else:
            break
    return values[k - 1]


@_compile(fast=True)
def largest_of_rows(h, width, k, first, last, values, columns, counts):
    """Write the k largest positive entries of each row, in any order.

    Parameters
    ----------
    h
        [n, d_sae], finite.
    width
        Only the first ``width`` columns compete.
    k
        Entries to keep.
    values, columns
        Written: [n, k]. Of row r only the first ``counts[r]`` are.
    counts
        Written: [n], at most k; fewer where fewer are positive.
    """
    n_groups = min(width, LANES * ((GROUPS_PER_ENTRY * k + LANES - 1) // LANES))
    maxima = np.empty(n_groups, h.dtype)
    mixed = np.empty(width, h.dtype)
    some = np.empty(width, h.dtype)
    where = np.empty(width, np.int32)
    smallest = np.finfo(h.dtype).tiny
    whole = width // n_groups
    for r in range(first, last):
        row = h[r]
        # Groups are strided, so that their maxima are found in vector instructions.
        for g in range(n_groups):
            maxima[g] = row[g]
        for step in range(1, whole):
            part = row[step * n_groups : (step + 1) * n_groups]
            for g in range(n_groups):
                maxima[g] = part[g] if part[g] > maxima[g] else maxima[g]
        rest = row[whole * n_groups : width]
        for g in range(len(rest)):
            maxima[g] = rest[g] if rest[g] > maxima[g] else maxima[g]
        # At least k entries reach the k-th largest maximum.
        bound = smallest
        if n_groups > k:
            for g in range(n_groups):
                mixed[g] = maxima[g]
            bound = max(_kth_largest(mixed, n_groups, k), smallest)
        n = 0
        for g in range(n_groups):
            if maxima[g] >= bound:
                for i in range(g, width, n_groups):
                    if row[i] >= bound:
                        some[n] = row[i]
                        where[n] = i
                        n += 1
        n_kept, n_equal = n, 0
        cut = bound
        if n > k:
            for i in range(n):
                mixed[i] = some[i]
            cut = _kth_largest(mixed, n, k)
            n_equal = k
            for i in range(n):
                n_equal -= some[i] > cut
            n_kept = k
        place = 0
        for i in range(n):
            if n <= k or some[i] > cut or (some[i] == cut and n_equal > 0):
                n_equal -= some[i] == cut
                values[r, place] = some[i]
                columns[r, place] = where[i]
                place += 1
        counts[r] = n_kept


@_compile(fast=True)
def take_above(h, floor, width, values, columns, counts):
    """Write the entries that exceed their floor, row by row in the order of their columns.

    Parameters
    ----------
    h
        [n, d_sae].
    floor
        [d_sae].
    width
        Only the first ``width`` columns take part.
    values, columns
        Written: [n · width], of which the first entries are.
    counts
        Written: [n], how many there are in each row.

    Returns
    -------
    int
        How many there are in all.
    """
    n_blocks = width // BLOCK
    n = 0
    for r in range(len(h)):
        row, before = h[r], n
        for block in range(n_blocks):
            begin = block * BLOCK
            part, least = row[begin : begin + BLOCK], floor[begin : begin + BLOCK]
            # One bit for each entry: of known length, this runs in vector instructions.
            above = np.uint64(0)
            for i in range(BLOCK):
                above |= np.uint64(part[i] > least[i]) << np.uint64(i)
            while above:
                i = np.int64(trailing_zeros(above))  # pyright: ignore[reportCallIssue]
                values[n] = part[i]
                columns[n] = begin + i
                n += 1
                above &= above - np.uint64(1)
        for i in range(n_blocks * BLOCK, width):
            if row[i] > floor[i]:
                values[n] = row[i]
                columns[n] = i
                n += 1
        counts[r] = n - before
    return n


@_compile()
def keep_largest(values, columns, starts, cut, n_equal, kept_values, kept_columns, kept_starts):
    """Copy the entries above a cut, and the first ``n_equal`` of those that equal it."""
    n = 0
    for r in range(len(starts) - 1):
        kept_starts[r] = n
        for e in range(starts[r], starts[r + 1]):
            if values[e] > cut or (values[e] == cut and n_equal > 0):
                if values[e] == cut:
                    n_equal -= 1
                kept_values[n] = values[e]
                kept_columns[n] = columns[e]
                n += 1
    kept_starts[len(starts) - 1] = n


@_compile(fast=True)
def sum_rows(values, columns, starts, table, first, last, out):
    """Write ``out[r] = Σ_e values[e] · table[columns[e]]`` over the entries e of row r.

    Parameters
    ----------
    values, columns
        [n_entries].
    starts
        [n + 1].
    table
        [d_sae, d].
    out
        Written: [n, d].
    """
    d = table.shape[1]
    for r in range(first, last):
        made = out[r]
        for i in range(d):
            made[i] = 0.0
        e, end = starts[r], starts[r + 1]
        while e + 4 <= end:
            a, b, c, f = values[e], values[e + 1], values[e + 2], values[e + 3]
            ta, tb = table[columns[e]], table[columns[e + 1]]
            tc, tf = table[columns[e + 2]], table[columns[e + 3]]
            for i in range(d):
                made[i] += (a * ta[i] + b * tb[i]) + (c * tc[i] + f * tf[i])
            e += 4
        while e < end:
            a = values[e]
            ta = table[columns[e]]
            for i in range(d):
                made[i] += a * ta[i]
            e += 1


@_compile(fast=True)
def products(x, table, columns, starts, first, last, out):
    """Write ``out[e] = x[r] · table[columns[e]]`` for the entries e of each row r.

    Parameters
    ----------
    x
        [n, d].
    table
        [d_sae, d].
    columns, starts
        As for `sum_rows`.
    out
        Written: [n_entries].
    """
    d = table.shape[1]
    for r in range(first, last):
        one = x[r]
        for e in range(starts[r], starts[r + 1]):
            other = table[columns[e]]
            total = one.dtype.type(0)
            for i in range(d):
                total += one[i] * other[i]
            out[e] = total


@_compile()
def sum_columns(values, columns, sums):
    """Add the values of each column's entries.

    Parameters
    ----------
    values, columns
        As for `sum_rows`; booleans count.
    sums
        Added to: [d_sae].
    """
    for e in range(len(columns)):
        sums[columns[e]] += values[e]


@_compile()
def transpose(columns, starts, order, rows, column_starts):
    """Sort entries by column, keeping the order of rows within each.

    Parameters
    ----------
    columns, starts
        As for `sum_rows`.
    order
        Written: [n_entries], the entry at each place of the sorted ones.
    rows
        Written: [n_entries], its row.
    column_starts
        Written: [d_sae + 1], where the entries of each column begin.
    """
    d_sae = len(column_starts) - 1
    for j in range(d_sae + 1):
        column_starts[j] = 0
    for e in range(len(columns)):
        column_starts[columns[e] + 1] += 1
    for j in range(d_sae):
        column_starts[j + 1] += column_starts[j]
    place = column_starts[:-1].copy()
    for r in range(len(starts) - 1):
        for e in range(starts[r], starts[r + 1]):
            p = place[columns[e]]
            order[p] = e
            rows[p] = r
            place[columns[e]] = p + 1


@_compile(fast=True)
def keep_positive(h, first, last, sums, counts):
    """Set what is negative to zero, in place, and add up each column.

    Parameters
    ----------
    h
        Changed: [n, d_sae]. NaN stays.
    sums
        Added to: [d_sae], of what is kept.
    counts
        Added to: [d_sae], how many are positive.
    """
    width = h.shape[1]
    zero = h.dtype.type(0)
    for r in range(first, last):
        row = h[r]
        for i in range(width):
            value = row[i]
            kept = zero if value < 0 else value
            row[i] = kept
            sums[i] += kept
            counts[i] += np.int32(value > 0)


@_compile(fast=True)
def keep_gradients(latents, gradient, shared, first, last):
    """Add what all examples share, where a latent is positive, and set the rest to zero.

    Parameters
    ----------
    latents
        [n, d_sae].
    gradient
        Changed: [n, d_sae].
    shared
        [d_sae].
    """
    width = latents.shape[1]
    zero = latents.dtype.type(0)
    for r in range(first, last):
        row, kept = gradient[r], latents[r]
        for i in range(width):
            row[i] = row[i] + shared[i] if kept[i] > 0 else zero
