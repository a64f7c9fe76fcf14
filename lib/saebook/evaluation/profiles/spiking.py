"""Spikes of a latent's units around a moment, from spike times or from counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from saebook.errors import DataError


@dataclass(eq=False)
class Spiking:
    """Units, and their spikes as far as they are known.

    Attributes
    ----------
    units
        [n_units] ids.
    regions
        [n_units] where each unit lies, or None.
    spike_times
        [n_units] sorted times of each, s, or None.
    counts
        [n, n_units] spikes per bin, or None.
    time
        [n] start of the bins of `counts`, s, rising.
    bin_size_s
        Their width, s.

    Raises
    ------
    DataError
        Lengths disagree.

    Examples
    --------
    >>> spiking = Spiking(["a", "b"], spike_times=[np.array([0.1, 0.2]), np.array([0.9])])
    >>> spiking.counts_between([0, 1], np.array([0.0, 0.15, 1.0])).tolist()
    [[1.0, 1.0], [0.0, 1.0]]
    """

    units: Sequence[Any] = ()
    regions: list[str] | None = None
    spike_times: Sequence[np.ndarray] | None = None
    counts: np.ndarray | None = None
    time: np.ndarray = field(default_factory=lambda: np.empty(0))
    bin_size_s: float = 0.0

    def __post_init__(self) -> None:
        found = {
            "regions": None if self.regions is None else len(self.regions),
            "spike_times": None if self.spike_times is None else len(self.spike_times),
            "counts": None if self.counts is None else self.counts.shape[1],
        }
        wrong = {k: n for k, n in found.items() if n is not None and n != len(self.units)}
        if wrong:
            raise DataError(f"{len(self.units)} units, but for how many are there others: {wrong}")
        if self.counts is not None and len(self.counts) != len(self.time):
            raise DataError(f"{len(self.counts)} rows of counts at {len(self.time)} times")

    @property
    def has_spikes(self) -> bool:
        """Whether anything is known of when units fire."""
        return self.spike_times is not None or self.counts is not None

    def trains_between(
        self, units: Sequence[int] | np.ndarray, start: float, stop: float
    ) -> list[np.ndarray] | None:
        """Spike times of some units from start to stop, s; None where only counts are known."""
        if self.spike_times is None:
            return None
        trains = [self.spike_times[unit] for unit in units]
        return [train[slice(*np.searchsorted(train, [start, stop]))] for train in trains]

    def counts_between(self, units: Sequence[int] | np.ndarray, edges: np.ndarray) -> np.ndarray:
        """Spikes per bin of some units [n_units, n]; 0 in bins of which nothing is known."""
        found = np.zeros((len(units), len(edges) - 1))
        trains = self.trains_between(units, edges[0], edges[-1])
        if trains is not None:
            for i, train in enumerate(trains):
                found[i] = np.diff(np.searchsorted(train, edges))
        elif self.counts is not None:
            half = self.bin_size_s / 2
            near = np.arange(*np.searchsorted(self.time, [edges[0] - half, edges[-1] - half]))
            bins = np.round((self.time[near] - edges[0]) / self.bin_size_s).astype(int)
            inside = (bins >= 0) & (bins < found.shape[1])
            found[:, bins[inside]] = self.counts[np.ix_(near[inside], np.asarray(units, int))].T
        return found
