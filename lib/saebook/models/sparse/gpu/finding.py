"""Triton kernels that find the largest pre-activations: of each row, or of a whole batch.

Row r of member m is program (r, m). What they share, and what the words mean, is in
:mod:`saebook.models.sparse.gpu.codes`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from saebook.models.sparse.gpu.codes import (
    count_beyond,
    digits_settled,
    groups_at,
    kth_largest,
    n_groups_of,
    read_codes,
    write_entries,
)

# pyright: reportGeneralTypeIssues=false
# fmt: off


@triton.jit
def group_maxima(h, bias, out, n_rows, pitch, width, GROUP: tl.constexpr, GROUPS: tl.constexpr,
                 BIASED: tl.constexpr):
    """The largest code of each group, [members, n_rows, n_groups]: the one pass over all of h."""
    row, i, member = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    n_groups = (width + GROUP - 1) // GROUP
    columns, inside = groups_at(i, out, row, member, n_rows, width, n_groups, GROUP, GROUPS, False)
    codes = read_codes(h, bias, row, member, columns, inside, n_rows, pitch, BIASED)
    place = i * GROUPS + tl.arange(0, GROUPS)
    first = (member.to(tl.int64) * n_rows + row) * n_groups
    tl.store(out + first + place, tl.max(codes, axis=1), mask=place < n_groups)


@triton.jit
def count_digits(h, bias, listed, n_listed, ks, state, counts, n_rows, n_examples, pitch, width,
                 STEP: tl.constexpr, STEPS: tl.constexpr, SHIFT: tl.constexpr,
                 DIGIT: tl.constexpr, SHIFT_BEFORE: tl.constexpr, GROUP: tl.constexpr,
                 GROUPS: tl.constexpr, LISTED: tl.constexpr, BIASED: tl.constexpr):
    """How often each next digit occurs among codes that share the digits known so far.

    The digit has ``DIGIT`` bits, above ``SHIFT`` others.
    """
    row, member = tl.program_id(0), tl.program_id(1)
    n_wanted = tl.load(ks + member).to(tl.int64) * n_examples
    prefix, rank = digits_settled(state, counts, member, n_wanted, STEP, STEPS, SHIFT_BEFORE)
    if row == 0:
        here = state + (member * (STEPS + 1) + STEP) * 2
        tl.store(here, prefix)
        tl.store(here + 1, rank)
    number = n_groups_of(n_listed, row, member, n_rows, width, GROUP, LISTED)
    n = tl.full([256], 0, tl.int32)
    for i in range(0, (number + GROUPS - 1) // GROUPS):
        columns, inside = groups_at(
            i, listed, row, member, n_rows, width, number, GROUP, GROUPS, LISTED
        )
        codes = read_codes(h, bias, row, member, columns, inside, n_rows, pitch, BIASED)
        alike = codes > 0
        if STEP > 0:
            known = (prefix >> (SHIFT + DIGIT)).to(codes.dtype)
            alike = alike & ((codes >> (SHIFT + DIGIT)) == known)
        digits = ((codes >> SHIFT) & ((1 << DIGIT) - 1)).to(tl.int32)
        n += tl.histogram(
            tl.reshape(digits, [GROUPS * GROUP]), 256, tl.reshape(alike, [GROUPS * GROUP])
        )
    place = counts + (member * STEPS + STEP) * 256 + tl.arange(0, 256)
    tl.atomic_add(place, n, mask=n > 0, sem="relaxed")


@triton.jit
def list_groups(maxima, ks, state, counts, listed, n_listed, n_rows, n_examples, n_groups,
                BY_ROW: tl.constexpr, STEPS: tl.constexpr, SHIFT: tl.constexpr,
                ALL_GROUPS: tl.constexpr):
    """Groups whose largest code reaches that of the k-th best group: they hold all k largest.

    The k-th best of the row; or, of the whole batch, the code that has been settled.
    """
    row, member = tl.program_id(0), tl.program_id(1)
    first = (member.to(tl.int64) * n_rows + row) * n_groups
    number = tl.arange(0, ALL_GROUPS)
    codes = tl.load(maxima + first + number, mask=number < n_groups, other=0)
    k = tl.load(ks + member)
    if BY_ROW:
        bound = kth_largest(codes[None, :], k)
    else:
        n_wanted = k.to(tl.int64) * n_examples
        prefix, _ = digits_settled(state, counts, member, n_wanted, STEPS, STEPS, SHIFT)
        bound = prefix.to(codes.dtype)
    chosen = (codes > 0) & (codes >= bound)
    place = tl.cumsum(chosen.to(tl.int32), 0) - 1
    tl.store(listed + first + place, number, mask=chosen)
    tl.store(n_listed + member.to(tl.int64) * n_rows + row, tl.sum(chosen.to(tl.int32), axis=0))


@triton.jit
def select_rows(h, bias, listed, n_listed, ks, values, columns, n_rows, pitch, width, n_slots,
                SLOTS: tl.constexpr, HALF: tl.constexpr, ONE_PART: tl.constexpr,
                GROUP: tl.constexpr, GROUPS: tl.constexpr, LISTED: tl.constexpr,
                BIASED: tl.constexpr):
    """The k largest positive entries of each row, in ``n_slots``; zeros where there are fewer.

    By halving the interval in which the k-th largest code lies, until k codes are above.
    """
    row, member = tl.program_id(0), tl.program_id(1)
    k = tl.load(ks + member)
    number = n_groups_of(n_listed, row, member, n_rows, width, GROUP, LISTED)
    if ONE_PART:
        columns_here, inside = groups_at(
            0, listed, row, member, n_rows, width, number, GROUP, GROUPS, LISTED
        )
        codes = read_codes(h, bias, row, member, columns_here, inside, n_rows, pitch, BIASED)
        cut = kth_largest(codes, k)
        n_above = tl.sum((codes > cut).to(tl.int32))
    else:
        none = tl.full([], 0, tl.int64 if values.dtype.element_ty == tl.float64 else tl.int32)
        _, _, high = count_beyond(
            h, bias, listed, row, member, n_rows, pitch, width, number, none,
            GROUP, GROUPS, LISTED, BIASED,
        )
        cut = none
        while cut < high:
            middle = cut + (high - cut + 1) // 2
            n, _, _ = count_beyond(
                h, bias, listed, row, member, n_rows, pitch, width, number, middle - 1,
                GROUP, GROUPS, LISTED, BIASED,
            )
            high = tl.where(n > k, high, tl.where(n == k, middle, middle - 1))
            cut = tl.where(n >= k, middle, cut)
        n_above, _, _ = count_beyond(
            h, bias, listed, row, member, n_rows, pitch, width, number, cut,
            GROUP, GROUPS, LISTED, BIASED,
        )
    first = (member.to(tl.int64) * n_rows + row) * n_slots
    n_written = write_entries(
        h, bias, listed, row, member, n_rows, pitch, width, number, cut, k - n_above, values,
        columns, first, HALF, GROUP, GROUPS, LISTED, BIASED,
    )
    slot = tl.arange(0, SLOTS)
    empty = (slot >= n_written) & (slot < n_slots)
    tl.store(values + first + slot, tl.full([SLOTS], 0, values.dtype.element_ty), mask=empty)
    tl.store(columns + first + slot, tl.full([SLOTS], 0, tl.int32), mask=empty)


@triton.jit
def count_chosen(h, bias, listed, n_listed, ks, state, counts, above, equal, n_rows, n_examples,
                 pitch, width, STEPS: tl.constexpr, GROUP: tl.constexpr, GROUPS: tl.constexpr,
                 LISTED: tl.constexpr, BIASED: tl.constexpr):
    """Of each row, how many codes exceed the batch's cut, and how many equal it."""
    row, member = tl.program_id(0), tl.program_id(1)
    n_wanted = tl.load(ks + member).to(tl.int64) * n_examples
    cut, _ = digits_settled(state, counts, member, n_wanted, STEPS, STEPS, 0)
    number = n_groups_of(n_listed, row, member, n_rows, width, GROUP, LISTED)
    if h.dtype.element_ty.primitive_bitwidth < 64:
        cut = cut.to(tl.int32)
    n_above, n_equal, _ = count_beyond(
        h, bias, listed, row, member, n_rows, pitch, width, number, cut,
        GROUP, GROUPS, LISTED, BIASED,
    )
    place = member.to(tl.int64) * n_rows + row
    tl.store(above + place, n_above)
    tl.store(equal + place, tl.where(cut > 0, n_equal, 0))


@triton.jit
def place_rows(above, equal, ks, state, counts, starts, n_rows, n_examples,
               STEPS: tl.constexpr, ROWS: tl.constexpr):
    """Where each row's entries begin; of those that equal the cut, the first rows' are kept.

    What is kept of them replaces ``equal``.
    """
    member = tl.program_id(0)
    n_wanted = tl.load(ks + member).to(tl.int64) * n_examples
    _, rank = digits_settled(state, counts, member, n_wanted, STEPS, STEPS, 0)
    first = member.to(tl.int64) * n_rows
    n_kept = 0
    n_met = 0
    tl.store(starts + first + member, 0)
    for begin in range(0, n_rows, ROWS):
        row = begin + tl.arange(0, ROWS)
        inside = row < n_rows
        here = tl.load(equal + first + row, mask=inside, other=0)
        before = n_met + tl.cumsum(here, 0) - here
        kept = tl.minimum(tl.maximum(rank.to(tl.int32) - before, 0), here)
        n = kept + tl.load(above + first + row, mask=inside, other=0)
        tl.store(equal + first + row, kept, mask=inside)
        tl.store(starts + first + member + row + 1, n_kept + tl.cumsum(n, 0), mask=inside)
        n_kept += tl.sum(n, axis=0)
        n_met += tl.sum(here, axis=0)


@triton.jit
def write_chosen(h, bias, listed, n_listed, ks, state, counts, kept, starts, values, columns,
                 rows, n_rows, n_examples, pitch, width, n_slots, STEPS: tl.constexpr,
                 HALF: tl.constexpr, GROUP: tl.constexpr, GROUPS: tl.constexpr,
                 LISTED: tl.constexpr, BIASED: tl.constexpr):
    """Write each row's entries above the batch's cut, and those kept that equal it."""
    row, member = tl.program_id(0), tl.program_id(1)
    n_wanted = tl.load(ks + member).to(tl.int64) * n_examples
    cut, _ = digits_settled(state, counts, member, n_wanted, STEPS, STEPS, 0)
    number = n_groups_of(n_listed, row, member, n_rows, width, GROUP, LISTED)
    if h.dtype.element_ty.primitive_bitwidth < 64:
        cut = cut.to(tl.int32)
    place = member.to(tl.int64) * n_rows + row
    begin = tl.load(starts + place + member)
    first = member.to(tl.int64) * n_slots + begin
    n_written = write_entries(
        h, bias, listed, row, member, n_rows, pitch, width, number, cut, tl.load(kept + place),
        values, columns, first, HALF, GROUP, GROUPS, LISTED, BIASED,
    )
    for i in range(0, n_written, GROUPS * GROUP):
        slot = i + tl.arange(0, GROUPS * GROUP)
        tl.store(rows + first + slot, slot * 0 + row, mask=slot < n_written)
