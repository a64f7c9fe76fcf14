"""Latents as the rows of a table that can be sorted and filtered, in plain monospaced text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from saebook.errors import DataError

# Of a table with many columns, those that are shown, in this order.
PREFERRED = ("variable", "score_test", "explained", "p", "q", "discovered")
LONGEST = 24
GAP = "  "
# Small is good in these, and names are read from the start of the alphabet.
RISING = ("latent", "p", "q")


class LatentTable:
    """What is known of each latent, in an order, and with a filter.

    Parameters
    ----------
    density : array
        [n_latents] share of bins on which each latent is active.
    known : DataFrame, optional
        One row per latent in order, any columns.
    columns : sequence of str, optional
        Columns of `known` that are shown; by default variable, score_test, explained, p, q and
        discovered, where there are any of them, else the first six.

    Attributes
    ----------
    frame : DataFrame
        All rows, with the columns that are shown; ``latent`` first and ``density`` last.
    sort_by : str
        Column of the order.
    descending : bool
        Whether large values come first. Missing values and dead latents always come last.
    text : str
        Only latents of this number, or with this in one of their texts, are listed.
    discovered_only : bool
        Only latents whose ``discovered`` is true are listed.

    Raises
    ------
    DataError
        A column that isn't there.

    Examples
    --------
    >>> known = pd.DataFrame({"variable": ["speed", "reward"], "q": [0.2, 0.01]})
    >>> table = LatentTable([0.1, 0.2], known)
    >>> table.order.tolist(), table.heading("q").strip()
    ([1, 0], 'q ▲')
    >>> table.sort("density")
    >>> table.rows()[0].split()
    ['1', 'reward', '0.01', '0.2']
    """

    def __init__(
        self, density: Any, known: pd.DataFrame | None = None, columns: Sequence[str] | None = None
    ) -> None:
        density = np.asarray(density, dtype=float)
        known = pd.DataFrame(index=range(len(density))) if known is None else known
        if columns is None:
            columns = [name for name in PREFERRED if name in known.columns]
            columns = columns or [name for name in known.columns if name != "density"][:6]
        missing = [name for name in columns if name not in known.columns]
        if missing:
            raise DataError(f"no column {missing[0]!r}; there are: {', '.join(known.columns)}")
        self.frame = pd.DataFrame({"latent": np.arange(len(density))})
        for name in columns:
            self.frame[name] = known[name].to_numpy()
        self.frame["density"] = density
        self._cells = {name: _cells(str(name), pd.Series(self.frame[name])) for name in self.frame}
        self.discovered_only, self.text = False, ""
        self.sort_by, self.descending = "density", True
        for name in ("q", "score_test", "explained"):
            if name in self.frame:
                self.sort_by, self.descending = name, name not in RISING
                break

    @property
    def columns(self) -> list[str]:
        """Names of the columns shown."""
        return [str(name) for name in self.frame.columns]

    @property
    def can_be_discovered(self) -> bool:
        """Whether the table says which latents are discovered."""
        return "discovered" in self.frame

    def sort(self, column: str) -> None:
        """Sort by a column; by the one that it is sorted by already, the other way round."""
        if column not in self.frame:
            raise DataError(f"no column {column!r}; there are: {', '.join(self.columns)}")
        if column == self.sort_by:
            self.descending = not self.descending
        else:
            self.sort_by = column
            self.descending = column not in RISING and not self._is_text(column)

    @property
    def order(self) -> np.ndarray:
        """Latents listed, in order."""
        values = self.frame[self.sort_by]
        if self._is_text(self.sort_by):
            values = pd.Series(pd.factorize(values, sort=True)[0]).replace(-1, np.nan)
        keys = np.asarray(values, dtype=float)
        keys = -keys if self.descending else keys
        last = np.isnan(keys) + 2 * (self.frame["density"].to_numpy() == 0)
        order = np.lexsort([np.arange(len(keys)), np.where(np.isnan(keys), 0.0, keys), last])
        return order[self._listed()[order]]

    def rows(self) -> list[str]:
        """Texts of the rows listed, in order, their columns below the headings."""
        parts = [self._cells[name] for name in self.columns]
        return [GAP.join(part[latent] for part in parts) for latent in self.order]

    def heading(self, column: str) -> str:
        """Name of a column as wide as its cells, with an arrow where it sorts."""
        arrow = (" ▼" if self.descending else " ▲") if column == self.sort_by else ""
        width = len(self._cells[column][0]) if len(self.frame) else 0
        name = column[: max(width - len(arrow), 0)] + arrow
        return f"{name:<{width}}" if self._is_text(column) else f"{name:>{width}}"

    def widths(self) -> dict[str, int]:
        """Letters that each column takes, without the gap that follows it."""
        return {name: len(self._cells[name][0]) for name in self.columns}

    def _is_text(self, column: str) -> bool:
        return self.frame[column].dtype.kind not in "biuf"

    def _listed(self) -> np.ndarray:
        listed = np.ones(len(self.frame), dtype=bool)
        if self.discovered_only and self.can_be_discovered:
            listed &= self.frame["discovered"].eq(True).to_numpy()
        words = self.text.strip().lower()
        if words:
            found = self.frame["latent"].astype(str) == words
            for name in self.columns:
                if self._is_text(name):
                    texts = self.frame[name].astype(str).str.lower()
                    found |= texts.str.contains(words, regex=False)
            listed &= found.to_numpy()
        return listed


def _cells(name: str, values: pd.Series) -> list[str]:
    """Texts of one column, all of one width, which leaves room for the heading and its arrow."""
    if values.dtype.kind == "b" or set(values.dropna().map(type)) <= {bool, np.bool_}:
        texts = ["yes" if value is True or value == True else "no" for value in values]  # noqa: E712
    elif values.dtype.kind in "iu":
        texts = [str(value) for value in values]
    elif values.dtype.kind == "f":
        texts = ["" if np.isnan(value) else f"{value:.3g}" for value in values]
    else:
        texts = ["" if pd.isna(value) else str(value) for value in values]
        texts = [text if len(text) <= LONGEST else text[: LONGEST - 1] + "…" for text in texts]
    width = max([len(name) + 2, *map(len, texts)])
    left = values.dtype.kind not in "biuf"
    return [f"{text:<{width}}" if left else f"{text:>{width}}" for text in texts]
