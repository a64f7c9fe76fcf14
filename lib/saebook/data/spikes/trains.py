"""Checks of spike trains: what makes a unit unusable, and what is only odd.

pynwb and h5py hand over whatever a file holds: unsorted, NaN or repeated spike times come out
as ordinary arrays, and every rate or interval computed from them is wrong without a sign. So
each train is looked at once, before anything else sees it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# A spike that a sorter places a fraction of a millisecond after the last sample is rounding,
# not a train that runs past its recording.
END_TOLERANCE_S = 1e-3
WEEK_S = 7 * 86_400.0
# Bounds on the median unit's rate that no recording of neurons leaves, in Hz.
SLOWEST_MEDIAN_RATE_HZ = 0.01
FASTEST_MEDIAN_RATE_HZ = 1_000.0
# Below this many values, whole numbers or long intervals may be chance.
ENOUGH_SPIKES = 100
# The shortest of hundreds of pooled intervals between spikes is a few ms in any brain.
LONGEST_SHORTEST_INTERVAL_S = 0.2
USUAL_UNITS = ((1e3, "milliseconds"), (30e3, "samples at 30,000 Hz"), (1e6, "microseconds"))
USUAL_RATE_HZ = 3.0


@dataclass(frozen=True)
class TrainCheck:
    """What one look at a spike train found.

    Attributes
    ----------
    fault
        Why the train can't be used, or None.
    n_duplicates
        Spikes at exactly the time of the spike before them.
    n_negative
        Spikes before time zero.
    ordered
        Whether the times are finite and sorted, so that they can be computed with.
    """

    fault: str | None
    n_duplicates: int = 0
    n_negative: int = 0
    ordered: bool = False


def check_train(times: np.ndarray, end: float | None = None) -> TrainCheck:
    """Look at one spike train.

    Parameters
    ----------
    times
        Spike times [n_spikes], s, float64.
    end
        End of the recording, s, where the file states one.

    Examples
    --------
    >>> import numpy as np
    >>> check_train(np.array([0.1, 0.3, 0.2])).fault
    'unsorted: 1 of 2 intervals is negative, first at spike 2 (0.2 s after 0.3 s)'
    >>> check_train(np.array([0.1, 0.3, 0.3])).n_duplicates
    1
    """
    if not len(times):
        return TrainCheck("empty train: no spikes")
    # The smallest interval answers for order, NaN and duplicates in one pass over a train
    # that fits in cache: NaN is contagious, and only an odd train is looked at again.
    with np.errstate(invalid="ignore"):
        intervals = np.diff(times)
    smallest = intervals.min() if len(intervals) else 1.0
    if not (np.isfinite(smallest) and np.isfinite(times[0]) and np.isfinite(times[-1])):
        bad = ~np.isfinite(times)
        first = int(np.argmax(bad))
        return TrainCheck(
            f"{int(bad.sum())} of {len(times)} spike times not finite, "
            f"first at spike {first} ({times[first]})"
        )
    if smallest < 0:
        back = np.flatnonzero(intervals < 0)
        first = int(back[0]) + 1
        return TrainCheck(
            f"unsorted: {len(back)} of {len(intervals)} intervals "
            f"{'is' if len(back) == 1 else 'are'} negative, first at spike {first} "
            f"({times[first]:g} s after {times[first - 1]:g} s)"
        )
    duplicates = int(np.count_nonzero(intervals == 0)) if smallest == 0 else 0
    negative = int(np.searchsorted(times, 0.0)) if times[0] < 0 else 0
    if end is not None and times[-1] > end + END_TOLERANCE_S:
        past = len(times) - int(np.searchsorted(times, end + END_TOLERANCE_S, side="right"))
        return TrainCheck(
            f"{past} of {len(times)} spikes past the recording's end "
            f"(last at {times[-1]:g} s, end {end:g} s)",
            duplicates,
            negative,
            ordered=True,
        )
    return TrainCheck(None, duplicates, negative, ordered=True)


def drop_duplicates(times: np.ndarray) -> np.ndarray:
    """Return a sorted train [n] without the spikes that repeat the time before them, s.

    Examples
    --------
    >>> import numpy as np
    >>> drop_duplicates(np.array([0.5, 0.5, 0.75])).tolist()
    [0.5, 0.75]
    """
    if len(times) < 2:
        return times
    return times[np.r_[True, np.diff(times) > 0]]


def not_in_seconds(trains: Sequence[np.ndarray]) -> str | None:
    """Evidence that spike times are samples, milliseconds or another unit, or None.

    Three kinds of evidence, each of which no recording in seconds gives: all times whole
    numbers; the median unit faster than any neuron; or the median unit nearly silent while the
    session lasts over a week, or while even the shortest interval between spikes is long.

    Parameters
    ----------
    trains
        Sorted, finite spike times, one array [n_spikes] per unit, in the unit in question.

    Examples
    --------
    >>> import numpy as np
    >>> seconds = np.cumsum(np.random.default_rng(0).exponential(0.2, 2000))
    >>> not_in_seconds([seconds]) is None
    True
    >>> not_in_seconds([np.round(seconds * 30_000)]).split(" (")[0]
    'all 2,000 spike times are whole numbers'
    """
    trains = [t for t in trains if len(t)]
    if not trains:
        return None
    n_spikes = sum(len(t) for t in trains)
    start, stop = min(t[0] for t in trains), max(t[-1] for t in trains)
    span = float(stop - start)
    if span <= 0:
        return None
    rate = float(np.median([len(t) for t in trains])) / span
    facts = f"{span:,.6g} from first to last, median {rate:.3g} spikes per unit of time"
    if n_spikes >= ENOUGH_SPIKES and all(_whole(t[:1000]) and _whole(t) for t in trains):
        return f"all {n_spikes:,} spike times are whole numbers ({facts}{_as_samples(span, rate)})"
    if rate > FASTEST_MEDIAN_RATE_HZ and n_spikes >= ENOUGH_SPIKES:
        return f"as seconds the median unit would fire at {rate:,.0f} Hz ({facts})"
    if rate < SLOWEST_MEDIAN_RATE_HZ:
        if span > WEEK_S:
            return (
                f"as seconds the session would last {span / 86_400:,.1f} days with a median rate "
                f"of {rate:.2g} Hz ({facts}{_as_samples(span, rate)})"
            )
        shortest = _shortest_intervals(trains)
        if shortest is not None and shortest > LONGEST_SHORTEST_INTERVAL_S:
            return (
                f"as seconds the median unit would fire at {rate:.2g} Hz and no two spikes of "
                f"a unit would come within {shortest:.2g} s of each other ({facts})"
            )
    return None


def _whole(times: np.ndarray) -> bool:
    return bool(np.all(times == np.floor(times)))


def _shortest_intervals(trains: Sequence[np.ndarray]) -> float | None:
    intervals = [np.diff(t) for t in trains if len(t) > 1]
    pooled = np.concatenate(intervals) if intervals else np.empty(0)
    pooled = pooled[pooled > 0]
    return float(pooled.min()) if len(pooled) >= ENOUGH_SPIKES else None


def _as_samples(span: float, rate: float) -> str:
    """Name the unit under which the median rate comes nearest to a usual one."""
    factor, name = min(USUAL_UNITS, key=lambda unit: abs(math.log(rate * unit[0] / USUAL_RATE_HZ)))
    return f"; as {name}: {span / factor:,.6g} s at {rate * factor:.3g} Hz"
