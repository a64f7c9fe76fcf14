"""What every method of a comparison is given: the same counts, trials, splits and units."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from saebook.errors import ConfigError, DataError, SelectionError

PARTS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class ComparisonData:
    """Counts cut into trials, with everything that methods are scored against.

    Parameters
    ----------
    name : str
        For tables.
    counts : ndarray
        [n, n_units] spikes per bin; rows of a trial are consecutive and in the order of time.
    trials : ndarray
        [n] int, trial (or stretch) of each row.
    split : ndarray
        [n] "train", "validation" or "test", the same for all rows of a trial.
    held_out : ndarray
        [n_units] bool, units that no method sees.
    bin_size_s : float
        Width of a bin, s.
    behaviour : ndarray, optional
        [n, d] to be decoded, already at its lag; NaN where unknown.
    behaviour_name : str
        What it is, its unit and lag.
    condition : ndarray, optional
        [n] int, condition of each row's trial, -1 where it has none; for PSTHs.
    rates : ndarray, optional
        [n, n_units] true rates, spikes per bin.
    features : ndarray, optional
        [n, n_features] the true features, or factors.
    natural_trials : bool
        Whether trials are those of a task; otherwise they are stretches cut to one length.
    notes : tuple of str
        What was left out, and why.

    Examples
    --------
    >>> counts = np.random.default_rng(0).poisson(1.0, (40, 8))
    >>> trials = np.repeat(np.arange(4), 10)
    >>> split = np.repeat(["train", "train", "validation", "test"], 10)
    >>> data = ComparisonData("noise", counts, trials, split, hold_out_units(8, 0.25), 0.05)
    >>> data.inputs.shape, data.targets.shape, data.step[8:12].tolist()
    ((40, 6), (40, 2), [8, 9, 0, 1])
    """

    name: str
    counts: np.ndarray
    trials: np.ndarray
    split: np.ndarray
    held_out: np.ndarray
    bin_size_s: float
    behaviour: np.ndarray | None = None
    behaviour_name: str = ""
    condition: np.ndarray | None = None
    rates: np.ndarray | None = None
    features: np.ndarray | None = None
    natural_trials: bool = True
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        n, n_units = self.counts.shape
        for name in ("trials", "split", "condition", "behaviour", "rates", "features"):
            values = getattr(self, name)
            if values is not None and len(values) != n:
                raise DataError(f"{name} has {len(values)} rows, the counts {n}")
        if self.held_out.shape != (n_units,) or self.held_out.all() or not self.held_out.any():
            raise DataError(
                f"held_out marks {int(self.held_out.sum())} of {self.held_out.size} units, and "
                f"there are {n_units}: mark some of them, and leave some"
            )
        starts = np.flatnonzero(np.r_[True, np.diff(self.trials) != 0])
        if len(np.unique(self.trials[starts])) < len(starts):
            raise DataError("the rows of a trial are not consecutive: sort them by trial first")
        strange = sorted(set(self.split.tolist()) - set(PARTS))
        if strange:
            raise DataError(f"splits {strange}: leave out rows that are in none of {PARTS}")
        for part in PARTS:
            if not (self.split == part).any():
                raise SelectionError(f"{self.name} has no {part} rows: it needs all of {PARTS}")
        ends = np.r_[starts[1:], n] - 1
        if (self.split[starts] != self.split[ends]).any():
            raise DataError("a trial lies in two splits: split by trial")

    @property
    def inputs(self) -> np.ndarray:
        """Counts of the units that methods see [n, n_in]."""
        return self.counts[:, ~self.held_out]

    @property
    def targets(self) -> np.ndarray:
        """Counts of the held-out units [n, n_out]."""
        return self.counts[:, self.held_out]

    @property
    def step(self) -> np.ndarray:
        """Place of each row within its trial [n]."""
        starts = np.flatnonzero(np.r_[True, np.diff(self.trials) != 0])
        lengths = np.diff(np.r_[starts, len(self.trials)])
        return np.arange(len(self.trials)) - np.repeat(starts, lengths)

    @property
    def equal_trials(self) -> bool:
        """Whether all trials have the same number of rows."""
        return len(np.unique(np.unique(self.trials, return_counts=True)[1])) == 1

    def rows(self, part: str) -> np.ndarray:
        """Rows of a split, ascending."""
        return np.flatnonzero(self.split == part)

    def holding_out(self, held_out: np.ndarray) -> ComparisonData:
        """The same data with other units held out."""
        return replace(self, held_out=held_out)

    def digest(self) -> str:
        """A few letters that change when anything in the data does."""
        state = hashlib.sha256(f"{self.name}{self.bin_size_s}{self.natural_trials}".encode())
        parts = np.asarray([PARTS.index(part) for part in self.split.tolist()])
        arrays = {"split": parts} | {
            name: getattr(self, name)
            for name in ("counts", "trials", "held_out", "behaviour", "condition")
        }
        for name, values in (arrays | {"rates": self.rates, "features": self.features}).items():
            if values is not None:
                state.update(f"{name}{values.shape}{values.dtype}".encode())
                state.update(np.ascontiguousarray(values).tobytes())
        return state.hexdigest()[:16]

    def __repr__(self) -> str:
        parts = ", ".join(f"{len(np.unique(self.trials[self.rows(p)]))} {p}" for p in PARTS)
        what = "trials" if self.natural_trials else "stretches"
        return (
            f"{self.name}: {len(self.counts):,} bins of {self.bin_size_s * 1000:g} ms in {what} "
            f"({parts}), {int((~self.held_out).sum())} units in, {int(self.held_out.sum())} held out"
        )


def hold_out_units(
    n_units: int, fraction: float, *, counts: np.ndarray | None = None, seed: int = 0
) -> np.ndarray:
    """Mark units that methods don't see.

    Parameters
    ----------
    n_units : int
        At least 2.
    fraction : float
        Share of them, between 0 and 1; at least one is held out and one left.
    counts : ndarray, optional
        [n, n_units]. With them the units held out are spread over the rates: one is drawn among
        the quietest, one among the next, and so on. Few units drawn at random can be all quiet
        or all busy, and scores of different draws then differ by more than methods do.
    seed : int
        Of the draw.

    Returns
    -------
    ndarray
        [n_units] bool.

    Raises
    ------
    SelectionError
        Fewer than two units.

    Examples
    --------
    >>> int(hold_out_units(10, 0.25).sum())
    2
    """
    if not 0 < fraction < 1:
        raise ConfigError(f"fraction = {fraction}: give a share between 0 and 1")
    if n_units < 2:
        raise SelectionError(f"{n_units} unit: holding one out needs at least two")
    n_out = min(max(1, round(fraction * n_units)), n_units - 1)
    rng = np.random.default_rng([seed, 60])
    held = np.zeros(n_units, dtype=bool)
    if counts is None:
        held[rng.permutation(n_units)[:n_out]] = True
    else:
        by_rate = np.argsort(counts.sum(axis=0, dtype=float), kind="stable")
        for level in np.array_split(by_rate, n_out):
            held[rng.choice(level)] = True
    return held


def cut_stretches(pieces: np.ndarray, length: int) -> np.ndarray:
    """Cut pieces of consecutive rows into stretches of one length.

    Parameters
    ----------
    pieces : ndarray
        [n] int, piece of each row, negative for rows to leave out; a piece ends where the number
        changes.
    length : int
        Rows of a stretch; what is left at the end of a piece is left out.

    Returns
    -------
    ndarray
        [n] int, number of each row's stretch, -1 where left out.

    Examples
    --------
    >>> cut_stretches(np.array([0, 0, 0, 1, 1, -1]), 2).tolist()
    [0, 0, -1, 1, 1, -1]
    """
    starts = np.flatnonzero(np.r_[True, np.diff(pieces) != 0])
    ends: Sequence[int] = [*starts[1:], len(pieces)]
    stretch, number = np.full(len(pieces), -1), 0
    for start, end in zip(starts, ends):
        if pieces[start] < 0:
            continue
        for first in range(start, end - length + 1, length):
            stretch[first : first + length] = number
            number += 1
    return stretch
