"""Reading the rows of one split in batches, from a tensor, an array or an example store."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saebook.data.store import windows
from saebook.errors import DataError, SelectionError
from saebook.metrics import are_counts

COUNT_CHECK_ROWS = 4096


class Examples:
    """Examples of one split of a data set: single rows, or windows of them.

    Parameters
    ----------
    data : Tensor, ndarray or ExampleStore
        [n, d_in] examples ([n, seq_len, d_in] windows), or a store of rows.
    split : str or None
        Split of a store, None for all its rows. A tensor or array has no splits: all of it is
        used and its split is called ``"given"``.
    seq_len : int
        Rows per example.

    Raises
    ------
    DataError
        Neither a matrix nor a store.
    SelectionError
        No row in this split.

    Examples
    --------
    >>> import torch
    >>> examples = Examples(torch.arange(6.0).reshape(3, 2), "test")
    >>> len(examples), examples.split, [len(batch) for batch in examples.batches(2)]
    (3, 'given', [2, 1])
    """

    def __init__(self, data: Any, split: str | None, seq_len: int = 1) -> None:
        self._store = None
        self.seq_len = seq_len
        if hasattr(data, "rows") and hasattr(data, "tensor"):
            self._store = data
            single = seq_len == 1
            self._rows = np.asarray(
                data.rows(split) if single else windows(data.index, seq_len, split=split)
            )
            self.split = "all" if split is None else split
            self.d_in = int(data.d_in)
        elif isinstance(data, Tensor | np.ndarray):
            self._x = data if isinstance(data, Tensor) else torch.from_numpy(data)
            expected = "[n, d_in]" if seq_len == 1 else f"[n, {seq_len}, d_in]"
            if self._x.ndim != expected.count(",") + 1 or self._x.shape[1:-1] not in (
                (),
                (seq_len,),
            ):
                raise DataError(
                    f"data of shape {tuple(self._x.shape)}: examples must come as {expected}"
                )
            self._rows = np.arange(len(self._x))
            self.split = "given"
            self.d_in = self._x.shape[-1]
        else:
            raise DataError(
                f"data is a {type(data).__name__}: give a tensor or array [n, d_in], or an "
                "ExampleStore"
            )
        if not len(self._rows):
            raise SelectionError(
                f"no example in the {self.split} split: choose another split, or prepare the "
                "data with a larger share for it"
            )

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, positions: np.ndarray) -> Tensor:
        """Examples at these positions within the split, [n, ..., d_in] in the stored dtype."""
        rows = self._rows[positions]
        if self._store is not None:
            return self._store.tensor(rows=rows.ravel()).reshape(*rows.shape, self.d_in)
        return self._x[torch.from_numpy(rows).to(self._x.device)]

    def batches(self, batch_size: int) -> Iterator[Tensor]:
        """Consecutive batches [≤ batch_size, ..., d_in] in the stored dtype."""
        if batch_size < 1:
            raise DataError(f"batch_size is {batch_size}: it must be at least 1")
        for start in range(0, len(self), batch_size):
            yield self.take(np.arange(start, min(start + batch_size, len(self))))

    def sample(self, n: int, seed: int) -> Tensor:
        """Up to n rows drawn without repetition, in the order of the data; all if n is larger."""
        if n >= len(self):
            return self.take(np.arange(len(self)))
        chosen = np.random.default_rng(seed).choice(len(self), size=n, replace=False)
        return self.take(np.sort(chosen))

    def mean(self, batch_size: int = 65536) -> Tensor:
        """Mean of the split's examples over all their rows, [d_in] float64."""
        total = torch.zeros(self.d_in, dtype=torch.float64)
        for x in self.batches(batch_size):
            total += x.to(torch.float64).reshape(-1, self.d_in).sum(0).cpu()
        return total / (len(self) * self.seq_len)

    def are_counts(self) -> bool:
        """Whether these are counts: the store says so, or the first rows are whole and ≥ 0."""
        kind = getattr(self._store, "kind", None)
        if kind is not None:
            return kind == "counts"
        x = self.take(np.arange(min(len(self), COUNT_CHECK_ROWS)))
        return are_counts(x)


def same_width(sae: Any, examples: Examples) -> None:
    """Refuse data whose width is not the model's, when the model states one."""
    d_in = getattr(getattr(sae, "config", None), "d_in", None)
    if d_in is not None and d_in != examples.d_in:
        raise DataError(
            f"the SAE takes d_in = {d_in}, the data have {examples.d_in} columns: score it on "
            "the units or layer it was trained on"
        )
