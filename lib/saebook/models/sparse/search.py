"""Finding the few pre-activations of a batch that matter, without ever holding all of them.

The encoder's product is computed for some examples at a time, into one buffer; what is wanted of
those is taken while it lies in the processor's cache.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from saebook.models.shares import Shares, cut_over
from saebook.models.sparse import compiled
from saebook.models.sparse.pattern import Pattern
from saebook.models.sparse.threads import spread_alone

# Entries of the buffer, and fewest rows at which the product still runs at full speed.
BUFFER_ENTRIES, FEWEST_ROWS = 2**20, 256
# A batch's cut lies close to that of the batch before; entries this share of it are looked at.
GUESS_SHARE = 0.97
# From a first part of a batch its whole cut is guessed, with a margin.
FIRST_GUESS_SHARE = 0.9
GLANCE_ROWS = 64
# Where a guess was too high; where this is too, every positive entry is looked at.
SECOND_GUESS_SHARE = 0.6


class Wanted(ABC):
    """What is looked for in a batch: fed with parts of its rows, by several threads, then asked.

    Parameters
    ----------
    width
        Only the first ``width`` latents take part.
    """

    def __init__(self, width: int):
        self.width = width

    @abstractmethod
    def begin(self, n_rows: int, d_sae: int, dtype: np.dtype) -> None:
        """Forget what was found, before a batch."""

    @property
    def needs_glance(self) -> bool:
        """Whether to see some rows before anything is looked at."""
        return False

    def glance(self, h: np.ndarray) -> None:
        """See some pre-activations [n, d_sae]."""
        del h

    @abstractmethod
    def look(self, h: np.ndarray, first: int) -> None:
        """Take what is wanted of pre-activations [n, d_sae], the rows from ``first`` on."""

    @abstractmethod
    def found(self) -> tuple[np.ndarray, Pattern] | None:
        """Values and pattern; None when the batch has to be looked through again."""


class LargestOfRows(Wanted):
    """The k largest positive pre-activations of each example."""

    def __init__(self, k: int, width: int):
        super().__init__(width)
        self.k = min(k, width)

    def begin(self, n_rows: int, d_sae: int, dtype: np.dtype) -> None:
        """Room for k entries of each row."""
        self._d_sae = d_sae
        self._values = np.empty((n_rows, self.k), dtype)
        self._columns = np.empty((n_rows, self.k), np.int32)
        self._counts = np.empty(n_rows, np.int64)

    def look(self, h: np.ndarray, first: int) -> None:
        """By a bound that at least k entries reach: see `compiled.largest_of_rows`."""
        part = slice(first, first + len(h))
        out = (self._values[part], self._columns[part], self._counts[part])
        compiled.largest_of_rows(h, self.width, self.k, 0, len(h), *out)

    def found(self) -> tuple[np.ndarray, Pattern]:
        """Rows of k entries, fewer where fewer are positive."""
        starts = np.concatenate([[0], np.cumsum(self._counts)])
        values, columns = self._values.ravel(), self._columns.ravel()
        if starts[-1] < len(values):
            kept = (np.arange(self.k) < self._counts[:, None]).ravel()
            values, columns = values[kept], columns[kept]
        return values, Pattern(columns, starts, self._d_sae)


class Above(Wanted):
    """Every pre-activation above a floor [d_sae]."""

    def __init__(self, floor: np.ndarray, width: int):
        super().__init__(width)
        self.floor = floor

    def begin(self, n_rows: int, d_sae: int, dtype: np.dtype) -> None:
        """Nothing found yet."""
        self._d_sae = d_sae
        self._parts: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._counts = np.empty(n_rows, np.int64)

    def look(self, h: np.ndarray, first: int) -> None:
        """In one pass, with room for all: what is not written takes no memory."""
        values, columns = np.empty(h.size, h.dtype), np.empty(h.size, np.int32)
        counts = self._counts[first : first + len(h)]
        n = compiled.take_above(h, self.floor, self.width, values, columns, counts)
        self._parts[first] = values[:n].copy(), columns[:n].copy()

    def found(self) -> tuple[np.ndarray, Pattern] | None:
        """In the order of rows and columns."""
        starts = np.concatenate([[0], np.cumsum(self._counts)])
        values, columns = zip(*(self._parts[first] for first in sorted(self._parts)), strict=True)
        return np.concatenate(values), Pattern(np.concatenate(columns), starts, self._d_sae)


class LargestOfBatch(Above):
    """The ``k · n_rows`` largest positive pre-activations of a whole batch.

    Entries below a guess are left out from the start. The guess changes what is looked at, never
    what is found: where it was too high the batch is looked through once more.

    Attributes
    ----------
    shares
        Of a batch of which these rows are one: then the guess is the same for all, and what is
        found is this share's part of the largest of all.
    """

    def __init__(self, k: int, width: int):
        super().__init__(np.zeros(0), width)
        self.k = k
        self.guess: float | None = None
        self.shares: Shares | None = None
        self._missed = False

    def begin(self, n_rows: int, d_sae: int, dtype: np.dtype) -> None:
        """Start from the guess."""
        super().begin(n_rows, d_sae, dtype)
        self._n_wanted = min(self.k, self.width) * n_rows
        if self.guess is not None:
            self.floor = np.full(d_sae, self.guess, dtype)

    @property
    def needs_glance(self) -> bool:
        """Before the first batch."""
        return self.guess is None

    def glance(self, h: np.ndarray) -> None:
        """Make a first guess."""
        few = h[:, : self.width].ravel()
        n_few = max(1, len(few) * self._n_wanted // (len(self._counts) * self.width))
        cut = np.partition(few, len(few) - n_few)[len(few) - n_few]
        if self.shares is not None:
            cut = min(float(part) for part in self.shares.gather(torch.tensor([cut]), alike=True))
        self.guess = FIRST_GUESS_SHARE * float(cut) if cut > 0 else 0.0
        self.floor = np.full(h.shape[1], self.guess, h.dtype)

    def found(self) -> tuple[np.ndarray, Pattern] | None:
        """The largest of what exceeded the guess, exactly as many as wanted where there are."""
        found = super().found()
        assert found is not None and self.guess is not None
        values, pattern = found
        known = self._cut(values)
        if known is None:
            if self.guess == 0.0:
                return found
            self.guess = 0.0 if self._missed else SECOND_GUESS_SHARE * self.guess
            self._missed = True
            return None
        self._missed = False
        cut, n_equal, n_kept = known
        self.guess = GUESS_SHARE * float(cut)
        kept_values = np.empty(n_kept, values.dtype)
        kept_columns = np.empty(n_kept, np.int32)
        starts = np.empty_like(pattern.starts)
        compiled.keep_largest(
            values, pattern.columns, pattern.starts, cut, n_equal, kept_values, kept_columns, starts
        )
        return kept_values, Pattern(kept_columns, starts, self._d_sae)

    def _cut(self, values: np.ndarray) -> tuple[np.floating, int, int] | None:
        """Smallest value to keep, how many that equal it, and how many in all; None: too few."""
        if self.shares is not None:
            known = cut_over(self.shares, torch.from_numpy(values), self._n_wanted)
            if known is None:
                return None
            cut, n_equal = values.dtype.type(float(known[0])), known[1]
            return cut, n_equal, int((values > cut).sum()) + n_equal
        surplus = len(values) - self._n_wanted
        if surplus < 0:
            return None
        cut = np.partition(values, surplus)[surplus]
        return cut, self._n_wanted - int((values > cut).sum()), self._n_wanted


class Encoder:
    """The encoder's product, part by part.

    Keeps its buffers from batch to batch: new memory of this size would be cleared by the system
    every time.
    """

    def __init__(self) -> None:
        self._buffers: dict[int, Tensor] = {}

    @torch.no_grad()
    def search(
        self, x: Tensor, encoder_rows: Tensor, b_enc: Tensor, wanted: Sequence[Wanted]
    ) -> list[tuple[Tensor, Pattern]]:
        """Find what is wanted among ``x @ encoder_rows.T + b_enc``.

        Parameters
        ----------
        x
            [n, d_in].
        encoder_rows
            [d_sae, d_in].
        b_enc
            [d_sae].
        wanted
            What is looked for; every part of the product is shown to all of them.

        Under autocast the product is of its lower precision.

        Returns
        -------
        list
            Values [n_entries] and pattern of each.
        """
        d_sae = len(encoder_rows)
        rows = min(len(x), max(FEWEST_ROWS, BUFFER_ENTRIES // d_sae))
        if torch.is_autocast_enabled("cpu"):
            # Only the product is of lower precision: what is found is summed in full.
            encoder_rows = encoder_rows.to(torch.get_autocast_dtype("cpu"))

        dtype = self._buffer(0, rows, d_sae, x.dtype).numpy().dtype

        def product(first: int, last: int, begin: int) -> np.ndarray:
            out = self._buffer(begin, rows, d_sae, x.dtype)[: last - first]
            part = x[first:last]
            if encoder_rows.dtype == x.dtype:
                torch.addmm(b_enc, part, encoder_rows.T, out=out)
            else:
                torch.add(part.to(encoder_rows.dtype) @ encoder_rows.T, b_enc, out=out)
            return out.numpy()

        found: dict[int, tuple[Tensor, Pattern]] = {}
        while len(found) < len(wanted):
            missing = [i for i in range(len(wanted)) if i not in found]
            for i in missing:
                wanted[i].begin(len(x), d_sae, dtype)
                if wanted[i].needs_glance:
                    wanted[i].glance(product(0, min(len(x), rows, GLANCE_ROWS), 0))

            @torch.no_grad()  # which each thread decides for itself
            def look(begin: int, end: int, missing: Sequence[int] = missing) -> None:
                for first in range(begin, end, rows):
                    h = product(first, min(first + rows, end), begin)
                    for i in missing:
                        wanted[i].look(h, first)

            spread_alone(look, len(x), x.numel() * d_sae)
            for i in missing:
                result = wanted[i].found()
                if result is not None:
                    found[i] = (torch.from_numpy(result[0]), result[1])
        return [found[i] for i in range(len(wanted))]

    def _buffer(self, begin: int, rows: int, d_sae: int, dtype: torch.dtype) -> Tensor:
        """One for each range of rows, which a thread has to itself."""
        known = self._buffers.get(begin)
        if known is None or known.shape != (rows, d_sae) or known.dtype != dtype:
            self._buffers[begin] = torch.empty(rows, d_sae, dtype=dtype)
        return self._buffers[begin]
