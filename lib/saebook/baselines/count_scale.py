"""Counts as linear methods get them: as they are, or their square roots."""

from __future__ import annotations

from typing import Literal

import numpy as np

from saebook.errors import ConfigError

InputTransform = Literal["none", "sqrt"]


class CountScale:
    """The way from counts to what a method gets, and from what it gives back to counts.

    Expected counts can't be negative, so the way back clips at 0. A square root has a way back
    that is not its inverse: the mean of a count is the square of the mean root *plus* the root's
    variance. That variance is taken from the training rows, unit by unit, so that the
    reconstructions of the training rows have each unit's mean count.

    Parameters
    ----------
    transform
        `none`, or `sqrt`, which makes the variance of Poisson counts above about one spike per
        bin independent of their mean. Counts of 0 and 1 are their own square roots.

    Raises
    ------
    ConfigError
        Another name.

    Notes
    -----
    Square roots before factor analysis: Yu et al. 2009, "Gaussian-process factor analysis for
    low-dimensional single-trial analysis of neural population activity".

    Examples
    --------
    >>> counts = np.array([[0.0], [4.0]])
    >>> scale = CountScale("sqrt")
    >>> scale.scaled(counts).ravel().tolist()
    [0.0, 2.0]
    >>> scale.calibrate(counts, np.array([[1.0], [1.0]]))  # a method that gives the mean root
    >>> scale.counts(np.array([[1.0]])).tolist()  # 1² and the variance 1: the mean count
    [[2.0]]
    """

    def __init__(self, transform: InputTransform = "none") -> None:
        if transform not in ("none", "sqrt"):
            raise ConfigError(f"input_transform={transform!r}: give 'none' or 'sqrt'")
        self.transform = transform
        self.variance: np.ndarray | float = 0.0

    def scaled(self, counts: np.ndarray) -> np.ndarray:
        """What the method gets [n, n_units] for counts of that shape."""
        return np.sqrt(counts) if self.transform == "sqrt" else counts

    def calibrate(self, counts: np.ndarray, given_back: np.ndarray) -> None:
        """Learn the variance [n_units] from training counts and their reconstructed roots."""
        if self.transform == "sqrt":
            squares = np.square(np.maximum(given_back, 0.0)).mean(axis=0)
            self.variance = np.maximum(counts.mean(axis=0) - squares, 0.0)

    def counts(self, given_back: np.ndarray) -> np.ndarray:
        """Expected spikes per bin, ≥ 0, for what the method gives back [n, n_units]."""
        nonnegative = np.maximum(given_back, 0.0)
        return nonnegative**2 + self.variance if self.transform == "sqrt" else nonnegative
