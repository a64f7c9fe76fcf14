"""Everything in a recording that a latent could stand for, and what had to be left out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from saebook.data.spikes import Recording, Series
from saebook.evaluation.variables import (
    FEWEST_ROWS,
    MOST_CONDITIONS,
    Variable,
    behavior_columns,
    event_variables,
    is_velocity,
    stepped,
    trial_conditions,
    usable,
)


def discovery_variables(
    recording: Recording,
    store: Any,
    *,
    n_steps: int = 12,
    window_s: tuple[float, float] = (-0.5, 1.0),
    lag_s: float = 0.1,
) -> tuple[list[Variable], list[str]]:
    """List every variable that a latent is tried against, and say what is missing.

    As :func:`~saebook.evaluation.candidate_variables`, and besides: categories, from columns of
    the trials that sort them into two to eight kinds and from series with as many whole values.
    Without behaviour: time in the session, beside the structure of the trials.

    Parameters
    ----------
    recording
        What the store was made from.
    store : ExampleStore
        Binned counts of one session.
    n_steps, window_s, lag_s
        As in `candidate_variables`.

    Returns
    -------
    variables : list of Variable
        In the order of the file.
    notes : list of str
        What was left out and why; rows in which a variable is unknown.

    Examples
    --------
    >>> import tempfile
    >>> from saebook.data import UnitCriteria, prepare
    >>> rng, time = np.random.default_rng(0), np.arange(0, 600, 0.02)
    >>> trains = [np.sort(rng.uniform(0, 600, 3000)) for _ in range(24)]
    >>> state = Series("state", (time % 20 > 10)[:, None] * 1, time, "", ("state",))
    >>> late = Series("pupil", np.sin(time)[:, None], time + 900, "mm", ("pupil",))
    >>> recording = Recording.from_spike_times(
    ...     trains, interval=(0, 600), behavior={"state": state, "pupil": late}
    ... )
    >>> rules, folder = UnitCriteria(max_isi_violations=None), tempfile.mkdtemp()
    >>> store = prepare(recording, f"{folder}/store", criteria=rules, progress=False)
    >>> variables, notes = discovery_variables(recording, store)
    >>> [(v.name, v.kind, v.conditions) for v in variables]
    [('state', 'categorical', ('0', '1'))]
    >>> print(notes[0])
    pupil: left out, its clock runs from 900 to 1499.98 s and the bins from 0 to 600 s
    """
    index = store.index
    time, width = index["time"].to_numpy(), float(store.bin_size_s)
    rows = {name: (index["split"] == name).to_numpy() for name in ("train", "test")}
    found: list[Variable] = []
    notes: list[str] = []
    series = _overlapping(recording.behavior, time, width, notes)
    moves = any(is_velocity(name) for name in series)
    for one in series.values():
        discrete, rest = _categories(one, time, width)
        found += discrete
        if rest is not None:
            for name, kind, values, unit in behavior_columns(rest, time, width, moves):
                found.append(stepped(name, kind, values, unit, rows["train"], n_steps))
    has_behavior = any(_kept(v, rows, []) for v in found)
    trials = recording.trials
    if trials is not None:
        found += event_variables(trials, time + width / 2, window_s, max(lag_s, width))
        found += _trial_categories(trials, index["trial"].to_numpy())
        if len(trials) < 2:
            notes.append(f"{len(trials)} trial: no structure of trials to follow")
    found = [variable for variable in found if _kept(variable, rows, notes)]
    if not has_behavior:
        elapsed = time + width / 2 - time[0]
        found.append(stepped("time in the session", "time", elapsed, "s", rows["train"], n_steps))
        structure = "time and the structure of trials" if len(found) > 1 else "time"
        notes.insert(
            0,
            f"no behaviour that can be used: latents are tried against {structure} alone; what "
            "follows time drifts, in the brain or at the probe",
        )
    return found, notes + _unknown(found, rows)


def _overlapping(
    behavior: dict[str, Series], time: np.ndarray, width: float, notes: list[str]
) -> dict[str, Series]:
    kept = {}
    for name, series in behavior.items():
        stamps = np.asarray(series.timestamps, dtype=float)
        stamps = stamps[np.isfinite(stamps)]
        if not len(stamps):
            notes.append(f"{name}: left out, it has no timestamp")
        elif stamps.max() < time[0] or stamps.min() > time[-1] + width:
            notes.append(
                f"{name}: left out, its clock runs from {stamps.min():g} to {stamps.max():g} s "
                f"and the bins from {time[0]:g} to {time[-1] + width:g} s"
            )
        else:
            kept[name] = series
    return kept


def _categories(
    series: Series, time: np.ndarray, width: float
) -> tuple[list[Variable], Series | None]:
    """Columns with few whole values as categories, and the rest of the series."""
    data = np.asarray(series.data)
    if data.ndim != 2 or data.dtype.kind not in "iufb":
        return [], series
    discrete = [column for column in range(data.shape[1]) if _is_discrete(data[:, column])]
    found = []
    for column in discrete:
        name = str(series.columns[column])
        full = series.name if data.shape[1] == 1 else f"{series.name} {name}"
        values = np.asarray(data[:, column], dtype=float)
        found.append(_category(full, values, series.timestamps, time, width))
    rest = [column for column in range(data.shape[1]) if column not in discrete]
    if not discrete:
        return found, series
    names = tuple(series.columns[column] for column in rest)
    left = Series(series.name, data[:, rest], series.timestamps, series.unit, names)
    return found, left if rest else None


def _is_discrete(values: np.ndarray) -> bool:
    values = np.asarray(values, dtype=float)
    kinds = np.unique(values[np.isfinite(values)])
    return 2 <= len(kinds) <= MOST_CONDITIONS and bool((kinds == np.round(kinds)).all())


def _category(
    name: str, values: np.ndarray, stamps: np.ndarray, time: np.ndarray, width: float
) -> Variable:
    """The value that holds at the centre of each bin: the last sample before it."""
    order = np.argsort(stamps, kind="stable")
    stamps, values = np.asarray(stamps, dtype=float)[order], values[order]
    kinds = np.unique(values[np.isfinite(values)])
    centre = time + width / 2
    last = np.searchsorted(stamps, centre, side="right") - 1
    held = np.where(last >= 0, values[np.maximum(last, 0)], np.nan)
    # Past its last sample, a series says nothing any more.
    step = np.median(np.diff(stamps)) if len(stamps) > 1 else width
    held[centre > stamps[-1] + max(step, width)] = np.nan
    known = np.isfinite(held)
    group = np.where(known, np.searchsorted(kinds, np.where(known, held, kinds[0])), -1)
    names = tuple(f"{kind:g}" for kind in kinds)
    return Variable(name, "categorical", held, group, np.arange(len(kinds)) * 1.0, "", names)


def _trial_categories(trials: pd.DataFrame, trial: np.ndarray) -> Iterator[Variable]:
    for column, codes, names in trial_conditions(trials):
        group = np.where(trial >= 0, codes[trial], -1)
        values = np.where(group >= 0, group, np.nan)
        yield Variable(
            column, "categorical", values, group, np.arange(len(names)) * 1.0, "", names, trial
        )


def _kept(variable: Variable, rows: dict[str, np.ndarray], notes: list[str]) -> bool:
    train = rows["train"] & (variable.group >= 0)
    if not usable(variable, rows["train"]):
        n = int(train.sum())
        why = (
            f"it is known in {n} training rows, and {FEWEST_ROWS} are needed"
            if n < FEWEST_ROWS
            else "it never changes in the training rows"
        )
        notes.append(f"{variable.name}: left out, {why}")
        return False
    if not (rows["test"] & (variable.group >= 0)).any():
        notes.append(f"{variable.name}: left out, it is unknown in all test rows")
        return False
    return True


def _unknown(variables: list[Variable], rows: dict[str, np.ndarray]) -> list[str]:
    """Gaps in what is meant to be known all the time."""
    used = rows["train"] | rows["test"]
    n, notes = int(used.sum()), []
    for variable in variables:
        gaps = int((used & (variable.group < 0)).sum())
        if variable.kind in ("continuous", "categorical") and variable.trial is None and gaps:
            notes.append(f"{variable.name}: unknown in {gaps:,} of {n:,} rows, which are masked")
    return notes
