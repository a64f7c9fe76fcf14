"""A recording in memory: spike trains, units, trials, behaviour, and what was observed."""

from __future__ import annotations

import dataclasses
import html
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

import numpy as np
import pandas as pd

from saebook.data.spikes.trains import check_train, drop_duplicates, not_in_seconds
from saebook.errors import RecordingError, RecordingWarning

MOST_NAMED = 10


@dataclass(frozen=True)
class Interval:
    """A span of time [start, stop), s, on the recording's own clock.

    Examples
    --------
    >>> Interval(4397.0, 4400.5).duration
    3.5
    """

    start: float
    stop: float

    @property
    def duration(self) -> float:
        """Length, s."""
        return self.stop - self.start


@dataclass(frozen=True)
class Series:
    """A signal with its own clock, such as position or velocity.

    Attributes
    ----------
    name
        As in the file.
    data
        Values [n, n_columns], in `unit`.
    timestamps
        Times [n], s, on the recording's clock; kept as found, so not always increasing.
    unit
        Unit of `data`, as the file states it.
    columns
        One name per column of `data`.

    Examples
    --------
    >>> speed = Series("speed", np.zeros((3, 1)), np.arange(3.0), "cm/s", ("speed",))
    >>> len(speed)
    3
    """

    name: str
    data: np.ndarray
    timestamps: np.ndarray
    unit: str
    columns: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.timestamps)

    def to_frame(self) -> pd.DataFrame:
        """Return the values as a table, one row per time, index `time` in s."""
        index = pd.Index(self.timestamps, name="time")
        return pd.DataFrame(self.data, index=index, columns=list(self.columns))


class GroundTruth(TypedDict):
    """What a simulated recording says of itself; both tables hold every unit of the file."""

    features: Series
    mixing: pd.DataFrame
    units: pd.DataFrame


@dataclass
class Recording:
    """Spike trains of one session, with everything known about them.

    Attributes
    ----------
    spike_times
        One float64 array [n_spikes] per unit, s, sorted; read from a file, they are views into
        one flat array.
    units
        One row per unit of `spike_times`. Index `unit`: the id in the file. Columns: the
        file's scalar columns and `file_row`; `n_duplicate_spikes` where there are any.
    trials
        `start_time` and `stop_time`, s, and the file's columns; None without trials.
    intervals
        Epochs and every other table of intervals, by name.
    behavior
        Position, velocity, …, by series name, each with its own clock.
    interval
        What was observed. The clock is never shifted.
    interval_source
        How the interval was found: "obs_intervals", "given", or what it spans, such as
        "spikes, trials and behavior".
    source
        Path of the file, or "arrays".
    session
        Short name used in tables.
    faults
        Units set aside. Index `unit`; columns `file_row` and `reason`.
    notes
        Oddities that the recording survived, in words.
    description
        The file's description of the session.
    ground_truth
        For simulated files: true `features` (Series), `mixing` [n_units, n_features] and true
        `units` (both over every unit of the file: align them by ``.loc[recording.units.index]``).

    Examples
    --------
    >>> recording = Recording.from_spike_times([[0.1, 0.4], [0.2]], interval=(0, 1))
    >>> recording.n_units, recording.n_spikes, recording.duration
    (2, 3, 1.0)
    """

    spike_times: list[np.ndarray]
    units: pd.DataFrame
    interval: Interval
    trials: pd.DataFrame | None = None
    intervals: dict[str, pd.DataFrame] = field(default_factory=dict)
    behavior: dict[str, Series] = field(default_factory=dict)
    interval_source: str = "given"
    source: str = "arrays"
    session: str = "arrays"
    faults: pd.DataFrame = field(default_factory=lambda: _no_faults())
    notes: tuple[str, ...] = ()
    description: str = ""
    ground_truth: GroundTruth | None = None

    @classmethod
    def from_spike_times(
        cls,
        spike_times: Sequence[Any],
        *,
        unit_ids: Sequence[Any] | None = None,
        interval: Interval | tuple[float, float] | None = None,
        trials: pd.DataFrame | None = None,
        behavior: Mapping[str, Series] | None = None,
        session: str = "arrays",
        units: pd.DataFrame | None = None,
        strict: bool = False,
        drop_duplicates: bool = False,
        times_in_seconds: bool | None = None,
    ) -> Recording:
        """Make a recording from arrays, with the checks that a file gets.

        Parameters
        ----------
        spike_times
            One sequence of spike times [n_spikes] per unit, s, sorted.
        unit_ids
            One id per unit; else the index of `units`, else 0, 1, ….
        interval
            (start, stop) of what was observed, s; else the span of spikes, trials and behavior.
        trials
            Table with `start_time` and `stop_time`, s.
        behavior
            Series by name.
        session
            Short name used in tables.
        units
            One row of properties per unit, such as sorter labels.
        strict
            Refuse the whole recording where a unit is faulty, instead of setting it aside.
        drop_duplicates
            Drop spikes at exactly the time of the spike before them.
        times_in_seconds
            True: don't look for evidence that times are in another unit.

        Raises
        ------
        RecordingError
            Nothing usable; ids or tables of another length; times evidently not in seconds; or a
            faulty unit with `strict`.

        Examples
        --------
        >>> Recording.from_spike_times([[0.1, 0.2]], unit_ids=["a"]).units.index.tolist()
        ['a']
        """
        trains = []
        for row, times in enumerate(spike_times):
            try:
                array = np.asarray(times, dtype=np.float64)
            except (TypeError, ValueError) as error:
                raise RecordingError(
                    f"{session}: spike times of unit {row} are not numbers ({error}). "
                    "Give one array of seconds per unit."
                ) from error
            if array.ndim != 1:
                raise RecordingError(
                    f"{session}: spike times of unit {row} have shape {array.shape}. "
                    "Give a list with one 1-D array of seconds per unit."
                )
            trains.append(array)
        table = _unit_table(len(trains), unit_ids, units, session)
        if trials is not None and not {"start_time", "stop_time"} <= set(trials.columns):
            raise RecordingError(
                f"{session}: the trials have columns {list(trials.columns)}. "
                "Name their limits start_time and stop_time, in seconds."
            )
        return assemble(
            trains,
            table,
            trials=trials,
            behavior=dict(behavior or {}),
            interval=None if interval is None else _as_interval(interval, session),
            interval_source="given",
            source="arrays",
            session=session,
            strict=strict,
            drop_repeats=drop_duplicates,
            times_in_seconds=times_in_seconds,
        )

    @property
    def n_units(self) -> int:
        """Number of usable units."""
        return len(self.spike_times)

    @property
    def n_spikes(self) -> int:
        """Number of spikes of all usable units."""
        return sum(len(times) for times in self.spike_times)

    @property
    def duration(self) -> float:
        """Length of what was observed, s."""
        return self.interval.duration

    def keep(self, mask: Any) -> Recording:
        """Return the recording with only some of its units; all else is shared, not copied.

        Parameters
        ----------
        mask
            Booleans [n_units], True for a unit to keep.

        Raises
        ------
        RecordingError
            The mask isn't boolean, or has another length.

        Examples
        --------
        >>> recording = Recording.from_spike_times([[0.1], [0.2], [0.3]], interval=(0, 1))
        >>> recording.keep([True, False, True]).units.index.tolist()
        [0, 2]
        """
        mask = np.asarray(mask)
        if mask.dtype != bool or mask.shape != (self.n_units,):
            raise RecordingError(
                f"{self.session}: a mask of {mask.dtype} {mask.shape} can't choose among "
                f"{self.n_units} units. Give one boolean per unit."
            )
        return dataclasses.replace(
            self,
            spike_times=[self.spike_times[i] for i in np.flatnonzero(mask)],
            units=self.units.loc[mask],
        )

    def __repr__(self) -> str:
        lines = [f"Recording {self.session} ({self.source})"]
        lines += [f"  {name:<10} {value}" for name, value in self._summary()]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
            f"<td style='text-align:left'>{html.escape(value)}</td></tr>"
            for name, value in self._summary()
        )
        return f"<table><caption>Recording {html.escape(self.session)}</caption>{rows}</table>"

    def _summary(self) -> list[tuple[str, str]]:
        start, stop = self.interval.start, self.interval.stop
        rows = [
            ("units", f"{self.n_units}" + _set_aside(len(self.faults))),
            (
                "observed",
                f"{start:,.1f} to {stop:,.1f} s ({self.duration:,.1f} s, from "
                f"{self.interval_source})",
            ),
            ("spikes", f"{self.n_spikes:,}"),
        ]
        if self.n_units and self.duration > 0:
            rates = np.array([len(times) for times in self.spike_times]) / self.duration
            rows.append(("rate", f"median {np.median(rates):.2f} Hz, max {rates.max():.1f} Hz"))
        rows.append(("trials", "none" if self.trials is None else f"{len(self.trials)}"))
        if self.intervals:
            tables = (f"{name} ({len(table)})" for name, table in self.intervals.items())
            rows.append(("intervals", ", ".join(tables)))
        series = (
            f"{name} ({len(s):,} × {len(s.columns)}, {s.unit})" for name, s in self.behavior.items()
        )
        rows.append(("behavior", ", ".join(series) or "none"))
        if self.ground_truth is not None:
            features = self.ground_truth["features"]
            rows.append(("truth", f"{len(features.columns)} features, {len(features):,} samples"))
        rows += [("fault", f"unit {unit}: {row.reason}") for unit, row in self.faults.iterrows()]
        rows += [("note", note) for note in self.notes]
        return rows


def assemble(
    trains: list[np.ndarray],
    units: pd.DataFrame,
    *,
    source: str,
    session: str,
    trials: pd.DataFrame | None = None,
    intervals: dict[str, pd.DataFrame] | None = None,
    behavior: dict[str, Series] | None = None,
    interval: Interval | None = None,
    interval_source: str = "given",
    notes: Sequence[str] = (),
    description: str = "",
    ground_truth: GroundTruth | None = None,
    strict: bool = False,
    drop_repeats: bool = False,
    times_in_seconds: bool | None = None,
) -> Recording:
    """Check every train, set faulty units aside, and find the interval.

    Every way into a `Recording` (NWB, Phy, arrays) ends here, so that each gives the same
    answers about the same trains.

    Parameters
    ----------
    trains, units
        One float64 array [n_spikes], s, and one row per unit, in file order.
    source, session
        Where it came from, and a short name; both appear in messages.
    trials, intervals, behavior, notes, description, ground_truth
        As in `Recording`.
    interval, interval_source
        What was observed, where that is stated: no train may pass its end.
    strict, drop_repeats, times_in_seconds
        As in `Recording.from_spike_times`.

    Raises
    ------
    RecordingError
        No usable unit, times evidently not in seconds, or a faulty unit with `strict`.
    """
    if not trains:
        raise RecordingError(
            f"{source}: it has no units (its table of units is empty). "
            "Give a recording with sorted spike trains."
        )
    end = None if interval is None else interval.stop
    checks = [check_train(times, end) for times in trains]
    # Units before ends: times in samples would otherwise be blamed on the recording's end.
    ordered = [
        times
        for times, check in zip(trains, checks, strict=True)
        if check.fault is None or "past the" in check.fault
    ]
    notes = [*notes, *_check_unit_of_time(ordered, source, times_in_seconds)]
    faulty = [i for i, check in enumerate(checks) if check.fault is not None]
    faults = pd.DataFrame(
        {
            "file_row": units["file_row"].to_numpy()[faulty],
            "reason": [checks[i].fault for i in faulty],
        },
        index=units.index[faulty],
    )
    if faulty:
        _report_faults(faults, len(trains), source, strict)
    usable = np.array([check.fault is None for check in checks])
    kept = [times for times, check in zip(trains, checks, strict=True) if check.fault is None]
    table = units.loc[usable].copy()
    checks = [check for check in checks if check.fault is None]
    if any(check.n_duplicates for check in checks):
        table["n_duplicate_spikes"] = [check.n_duplicates for check in checks]
        notes.append(_report_duplicates(table["n_duplicate_spikes"], kept, source, drop_repeats))
        if drop_repeats:
            kept = [drop_duplicates(times) for times in kept]
    negative = {u: c.n_negative for u, c in zip(table.index, checks, strict=True) if c.n_negative}
    if negative:
        notes.append(
            f"{sum(negative.values())} spikes at negative times, kept "
            f"({_named(f'unit {unit}: {n}' for unit, n in negative.items())})"
        )
    if interval is None:
        interval, interval_source = observed_span(kept, trials, intervals or {}, behavior or {})
    return Recording(
        spike_times=kept,
        units=table,
        interval=interval,
        trials=trials,
        intervals=intervals or {},
        behavior=behavior or {},
        interval_source=interval_source,
        source=source,
        session=session,
        faults=faults,
        notes=tuple(notes),
        description=description,
        ground_truth=ground_truth,
    )


def observed_span(
    trains: Sequence[np.ndarray],
    trials: pd.DataFrame | None,
    intervals: Mapping[str, pd.DataFrame],
    behavior: Mapping[str, Series],
) -> tuple[Interval, str]:
    """Return the span of all times in a recording, s, and what it spans, in words.

    Examples
    --------
    >>> observed_span([np.array([1.0, 2.0])], None, {}, {})
    (Interval(start=1.0, stop=2.0), 'spikes')
    """
    ends: dict[str, list[np.ndarray]] = {"spikes": [t[[0, -1]] for t in trains if len(t)]}
    for name, table in (("trials", trials), ("epochs", intervals.get("epochs"))):
        if table is not None:
            ends[name] = [table[["start_time", "stop_time"]].to_numpy(np.float64).ravel()]
    ends["behavior"] = [series.timestamps for series in behavior.values()]
    found = {}
    for name, parts in ends.items():
        parts = [part[np.isfinite(part)] for part in parts]
        parts = [part for part in parts if len(part)]
        if parts:
            found[name] = (min(p.min() for p in parts), max(p.max() for p in parts))
    start = min(low for low, _ in found.values())
    stop = max(high for _, high in found.values())
    *first, last = found
    words = f"{', '.join(first)} and {last}" if first else last
    return Interval(float(start), float(stop)), words


def _no_faults() -> pd.DataFrame:
    return pd.DataFrame(
        {"file_row": np.empty(0, np.int64), "reason": np.empty(0, object)},
        index=pd.Index([], name="unit"),
    )


def _unit_table(
    n_units: int, unit_ids: Sequence[Any] | None, units: pd.DataFrame | None, session: str
) -> pd.DataFrame:
    if units is not None and len(units) != n_units:
        raise RecordingError(
            f"{session}: {len(units)} rows of unit properties for {n_units} spike trains. "
            "Give one row per train, in the same order."
        )
    table = pd.DataFrame(index=range(n_units)) if units is None else units.copy()
    if unit_ids is not None:
        if len(unit_ids) != n_units:
            raise RecordingError(
                f"{session}: {len(unit_ids)} unit ids for {n_units} spike trains. "
                "Give one id per train, in the same order."
            )
        table.index = pd.Index(list(unit_ids))
    if not table.index.is_unique:
        twice = table.index[table.index.duplicated()].unique().tolist()
        raise RecordingError(
            f"{session}: unit ids {_named(twice)} appear more than once. Give each unit its own id."
        )
    table.index.name = "unit"
    table["file_row"] = np.arange(n_units)
    return table


def _as_interval(interval: Interval | tuple[float, float], session: str) -> Interval:
    if not isinstance(interval, Interval):
        start, stop = interval
        interval = Interval(float(start), float(stop))
    if not (np.isfinite([interval.start, interval.stop]).all() and interval.duration > 0):
        raise RecordingError(
            f"{session}: the interval {interval.start} to {interval.stop} s is not a span of "
            "time. Give (start, stop) in seconds with start < stop."
        )
    return interval


def _check_unit_of_time(
    trains: list[np.ndarray], source: str, times_in_seconds: bool | None
) -> list[str]:
    if times_in_seconds is False:
        raise RecordingError(
            f"{source}: times_in_seconds=False, but everything here works in seconds. "
            "Convert the spike times first, for example samples / sampling rate."
        )
    evidence = not_in_seconds(trains)
    if evidence is None:
        return []
    if times_in_seconds:
        return [f"spike times taken as seconds on request, although {evidence}"]
    raise RecordingError(
        f"{source}: the spike times are evidently not in seconds: {evidence}. "
        "Convert them to seconds (samples / sampling rate), or pass times_in_seconds=True "
        "if they are."
    )


def _report_faults(faults: pd.DataFrame, n_units: int, source: str, strict: bool) -> None:
    reasons = _named(f"unit {unit}: {row.reason}" for unit, row in faults.iterrows())
    if strict:
        raise RecordingError(
            f"{source}: {len(faults)} of {n_units} units are faulty ({reasons}). "
            "Repair the file, or read it with strict=False to set these units aside."
        )
    if len(faults) == n_units:
        raise RecordingError(
            f"{source}: none of its {n_units} units can be used ({reasons}). "
            "Repair the spike trains in the file."
        )
    warnings.warn(
        f"{source}: {len(faults)} of {n_units} units set aside ({reasons})",
        RecordingWarning,
        stacklevel=4,
    )


def _report_duplicates(
    duplicates: pd.Series, trains: list[np.ndarray], source: str, dropped: bool
) -> str:
    units = duplicates[duplicates > 0]
    named = _named(
        f"unit {unit}: {n} of {len(times)}"
        for (unit, n), times in zip(duplicates.items(), trains, strict=True)
        if n
    )
    note = (
        f"{int(units.sum())} duplicate spikes in {len(units)} units "
        f"{'dropped' if dropped else 'kept'} ({named})"
    )
    remedy = "" if dropped else "; drop_duplicates=True drops them"
    warnings.warn(f"{source}: {note}{remedy}", RecordingWarning, stacklevel=4)
    return note


def _set_aside(n: int) -> str:
    return f" ({n} set aside)" if n else ""


def _named(items: Any) -> str:
    words = [str(item) for item in items]
    more = len(words) - MOST_NAMED
    return "; ".join(words[:MOST_NAMED]) + (f"; and {more} more" if more > 0 else "")
