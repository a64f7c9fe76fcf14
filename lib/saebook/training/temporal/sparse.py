"""The contrastive term from the active latents alone.

Two rows without a latent in common have a cosine of exactly 0, and of rows with a few active
latents among hundreds that are nearly all: they are counted instead of computed. Values and
gradients are those of the plain way, of every entry, but for rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function

from saebook.models.sparse import compiled as entries_compiled
from saebook.models.sparse.threads import spread_rows
from saebook.training.temporal import compiled


@dataclass(frozen=True, eq=False)
class Rows:
    """Active entries of rows [n, width].

    Attributes
    ----------
    values, columns
        [n_entries].
    starts
        [n + 1].
    width
        Of a row.
    """

    values: np.ndarray
    columns: np.ndarray
    starts: np.ndarray
    width: int

    @classmethod
    def of(cls, x: Tensor) -> Rows:
        """Those of a dense matrix."""
        dense = x.detach().contiguous().numpy()
        counts = np.empty(len(dense), np.int64)
        spread_rows(lambda a, b: compiled.count_active(dense, a, b, counts), len(dense), x.numel())
        starts = np.concatenate([[0], np.cumsum(counts)])
        values = np.empty(starts[-1], dense.dtype)
        columns = np.empty(starts[-1], np.int32)

        def take(first: int, last: int) -> None:
            compiled.take_active(dense, first, last, starts, values, columns)

        spread_rows(take, len(dense), x.numel())
        return cls(values, columns, starts, dense.shape[1])

    @classmethod
    def joined(cls, parts: Sequence[Rows]) -> Rows:
        """Rows of several one after the other."""
        counts = np.concatenate([np.diff(part.starts) for part in parts])
        return cls(
            np.concatenate([part.values for part in parts]),
            np.concatenate([part.columns for part in parts]),
            np.concatenate([[0], np.cumsum(counts)]),
            parts[0].width,
        )

    def __len__(self) -> int:
        return len(self.starts) - 1

    def without_first(self, n: int) -> Rows:
        """All rows but the first n."""
        at = self.starts[n]
        return Rows(self.values[at:], self.columns[at:], self.starts[n:] - at, self.width)

    @property
    def parts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Values, columns and starts."""
        return self.values, self.columns, self.starts

    @property
    def active(self) -> np.ndarray:
        """Rows with an active entry, booleans [n]."""
        return np.diff(self.starts) > 0

    def by_latent(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Values and rows of the entries sorted by latent, and where each latent's begin."""
        order = np.empty(len(self.values), np.int32)
        rows = np.empty(len(self.values), np.int32)
        starts = np.empty(self.width + 1, np.int64)
        entries_compiled.transpose(self.columns, self.starts, order, rows, starts)
        return self.values[order], rows, starts

    def meetings(self, columns: np.ndarray) -> int:
        """How many entries of these rows are of the latents [n_entries] of others."""
        return int(np.bincount(self.columns, minlength=self.width)[columns].sum())


Wanted = tuple[np.ndarray, np.ndarray]


def everywhere(n: int, width: int) -> Wanted:
    """Columns and starts of all entries of n rows."""
    columns = np.tile(np.arange(width, dtype=np.int32), n)
    return columns, np.arange(n + 1, dtype=np.int64) * width


def of_own_group(groups: np.ndarray, active: np.ndarray, n: int) -> np.ndarray:
    """How many active rows share the group of each of the first n, [n]."""
    found, counts = np.unique(groups[active], return_counts=True)
    place = np.minimum(np.searchsorted(found, groups[:n]), max(len(found) - 1, 0))
    if not len(found):
        return np.zeros(n, np.int64)
    return np.where(found[place] == groups[:n], counts[place], 0)


class ContrastActive(Function):
    """The term, 0-d; its gradients are found on the way."""

    @staticmethod
    def forward(
        ctx: Any,
        anchors: Tensor,
        keys: Tensor,
        rows: tuple[Rows, Rows, Rows],
        wanted: tuple[Wanted, Wanted],
        groups: np.ndarray,
        usable: np.ndarray,
        n_apart: np.ndarray,
        scale: float,
    ) -> Tensor:
        """Of anchors and keys [n, width], whose entries ``rows`` has, beside those of all keys."""
        own, positives, everyone = rows
        n, dtype = len(usable), own.values.dtype
        of_one = dtype.type(scale)
        log_sums, terms = np.empty((2, n), dtype)
        towards_anchors, towards_keys = np.zeros((2, n, own.width), dtype)
        by_latent, back = everyone.by_latent(), own.by_latent()

        def compare(first: int, last: int) -> None:
            compiled.contrast_anchors(
                first, last, own.parts, by_latent, wanted[0], groups, usable, n_apart, of_one,
                log_sums, terms, towards_anchors,
            )  # fmt: skip

        def answer(first: int, last: int) -> None:
            compiled.contrast_keys(
                first, last, positives.parts, back, wanted[1], groups[:n], usable, of_one,
                log_sums, towards_keys,
            )  # fmt: skip

        spread_rows(compare, n, 8 * everyone.meetings(own.columns))
        spread_rows(answer, n, 8 * own.meetings(positives.columns))
        ctx.save_for_backward(torch.from_numpy(towards_anchors), torch.from_numpy(towards_keys))
        counted = max(1, int(usable.sum()))
        ctx.factor = scale / counted  # every anchor has one weight in their mean
        return torch.from_numpy(terms).sum() / counted

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of anchors and keys."""
        towards_anchors, towards_keys = ctx.saved_tensors
        factor = gradients[0] * ctx.factor
        nothing = (None,) * 6
        return towards_anchors * factor, towards_keys * factor, *nothing
