"""What every method has to beat, or can't: raw units, smoothed units, true rates."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from saebook.baselines.method import Method, Trials, split_trials
from saebook.errors import ConfigError, DataError


class RawUnits(Method):
    """The counts themselves: one latent per unit.

    Its reconstruction is a copy, which proves nothing: see `saebook.evaluation.evaluate`.

    Examples
    --------
    >>> RawUnits().fit([[1, 0], [0, 2]]).transform([[3, 4]])
    array([[3., 4.]], dtype=float32)
    """

    name: ClassVar[str] = "raw units"

    def _fit(self, x: np.ndarray, trials: Trials, y: Any) -> None:
        self.components = np.eye(x.shape[1])

    def _transform(self, x: np.ndarray, trials: Trials) -> np.ndarray:
        return x

    def _reconstruct(self, x: np.ndarray, trials: Trials) -> np.ndarray:
        return x


class GaussianSmoothing(Method):
    """Each unit's counts under a Gaussian window: one latent per unit, in spikes per bin.

    Near the ends of a trial the part of the window that lies outside is left out and the rest
    is scaled up, so that a constant stays what it is and nothing crosses trials.

    Parameters
    ----------
    sigma_s
        Standard deviation of the window, s.
    bin_size_s
        Width of a bin, s.
    truncate
        Standard deviations after which the window ends.

    Raises
    ------
    ConfigError
        A setting that is not a finite number above 0.

    Notes
    -----
    The window is that of `scipy.ndimage.gaussian_filter1d`. The benchmark's smoothing baseline
    uses 50 ms on MC_Maze (Pei et al. 2021, "Neural Latents Benchmark '21").

    Examples
    --------
    >>> smoothing = GaussianSmoothing(sigma_s=0.1, bin_size_s=0.1).fit([[0], [1], [0]])
    >>> smoothing.transform([[1], [1], [0]], [0, 0, 1]).ravel().tolist()
    [1.0, 1.0, 0.0]
    """

    name: ClassVar[str] = "smoothing"
    temporal: ClassVar[bool] = True

    def __init__(
        self, *, sigma_s: float = 0.05, bin_size_s: float = 0.05, truncate: float = 4.0
    ) -> None:
        for key, value in (
            ("sigma_s", sigma_s),
            ("bin_size_s", bin_size_s),
            ("truncate", truncate),
        ):
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"{key}={value}: give a number above 0")
        self.sigma_s, self.bin_size_s, self.truncate = sigma_s, bin_size_s, truncate

    def _fit(self, x: np.ndarray, trials: Trials, y: Any) -> None:
        pass

    def _transform(self, x: np.ndarray, trials: Trials) -> np.ndarray:
        from scipy.ndimage import gaussian_filter1d

        sigma = self.sigma_s / self.bin_size_s
        smooth = np.empty_like(x)
        for rows in trials.values():
            inside = np.ones((rows.stop - rows.start, 1))
            total, weight = (
                gaussian_filter1d(v, sigma, axis=0, mode="constant", truncate=self.truncate)
                for v in (x[rows], inside)
            )
            smooth[rows] = total / weight
        return smooth

    def _reconstruct(self, x: np.ndarray, trials: Trials) -> np.ndarray:
        return self._transform(x, trials)


class TrueRates(Method):
    """The rates that made the spikes, where they are known: the ceiling of every score.

    Rows are found by their trial: the rates of a trial that is asked for are those given for
    the trial of that number.

    Parameters
    ----------
    rates
        [n, n_rates], expected spikes per bin, ≥ 0.
    trials
        Integers [n], the trial of each row of rates, as for :meth:`Method.fit`. Default: one
        stretch, and then only all of its rows can be asked for.

    Raises
    ------
    DataError
        Shapes that don't fit, a negative or non-finite rate, a trial in several pieces; when
        rates are asked for: a trial without rates or of another length, or a spike where the
        rate is 0 (rows that don't belong to each other).

    Examples
    --------
    >>> truth = TrueRates(rates=[[0.5], [0.2], [0.1]], trials=[1, 1, 2])
    >>> truth.fit([[1], [0]], [1, 1]).transform([[0]], [2])
    array([[0.1]], dtype=float32)
    """

    name: ClassVar[str] = "true rates"
    temporal: ClassVar[bool] = True

    def __init__(self, *, rates: Any, trials: Any = None) -> None:
        rates = np.asarray(rates, dtype=np.float64)
        if rates.ndim != 2 or not (np.isfinite(rates) & (rates >= 0)).all():
            raise DataError(
                f"rates of shape {rates.shape}: give expected spikes per bin [n, n_rates], all of "
                "them finite and not negative"
            )
        self._rates = rates
        self._rows = split_trials(trials, len(rates))

    def _fit(self, x: np.ndarray, trials: Trials, y: Any) -> None:
        pass

    def _transform(self, x: np.ndarray, trials: Trials) -> np.ndarray:
        found = np.empty((len(x), self._rates.shape[1]))
        for number, rows in trials.items():
            if number not in self._rows:
                raise DataError(f"there are no rates of trial {number}: give those of all trials")
            known = self._rates[self._rows[number]]
            if len(known) != rows.stop - rows.start:
                raise DataError(
                    f"trial {number} has {rows.stop - rows.start} bins, but rates of {len(known)}"
                )
            found[rows] = known
        if found.shape == x.shape and (impossible := (found == 0) & (x > 0)).any():
            row, unit = np.argwhere(impossible)[0]
            raise DataError(
                f"unit {unit} spikes in row {row}, where its rate is 0: these rates are not those "
                "of these rows"
            )
        return found

    def _reconstruct(self, x: np.ndarray, trials: Trials) -> np.ndarray:
        if self._rates.shape[1] != x.shape[1]:
            raise DataError(
                f"{self._rates.shape[1]} rates for {x.shape[1]} units: give one for each unit"
            )
        return self._transform(x, trials)
