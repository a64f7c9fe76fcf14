"""Entries for a bench of spike binning, and a small comparison of its own.

Other benches call ``bench_binning:bin_flat``, ``:hill_flat`` and ``:load_binned`` with the tests'
folder of benchmarks on the path. Run as a script, it compares with a plain ``np.bincount`` per
unit, in rounds of both, and reports the peak memory from file to counts.
"""

from __future__ import annotations

import statistics
import sys
import time
import tracemalloc
import warnings
from pathlib import Path

import numpy as np

from saebook.data.spikes.binning import bin_spikes
from saebook.data.spikes.quality import isi_violations_ratio
from saebook.data.spikes.reading import read_recording
from saebook.data.spikes.selection import select_units
from saebook.errors import RecordingWarning


def _trains(flat_times: np.ndarray, end_offsets: np.ndarray) -> list[np.ndarray]:
    begins = np.concatenate([[0], end_offsets[:-1]])
    return [flat_times[a:b] for a, b in zip(begins, end_offsets)]


def bin_flat(
    flat_times: np.ndarray, end_offsets: np.ndarray, bin_s: float, n_bins: int
) -> np.ndarray:
    """Return counts [n_bins, n_units] of trains laid end to end."""
    return bin_spikes(_trains(flat_times, end_offsets), bin_s, 0.0, n_bins * bin_s)


def hill_flat(flat_times: np.ndarray, end_offsets: np.ndarray, seconds: float) -> np.ndarray:
    """Return the Hill ratio at 2 ms of each train."""
    trains = _trains(flat_times, end_offsets)
    short = [np.count_nonzero(np.diff(times) < 0.002) for times in trains]
    return isi_violations_ratio(short, [len(times) for times in trains], seconds)


def load_binned(path: str | Path, bin_s: float, seconds: float) -> np.ndarray:
    """Return counts [n_bins, n_kept] of a file's good units."""
    with warnings.catch_warnings():
        # Uniform foreign spikes coincide to the last bit now and then.
        warnings.simplefilter("ignore", RecordingWarning)
        selected, _ = select_units(read_recording(path))
    return bin_spikes(selected.spike_times, bin_s, 0.0, seconds)


def _plain(
    flat_times: np.ndarray, end_offsets: np.ndarray, bin_s: float, n_bins: int
) -> np.ndarray:
    trains = _trains(flat_times, end_offsets)
    counts = np.empty((len(trains), n_bins), np.uint8)
    for row, times in zip(counts, trains):
        row[:] = np.bincount((times / bin_s).astype(np.int32), minlength=n_bins)[:n_bins]
    return np.ascontiguousarray(counts.T)


def main(n_units: int = 400, seconds: float = 3600.0, rounds: int = 7) -> None:
    """Print CPU seconds of both ways, their ratio, and peak memory over the spike times'."""
    rng = np.random.default_rng(0)
    trains = [
        np.sort(rng.uniform(0, seconds, int(seconds * rate)))
        for rate in np.minimum(rng.lognormal(1.7, 0.9, n_units), 60.0)
    ]
    flat, ends = np.concatenate(trains), np.cumsum([len(times) for times in trains])
    arguments = (flat, ends, 0.05, round(seconds / 0.05))
    del trains
    seconds_of: dict[str, list[float]] = {"bin_spikes": [], "np.bincount per unit": []}
    for _ in range(rounds):
        for name, function in zip(seconds_of, (bin_flat, _plain)):
            begin = time.process_time()
            function(*arguments)
            seconds_of[name].append(time.process_time() - begin)
    for name, taken in seconds_of.items():
        print(f"{name:24s} {statistics.median(taken):.4f} CPU s for {len(flat):,} spikes")
    ratios = [a / b for a, b in zip(*seconds_of.values())]
    print(f"ratio {statistics.median(ratios):.2f}")
    tracemalloc.start()
    bin_flat(*arguments)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    print(f"peak memory of binning: {peak / flat.nbytes:.2f} x the spike times, beside them")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:2]))
