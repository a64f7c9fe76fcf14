"""Checks at the door of a store: what a segment's values and columns must be."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from saebook.data.store.layout import SPLITS, UNASSIGNED
from saebook.errors import DataError

if TYPE_CHECKING:
    import torch

_COUNT_TYPES = (np.uint8, np.uint16, np.uint32, np.uint64)


def _matrix(x: Any, where: str) -> np.ndarray:
    if hasattr(x, "detach"):
        x = x.detach().cpu().numpy()
    x = np.asarray(x)
    _check_shape(x.shape, where)
    if x.dtype.kind not in "buif":
        raise DataError(f"{where} has values of type {x.dtype}; give numbers")
    return x


def _check_shape(shape: tuple[int, ...], where: str) -> None:
    if len(shape) != 2 or shape[1] == 0:
        raise DataError(
            f"{where} has shape {tuple(shape)}; give [n, d_in], one row per example and at least "
            "one column"
        )


def _first_bad(bad: np.ndarray) -> tuple[int, int]:
    row, col = np.unravel_index(int(np.argmax(bad)), bad.shape)
    return int(row), int(col)


def check_counts(x: Any, where: str) -> np.ndarray:
    """Return a copy of x in the smallest unsigned type, once it holds counts only."""
    x = _matrix(x, where)
    if x.dtype.kind == "f":
        bad = ~(np.isfinite(x) & (x == np.floor(x)) & (x < 2.0**53))
        if bad.any():
            row, col = _first_bad(bad)
            raise DataError(
                f"{where} is to hold counts, but row {row}, column {col} is {x[row, col]}; give "
                'whole numbers, or write a store of kind="activations"'
            )
    if x.size and x.dtype.kind in "if" and x.min() < 0:
        row, col = _first_bad(x < 0)
        raise DataError(
            f"{where} is to hold counts, but row {row}, column {col} is {x[row, col]}; counts "
            "can't be negative: an unsigned overflow or a subtraction came before"
        )
    largest = int(x.max()) if x.size else 0
    smallest = next(dtype for dtype in _COUNT_TYPES if largest <= np.iinfo(dtype).max)
    return x.astype(smallest)


def check_activations(x: Any, where: str) -> torch.Tensor:
    """Return a CPU copy of x in bfloat16 (where it is that) or float32, once it is finite."""
    import torch

    if not isinstance(x, torch.Tensor):
        x = torch.from_numpy(np.array(_matrix(x, where), dtype=np.float32))
    _check_shape(tuple(x.shape), where)
    if x.is_complex():
        raise DataError(f"{where} has values of type {x.dtype}; give real numbers")
    target = torch.bfloat16 if x.dtype == torch.bfloat16 else torch.float32
    values = x.detach().to(device="cpu", dtype=target, copy=True).contiguous()
    if not bool(torch.isfinite(values).all()):
        row, col = (int(i) for i in (~torch.isfinite(values)).nonzero()[0])
        raise DataError(
            f"{where} has {float(values[row, col])} in row {row}, column {col} (as "
            f"{str(target).removeprefix('torch.')}); activations must be finite: find where they "
            "overflow, or leave the row out"
        )
    return values


def column(given: Any, n: int, dtype: Any, name: str, where: str) -> np.ndarray:
    """Return a column of the index [n] from one value or n, refusing what `dtype` can't hold."""
    values = np.asarray(given)
    if values.ndim == 0:
        values = np.full(n, values)
    if values.shape != (n,):
        raise DataError(
            f"{name} has shape {values.shape} for the {n} rows of {where}; give one value per row"
        )
    if dtype is None:
        return values.copy()
    if values.dtype.kind not in "iuf":
        raise DataError(f"{name} in {where} has values of type {values.dtype}; give numbers")
    with np.errstate(invalid="ignore"):
        converted = values.astype(dtype)
    unequal = converted != values
    if unequal.any():
        raise DataError(
            f"{name} in {where} holds {values[unequal][0]}, which is no {np.dtype(dtype).name}; "
            "give whole numbers, -1 for none"
        )
    return converted


def check_times(time: Any, n: int, bin_size_s: float | None, where: str) -> np.ndarray:
    """Return times as float64 [n], NaN where none are given, once the segment has no gap."""
    if time is None:
        return np.full(n, np.nan)
    values = np.array(time, dtype=np.float64)
    if values.shape != (n,):
        raise DataError(
            f"time has shape {values.shape} for the {n} rows of {where}; give one value per row"
        )
    if not np.isfinite(values).all():
        row = int(np.argmin(np.isfinite(values)))
        raise DataError(
            f"time of row {row} in {where} is {values[row]}; give the start of each bin"
        )
    steps = np.diff(values)
    if (steps <= 0).any():
        row = int(np.argmax(steps <= 0)) + 1
        raise DataError(
            f"time goes from {values[row - 1]} to {values[row]} s at row {row} of {where}; rows "
            "of a segment are in order of time"
        )
    if bin_size_s is not None:
        # A hundredth of a bin forgives rounding of long clocks but no missing bin.
        gaps = np.abs(steps - bin_size_s) > 0.01 * bin_size_s
        if gaps.any():
            row = int(np.argmax(gaps)) + 1
            raise DataError(
                f"time goes from {values[row - 1]} to {values[row]} s at row {row} of {where}, "
                f"where bins are {bin_size_s} s wide; add the rows after a gap as a segment of "
                "their own"
            )
    return values


def check_labels(split: Any, n: int, where: str) -> np.ndarray:
    """Return the split of each row as its position in SPLITS (int8)."""
    values = np.asarray(UNASSIGNED if split is None else split)
    if values.ndim == 0:
        values = np.full(n, values)
    if values.shape != (n,):
        raise DataError(
            f"split has shape {values.shape} for the {n} rows of {where}; give one label per row"
        )
    codes = np.full(n, -1, np.int8)
    for code, label in enumerate(SPLITS):
        codes[values == label] = code
    if (codes < 0).any():
        raise DataError(
            f"split holds {values[codes < 0][0]!r} in {where}; the labels are {', '.join(SPLITS)}"
        )
    return codes


def pieces(trial: np.ndarray, shard_rows: int) -> Iterator[tuple[int, int]]:
    """Divide a segment into (start, stop) that fit a shard: whole, by trials, or cut."""
    n = len(trial)
    if n <= shard_rows:
        yield 0, n
        return
    edges = [0, *(np.flatnonzero(np.diff(trial)) + 1).tolist(), n]
    for start, stop in pairwise(edges):
        for at in range(start, stop, shard_rows):
            yield at, min(at + shard_rows, stop)
