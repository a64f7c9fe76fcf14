"""Put a recording together: check its trains, set faulty units aside, find what was observed.

Every way into a `Recording` (NWB, Phy, arrays) ends here, so that each gives the same answers
about the same trains.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from saebook.data.spikes.recording import GroundTruth, Interval, Recording, Series
from saebook.data.spikes.trains import check_train, drop_duplicates, not_in_seconds
from saebook.errors import RecordingError, RecordingWarning

MOST_NAMED = 10


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
    where = session if source == "arrays" else source
    if not trains:
        raise RecordingError(
            f"{where}: it has no units (its table of units is empty). "
            "Give a recording with sorted spike trains."
        )
    end = None if interval is None else interval.stop
    checks = [check_train(times, end) for times in trains]
    # Units before ends: times in samples would otherwise be blamed on the recording's end.
    ordered = [times for times, check in zip(trains, checks, strict=True) if check.ordered]
    notes = [*notes, *_check_unit_of_time(ordered, where, times_in_seconds)]
    faulty = [i for i, check in enumerate(checks) if check.fault is not None]
    faults = pd.DataFrame(
        {
            "file_row": units["file_row"].to_numpy()[faulty],
            "reason": pd.array([checks[i].fault for i in faulty], dtype="str"),
        },
        index=units.index[faulty],
    )
    if faulty:
        _report_faults(faults, len(trains), where, strict)
    usable = np.array([check.fault is None for check in checks])
    kept = [times for times, check in zip(trains, checks, strict=True) if check.fault is None]
    table = units.loc[usable].copy()
    checks = [check for check in checks if check.fault is None]
    if any(check.n_duplicates for check in checks):
        table["n_duplicate_spikes"] = [check.n_duplicates for check in checks]
        notes.append(_report_duplicates(table["n_duplicate_spikes"], kept, where, drop_repeats))
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
        spikes, _ = observed_span(kept, None, {}, {})
        if interval.duration > 2 * spikes.duration:
            notes.append(
                f"spikes span only {spikes.start:,.6g} to {spikes.stop:,.6g} s of the "
                f"{interval.duration:,.6g} s that {interval_source} span"
            )
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


def _check_unit_of_time(
    trains: list[np.ndarray], where: str, times_in_seconds: bool | None
) -> list[str]:
    if times_in_seconds is False:
        raise RecordingError(
            f"{where}: times_in_seconds=False, but everything here works in seconds. "
            "Convert the spike times first, for example samples / sampling rate."
        )
    evidence = not_in_seconds(trains)
    if evidence is None:
        return []
    if times_in_seconds:
        return [f"spike times taken as seconds on request, although {evidence}"]
    raise RecordingError(
        f"{where}: the spike times are evidently not in seconds: {evidence}. "
        "Convert them to seconds (samples / sampling rate), or pass times_in_seconds=True "
        "if they are."
    )


def _report_faults(faults: pd.DataFrame, n_units: int, where: str, strict: bool) -> None:
    reasons = _named(f"unit {unit}: {row.reason}" for unit, row in faults.iterrows())
    if strict:
        raise RecordingError(
            f"{where}: {len(faults)} of {n_units} units are faulty ({reasons}). "
            "Repair the file, or read it with strict=False to set these units aside."
        )
    if len(faults) == n_units:
        raise RecordingError(
            f"{where}: none of its {n_units} units can be used ({reasons}). "
            "Repair the spike trains in the file."
        )
    warnings.warn(
        f"{where}: {len(faults)} of {n_units} units set aside ({reasons})",
        RecordingWarning,
        stacklevel=4,
    )


def _report_duplicates(
    duplicates: pd.Series, trains: list[np.ndarray], where: str, dropped: bool
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
    warnings.warn(f"{where}: {note}{remedy}", RecordingWarning, stacklevel=4)
    return note


def _named(items: Iterable[object]) -> str:
    words = [str(item) for item in items]
    more = len(words) - MOST_NAMED
    return "; ".join(words[:MOST_NAMED]) + (f"; and {more} more" if more > 0 else "")
