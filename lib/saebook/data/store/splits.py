"""Train, validation and test: by trial or by blocks of time, never by bin, with a guard gap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from saebook.data.store.layout import GUARD, PARTS
from saebook.errors import ConfigError, DataError, SelectionError

MAX_CYCLES = 10
# Fewer, longer blocks are taken when guards would cost more than this share of the rows.
MAX_GUARD_SHARE = 0.2
_GUARD = len(PARTS)
_LABELS = np.array([*PARTS, GUARD])


def assign_splits(
    index: pd.DataFrame,
    by: Literal["trial", "time"] = "trial",
    fractions: Sequence[float] = (0.7, 0.15, 0.15),
    guard_s: float = 0.0,
    seed: int = 0,
    *,
    between: Literal["guard", "nearest"] = "guard",
    bin_size_s: float | None = None,
) -> np.ndarray:
    """Assign every row to train, validation, test or guard, in blocks spread over each session.

    Each session is divided on its own into up to ten cycles, each with one block of every split
    in an order drawn from the seed, so that slow drift does not sit in one split. Fewer cycles
    are made where there are few trials, or where guards would cost more than a fifth of the rows.
    See `split_fractions` for the shares that came out.

    Parameters
    ----------
    index : pandas.DataFrame [n rows]
        With columns session (optional: one session without it), time (s; needed by "time" and
        for a guard gap) and trial (needed by "trial"; -1 outside any).
    by : {"trial", "time"}
        "trial": whole trials go to a split. "time": contiguous blocks of rows do, lengthened by
        what their guards will cost.
    fractions : (float, float, float)
        Shares of train, validation and test: of the trials, or of the rows. They sum to 1; a
        split of share 0 gets nothing.
    guard_s : float
        Rows less than this (s) from a boundary between rows of different splits become "guard";
        any two rows of different splits are then at least this far apart, end of one bin to
        start of the other. Give at least a window and the autocorrelation time.
    seed : int
        Draws the order of the splits within each cycle.
    between : {"guard", "nearest"}
        By trial, what becomes of rows outside trials: "guard", or the split of the trial nearest
        in time.
    bin_size_s : float, optional
        Width of a bin in s; the smallest step in time of each session without it.

    Returns
    -------
    numpy.ndarray [n] of str
        "train", "validation", "test" or "guard".

    Raises
    ------
    ConfigError
        If a setting is out of its range.
    DataError
        If the index lacks what `by` needs.
    SelectionError
        If a session has too few trials or rows for the parts asked for; the message has the
        numbers.

    Examples
    --------
    >>> import pandas as pd
    >>> from saebook.data.store import assign_splits, split_fractions
    >>> index = pd.DataFrame({"time": [0.05 * i for i in range(12000)]})
    >>> labels = assign_splits(index, by="time", guard_s=0.5)
    >>> {name: round(share, 2) for name, share in split_fractions(labels).items()}
    {'train': 0.67, 'validation': 0.14, 'test': 0.14, 'guard': 0.04}
    """
    request = _Request.checked(by, fractions, guard_s, seed, between, bin_size_s)
    wanted = [by] if by == "trial" else []
    if by == "time" or guard_s > 0 or between == "nearest":
        wanted.append("time")
    missing = [name for name in wanted if name not in index.columns]
    if missing:
        raise DataError(f"the index has no column {', '.join(missing)}, needed to split by {by}")

    n = len(index)
    time = (
        index["time"].to_numpy(dtype=np.float64) if "time" in index.columns else np.full(n, np.nan)
    )
    trial = index["trial"].to_numpy() if by == "trial" else np.zeros(n, np.int64)
    if "session" in index.columns:
        codes, names = pd.factorize(index["session"])
    else:
        codes, names = np.zeros(n, np.int64), ["of the index"]
    labels = np.full(n, _GUARD, np.int8)
    for number, name in enumerate(names):
        rows = np.flatnonzero(codes == number)
        labels[rows] = _split_session(
            request, time[rows], trial[rows], number, f"session {name!s}", "time" in wanted
        )
    if not n:
        raise SelectionError("the index has no rows, so there is nothing to split")
    return _LABELS[labels]


def split_fractions(labels: np.ndarray | pd.Series | Sequence[str]) -> dict[str, float]:
    """Return the share of rows in each split, as achieved.

    Parameters
    ----------
    labels : array of str [n]
        As from `assign_splits`, or the column split of an index.

    Returns
    -------
    dict of str to float
        Shares of train, validation, test and guard, in this order; they sum to 1.

    Raises
    ------
    SelectionError
        If there are no labels.

    Examples
    --------
    >>> from saebook.data.store import split_fractions
    >>> split_fractions(["train", "train", "guard", "test"])
    {'train': 0.5, 'validation': 0.0, 'test': 0.25, 'guard': 0.25}
    """
    values = np.asarray(labels)
    if not values.size:
        raise SelectionError("there are no labels, so no shares")
    return {str(name): float(np.mean(values == name)) for name in _LABELS}


@dataclass(frozen=True)
class _Request:
    by: str
    fractions: np.ndarray
    guard_s: float
    seed: int
    between: str
    bin_size_s: float | None

    @classmethod
    def checked(
        cls,
        by: str,
        fractions: Sequence[float],
        guard_s: float,
        seed: int,
        between: str,
        bin_size_s: float | None,
    ) -> _Request:
        if by not in ("trial", "time"):
            raise ConfigError(f'by={by!r}: rows are split by "trial" or by "time"')
        if between not in ("guard", "nearest"):
            raise ConfigError(f'between={between!r}: give "guard" or "nearest"')
        shares = np.asarray(fractions, dtype=np.float64)
        if shares.shape != (3,) or not (shares >= 0).all() or abs(shares.sum() - 1) > 1e-6:
            raise ConfigError(
                f"fractions={tuple(fractions)}: give three shares (train, validation, test) of at "
                "least 0 that sum to 1"
            )
        if not (np.isfinite(guard_s) and guard_s >= 0):
            raise ConfigError(f"guard_s={guard_s!r}: give a time in s, at least 0")
        if bin_size_s is not None and not (np.isfinite(bin_size_s) and bin_size_s > 0):
            raise ConfigError(f"bin_size_s={bin_size_s!r}: give a positive width in s, or None")
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
            raise ConfigError(f"seed={seed!r}: give a whole number, at least 0")
        return cls(by, shares, float(guard_s), int(seed), between, bin_size_s)

    @property
    def parts(self) -> np.ndarray:
        return np.flatnonzero(self.fractions > 0)

    def words(self) -> str:
        return ", ".join(f"{PARTS[part]} {self.fractions[part]:g}" for part in self.parts)


def _split_session(
    request: _Request,
    time: np.ndarray,
    trial: np.ndarray,
    number: int,
    where: str,
    needs_time: bool,
) -> np.ndarray:
    """Split codes of the rows of one session."""
    order = np.arange(len(time))
    width = request.bin_size_s or 0.0
    if needs_time:
        order = np.argsort(time, kind="stable")
        width = request.bin_size_s or _bin_width(time[order], where)
    elif np.isfinite(time).all():
        order = np.argsort(time, kind="stable")
    time, trial = time[order], trial[order]

    unit, n_units = _units(request.by, trial)
    what = f"{n_units} trials" if request.by == "trial" else f"{n_units} rows"
    if n_units < len(request.parts):
        raise SelectionError(
            f"{where} has {what} for {len(request.parts)} parts ({request.words()}); "
            + ('split by="time"' if request.by == "trial" else "use a longer recording")
            + ", or ask for fewer parts with fractions such as (1, 0, 0)"
        )
    guard_units = 0.0
    if request.by == "time" and width > 0:
        guard_units = float(np.ceil(request.guard_s / width - 1e-6))
    best: tuple[float, np.ndarray] | None = None
    n_lost = 0
    for cycles in range(MAX_CYCLES, 0, -1):
        blocks = _blocks(request, n_units, cycles, guard_units, number)
        if blocks is None:
            continue
        labels = np.where(unit >= 0, blocks[unit], _GUARD).astype(np.int8)
        if request.between == "nearest":
            labels = _fill_nearest(labels, time)
        n_assigned = np.count_nonzero(labels != _GUARD)
        if request.guard_s > 0:
            labels = _with_guard(labels, time, width, request.guard_s)
        n_lost = n_assigned - np.count_nonzero(labels != _GUARD)
        if not np.isin(request.parts, labels).all():
            continue
        share = n_lost / n_assigned
        if best is None or share < best[0]:
            best = (share, labels)
        if share <= MAX_GUARD_SHARE:
            break
    if best is None:
        raise SelectionError(
            f"{where}, {what}, {len(time)} bins of {width:g} s, leaves no bin in one of the parts "
            f"{request.words()}: a guard of {request.guard_s:g} s on both sides of each boundary "
            f"takes {n_lost} bins; lower guard_s, use a longer recording, or ask for fewer parts"
        )
    result = np.empty(len(time), np.int8)
    result[order] = best[1]
    return result


def _bin_width(time: np.ndarray, where: str) -> float:
    """Smallest step of a session's sorted times, once they are all there and all different."""
    if not np.isfinite(time).all():
        raise DataError(
            f'{where} has rows without a time; give every row its time, or by="trial" with '
            "guard_s=0"
        )
    steps = np.diff(time)
    if (steps <= 0).any():
        raise DataError(
            f"{where} has several rows at time {time[1:][steps <= 0][0]} s; give each row of a "
            "session its own time"
        )
    return float(steps.min()) if len(steps) else 0.0


def _units(by: str, trial: np.ndarray) -> tuple[np.ndarray, int]:
    """Return what is assigned whole, per row (-1: nothing), numbered in order of beginning."""
    if by == "time":
        return np.arange(len(trial)), len(trial)
    names, first = np.unique(trial[trial >= 0], return_index=True)
    names = names[np.argsort(first)]
    return pd.Index(names).get_indexer(pd.Index(trial)), len(names)


def _blocks(
    request: _Request, n_units: int, cycles: int, guard_units: float, number: int
) -> np.ndarray | None:
    """Part of each unit, in blocks; None where there are too few units for so many cycles."""
    parts = request.parts
    lost = 2 * guard_units * cycles if len(parts) > 1 else 0.0
    usable = n_units - lost * len(parts)
    if usable < 0 and cycles > 1:
        return None
    shares = request.fractions[parts] * max(usable, 0) + min(lost, n_units / len(parts))
    sizes = _whole_numbers(shares, n_units)
    if sizes.min() < cycles:
        return None
    rng = np.random.default_rng([request.seed, number])
    blocks = []
    for cycle in range(cycles):
        lengths = sizes * (cycle + 1) // cycles - sizes * cycle // cycles
        for i in rng.permutation(len(parts)):
            blocks.append(np.full(lengths[i], parts[i], np.int8))
    return np.concatenate(blocks)


def _whole_numbers(shares: np.ndarray, total: int) -> np.ndarray:
    """Round shares to whole numbers of at least 1 with the given total (largest remainder)."""
    sizes = np.floor(shares / shares.sum() * total).astype(np.int64)
    remainder = shares / shares.sum() * total - sizes
    for i in np.argsort(-remainder, kind="stable")[: total - sizes.sum()]:
        sizes[i] += 1
    while sizes.min() < 1:
        sizes[np.argmax(sizes)] -= 1
        sizes[np.argmin(sizes)] += 1
    return sizes


def _fill_nearest(labels: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Give rows outside trials the part of the assigned row nearest in time."""
    inside = np.flatnonzero(labels != _GUARD)
    after = np.searchsorted(inside, np.arange(len(labels)))
    left = inside[np.clip(after - 1, 0, len(inside) - 1)]
    right = inside[np.clip(after, 0, len(inside) - 1)]
    nearer = np.where(np.abs(time - time[left]) <= np.abs(time[right] - time), left, right)
    return labels[nearer]


def _with_guard(labels: np.ndarray, time: np.ndarray, width: float, guard_s: float) -> np.ndarray:
    """Turn rows nearer than guard_s to a row of another part into guard rows."""
    rows = np.flatnonzero(labels != _GUARD)
    if not len(rows):
        return labels
    t, part = time[rows], labels[rows]
    starts = np.concatenate([[0], np.flatnonzero(np.diff(part)) + 1])
    run = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(rows))))
    # Neighbouring runs differ in part, so the nearest row of another part ends the run before,
    # or begins the run after.
    before = np.concatenate([[-np.inf], t[starts[1:] - 1]])[run]
    after = np.concatenate([t[starts[1:]], [np.inf]])[run]
    # Clocks of hours carry rounding of about 1e-12 s; a millionth of a bin is far above it.
    limit = guard_s - 1e-6 * width
    near = (t - before - width < limit) | (after - t - width < limit)
    result = labels.copy()
    result[rows[near]] = _GUARD
    return result
