"""One recording, binned: counts with their clock, trials, splits and everything beside them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from saebook.data.spikes.binning import bin_spikes
from saebook.data.spikes.quality import observed_pieces
from saebook.data.spikes.recording import Recording, Series
from saebook.data.store import assign_splits
from saebook.errors import SelectionError

# By trial only where trials are many enough to be dealt out and cover most of the time.
ENOUGH_TRIALS = 20
ENOUGH_COVERED = 0.5
# A guard gap longer than this, or than this share of the recording, would cost more than leakage.
LONGEST_GUARD_S = 10.0
LARGEST_GUARD_SHARE = 1 / 60


@dataclass
class BinnedSession:
    """A session ready to be written.

    Attributes
    ----------
    name
        Session name, unique within a store.
    counts
        [n_bins, n_units] of unsigned integers.
    time
        Start of each bin [n_bins], s, on the recording's clock.
    segment
        Number of each bin's observed piece [n_bins]; windows never cross pieces.
    trial
        Row of each bin's trial in the table of trials [n_bins], -1 outside any.
    split
        "train", "validation", "test" or "guard" [n_bins].
    units
        One row per kept unit, index `unit`: quality, then the file's columns.
    tables
        Further tables by name, without the session column.
    facts
        How the session came about, for provenance.
    """

    name: str
    counts: np.ndarray
    time: np.ndarray
    segment: np.ndarray
    trial: np.ndarray
    split: np.ndarray
    units: pd.DataFrame
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


def bin_session(
    recording: Recording,
    quality: pd.DataFrame,
    bin_size_s: float,
    *,
    name: str,
    split_by: Literal["auto", "trial", "time"],
    fractions: tuple[float, float, float],
    guard_s: float | None,
    seed: int,
) -> BinnedSession:
    """Bin a recording of selected units, and divide its bins into splits.

    Parameters
    ----------
    recording, quality
        From `select_units`.
    bin_size_s, split_by, fractions, guard_s, seed
        As for `prepare`.
    name
        Name of the session.

    Raises
    ------
    DataError, SelectionError
        No whole bin, or too few bins for the splits.
    """
    start, stop = recording.interval.start, recording.interval.stop
    counts = bin_spikes(recording.spike_times, bin_size_s, start, stop)
    time = start + np.arange(len(counts)) * bin_size_s
    segment = observed_segments(time, bin_size_s, observed_pieces(recording))
    seen = segment >= 0
    if not seen.any():
        raise SelectionError(
            f"no bin of {bin_size_s} s lies within what {recording.source} observed; use a smaller "
            "bin size"
        )
    if not seen.all():
        counts, time, segment = counts[seen], time[seen], segment[seen]
    trial = trial_of_bins(time + bin_size_s / 2, recording.trials)
    by, why = _split_rule(trial, recording.trials, split_by)
    population = counts.sum(axis=1, dtype=np.int64)
    gap_s, guard_facts = guard_gap(population, bin_size_s, guard_s)
    index = pd.DataFrame({"time": time, "trial": trial})
    split = assign_splits(
        index, by, fractions, gap_s, seed, between="nearest", bin_size_s=bin_size_s
    )
    kept = quality.loc[quality["kept"]]
    own = [column for column in recording.units.columns if column not in kept.columns]
    facts = {
        "source": recording.source,
        "session": name,
        "interval_s": [start, stop],
        "interval_source": recording.interval_source,
        "origin_s": start,
        "n_units_in_file": len(quality),
        "n_units": len(kept),
        "n_bins": len(counts),
        "n_bins_unobserved": int((~seen).sum()),
        "n_segments": len(np.unique(segment)),
        "n_spikes": int(population.sum()),
        "largest_count": int(counts.max()),
        "zero_fraction": float(np.mean(counts == 0)),
        "split_by": by,
        "split_reason": why,
        **guard_facts,
        "notes": list(recording.notes),
    }
    return BinnedSession(
        name=name,
        counts=counts,
        time=time,
        segment=segment,
        trial=trial,
        split=split,
        units=kept.join(recording.units[own]),
        tables=_tables(recording, quality, time, bin_size_s),
        facts=facts,
    )


def observed_segments(time: np.ndarray, bin_size_s: float, pieces: np.ndarray) -> np.ndarray:
    """Return the piece that holds each whole bin, -1 for a bin that was not observed throughout.

    Parameters
    ----------
    time
        Start of each bin [n_bins], s.
    bin_size_s
        Width, s.
    pieces
        Observed spans [n, 2], s, in order.

    Examples
    --------
    >>> observed_segments(np.arange(5.0), 1.0, np.array([[0.0, 2.0], [3.5, 5.0]]))
    array([ 0,  0, -1, -1,  1])
    """
    # A hundredth of a bin forgives rounding of long clocks.
    slack = 0.01 * bin_size_s
    piece = np.searchsorted(pieces[:, 0], time + slack, side="right") - 1
    whole = (piece >= 0) & (time + bin_size_s <= pieces[piece, 1] + slack)
    return np.where(whole, piece, -1)


def trial_of_bins(centers: np.ndarray, trials: pd.DataFrame | None) -> np.ndarray:
    """Return the row of the trial that holds each bin's center, -1 outside any.

    Where trials overlap, the one that began last counts; trials with a NaN limit hold nothing.

    Examples
    --------
    >>> trials = pd.DataFrame({"start_time": [1.0, 3.0], "stop_time": [2.0, 4.0]})
    >>> trial_of_bins(np.array([0.5, 1.5, 2.5, 3.5]), trials)
    array([-1,  0, -1,  1], dtype=int32)
    """
    result = np.full(len(centers), -1, np.int32)
    if trials is None:
        return result
    begins, ends = (trials[column].to_numpy(float) for column in ("start_time", "stop_time"))
    for row in np.argsort(begins, kind="stable"):
        if np.isfinite(begins[row]) and np.isfinite(ends[row]):
            low, high = np.searchsorted(centers, [begins[row], ends[row]])
            result[low:high] = row
    return result


def _split_rule(
    trial: np.ndarray, trials: pd.DataFrame | None, split_by: str
) -> tuple[Literal["trial", "time"], str]:
    n_trials, covered = len(np.unique(trial[trial >= 0])), float(np.mean(trial >= 0))
    found = f"{n_trials} trials cover {covered:.0%} of the bins"
    if split_by == "trial":
        if trials is None or not n_trials:
            raise SelectionError(f'split_by="trial", but {found}; use split_by="time"')
        return "trial", "asked for"
    if split_by == "time":
        return "time", "asked for"
    by_trial = n_trials >= ENOUGH_TRIALS and covered >= ENOUGH_COVERED
    return ("trial" if by_trial else "time"), found


def guard_gap(
    population: np.ndarray, bin_size_s: float, guard_s: float | None = None
) -> tuple[float, dict[str, Any]]:
    """Return the gap between splits, s, and how it was found.

    Unless given, it is the autocorrelation time of the population count (see
    `decorrelation_lag`), at least a bin, and at most 10 s and a sixtieth of the recording.

    Parameters
    ----------
    population
        Spikes of all units per bin [n_bins].
    bin_size_s
        Width of a bin, s.
    guard_s
        The gap asked for, s.

    Examples
    --------
    >>> slow = np.repeat([0, 4] * 300, 4)
    >>> guard_gap(slow, 0.5)[0]
    1.0
    """
    lag = decorrelation_lag(population)
    measured = lag * bin_size_s
    longest = max(
        bin_size_s, min(LONGEST_GUARD_S, len(population) * bin_size_s * LARGEST_GUARD_SHARE)
    )
    gap = min(max(measured, bin_size_s), longest) if guard_s is None else float(guard_s)
    return gap, {
        "autocorrelation_time_s": measured,
        "guard_s": gap,
        "guard_reason": "asked for"
        if guard_s is not None
        else ("autocorrelation time" if measured <= longest else "capped"),
    }


def decorrelation_lag(signal: np.ndarray) -> int:
    """Return the lag, in samples, at which the autocorrelation has fallen by 1/e from lag 1.

    The variance of single counts is mostly Poisson noise, which is gone at lag 1: measured
    against lag 0, a slow signal under such noise would look fast. A signal whose lag 1 is within
    three standard errors of zero has no autocorrelation: 1.

    Examples
    --------
    >>> decorrelation_lag(np.array([0, 1] * 50)), decorrelation_lag(np.ones(9))
    (1, 1)
    >>> slow = np.repeat([0.0, 3.0] * 500, 20)
    >>> noise = np.random.default_rng(0).normal(size=len(slow))
    >>> decorrelation_lag(slow), decorrelation_lag(slow + 2 * noise)
    (7, 7)
    """
    deviation = np.asarray(signal, float) - np.mean(signal)
    n = len(deviation)
    if n < 2 or not deviation.any():
        return 1
    spectrum = np.fft.rfft(deviation, 1 << (2 * n - 1).bit_length())
    autocorrelation = np.fft.irfft(np.abs(spectrum) ** 2)[:n]
    if autocorrelation[1] < 3 * autocorrelation[0] / np.sqrt(n):
        return 1
    below = autocorrelation[1:] < autocorrelation[1] / np.e
    return 1 + int(np.argmax(below)) if below.any() else n


def _tables(
    recording: Recording, quality: pd.DataFrame, time: np.ndarray, bin_size_s: float
) -> dict[str, pd.DataFrame]:
    tables = {"quality": quality.reset_index()}
    if recording.trials is not None:
        trials = recording.trials.rename_axis("id").reset_index()
        trials.insert(0, "trial", np.arange(len(trials)))
        tables["trials"] = trials
    if recording.intervals:
        named = [
            table.reset_index(drop=True).assign(name=name)
            for name, table in recording.intervals.items()
        ]
        tables["intervals"] = pd.concat(named, ignore_index=True)
    for name, series in recording.behavior.items():
        tables[_table_name(f"behavior_{name}", tables)] = _series_table(series)
    if recording.ground_truth is not None:
        truth = recording.ground_truth
        features = truth["features"]
        averages = average_in_bins(features, time, bin_size_s)
        tables["ground_truth_features"] = averages.reset_index()
        kept = recording.units.index
        tables["ground_truth_mixing"] = truth["mixing"].loc[kept].rename_axis("unit").reset_index()
        tables["ground_truth_units"] = truth["units"].loc[kept].rename_axis("unit").reset_index()
    return {name: _plain_columns(table) for name, table in tables.items()}


def average_in_bins(series: Series, time: np.ndarray, bin_size_s: float) -> pd.DataFrame:
    """Return the mean of a signal's samples in each bin, index `time`.

    Bins without a sample, where the signal is slower than the bins, are interpolated at their
    centers.

    Parameters
    ----------
    series
        A signal with its clock.
    time
        Start of each bin [n_bins], s, ascending.
    bin_size_s
        Width, s.

    Examples
    --------
    >>> ramp = Series("x", np.arange(4.0)[:, None], np.arange(4.0), "m", ("x",))
    >>> average_in_bins(ramp, np.array([0.0, 2.0]), 2.0)["x"].tolist()
    [0.5, 2.5]
    """
    order = np.argsort(series.timestamps, kind="stable")
    stamps, values = series.timestamps[order], np.asarray(series.data, float)[order]
    low, high = np.searchsorted(stamps, time), np.searchsorted(stamps, time + bin_size_s)
    sums = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, axis=0)])
    n = (high - low)[:, None]
    with np.errstate(invalid="ignore"):
        means = (sums[high] - sums[low]) / n
    empty = n[:, 0] == 0
    for column in range(values.shape[1] if empty.any() else 0):
        means[empty, column] = np.interp(time[empty] + bin_size_s / 2, stamps, values[:, column])
    return pd.DataFrame(means, columns=list(series.columns), index=pd.Index(time, name="time"))


def _series_table(series: Series) -> pd.DataFrame:
    columns = [f"{name}_" if name == "time" else str(name) for name in series.columns]
    table = pd.DataFrame(np.asarray(series.data), columns=columns)
    table.insert(0, "time", series.timestamps)
    return table


def _table_name(name: str, taken: dict[str, pd.DataFrame]) -> str:
    """Return a name that a file can have, different from those taken."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", name)
    number = 1
    unique = name
    while unique in taken:
        number += 1
        unique = f"{name}_{number}"
    return unique


def _plain_columns(table: pd.DataFrame) -> pd.DataFrame:
    """Make columns of mixed values texts, since a file column has one type."""
    table = table.copy()
    table.columns = [str(name) for name in table.columns]
    for name in table.columns:
        if table[name].dtype == object:
            kinds = {type(value) for value in table[name].dropna()}
            if len(kinds) > 1 or not kinds <= {str, bool, int, float}:
                table[name] = table[name].map(str, na_action="ignore")
    return table
