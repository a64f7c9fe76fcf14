"""The largest of a matrix of pre-activations, found on the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saebook.models.sparse.gpu import finding
from saebook.models.sparse.gpu.launching import launch

# Codes of floats: bits below the sign.
CODE_BITS = {torch.bfloat16: 15, torch.float32: 31, torch.float64: 63}
INTEGERS = {torch.bfloat16: torch.int16, torch.float32: torch.int32, torch.float64: torch.int64}
WIDE = {
    torch.bfloat16: torch.float32,
    torch.float32: torch.float32,
    torch.float64: torch.float64,
}
# Groups of a row for each entry looked for: hardly more than k of them then hold one of those.
GROUPS_PER_ENTRY = 4
# Neighbours in a group: 32 bytes is the least that memory hands out, 128 what it likes best.
SMALLEST_GROUP, LARGEST_GROUP = 16, 64
# Of a row; more would not fit in the registers of a program.
MOST_GROUPS = 4096
# Codes of a row that a program holds at once, and up to which it looks at a whole row.
PART, WHOLE_ROW = 2048, 4096
DIGIT_BITS = 8
# Digits of the bound that groups have to reach; a lower bound will do.
BOUND_DIGITS = 2
ROWS_PLACED = 1024


@dataclass(frozen=True)
class Wanted:
    """What is looked for: as many entries of each row, or of the batch, as ``k`` says.

    Attributes
    ----------
    k
        Per row; the largest, where members differ.
    width
        Only the first ``width`` latents take part.
    by_row
        Whether each row has its own k, or the batch shares them.
    """

    k: int
    width: int
    by_row: bool


@dataclass(frozen=True)
class _Layout:
    """How rows are divided."""

    group: int
    groups: int
    listed: bool

    @classmethod
    def of(cls, wanted: Wanted) -> _Layout:
        width = _power_up(wanted.width)
        share = width // (GROUPS_PER_ENTRY * _power_up(wanted.k))
        needed = not wanted.by_row or wanted.width > WHOLE_ROW
        if needed and share >= SMALLEST_GROUP:
            group = max(min(share, LARGEST_GROUP), width // MOST_GROUPS)
            return cls(group, max(1, min(PART, width) // group), True)
        group = min(LARGEST_GROUP, width)
        part = width if wanted.by_row and width <= WHOLE_ROW else min(PART, width)
        return cls(group, part // group, False)


def digits(bits: int) -> list[tuple[int, int]]:
    """Where each digit of a code begins, and its bits, the highest first.

    Examples
    --------
    >>> digits(15), digits(31)
    ([(7, 8), (0, 7)], [(23, 8), (15, 8), (7, 8), (0, 7)])
    """
    found, top = [], bits
    while top > 0:
        width = min(DIGIT_BITS, top)
        top -= width
        found.append((top, width))
    return found


class LargestOf:
    """One search in pre-activations.

    Parameters
    ----------
    h
        [members, n, d_sae], of single or double precision, or bf16.
    bias
        [members, d_sae], where it is yet to be added.
    ks
        [members], int32: each one's k, of which none exceeds that of ``wanted``.
    wanted
        What is looked for.

    What it finds is of single precision at least, in the order of rows and columns; where fewer
    entries are positive than there is room for, zeros follow.
    """

    def __init__(self, h: Tensor, bias: Tensor | None, ks: Tensor, wanted: Wanted):
        self.members, self.n, self.pitch = h.shape
        self.device, self.dtype, self.wanted, self.ks = h.device, h.dtype, wanted, ks
        self.layout = layout = _Layout.of(wanted)
        self.n_slots = self.n * min(wanted.k, wanted.width)
        self.h = h.view(INTEGERS[h.dtype])
        # Of the precision in which sums are made; unused where there is none.
        self.bias = self.h if bias is None else bias.to(WIDE[h.dtype]).contiguous()
        self.shape = {"GROUP": layout.group, "GROUPS": layout.groups, "BIASED": bias is not None}
        self.n_groups = -(-wanted.width // layout.group)
        self.rows = (self.n, self.members)
        self.sizes = (self.n, self.pitch, wanted.width)
        # Unused where nothing is listed.
        self.listed = self.n_listed = ks
        self.state = self.counts = ks
        if layout.listed:
            self._list_groups()

    def _integers(self, *shape: int, zero: bool = False, dtype: Any = torch.int32) -> Tensor:
        make = torch.zeros if zero else torch.empty
        return make(self.members, *shape, dtype=dtype, device=self.device)

    def _list_groups(self) -> None:
        maxima = self._integers(
            self.n, self.n_groups, dtype=torch.int64 if self.dtype == torch.float64 else torch.int32
        )
        parts = -(-self.n_groups // self.layout.groups)
        grid = (self.n, parts, self.members)
        launch(finding.group_maxima, grid, self.h, self.bias, maxima, *self.sizes, **self.shape)
        settled = []
        if not self.wanted.by_row:
            settled = digits(CODE_BITS[self.dtype])[:BOUND_DIGITS]
            part = min(PART, _power_up(self.n_groups))
            self._settle(
                settled,
                maxima,
                (self.n, self.n, self.n_groups, self.n_groups),
                {"GROUP": 1, "GROUPS": part, "LISTED": False, "BIASED": False},
            )
        self.listed = self._integers(self.n, self.n_groups)
        self.n_listed = self._integers(self.n)
        launch(
            finding.list_groups,
            self.rows,
            maxima,
            self.ks,
            self.state,
            self.counts,
            self.listed,
            self.n_listed,
            self.n,
            self.n,
            self.n_groups,
            BY_ROW=self.wanted.by_row,
            STEPS=len(settled),
            SHIFT=settled[-1][0] if settled else 0,
            ALL_GROUPS=_power_up(self.n_groups),
        )

    def _settle(self, steps: list[tuple[int, int]], source: Tensor, sizes: Any, shape: Any) -> None:
        """Digits of the k-th largest code of a batch, one after another."""
        self.state = self._integers(len(steps) + 1, 2, dtype=torch.int64)
        self.counts = self._integers(len(steps), 256, zero=True)
        before = 0
        for step, (shift, digit) in enumerate(steps):
            launch(
                finding.count_digits,
                self.rows,
                source,
                self.bias,
                self.listed,
                self.n_listed,
                self.ks,
                self.state,
                self.counts,
                *sizes,
                STEP=step,
                STEPS=len(steps),
                SHIFT=shift,
                DIGIT=digit,
                SHIFT_BEFORE=before,
                **shape,
            )
            before = shift

    def _outputs(self) -> tuple[Tensor, Tensor]:
        shape = (self.members, self.n_slots)
        values = torch.empty(shape, dtype=WIDE[self.dtype], device=self.device)
        return values, self._integers(self.n_slots)

    def of_rows(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Values, columns, rows [members, n · k] and starts [members, n + 1]."""
        values, columns = self._outputs()
        slots = self.n_slots // max(1, self.n)
        launch(
            finding.select_rows,
            self.rows,
            self.h,
            self.bias,
            self.listed,
            self.n_listed,
            self.ks,
            values,
            columns,
            *self.sizes,
            slots,
            SLOTS=_power_up(slots),
            HALF=self.dtype == torch.bfloat16,
            ONE_PART=not self.layout.listed
            and self.layout.group * self.layout.groups >= self.wanted.width,
            LISTED=self.layout.listed,
            **self.shape,
        )
        row = torch.arange(self.n + 1, dtype=torch.int32, device=self.device)
        rows = row[:-1, None].expand(-1, slots).reshape(1, -1)
        starts = (row * slots)[None]
        return values, columns, rows.expand(self.members, -1), starts.expand(self.members, -1)

    def of_batch(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Values, columns, rows [members, n · k] and starts [members, n + 1]."""
        shape = {**self.shape, "LISTED": self.layout.listed}
        sizes = (self.n, self.n, self.pitch, self.wanted.width)
        steps = digits(CODE_BITS[self.dtype])
        self._settle(steps, self.h, sizes, shape)
        search = (self.h, self.bias, self.listed, self.n_listed, self.ks, self.state, self.counts)
        above, equal = self._integers(self.n), self._integers(self.n)
        launch(
            finding.count_chosen,
            self.rows,
            *search,
            above,
            equal,
            *sizes,
            STEPS=len(steps),
            **shape,
        )
        starts = self._integers(self.n + 1)
        launch(
            finding.place_rows,
            (self.members,),
            above,
            equal,
            *search[4:],
            starts,
            self.n,
            self.n,
            STEPS=len(steps),
            ROWS=ROWS_PLACED,
        )
        values, columns = (part.zero_() for part in self._outputs())
        rows = self._integers(self.n_slots, zero=True)
        launch(
            finding.write_chosen,
            self.rows,
            *search,
            equal,
            starts,
            values,
            columns,
            rows,
            *sizes,
            self.n_slots,
            STEPS=len(steps),
            HALF=self.dtype == torch.bfloat16,
            **shape,
        )
        return values, columns, rows, starts


def _power_up(n: int) -> int:
    """The power of two that is not less."""
    return 1 << max(0, n - 1).bit_length()
