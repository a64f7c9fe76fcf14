"""A simulated session in memory: spikes, and everything that is true of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from saebook.data.simulate.spiking import softplus, softplus_inverse
from saebook.data.spikes.recording import Interval, Series
from saebook.errors import ConfigError

if TYPE_CHECKING:
    from saebook.data.simulate.embedding import Embedding
    from saebook.data.spikes.recording import Recording

LINKS = ("exp", "softplus", "identity")


@dataclass
class RateModel:
    """True rates of all units on the grid of the features, computed one unit at a time.

    rate = gain · drift · link(bias + weights · features) + foreign,
    or with an embedding link(bias + weights · hidden(features)) in it.

    Attributes
    ----------
    features
        Features [n_steps, n_features], float32, fastest where columns are contiguous.
    start, step_s
        Beginning of the first step and length of a step, s.
    link
        "exp" (weights multiply the rate), "softplus" or "identity" (weights add Hz).
    bias
        Value under the link without any feature [n_units].
    weights
        On the features [n_units, n_features], or on the embedding's hidden terms
        [n_units, n_hidden].
    trial
        Row of `gains` that holds in each step [n_steps], int.
    gains
        Gain per trial and unit [n_trials, n_units], mean 1; None for no variability.
    drift_to
        Factor on the rate at the end of the session, reached linearly from 1 [n_units].
    lost_at
        Time after which the unit is silent, s [n_units].
    foreign_hz
        Rate of spikes of other neurons in the train [n_units].
    embedding
        Hidden layer between features and units; None where they act directly.
    """

    features: np.ndarray
    start: float
    step_s: float
    link: str
    bias: np.ndarray
    weights: np.ndarray
    trial: np.ndarray
    gains: np.ndarray | None
    drift_to: np.ndarray
    lost_at: np.ndarray
    foreign_hz: np.ndarray
    embedding: Embedding | None = None

    def __post_init__(self) -> None:
        if self.link not in LINKS:
            raise ConfigError(f"link={self.link!r} is unknown. Give one of {', '.join(LINKS)}.")

    def from_features(self, row: int, steps: slice = slice(None)) -> np.ndarray:
        """Return the rate that the features alone give a unit [n_steps], Hz, float64."""
        features = self.features[steps]
        drive = np.full(len(features), self.bias[row])
        for column in np.flatnonzero(self.weights[row]):
            if self.embedding is None:
                driver = features[:, column]
            else:
                driver = self.embedding.term(features, int(column))
            drive += self.weights[row, column] * driver
        if self.link == "exp":
            return np.exp(drive, out=drive)
        return softplus(drive) if self.link == "softplus" else drive

    def directions(self) -> np.ndarray:
        """Return what each feature does to each unit, under the link [n_units, n_features].

        The weights, or with an embedding their product with its mean slopes: the local Jacobian
        averaged over the steps in which the feature is active.
        """
        if self.embedding is None:
            return self.weights
        # Not a BLAS product: its last bits depend on the number of threads, a file's must not.
        return np.einsum("uh,hf->uf", self.weights, self.embedding.slopes(self.features))

    def own(self, row: int, gain: bool = True) -> np.ndarray:
        """Return the rate of the unit's own spikes [n_steps], Hz."""
        rate = self.from_features(row)
        if gain and self.gains is not None:
            rate *= self.gains[self.trial, row]
        n = len(rate)
        if self.drift_to[row] != 1.0:
            rate *= np.linspace(1.0, self.drift_to[row], n)
        lost = (self.lost_at[row] - self.start) / self.step_s
        if lost < n:
            rate[max(int(np.ceil(lost)), 0) :] = 0.0
        return rate

    def total(self, row: int, gain: bool = True) -> np.ndarray:
        """Return the rate of the unit's train, foreign spikes included [n_steps], Hz."""
        return self.own(row, gain) + self.foreign_hz[row]

    def set_mean(self, row: int, rate_hz: float, max_iterations: int = 60) -> None:
        """Move a unit's bias so that the features alone give it this mean rate, Hz."""
        steps = slice(None, None, max(1, len(self.features) // 20_000))
        low, high = -60.0, float(self.bias[row]) + 60.0
        for _ in range(max_iterations):
            self.bias[row] = 0.5 * (low + high)
            if self.from_features(row, steps).mean() > rate_hz:
                high = self.bias[row]
            else:
                low = self.bias[row]


def bias_for(baseline_hz: np.ndarray, link: str) -> np.ndarray:
    """Return the bias that gives each baseline rate under a link.

    Examples
    --------
    >>> np.exp(bias_for(np.array([4.0]), "exp")).round(6).tolist()
    [4.0]
    """
    if link == "exp":
        return np.log(baseline_hz)
    return softplus_inverse(baseline_hz) if link == "softplus" else np.asarray(baseline_hz)


@dataclass
class Simulation:
    """A simulated session in memory.

    Attributes
    ----------
    kind
        "reach", "place_cells" or "dense_control".
    spike_times
        One float64 array [n_spikes] per unit, s, strictly increasing.
    units
        One row per unit, index `unit` (id). Sorter label, electrode, and the truth in columns
        that begin with ``true_``.
    mixing
        True weights [n_units, n_features], index `unit`: log rate at a feature's peak under the
        exp link, Hz otherwise. Where features are embedded non-linearly, the effective ones:
        `RateModel.directions`.
    features
        True features [n_steps, n_features] on the session's clock, at the centre of each step.
    trials
        One row per trial; None where there are none.
    behavior
        Position and velocity by name.
    interval
        The whole session.
    rate_model
        True rates.
    parameters
        Everything that makes this session again.

    Examples
    --------
    >>> from saebook.data.simulate import simulate_reach
    >>> simulation = simulate_reach(n_units=20, n_trials=8, seed=1)
    >>> simulation.rates(0.05).shape[1], simulation.features.data.shape[1]
    (20, 32)
    """

    kind: str
    spike_times: list[np.ndarray]
    units: pd.DataFrame
    mixing: pd.DataFrame
    features: Series
    trials: pd.DataFrame | None
    behavior: dict[str, Series]
    interval: Interval
    rate_model: RateModel
    parameters: dict[str, Any]

    @property
    def n_units(self) -> int:
        """Number of units."""
        return len(self.spike_times)

    @property
    def step_s(self) -> float:
        """Step of the grid of features, rates and behaviour, s."""
        return self.rate_model.step_s

    def rates(
        self,
        bin_size_s: float,
        *,
        rows: Sequence[int] | None = None,
        gain: bool = True,
        start: float | None = None,
        stop: float | None = None,
    ) -> np.ndarray:
        """Return the true mean rate of each unit in each bin.

        Parameters
        ----------
        bin_size_s
            Width of a bin, s; bin i holds start + i·w ≤ t < start + (i+1)·w.
        rows
            Rows of `units`; all by default.
        gain
            With the private gain per trial. Without it, what the features (and drift) explain:
            the most that other units could predict.
        start, stop
            Span, s; the whole session by default. A partial last bin is dropped.

        Returns
        -------
        ndarray
            [n_bins, n_rows], float32, Hz.

        Raises
        ------
        ConfigError
            The bin size leaves no bin.
        """
        edges = self._edges(bin_size_s, start, stop)
        rows = range(self.n_units) if rows is None else rows
        means = np.empty((len(edges) - 1, len(rows)), np.float32)
        for column, row in enumerate(rows):
            means[:, column] = self._bin_means(self.rate_model.total(row, gain), edges)
        return means

    def binned_features(
        self, bin_size_s: float, *, start: float | None = None, stop: float | None = None
    ) -> np.ndarray:
        """Return the mean of each feature in each bin [n_bins, n_features], float32.

        Parameters
        ----------
        bin_size_s, start, stop
            As in `rates`.

        Raises
        ------
        ConfigError
            The bin size leaves no bin.
        """
        edges = self._edges(bin_size_s, start, stop)
        columns = [self._bin_means(column, edges) for column in self.features.data.T]
        return np.stack(columns, axis=1).astype(np.float32)

    def to_recording(self) -> Recording:
        """Return what a reader of the written file gets, without a file."""
        from saebook.data.spikes.recording import GroundTruth, Recording

        truth = self.units.filter(regex="^true_")
        recording = Recording.from_spike_times(
            self.spike_times,
            unit_ids=list(self.units.index),
            interval=self.interval,
            trials=self.trials,
            behavior=self.behavior,
            session=self.parameters["session_id"],
            units=self.units,
        )
        recording.ground_truth = GroundTruth(
            features=self.features, mixing=self.mixing, units=truth
        )
        recording.description = self.parameters["description"]
        return recording

    def __repr__(self) -> str:
        n_spikes = sum(map(len, self.spike_times))
        n_trials = 0 if self.trials is None else len(self.trials)
        return (
            f"Simulation {self.kind}: {self.n_units} units, {n_trials} trials, "
            f"{self.interval.duration:,.1f} s, {n_spikes:,} spikes, "
            f"{self.mixing.shape[1]} features"
        )

    def _edges(self, bin_size_s: float, start: float | None, stop: float | None) -> np.ndarray:
        start = self.interval.start if start is None else start
        stop = self.interval.stop if stop is None else stop
        n = int(np.floor((stop - start) / bin_size_s + 1e-9)) if bin_size_s > 0 else 0
        if n < 1:
            raise ConfigError(
                f"bin_size_s={bin_size_s} leaves no bin between {start} and {stop} s. "
                "Give a positive width that fits."
            )
        return start + bin_size_s * np.arange(n + 1)

    def _bin_means(self, values: np.ndarray, edges: np.ndarray) -> np.ndarray:
        total = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)]) * self.step_s
        grid = self.rate_model.start + self.step_s * np.arange(len(total))
        return np.diff(np.interp(edges, grid, total)) / np.diff(edges)
