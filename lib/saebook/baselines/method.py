"""What every method is: fit, transform, reconstruct, with its input checked in one place."""

from __future__ import annotations

import abc
import warnings
from importlib import import_module
from typing import Any, ClassVar, Self

import numpy as np

from saebook.errors import ConfigError, DataError, EnvironmentProblem

# Number of each trial, in order, with the rows that are its own.
Trials = dict[int, slice]


class Method(abc.ABC):
    """A way to describe the activity of many units by a few latents.

    A method is made with keyword arguments, fitted on training rows and then applied to any
    rows of the same units. Latents and reconstructions of a trial depend on that trial alone.

    Attributes
    ----------
    name : str
        How tables call it.
    temporal : bool
        Whether a bin's latents depend on other bins of its trial.
    transductive : bool
        Whether it can describe only the rows that it was fitted on.
    reconstructs : bool
        Whether it can say how many spikes it expects.
    stochastic : bool
        Whether its constructor takes a `random_state` that matters.
    dimension : str or None
        Name of the constructor's argument that sets how many latents there are.
    fit_messages : tuple of str
        What went short of the wish in the last fit, such as iterations that ended before they
        converged. Empty: nothing did.
    components : ndarray or None
        [n_components, n_units] once it is fitted: what one unit of each latent adds to the
        activity of the units. None where latents don't add up linearly.

    Examples
    --------
    A method of one's own has two functions, or three if it reconstructs:

    >>> class TotalActivity(Method):
    ...     name = "total activity"
    ...     reconstructs = False
    ...     def _fit(self, x, trials, y): ...
    ...     def _transform(self, x, trials): return x.sum(axis=1, keepdims=True)
    >>> TotalActivity().fit([[1, 2], [0, 0]]).transform([[3, 4]])
    array([[7.]], dtype=float32)
    """

    name: ClassVar[str]
    temporal: ClassVar[bool] = False
    transductive: ClassVar[bool] = False
    reconstructs: ClassVar[bool] = True
    stochastic: ClassVar[bool] = False
    dimension: ClassVar[str | None] = None
    fit_messages: tuple[str, ...] = ()
    components: np.ndarray | None = None
    _n_units: int | None = None

    def fit(self, x: Any, trials: Any = None, *, y: Any = None) -> Self:
        """Learn from training rows.

        Parameters
        ----------
        x
            Counts [n, n_units], spikes per bin, ≥ 0, of any number type.
        trials
            Integers [n]: the trial or stretch that each bin belongs to. Rows of a trial stand
            together and in time order. Default: all rows are one stretch.
        y
            What the animal did in each bin, for methods that use it: floats [n, n_y] or [n],
            or integers [n]. Others leave it alone.

        Returns
        -------
        Method
            Itself.

        Raises
        ------
        DataError
            Shapes that don't fit, negative or non-finite values, a trial in several pieces, or
            fewer units or bins than dimensions asked for.
        EnvironmentProblem
            The method's package is missing.
        """
        x = check_counts(x)
        rows = split_trials(trials, len(x))
        self._n_units, self.fit_messages = None, ()
        self._fit(x, rows, y)
        self._n_units = x.shape[1]
        return self

    def transform(self, x: Any, trials: Any = None) -> np.ndarray:
        """Latents of each bin.

        Parameters
        ----------
        x, trials
            As for :meth:`fit`, of the same units.

        Returns
        -------
        ndarray
            float32 [n, n_components].

        Raises
        ------
        DataError
            As for :meth:`fit`; or it was not fitted, or on another number of units.
        """
        x, rows = self._known_units(x, trials)
        return np.ascontiguousarray(self._transform(x, rows), dtype=np.float32)

    def reconstruct(self, x: Any, trials: Any = None) -> np.ndarray:
        """Spikes that the method expects of each unit in each bin.

        Parameters
        ----------
        x, trials
            As for :meth:`fit`, of the same units.

        Returns
        -------
        ndarray
            float32 [n, n_units], spikes per bin, ≥ 0.

        Raises
        ------
        ConfigError
            The method can't: see `reconstructs`.
        DataError
            As for :meth:`transform`.
        """
        if not self.reconstructs:
            raise ConfigError(
                f"{self.name} has no decoder: it can't say how many spikes it expects. Read "
                "spikes out of its latents (transform) with a regression of your own"
            )
        x, rows = self._known_units(x, trials)
        return np.ascontiguousarray(self._reconstruct(x, rows), dtype=np.float32)

    @abc.abstractmethod
    def _fit(self, x: np.ndarray, trials: Trials, y: Any) -> None:
        """Learn from checked counts, float64 [n, n_units]."""

    @abc.abstractmethod
    def _transform(self, x: np.ndarray, trials: Trials) -> np.ndarray:
        """Latents [n, n_components] of checked counts."""

    def _reconstruct(self, x: np.ndarray, trials: Trials) -> np.ndarray:
        raise TypeError(f"{type(self).__name__} says that it reconstructs, and has no _reconstruct")

    def _known_units(self, x: Any, trials: Any) -> tuple[np.ndarray, Trials]:
        x = check_counts(x)
        if self._n_units is None:
            raise DataError(f"{self.name} was not fitted: call fit(x, trials) first")
        if x.shape[1] != self._n_units:
            raise DataError(
                f"x has {x.shape[1]} units; {self.name} was fitted on {self._n_units}: give the "
                "same units in the same order"
            )
        return x, split_trials(trials, len(x))


def check_counts(x: Any) -> np.ndarray:
    """Counts as float64, so that one result comes of every number type.

    Parameters
    ----------
    x
        Array-like [n, n_units], spikes per bin.

    Returns
    -------
    ndarray
        float64 [n, n_units].

    Raises
    ------
    DataError
        Not a matrix of numbers, no row or column, or a negative or non-finite value.

    Examples
    --------
    >>> check_counts(np.array([[1, 2]], dtype=np.uint8))
    array([[1., 2.]])
    >>> check_counts([[1, -2]])
    Traceback (most recent call last):
    ...
    saebook.errors.DataError: x is -2.0 in row 0, unit 1: counts are finite and not negative
    """
    x = np.asarray(x)
    if x.ndim != 2 or 0 in x.shape or x.dtype.kind not in "biuf":
        raise DataError(
            f"x is {x.dtype} of shape {x.shape}: give counts [n_bins, n_units], at least one of each"
        )
    x = x.astype(np.float64)
    bad = ~(np.isfinite(x) & (x >= 0))
    if bad.any():
        row, unit = np.argwhere(bad)[0]
        raise DataError(
            f"x is {x[row, unit]} in row {row}, unit {unit}: counts are finite and not negative"
        )
    return x


def split_trials(trials: Any, n: int) -> Trials:
    """Rows of each trial, in their order.

    Parameters
    ----------
    trials
        Integers [n], or None for one stretch.
    n
        Rows.

    Returns
    -------
    dict
        Number of each trial to the slice of its rows, in order; together they are all rows. One
        stretch is trial 0.

    Raises
    ------
    DataError
        Not one integer per row, or a trial in several pieces.

    Examples
    --------
    >>> split_trials([4, 4, 2], 3)
    {4: slice(0, 2, None), 2: slice(2, 3, None)}
    """
    if trials is None:
        return {0: slice(0, n)}
    trials = np.asarray(trials)
    if trials.shape != (n,) or trials.dtype.kind not in "iu":
        raise DataError(
            f"trials are {trials.dtype} of shape {trials.shape} for {n} rows: give one integer per row"
        )
    starts = np.r_[0, np.flatnonzero(trials[1:] != trials[:-1]) + 1]
    seen, first = np.unique(trials[starts], return_index=True)
    if len(seen) < len(starts):
        again = np.setdiff1d(np.arange(len(starts)), first)[0]
        raise DataError(
            f"trial {trials[starts[again]]} begins again in row {starts[again]}: rows of a trial "
            "must stand together; give each piece a number of its own, or sort the rows"
        )
    ends = [*starts[1:].tolist(), n]
    return {int(trials[a]): slice(a, b) for a, b in zip(starts.tolist(), ends)}


def check_dimensions(
    n_components: int, x: np.ndarray, *, name: str = "n_components", units: bool = True
) -> None:
    """Refuse more dimensions than the data have.

    Parameters
    ----------
    n_components
        Dimensions asked for.
    x
        Counts [n, n_units].
    name
        What the argument is called.
    units
        Whether the units bound them too, as they do for linear methods.

    Raises
    ------
    DataError
        Fewer units or bins than dimensions; fewer than one dimension.

    Examples
    --------
    >>> check_dimensions(3, np.zeros((10, 2)))
    Traceback (most recent call last):
    ...
    saebook.errors.DataError: n_components=3, but there are 2 units: ask for at most 2
    """
    if n_components < 1:
        raise DataError(f"{name}={n_components}: ask for at least 1")
    for size, what in ((x.shape[1], "units"), (x.shape[0], "bins")):
        if size < n_components and (units or what == "bins"):
            raise DataError(
                f"{name}={n_components}, but there are {size} {what}: ask for at most {size}"
            )


def import_package(module: str) -> Any:
    """A module of a package that only some methods need.

    Parameters
    ----------
    module
        Its dotted name.

    Returns
    -------
    module

    Raises
    ------
    EnvironmentProblem
        The package, or one that it needs, is missing.

    Examples
    --------
    >>> import_package("no_such_package")
    Traceback (most recent call last):
    ...
    saebook.errors.EnvironmentProblem: this needs the package no_such_package. Install the extra: pip install 'saebook[baselines]'.
    """
    try:
        # On import packages warn of the age of what they import themselves.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", FutureWarning)
            return import_module(module)
    except ModuleNotFoundError as error:
        package = (error.name or module).split(".")[0]
        raise EnvironmentProblem(
            f"this needs the package {package}. Install the extra: pip install 'saebook[baselines]'."
        ) from error
