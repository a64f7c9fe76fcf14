"""Comparison data from a simulation, and from any recording: trials where there are some."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from saebook.data import Recording, bin_spikes
from saebook.data.simulate import Simulation
from saebook.data.spikes import Series
from saebook.data.spikes.session import average_in_bins
from saebook.data.store import assign_splits
from saebook.errors import ConfigError, DataError
from saebook.evaluation.comparison.data import (
    PARTS,
    ComparisonData,
    cut_stretches,
    hold_out_units,
)

FRACTIONS = (0.6, 0.2, 0.2)
# Events that trials are cut around, where the file has them: the first of these.
EVENTS = ("go_time", "go_cue_time", "movement_onset_time", "move_onset_time", "start_time")
FEWEST_TRIALS = 20
MOST_CONDITIONS = 8
FEWEST_PER_CONDITION = 3


def simulated_comparison(
    simulation: Simulation,
    *,
    name: str,
    bin_size_s: float = 0.05,
    event: str = "go_time",
    window_s: tuple[float, float] = (-0.3, 0.7),
    lag_s: float = 0.1,
    held_out: float = 0.25,
    seed: int = 0,
) -> ComparisonData:
    """Cut a simulated reach into trials, with its true rates and features.

    Parameters
    ----------
    simulation : Simulation
        Of :func:`saebook.data.simulate.simulate_reach`.
    name : str
        For tables.
    bin_size_s : float
        Width of a bin, s.
    event : str
        Column of the trials around which they are cut.
    window_s : (float, float)
        From and to, s from the event.
    lag_s : float
        How much later than the counts the velocity is read, s: neurons lead the hand.
    held_out : float
        Share of units that methods don't see, quiet and busy ones alike.
    seed : int
        Of the draw of these units and of the splits.

    Returns
    -------
    ComparisonData
        True rates are those without the gain that each unit draws for each trial on its own,
        which no other unit could tell.

    Examples
    --------
    >>> from saebook.data.simulate import simulate_reach
    >>> simulated_comparison(simulate_reach(20, 30, defects=False), name="reach")
    reach: 600 bins of 50 ms in trials (18 train, 6 validation, 6 test), 15 units in, 5 held out
    """
    start, stop = simulation.interval.start, simulation.interval.stop
    counts = bin_spikes(simulation.spike_times, bin_size_s, start, stop)
    time = start + np.arange(len(counts)) * bin_size_s
    trials = simulation.trials
    if trials is None:
        raise DataError(f"the simulation of {simulation.kind} has no trials to be cut into")
    trial = _windows(time, trials[event].to_numpy(), window_s, bin_size_s)
    rows = np.flatnonzero(trial >= 0)
    index = pd.DataFrame({"time": time[rows], "trial": trial[rows]})
    velocity = average_in_bins(
        simulation.behavior["hand_velocity"], time + lag_s, bin_size_s
    ).to_numpy()
    return ComparisonData(
        name=name,
        counts=counts[rows],
        trials=trial[rows],
        split=assign_splits(index, "trial", FRACTIONS, 0.0, seed),
        held_out=hold_out_units(counts.shape[1], held_out, counts=counts[rows], seed=seed),
        bin_size_s=bin_size_s,
        behaviour=velocity[rows],
        behaviour_name=f"hand_velocity (m/s), {lag_s * 1000:g} ms later",
        condition=trials["target"].to_numpy()[trial[rows]],
        rates=simulation.rates(bin_size_s, gain=False)[rows] * bin_size_s,
        features=simulation.binned_features(bin_size_s)[rows],
    )


def recorded_comparison(
    recording: Recording,
    store: Any,
    *,
    name: str = "recording",
    event: str = "",
    window_s: tuple[float, float] = (-0.3, 0.7),
    behaviour: str = "",
    lag_s: float = 0.1,
    held_out: float = 0.25,
    max_bins: int | None = None,
    seed: int = 0,
) -> ComparisonData:
    """Cut the binned counts of a recording into trials, or else into stretches of one length.

    Parameters
    ----------
    recording : Recording
        What the store was made from.
    store : ExampleStore
        Its binned counts, one session, with splits.
    name : str
        For tables.
    event : str
        Column of the trials around which they are cut; by default the first that there is of
        go, movement onset and start.
    window_s : (float, float)
        From and to, s from the event. Stretches are as long.
    behaviour : str
        Series to decode; by default a velocity, else the first series.
    lag_s : float
        How much later than the counts a velocity is read, s; any other series is read at once.
    held_out : float
        Share of units that methods don't see, quiet and busy ones alike.
    max_bins : int, optional
        Of a longer recording, evenly spaced trials of every split are kept, with about so many
        bins in all.
    seed : int
        Of the draw of these units.

    Returns
    -------
    ComparisonData
        ``notes`` say what the recording has not got.

    Raises
    ------
    SelectionError
        Fewer than two units, or a split without a whole stretch.
    """
    notes: list[str] = []
    index = store.index
    time, split = index["time"].to_numpy(), index["split"].to_numpy().astype(str)
    width = float(store.bin_size_s)
    trial, condition = _trials(recording.trials, time, split, width, event, window_s, notes)
    natural = trial is not None
    if trial is None:
        length = max(2, round((window_s[1] - window_s[0]) / width))
        steady = np.diff(time, prepend=time[0] - width) < 1.5 * width
        known = np.isin(split, PARTS)
        new = ~steady | (split != np.r_[split[:1], split[:-1]])
        trial = cut_stretches(np.where(known, np.cumsum(new), -1), length)
    if max_bins is not None and (trial >= 0).sum() > max_bins:
        n_all = len(np.unique(trial[trial >= 0]))
        trial = _thinned(trial, split, max_bins)
        n_kept = len(np.unique(trial[trial >= 0]))
        notes.append(f"{n_kept} of {n_all} trials or stretches are used, evenly spaced")
    rows = np.flatnonzero(trial >= 0)
    counts = store.array()[rows]
    values, label = _behaviour(recording, time, width, behaviour, lag_s, notes)
    return ComparisonData(
        name=name,
        counts=counts,
        trials=trial[rows],
        split=split[rows],
        held_out=hold_out_units(store.d_in, held_out, counts=counts, seed=seed),
        bin_size_s=width,
        behaviour=None if values is None else values[rows],
        behaviour_name=label,
        condition=None if condition is None else condition[trial[rows]],
        natural_trials=natural,
        notes=tuple(notes),
    )


def _windows(
    time: np.ndarray, events: np.ndarray, window_s: tuple[float, float], width: float
) -> np.ndarray:
    """Number of the event in whose window a bin lies, -1 outside; all windows are equally long."""
    n = round((window_s[1] - window_s[0]) / width)
    if n < 2:
        raise ConfigError(
            f"window_s = {window_s} holds {n} bins of {width} s: at least 2 are needed"
        )
    trial, end = np.full(len(time), -1), 0
    for number in np.argsort(events, kind="stable"):
        if not np.isfinite(events[number]):
            continue
        first = int(np.searchsorted(time, events[number] + window_s[0] - 1e-9))
        whole = first + n <= len(time) and first >= end
        # A window over a pause of the clock is none.
        if whole and time[first + n - 1] - time[first] < (n - 0.5) * width:
            trial[first : first + n] = number
            end = first + n
    return trial


def _trials(
    trials: pd.DataFrame | None,
    time: np.ndarray,
    split: np.ndarray,
    width: float,
    event: str,
    window_s: tuple[float, float],
    notes: list[str],
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Trial of each bin, and the condition of each trial; None where there are too few."""
    if trials is None or not len(trials):
        notes.append("no trials: stretches of equal length instead, and no PSTH")
        return None, None
    if event and event not in trials.columns:
        raise ConfigError(
            f"event = {event!r}: the trials have {', '.join(map(str, trials.columns))}"
        )
    event = event or next((name for name in EVENTS if name in trials.columns), "start_time")
    trial = _windows(time, trials[event].to_numpy(dtype=float), window_s, width)
    for number in np.unique(trial[trial >= 0]):
        rows = trial == number
        parts = np.unique(split[rows])
        if len(parts) > 1 or parts[0] not in PARTS:
            trial[rows] = -1
    counts = {part: len(np.unique(trial[(trial >= 0) & (split == part)])) for part in PARTS}
    if sum(counts.values()) < FEWEST_TRIALS or min(counts.values()) < 3:
        notes.append(
            f"{len(trials)} trials, of which {counts} lie whole in a split: too few, so stretches "
            "of equal length instead, and no PSTH"
        )
        return None, None
    used = np.unique(trial[trial >= 0])
    condition = _conditions(trials, used)
    if condition is None:
        notes.append("no column of the trials has a few values that recur: no PSTH")
    return trial, condition


def _thinned(trial: np.ndarray, split: np.ndarray, max_bins: int) -> np.ndarray:
    """Leave evenly spaced trials of each split, two of each at least."""
    used = trial >= 0
    share = max_bins / used.sum()
    kept: list[int] = []
    for part in PARTS:
        numbers = np.unique(trial[used & (split == part)])
        n = min(len(numbers), max(2, int(share * len(numbers))))
        kept += numbers[np.linspace(0, len(numbers) - 1, n).round().astype(int)].tolist()
    return np.where(np.isin(trial, kept), trial, -1)


def _conditions(trials: pd.DataFrame, used: np.ndarray) -> np.ndarray | None:
    """The column with the most values, of those with few that recur."""
    best: np.ndarray | None = None
    for column in trials.columns:
        if str(column).endswith("time"):
            continue
        codes, kinds = pd.factorize(trials[column], sort=True)
        seen = codes[used]
        n = np.bincount(seen[seen >= 0], minlength=len(kinds))
        recurs = 2 <= len(kinds) <= MOST_CONDITIONS and n.min() >= FEWEST_PER_CONDITION
        if recurs and (best is None or len(kinds) > best.max() + 1):
            best = codes
    return best


def _behaviour(
    recording: Recording,
    time: np.ndarray,
    width: float,
    wanted: str,
    lag_s: float,
    notes: list[str],
) -> tuple[np.ndarray | None, str]:
    series = recording.behavior
    if wanted and wanted not in series:
        raise ConfigError(f"behaviour = {wanted!r}: the file has {', '.join(series) or 'none'}")
    velocities = [name for name in series if "veloc" in name.lower()]
    name = wanted or next(iter([*velocities, *series]), "")
    if not name:
        notes.append("no behaviour: nothing to decode")
        return None, ""
    lag_s = lag_s if "veloc" in name.lower() else 0.0
    found = series[name]
    data = np.asarray(found.data, dtype=float)
    known = np.isfinite(data).all(axis=1) & np.isfinite(found.timestamps)
    if known.sum() < 2:
        notes.append(f"{name} is never known: nothing to decode")
        return None, ""
    clean = Series(name, data[known], found.timestamps[known], found.unit, found.columns)
    values = average_in_bins(clean, time + lag_s, width).to_numpy().copy()
    stamps = clean.timestamps
    outside = (time + lag_s + width < stamps.min()) | (time + lag_s > stamps.max())
    values[outside] = np.nan
    if outside.all():
        notes.append(f"the clock of {name} does not overlap the spikes: nothing to decode")
        return None, ""
    if (~known).any():
        notes.append(f"{int((~known).sum())} of {len(known)} samples of {name} are unknown")
    varies = np.nanmin(values, axis=0) < np.nanmax(values, axis=0)
    if not varies.any():
        notes.append(f"{name} never changes: nothing to decode")
        return None, ""
    when = f", {lag_s * 1000:g} ms later" if lag_s else ""
    return values[:, varies], f"{name} ({found.unit}){when}"
