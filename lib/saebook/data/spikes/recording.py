"""A recording in memory: spike trains, units, trials, behaviour, and what was observed."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

import numpy as np
import pandas as pd

from saebook.errors import RecordingError


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
        # Imported here: `assembly` builds on the classes of this module.
        from saebook.data.spikes.assembly import assemble

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


def _no_faults() -> pd.DataFrame:
    return pd.DataFrame(
        {"file_row": np.empty(0, np.int64), "reason": pd.array([], dtype="str")},
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
            f"{session}: unit ids {twice[:10]} appear more than once. Give each unit its own id."
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


def _set_aside(n: int) -> str:
    return f" ({n} set aside)" if n else ""
