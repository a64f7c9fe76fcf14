"""Variables that a latent may follow: behaviour and trial events, averaged into bins."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from saebook.data.spikes import Recording, Series
from saebook.data.spikes.session import average_in_bins

# Angles of a motion mean something only while there is motion.
MOVING = 0.2
FEWEST_ROWS = 200
MOST_CONDITIONS = 8
FEWEST_PER_CONDITION = 5


@dataclass(frozen=True, eq=False)
class Variable:
    """One variable on the clock of the bins, with the groups that a tuning curve is made of.

    Attributes
    ----------
    name
        What it is, such as "hand_velocity speed" or "go_time, by direction".
    kind
        "continuous", "circular" (angles, rad), "event" (time from an event, s), "categorical"
        (one of the conditions), "time" (the session's own clock: what follows it drifts) or
        "population" (made of the spikes themselves: it can name nothing).
    values
        Value per bin [n]; NaN where unknown.
    group
        Group per bin [n], -1 where unknown. With conditions,
        ``condition * len(centres) + step``.
    centres
        Centre of each step of `values`, in its unit.
    unit
        Unit of `values`; may be empty.
    conditions
        Names of the conditions that split the steps, or of the categories; none usually.
    trial
        [n] trial of each row for variables that trials define, -1 outside; else None.
    """

    name: str
    kind: str
    values: np.ndarray
    group: np.ndarray
    centres: np.ndarray
    unit: str = ""
    conditions: tuple[str, ...] = ()
    trial: np.ndarray | None = None

    @property
    def n_groups(self) -> int:
        """Groups, over all conditions."""
        if self.kind == "categorical":
            return len(self.conditions)
        return len(self.centres) * max(1, len(self.conditions))

    @property
    def axis(self) -> str:
        """Label of the axis of `values`."""
        if self.kind == "event":
            event = self.name.split(", by ")[0]
            return f"time from {event.removesuffix('_time')} (s)"
        unit = "°" if self.kind == "circular" else self.unit
        return f"{self.name} ({unit})" if unit else self.name


def candidate_variables(
    recording: Recording,
    store: Any,
    *,
    n_steps: int = 12,
    window_s: tuple[float, float] = (-0.5, 1.0),
    lag_s: float = 0.1,
) -> list[Variable]:
    """List every variable of a recording that a latent could be named after.

    Behaviour: each column of each series; for a plane of two columns also speed and direction of
    motion. Trials: time from each event (columns ending in "_time"), alone and split by each
    column with two to eight values. Where there is neither: the rate of the population, which
    names nothing, since it is made of the spikes.

    Steps of continuous variables are equal, between the 1st and 99th percentile of the training
    rows. Variables known in fewer than 200 training rows, or that never change, are left out.

    Parameters
    ----------
    recording
        What the store was made from.
    store : ExampleStore
        Binned counts of one session.
    n_steps
        Steps of a continuous or circular variable.
    window_s
        Window around an event, s.
    lag_s
        Step of the time from an event, s; at least one bin.

    Returns
    -------
    list of Variable
        In the order of the file.

    Examples
    --------
    >>> import tempfile
    >>> from saebook.data import UnitCriteria, prepare
    >>> rng, time = np.random.default_rng(0), np.arange(0, 600, 0.02)
    >>> trains = [np.sort(rng.uniform(0, 600, 3000)) for _ in range(24)]
    >>> pupil = Series("pupil", np.sin(time)[:, None], time, "mm", ("pupil",))
    >>> recording = Recording.from_spike_times(
    ...     trains, interval=(0, 600), behavior={"pupil": pupil}
    ... )
    >>> rules, folder = UnitCriteria(max_isi_violations=None), tempfile.mkdtemp()
    >>> store = prepare(recording, f"{folder}/store", criteria=rules, progress=False)
    >>> [variable.axis for variable in candidate_variables(recording, store)]
    ['pupil (mm)']
    """
    index = store.index
    time, width = index["time"].to_numpy(), float(store.bin_size_s)
    train = (index["split"] == "train").to_numpy()
    found: list[Variable] = []
    has_velocity = any(is_velocity(name) for name in recording.behavior)
    for series in recording.behavior.values():
        for name, kind, values, unit in behavior_columns(series, time, width, has_velocity):
            found.append(stepped(name, kind, values, unit, train, n_steps))
    if recording.trials is not None:
        found += event_variables(recording.trials, time + width / 2, window_s, max(lag_s, width))
    found = [variable for variable in found if usable(variable, train)]
    if not found:
        rate = store.array().sum(axis=1, dtype=np.int64) / width
        found = [stepped("population rate", "population", rate, "spikes/s", train, n_steps)]
    return found


def behavior_columns(
    series: Series, time: np.ndarray, width: float, has_velocity: bool
) -> Iterator[tuple[str, str, np.ndarray, str]]:
    """Yield (name, kind, value per bin, unit) of a series' columns, and of motion in a plane."""
    data = np.asarray(series.data, dtype=float)
    if data.ndim != 2 or data.dtype.kind not in "fiu":
        return
    known = np.isfinite(data).all(axis=1) & np.isfinite(series.timestamps)
    if known.sum() < 2:
        return
    clean = Series(series.name, data[known], series.timestamps[known], series.unit, series.columns)
    binned = average_in_bins(clean, time, width).to_numpy().copy()
    stamps = clean.timestamps
    binned[(time + width < stamps.min()) | (time > stamps.max())] = np.nan
    several = len(series.columns) > 1
    for column, name in enumerate(series.columns):
        own_name = several and str(name).startswith(series.name)
        full = str(name) if own_name else f"{series.name} {name}" if several else series.name
        yield full, "continuous", binned[:, column], series.unit
    given = is_velocity(series.name)
    if len(series.columns) != 2 or (has_velocity and not given):
        return
    motion = binned if given else np.gradient(binned, axis=0) / width
    if not given:
        # A step over a pause of the clock is no motion.
        motion[np.r_[False, np.diff(time) > 1.5 * width]] = np.nan
    speed = np.hypot(motion[:, 0], motion[:, 1])
    unit = series.unit if given else f"{series.unit}/s"
    yield f"{series.name} speed", "continuous", speed, unit
    fast = np.nanquantile(speed, 0.95) if np.isfinite(speed).any() else 0.0
    moving = speed > max(MOVING * fast, 0.0)
    angle = np.where(moving, np.arctan2(motion[:, 1], motion[:, 0]), np.nan)
    yield f"{series.name} direction", "circular", angle, "rad"


def is_velocity(name: str) -> bool:
    """Whether a series is a velocity, by its name."""
    return "veloc" in name.lower()


def stepped(
    name: str, kind: str, values: np.ndarray, unit: str, train: np.ndarray, n_steps: int
) -> Variable:
    """Cut values into equal steps between the 1st and 99th percentile of training rows."""
    if kind == "circular":
        values = np.degrees(values)
        low, high = -180.0, 180.0
    else:
        seen = values[train & np.isfinite(values)]
        low, high = np.quantile(seen, [0.01, 0.99]) if len(seen) else (0.0, 0.0)
    # Rounding is no change: one step of that width holds all.
    changes = high - low > 1e-9 * max(abs(low), abs(high))
    edges = np.linspace(low, high, n_steps + 1) if changes else low + np.arange(n_steps + 1) - 0.5
    known = np.isfinite(values)
    step = np.clip(np.searchsorted(edges, np.where(known, values, low), "right") - 1, 0, None)
    group = np.where(known, np.minimum(step, n_steps - 1), -1)
    return Variable(name, kind, values, group, (edges[:-1] + edges[1:]) / 2, unit)


def event_variables(
    trials: pd.DataFrame, centers: np.ndarray, window_s: tuple[float, float], lag_s: float
) -> Iterator[Variable]:
    """Yield the time from each event of the trials, alone and by each condition."""
    n_lags = max(2, round((window_s[1] - window_s[0]) / lag_s))
    lags = window_s[0] + (np.arange(n_lags) + 0.5) * lag_s
    conditions = list(trial_conditions(trials))
    for event in [c for c in trials.columns if str(c).endswith("_time") and c != "stop_time"]:
        times = np.asarray(pd.to_numeric(trials[event], errors="coerce"), dtype=float)
        if not np.isfinite(times).any():
            continue
        trial, since = _last_window(times, centers, window_s)
        lag = np.floor((since - window_s[0]) / lag_s)
        lag = np.where(np.isfinite(lag), np.clip(lag, 0, n_lags - 1), -1).astype(int)
        yield Variable(str(event), "event", since, lag, lags, "s", trial=trial)
        for column, codes, names in conditions:
            code = np.where(trial >= 0, codes[trial], -1)
            group = np.where((lag >= 0) & (code >= 0), code * n_lags + lag, -1)
            values = np.where(group >= 0, since, np.nan)
            yield Variable(f"{event}, by {column}", "event", values, group, lags, "s", names, trial)


def trial_conditions(trials: pd.DataFrame) -> Iterator[tuple[str, np.ndarray, tuple[str, ...]]]:
    """Columns that sort trials into a few kinds; of columns that sort alike, the first."""
    taken: list[np.ndarray] = []
    for column in trials.columns:
        if re.search(r"(^|_)time$", str(column)):
            continue
        codes, kinds = pd.factorize(trials[column], sort=True)
        if not 2 <= len(kinds) <= MOST_CONDITIONS:
            continue
        if np.bincount(codes[codes >= 0], minlength=len(kinds)).min() < FEWEST_PER_CONDITION:
            continue
        alike = [len(np.unique(codes + 1000 * other)) == len(kinds) for other in taken]
        if any(alike):
            continue
        taken.append(codes)
        names = tuple(f"{k:.3g}" if isinstance(k, float | np.floating) else str(k) for k in kinds)
        yield str(column), codes, names


def _last_window(
    times: np.ndarray, centers: np.ndarray, window_s: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Trial whose event lies nearest, -1 outside every window, and the time since it, s."""
    order = np.flatnonzero(np.isfinite(times))
    order = order[np.argsort(times[order], kind="stable")]
    sorted_times = times[order]
    after = np.searchsorted(sorted_times, centers)
    before = np.clip(after - 1, 0, len(order) - 1)
    after = np.clip(after, 0, len(order) - 1)
    nearer_after = np.abs(sorted_times[after] - centers) < np.abs(centers - sorted_times[before])
    nearest = np.where(nearer_after, after, before)
    since = centers - sorted_times[nearest]
    inside = (since >= window_s[0]) & (since < window_s[1])
    return np.where(inside, order[nearest], -1), np.where(inside, since, np.nan)


def usable(variable: Variable, train: np.ndarray) -> bool:
    """Whether a variable is known in enough training rows, and changes there."""
    rows = train & (variable.group >= 0)
    return int(rows.sum()) >= FEWEST_ROWS and len(np.unique(variable.group[rows])) > 1
