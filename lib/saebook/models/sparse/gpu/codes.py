"""Parts of Triton kernels: codes of pre-activations, and the rows in which they are looked at.

They work on codes: the bits of a float as an integer, which are in the order of the floats where
these are positive; whatever isn't counts as zero, and what is not a number as largest. Matrices
``h`` are [members, n_rows, pitch], integers of which the first ``width`` columns compete, in
groups of ``GROUP`` neighbours; a program looks at ``GROUPS`` of them at once. Where they are
``LISTED``, those are all the groups that it looks at; where ``BIASED``, a bias is yet to be added.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Kernels are called from kernels alone, which type checkers are told is never.
# pyright: reportGeneralTypeIssues=false
# One parameter a line would take a page for each.
# fmt: off


@triton.jit
def read_codes(h, bias, row, member, columns, inside, n_rows, pitch, BIASED: tl.constexpr):
    """Codes of some columns of a row: 32 bits, or 64 for double precision."""
    bits = tl.load(
        h + (member.to(tl.int64) * n_rows + row) * pitch + columns, mask=inside, other=0
    )
    if bits.dtype == tl.int16:
        # The upper half of single precision.
        bits = bits.to(tl.int32) << 16
    if BIASED:
        added = tl.load(bias + member.to(tl.int64) * pitch + columns, mask=inside, other=0.0)
        biased = bits.to(added.dtype, bitcast=True) + added
        bits = biased.to(bits.dtype, bitcast=True)
        if h.dtype.element_ty == tl.int16:
            # Rounded as the product is, to the nearest and half to even.
            rounded = bits + 0x7FFF + ((bits >> 16) & 1)
            bits = tl.where(biased == biased, rounded, bits)
    if bits.dtype == tl.int64:
        size = bits & 0x7FFFFFFFFFFFFFFF
        infinite = size > 0x7FF0000000000000
    else:
        size = bits & 0x7FFFFFFF
        infinite = size > 0x7F800000
    size = tl.where(inside & ((bits > 0) | infinite), size, 0)
    if h.dtype.element_ty == tl.int16:
        size = size >> 16
    return size


@triton.jit
def groups_at(i, listed, row, member, n_rows, width, n_listed, GROUP: tl.constexpr,
              GROUPS: tl.constexpr, LISTED: tl.constexpr):
    """Columns [GROUPS, GROUP] of the i-th part of a row, and which of them exist."""
    place = i * GROUPS + tl.arange(0, GROUPS)
    number = place
    if LISTED:
        n_groups = (width + GROUP - 1) // GROUP
        first = (member.to(tl.int64) * n_rows + row) * n_groups
        number = tl.load(listed + first + place, mask=place < n_listed, other=0)
    columns = number[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    return columns, (place < n_listed)[:, None] & (columns < width)


@triton.jit
def n_groups_of(n_listed, row, member, n_rows, width, GROUP: tl.constexpr, LISTED: tl.constexpr):
    """Groups of a row that are looked at."""
    if LISTED:
        return tl.load(n_listed + member.to(tl.int64) * n_rows + row)
    else:
        return (width + GROUP - 1) // GROUP


@triton.jit
def kth_largest(codes, k):
    """The k-th largest of some codes, or a number between it and the next; 0 if that is."""
    high = tl.max(codes)
    low = high * 0
    while low < high:
        middle = low + (high - low + 1) // 2
        n = tl.sum((codes >= middle).to(tl.int32))
        high = tl.where(n > k, high, tl.where(n == k, middle, middle - 1))
        low = tl.where(n >= k, middle, low)
    return low


@triton.jit
def digits_settled(state, counts, member, n_wanted, STEP: tl.constexpr, STEPS: tl.constexpr,
                   SHIFT: tl.constexpr):
    """Digits of the code looked for that ``STEP`` counts have settled, and its rank below them.

    ``state`` [members, STEPS + 1, 2] holds those of each earlier step; ``counts`` is
    [members, STEPS, 256]; the last of these steps was of the digit at ``SHIFT``.
    """
    prefix = tl.full([], 0, tl.int64)
    rank = n_wanted.to(tl.int64)
    if STEP > 0:
        if STEP > 1:
            before = state + (member * (STEPS + 1) + STEP - 1) * 2
            prefix = tl.load(before)
            rank = tl.load(before + 1)
        n = tl.load(counts + (member * STEPS + STEP - 1) * 256 + tl.arange(0, 256))
        at_least = tl.sum(n, axis=0) - tl.cumsum(n, 0) + n
        digit = tl.maximum(tl.sum((at_least >= rank).to(tl.int32), axis=0) - 1, 0)
        rank -= tl.sum(tl.where(tl.arange(0, 256) > digit, n, 0), axis=0)
        prefix += digit.to(tl.int64) << SHIFT
    return prefix, rank


@triton.jit
def count_beyond(h, bias, listed, row, member, n_rows, pitch, width, number, cut,
                 GROUP: tl.constexpr, GROUPS: tl.constexpr, LISTED: tl.constexpr, BIASED: tl.constexpr):
    """How many of a row's codes exceed a cut, how many equal it, and the largest."""
    above = tl.full([GROUPS, GROUP], 0, tl.int32)
    equal = tl.full([GROUPS, GROUP], 0, tl.int32)
    largest = tl.full([GROUPS, GROUP], 0, cut.dtype)
    for i in range(0, (number + GROUPS - 1) // GROUPS):
        columns, inside = groups_at(
            i, listed, row, member, n_rows, width, number, GROUP, GROUPS, LISTED
        )
        codes = read_codes(h, bias, row, member, columns, inside, n_rows, pitch, BIASED)
        above += (codes > cut).to(tl.int32)
        equal += (codes == cut).to(tl.int32)
        largest = tl.maximum(largest, codes)
    n_above = tl.sum(above)
    n_equal = tl.sum(equal)
    return n_above, n_equal, tl.max(largest)


@triton.jit
def float_of(codes):
    """Floats from codes of single or double precision."""
    if codes.dtype == tl.int64:
        return codes.to(tl.float64, bitcast=True)
    else:
        return codes.to(tl.float32, bitcast=True)


@triton.jit
def write_entries(h, bias, listed, row, member, n_rows, pitch, width, number, cut, n_equal, values,
                  columns_out, first, HALF: tl.constexpr, GROUP: tl.constexpr, GROUPS: tl.constexpr,
                  LISTED: tl.constexpr, BIASED: tl.constexpr):
    """Write a row's entries above a cut, and the first few that equal it, in their order."""
    values += first
    columns_out += first
    n_written = 0
    n_met = 0
    for i in range(0, (number + GROUPS - 1) // GROUPS):
        columns, inside = groups_at(
            i, listed, row, member, n_rows, width, number, GROUP, GROUPS, LISTED
        )
        codes = read_codes(h, bias, row, member, columns, inside, n_rows, pitch, BIASED)
        codes = tl.reshape(codes, [GROUPS * GROUP])
        columns = tl.reshape(columns, [GROUPS * GROUP])
        equal = ((codes == cut) & (codes > 0)).to(tl.int32)
        met = n_met + tl.cumsum(equal, 0)
        kept = (codes > cut) | ((equal > 0) & (met <= n_equal))
        place = n_written + tl.cumsum(kept.to(tl.int32), 0) - 1
        if HALF:
            codes = codes << 16
        tl.store(values + place, float_of(codes), mask=kept)
        tl.store(columns_out + place, columns, mask=kept)
        n_written += tl.sum(kept.to(tl.int32), axis=0)
        n_met += tl.sum(equal, axis=0)
    return n_written
