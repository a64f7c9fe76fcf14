"""Count spikes in bins, exactly and fast.

Bin i holds ``start + i·w <= t < start + (i + 1)·w``, all in float64. ``floor((t - start) / w)``
alone breaks that rule: with bins of 0.1 s, bin 17 begins at 17 × 0.1 = 1.7000000000000002, so a
spike at 1.7 s belongs to bin 16, but 1.7 / 0.1 is 17. The few spikes within rounding of an edge
are found on the way and compared with the edge itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from saebook.errors import DataError, SelectionError

# Arrays of this many doubles stay near the processor's caches while a train is binned.
CHUNK = 65_536
TILE_BINS = 1024
# Float64 rounding of a bin number is below 6 times this, in units of max(|start|, |stop|) / w.
_ROUNDING = 16 * np.finfo(np.float64).eps


class CountsWarning(UserWarning):
    """A count matrix is too small or too empty for what it is meant for."""


def n_complete_bins(bin_size_s: float, start: float, stop: float) -> int:
    """Return how many whole bins fit between start and stop.

    Parameters
    ----------
    bin_size_s
        Width of a bin, s.
    start, stop
        What to divide, s. A last bin that ends at `stop` within float64 rounding is whole.

    Raises
    ------
    DataError
        The width is not positive, the times are not finite and in order, or the bins are so
        narrow that float64 can't tell their edges apart on this clock.
    SelectionError
        No whole bin fits.

    Examples
    --------
    >>> n_complete_bins(0.1, 0.0, 0.3), n_complete_bins(0.1, 0.0, 0.29)
    (3, 2)
    """
    if not (np.isfinite(bin_size_s) and bin_size_s > 0):
        raise DataError(f"bin_size_s={bin_size_s}: give a positive width in seconds, such as 0.05")
    if not (np.isfinite(start) and np.isfinite(stop) and start < stop):
        raise DataError(
            f"bins from start={start} to stop={stop} s: give two finite times with start < stop"
        )
    tolerance = _tolerance(bin_size_s, start, stop)
    if tolerance > 0.01:
        raise DataError(
            f"bins of {bin_size_s} s on a clock that reads {max(abs(start), abs(stop)):g} s are "
            "within float64 rounding of each other; use wider bins, or times that begin near zero"
        )
    n_bins = int(np.floor((stop - start) / bin_size_s + tolerance))
    if n_bins == 0:
        raise SelectionError(
            f"no whole bin of {bin_size_s} s fits between {start} and {stop} s "
            f"({stop - start:g} s): use a bin size of at most {stop - start:g} s"
        )
    return n_bins


def bin_spikes(
    spike_times: Sequence[Any], bin_size_s: float, start: float, stop: float
) -> np.ndarray:
    """Count each unit's spikes in bins of equal width.

    Bin i holds ``start + i·w <= t < start + (i + 1)·w`` in float64. Spikes outside the whole
    bins are left out, and so is a partial last bin. Each train is counted on its own, so the
    order of units only orders the columns.

    Parameters
    ----------
    spike_times
        One array [n_spikes] of finite times per unit, s. Sorted trains are fast; others are
        sorted first.
    bin_size_s
        Width w of a bin, s.
    start, stop
        First edge, and the time that no bin passes, s, on the spikes' clock.

    Returns
    -------
    counts
        [n_bins, n_units], C order, in the smallest unsigned type that holds every count.

    Raises
    ------
    DataError
        A width or time that can't be, a train that is not 1-D, or a spike time not finite.
    SelectionError
        No unit, or no whole bin.

    Examples
    --------
    >>> bin_spikes([[0.0, 0.32, 0.39], [0.2, 0.99]], bin_size_s=0.1, start=0.0, stop=0.5).T
    array([[1, 0, 0, 2, 0],
           [0, 0, 1, 0, 0]], dtype=uint8)
    """
    n_bins = n_complete_bins(bin_size_s, start, stop)
    if not len(spike_times):
        raise SelectionError("there are no units to bin: select at least one")
    grid = _Grid.of(bin_size_s, start, n_bins)
    for dtype in (np.uint8, np.uint16, np.uint32, np.uint64):
        # NaN has no bin; what it becomes is found out, so the warning would only repeat that.
        with np.errstate(invalid="ignore"):
            words = _count(spike_times, grid, np.dtype(dtype))
        if words is not None:
            break
    else:
        raise DataError("a bin holds more spikes than a 64-bit count can")
    return _unpack(words, len(spike_times), np.dtype(dtype))


def _tolerance(bin_size_s: float, start: float, stop: float) -> float:
    """Return how far from an edge, in bins, rounding may put a spike on the wrong side."""
    return _ROUNDING * (max(abs(start), abs(stop)) / bin_size_s + 1.0)


@dataclass(frozen=True, slots=True)
class _Grid:
    """The bins, and how times become positions among them.

    A position is a fixed-point number: what 32 bits leave beside the bin number is its fraction,
    so that most passes over the spikes move 4 bytes instead of 8. Positions are a little too
    large, by more than rounding, so a time that rounding could misplace has a fraction of zero,
    and the edge in question is the one below it.
    """

    bin_size_s: float
    start: float
    n_bins: int
    last: float
    fraction_bits: int
    origin: float
    per_second: float

    @classmethod
    def of(cls, bin_size_s: float, start: float, n_bins: int) -> _Grid:
        last = start + n_bins * bin_size_s
        bias = _tolerance(bin_size_s, start, last)
        # A fraction of zero has to span twice the bias: what it adds, and what rounding may.
        fraction_bits = min(31 - n_bins.bit_length(), int(-np.log2(2 * bias)))
        per_second = 2**fraction_bits / bin_size_s
        if start == 0.0:
            # Without an origin all rounding is relative, and so may the bias be: one pass less.
            return cls(
                bin_size_s, start, n_bins, last, fraction_bits, 0.0, per_second * (1 + _ROUNDING)
            )
        origin = start - bias * bin_size_s
        return cls(bin_size_s, start, n_bins, last, fraction_bits, origin, per_second)


def _count(spike_times: Sequence[Any], grid: _Grid, dtype: np.dtype) -> np.ndarray | None:
    """Count into 64-bit words, each one bin of 8 units (4, 2, 1 for wider types).

    A matrix filled unit by unit has to be transposed, and moving single bytes costs more than
    the counting; moving whole words costs a quarter of that.

    Returns
    -------
    words
        [n_groups, n_bins] uint64, or None where a count doesn't fit `dtype`.
    """
    width, largest = 8 // dtype.itemsize, int(np.iinfo(dtype).max)
    if grid.n_bins * width > np.iinfo(np.int32).max:
        raise DataError(
            f"{grid.n_bins:,} bins are more than one matrix can index; use wider bins, or bin the "
            "recording in parts"
        )
    words = np.empty((-(-len(spike_times) // width), grid.n_bins), np.uint64)
    work = np.empty(CHUNK)
    columns, ones = np.empty(0, np.int32), np.empty(0, dtype)
    counts = csr_array((1, grid.n_bins * width), dtype=dtype)
    for group, row in enumerate(words):
        members = spike_times[group * width : (group + 1) * width]
        n_spikes = sum(map(len, members))
        if n_spikes > len(columns):
            columns, ones = np.empty(n_spikes, np.int32), np.ones(n_spikes, dtype)
        filled = 0
        for unit, times in enumerate(members):
            times = _as_train(times, group * width + unit)
            room = columns[filled : filled + len(times)]
            bins = _find_bins(times, group * width + unit, grid, room, work)
            if _overflows(bins, largest):
                return None
            bins *= width
            bins += unit
            filled += len(bins)
        # A sparse row with repeated columns adds them up when it becomes dense: the quickest
        # compiled scatter at hand, in the type of the counts.
        counts.data, counts.indices = ones[:filled], columns[:filled]
        counts.indptr = np.array([0, filled], np.int32)
        counts.toarray(out=row.view(dtype)[np.newaxis])
    return words


def _as_train(times: Any, unit: int) -> np.ndarray:
    try:
        times = np.asarray(times, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"spike times of unit {unit} are not numbers ({error}); give seconds"
        ) from error
    if times.ndim != 1:
        raise DataError(
            f"spike times of unit {unit} have shape {times.shape}; give one 1-D array per unit"
        )
    return times


def _find_bins(
    times: np.ndarray, unit: int, grid: _Grid, out: np.ndarray, work: np.ndarray
) -> np.ndarray:
    """Return the bins of the times that any bin holds, ascending, in `out` (int32)."""
    if not len(times):
        return out
    if times[0] >= grid.start and times[-1] < grid.last:
        # NaN and disorder show in the bins, at half the cost of looking for them in the times:
        # bins that ascend from a first to a last one within range are all within range.
        _divide(times, grid, out, work)
        if not np.count_nonzero(out[1:] < out[:-1]):
            return out
    times = _within(times, unit, grid.start, grid.last)
    out = out[: len(times)]
    _divide(times, grid, out, work)
    return out


def _within(times: np.ndarray, unit: int, start: float, last: float) -> np.ndarray:
    """Return the times in [start, last), ascending, once all are finite."""
    if not (times[1:] >= times[:-1]).all():
        times = np.sort(times)
    # NaN sorts to the end, so the two ends answer for all.
    if not (np.isfinite(times[0]) and np.isfinite(times[-1])):
        bad = int((~np.isfinite(times)).sum())
        raise DataError(
            f"{bad} of the {len(times)} spike times of unit {unit} are not finite; drop the unit "
            "or repair its train"
        )
    return times[slice(*times.searchsorted([start, last]))]


def _divide(times: np.ndarray, grid: _Grid, out: np.ndarray, work: np.ndarray) -> None:
    """Write the bin of each time to `out` (int32); `work` [CHUNK] float64 is overwritten."""
    fraction = 2**grid.fraction_bits - 1
    for low in range(0, len(times), CHUNK):
        piece, bins = times[low : low + CHUNK], out[low : low + CHUNK]
        position = work[: len(piece)]
        if grid.origin:
            np.subtract(piece, grid.origin, out=position)
            np.multiply(position, grid.per_second, out=position)
        else:
            np.multiply(piece, grid.per_second, out=position)
        bins[:] = position
        near = ((bins & fraction) == 0).nonzero()[0]
        bins >>= grid.fraction_bits
        if len(near):
            found = bins[near]
            misplaced = ~(piece[near] >= grid.start + found * grid.bin_size_s)
            if misplaced.any():
                bins[near] = found - misplaced


def _overflows(bins: np.ndarray, largest: int) -> bool:
    """Return whether more than `largest` entries of an ascending array are equal."""
    if len(bins) <= largest:
        return False
    # A run of largest + 1 spans two neighbours of this sample, so most trains are cleared by it.
    sample = bins[:: (largest + 1) // 2]
    return bool((sample[1:] == sample[:-1]).any() and (bins[largest:] == bins[:-largest]).any())


def _unpack(words: np.ndarray, n_units: int, dtype: np.dtype) -> np.ndarray:
    """Return the counts [n_bins, n_units] held by the words [n_groups, n_bins]."""
    n_groups, n_bins = words.shape
    counts = np.empty((n_bins, n_units), dtype)
    tile = np.empty((min(TILE_BINS, n_bins), n_groups), np.uint64)
    for low in range(0, n_bins, TILE_BINS):
        part = tile[: min(TILE_BINS, n_bins - low)]
        part[:] = words[:, low : low + TILE_BINS].T
        counts[low : low + TILE_BINS] = part.view(dtype)[:, :n_units]
    return counts
