"""The compiled loop of spike binning: one pass over a train, one transposition of the result.

Kept apart because numba takes half a second to import; `binning` calls it for large matrices.
The machine code is cached beside this file (or in the user's cache folder), so it is compiled
once per installation, in about three seconds.
"""

from __future__ import annotations

from collections.abc import Callable

import numba
import numpy as np

# Bins of this many spikes stay in the first-level cache between finding and counting them.
CHUNK = 2048
# Rows transposed at a time; a multiple of 8.
TILE_BINS = 1024

COUNTED, UNORDERED, OVERFLOW = 0, 1, 2


def _compile(function: Callable) -> Callable:
    try:
        return numba.njit(cache=True)(function)
    except RuntimeError:
        # Neither the library's folder nor the user's cache can be written: compile in each process.
        return numba.njit(function)


@_compile
def _ascends(times, last):
    """Return whether the times ascend and end before `last`; NaN does neither."""
    misplaced = 0
    for i in range(len(times) - 1):
        misplaced += not (times[i + 1] >= times[i])
    return misplaced == 0 and times[-1] < last


@_compile
def _find_bins(times, bins, bin_size_s, start, per_second, bias):
    """Write the bin of each time within the grid.

    The bias is larger than rounding, so a bin found is right or one too large, and the edge
    below it decides. Without a branch, and in 32 bits, the loop runs in vector instructions.
    """
    for i in range(len(times)):
        found = np.int32((times[i] - start) * per_second + bias)
        bins[i] = found - np.int32(times[i] < start + found * bin_size_s)


@_compile
def add_counts(times, row, bins, bin_size_s, start, last, per_second, bias):
    """Count a train's spikes into a row.

    Parameters
    ----------
    times
        [n_spikes] float64, s.
    row
        [n_bins] unsigned, zeros; counted in place.
    bins
        [CHUNK] int32, overwritten.
    bin_size_s, start, last
        Width of a bin, first edge and last edge, s.
    per_second, bias
        Bins in a second, and what is added to a bin number before it is cut, in bins.

    Returns
    -------
    outcome
        COUNTED; UNORDERED where the times don't ascend from `start` to before `last` (nothing
        outside the row is touched, and the row has to be cleared); OVERFLOW where a count is
        larger than the row's type holds.
    """
    if len(times) == 0:
        return COUNTED
    if not times[0] >= start:
        return UNORDERED
    overflown = False
    for low in range(0, len(times), CHUNK):
        # One time more than is counted: order must hold across pieces too.
        if not _ascends(times[low : low + CHUNK + 1], last):
            return UNORDERED
        piece = times[low : low + CHUNK]
        _find_bins(piece, bins, bin_size_s, start, per_second, bias)
        for i in range(len(piece)):
            # An unsigned index spares numba's look at negative ones.
            cell = np.uint32(bins[i])
            row[cell] += row.dtype.type(1)
            overflown |= row[cell] == 0
    return OVERFLOW if overflown else COUNTED


@_compile
def _swap(a, b, shift, mask):
    moved = ((a >> shift) ^ b) & mask
    return a ^ (moved << shift), b ^ moved


@_compile
def _transpose_words(words, tile):
    """Transpose bytes, 8 x 8 at a time, from words [8 n, m] to words [8 m, n].

    Swapping the off-diagonal halves of 4, then 2, then 1 bytes transposes a block of eight words
    in registers (Warren, Hacker's Delight, section 7-3); a loop or an array would spill them.
    """
    half, quarter, single = np.uint64(32), np.uint64(16), np.uint64(8)
    halves = np.uint64(0x00000000FFFFFFFF)
    quarters = np.uint64(0x0000FFFF0000FFFF)
    singles = np.uint64(0x00FF00FF00FF00FF)
    for column in range(words.shape[1]):
        for group in range(words.shape[0] // 8):
            a, e = _swap(words[8 * group, column], words[8 * group + 4, column], half, halves)
            b, f = _swap(words[8 * group + 1, column], words[8 * group + 5, column], half, halves)
            c, g = _swap(words[8 * group + 2, column], words[8 * group + 6, column], half, halves)
            d, h = _swap(words[8 * group + 3, column], words[8 * group + 7, column], half, halves)
            a, c = _swap(a, c, quarter, quarters)
            b, d = _swap(b, d, quarter, quarters)
            e, g = _swap(e, g, quarter, quarters)
            f, h = _swap(f, h, quarter, quarters)
            a, b = _swap(a, b, single, singles)
            c, d = _swap(c, d, single, singles)
            e, f = _swap(e, f, single, singles)
            g, h = _swap(g, h, single, singles)
            tile[8 * column, group] = a
            tile[8 * column + 1, group] = b
            tile[8 * column + 2, group] = c
            tile[8 * column + 3, group] = d
            tile[8 * column + 4, group] = e
            tile[8 * column + 5, group] = f
            tile[8 * column + 6, group] = g
            tile[8 * column + 7, group] = h


def transpose(rows: np.ndarray, n_units: int, n_bins: int) -> np.ndarray:
    """Return counts [n_bins, n_units] from the rows of `empty_rows`.

    400 units of 72,000 bins take 16 CPU ms, where numpy's copy takes 24.
    """
    if rows.dtype != np.uint8:
        return np.ascontiguousarray(rows[:n_units, :n_bins].T)
    counts = np.empty((n_bins, n_units), np.uint8)
    words = rows.view(np.uint64)
    tile = np.empty((TILE_BINS, len(rows) // 8), np.uint64)
    for low in range(0, n_bins, TILE_BINS):
        _transpose_words(words[:, low // 8 : (low + TILE_BINS) // 8], tile)
        counts[low : low + TILE_BINS] = tile.view(np.uint8)[: n_bins - low, :n_units]
    return counts


def empty_rows(n_units: int, n_bins: int, dtype: type) -> np.ndarray:
    """Return zeros [n_units, n_bins], both rounded up to a multiple of 8."""
    return np.zeros((n_units + -n_units % 8, n_bins + -n_bins % 8), dtype)
