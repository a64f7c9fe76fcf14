"""Activity of many latents over many bins, held so that one latent is found at once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from saebook.errors import DataError
from saebook.metrics import coactivity

CHUNK_ROWS = 4096


class LatentColumns:
    """Latents [n_rows, n_latents] as sparse columns: 8 bytes per value that isn't zero.

    A latent is active where it is above zero; values below are kept.

    Parameters
    ----------
    blocks : iterable of array or sparse matrix
        Consecutive rows [≤ n, n_latents].

    Attributes
    ----------
    n_rows, n_latents : int
        Shape of the whole.
    n_active : ndarray
        [n_latents] rows on which each latent is active.
    peak : ndarray
        [n_latents] largest value of each; 0 where it is never active.

    Raises
    ------
    DataError
        No rows, blocks of several widths, or values that are not finite.

    Examples
    --------
    >>> columns = LatentColumns([np.array([[0.0, 2.0], [1.0, 3.0]]), np.array([[0.0, 0.5]])])
    >>> rows, values = columns.of(1)
    >>> rows.tolist(), values.tolist(), columns.density.round(2).tolist()
    ([0, 1, 2], [2.0, 3.0, 0.5], [0.33, 1.0])
    """

    def __init__(self, blocks: Iterable[Any]) -> None:
        from scipy import sparse

        kept: list[Any] = []
        done = 0
        for block in blocks:
            part: Any = sparse.csr_array(block, dtype=np.float32)
            part.eliminate_zeros()
            if not np.isfinite(part.data).all():
                bad = int(np.argmax(~np.isfinite(part.data)))
                row = done + int(np.searchsorted(part.indptr, bad, side="right")) - 1
                raise DataError(f"latents of row {row} are not all finite: check the model")
            if kept and part.shape[1] != kept[0].shape[1]:
                raise DataError(
                    f"rows of {part.shape[1]} latents follow rows of {kept[0].shape[1]}"
                )
            kept.append(part)
            done += part.shape[0]
        if not done or not kept[0].shape[1]:
            raise DataError("there is no row of latents to look at: give [n, n_latents]")
        matrix: Any = sparse.vstack(kept, format="csr").tocsc()
        matrix.sort_indices()
        self.n_rows, self.n_latents = (int(size) for size in matrix.shape)
        self._start, self._rows, self._values = matrix.indptr, matrix.indices, matrix.data
        active = self._values > 0
        # Where all is above zero, which an SAE's latents are, nothing has to be looked up.
        self._active = None if active.all() else active
        ones = np.ones(len(active), bool) if self._active is None else active
        self.n_active = self._summed(ones)
        self.peak = np.zeros(self.n_latents)
        for latent in np.flatnonzero(self.n_active).tolist():
            self.peak[latent] = self.of(latent)[1].max()

    @classmethod
    def of_matrix(cls, latents: Any) -> LatentColumns:
        """Of a whole array, tensor or sparse matrix [n_rows, n_latents]."""
        if hasattr(latents, "detach"):
            latents = latents.detach().cpu().float().numpy()
        if not hasattr(latents, "tocsr"):
            latents = np.asarray(latents)
        if len(latents.shape) != 2 or latents.dtype.kind not in "biuf":
            raise DataError(
                f"latents are {latents.dtype} of shape {tuple(latents.shape)}: give numbers "
                "[n, n_latents]"
            )
        if hasattr(latents, "tocsr"):
            return cls([latents.tocsr()])
        starts = range(0, len(latents), CHUNK_ROWS)
        return cls(latents[start : start + CHUNK_ROWS] for start in starts)

    @property
    def density(self) -> np.ndarray:
        """Share of rows on which each latent is active [n_latents]."""
        return self.n_active / self.n_rows

    @property
    def nbytes(self) -> int:
        """Memory held."""
        parts = [self._start, self._rows, self._values, self._active]
        return sum(part.nbytes for part in parts if part is not None)

    def of(self, latent: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows, ascending, at which a latent isn't zero, and its values there."""
        part = slice(self._start[latent], self._start[latent + 1])
        return self._rows[part], self._values[part]

    def active(self, latent: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows, ascending, at which a latent is active, and its values there."""
        rows, values = self.of(latent)
        if self._active is None:
            return rows, values
        above = values > 0
        return rows[above], values[above]

    def dense(self, latent: int) -> np.ndarray:
        """A latent on every row [n_rows] float32."""
        column = np.zeros(self.n_rows, np.float32)
        rows, values = self.of(latent)
        column[rows] = values
        return column

    def coactive(self, latent: int) -> pd.DataFrame:
        """Other latents that are active on this one's rows, most alike first.

        Parameters
        ----------
        latent : int
            Which one.

        Returns
        -------
        DataFrame
            Index ``latent``; ``n_both`` and the columns of
            :class:`~saebook.metrics.Coactivity`, by falling ``jaccard``. Latents never active
            together with this one are left out.
        """
        rows, _ = self.active(latent)
        here = np.zeros(self.n_rows, bool)
        here[rows] = True
        both = here[self._rows]
        if self._active is not None:
            both &= self._active
        n_both = self._summed(both)
        n_both[latent] = 0
        others = np.flatnonzero(n_both)
        found = coactivity(n_both[others], len(rows), self.n_active[others], self.n_rows)
        table = pd.DataFrame(
            {"n_both": n_both[others], **found._asdict()}, index=pd.Index(others, name="latent")
        )
        return table.sort_values("jaccard", ascending=False, kind="stable")

    def _summed(self, chosen: np.ndarray) -> np.ndarray:
        """How many of the stored values are chosen, in each column."""
        until = np.concatenate([[0], np.cumsum(chosen, dtype=np.int64)])
        return until[self._start[1:]] - until[self._start[:-1]]
