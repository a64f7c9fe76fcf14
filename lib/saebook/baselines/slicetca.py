"""SliceTCA: a tensor of trials as a sum of components, each free in two of its three ways."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np

from saebook.baselines.method import Method, Trials, import_package
from saebook.baselines.seeding import seeded
from saebook.errors import ConfigError, DataError

AXES = ("trials", "units", "bins")


class SliceTCA(Method):
    """Slice tensor component analysis of trials of one length (slicetca).

    A component is a vector along one axis of [n_trials, n_units, n_bins] times a matrix over the
    other two: weights of trials times a matrix over units and bins, of units times one over
    trials and bins, of bins times one over trials and units.

    A bin's latent is how far a component moves the population in that bin: the Euclidean norm
    over units of what it adds there, with a sign: that of the trial's or the bin's weight, or,
    for a component of units, of its matrix at that trial and bin. Latents come in the order
    trials, units, bins.

    Parameters
    ----------
    number_components
        Components of trials, of units and of bins.
    random_state
        Seed of the first guess and of the batches (the package's `seed`).
    positive
        Only components that add; then the first guess is positive too.
    initialization
        `uniform` or `normal`.
    learning_rate, batch_prop, min_std, iter_std, weight_decay
        As the package names them.
    max_iter
        Most iterations; `fit_messages` say whether it ended before.
    device
        `auto` takes an accelerator where there is one; else as torch names them.
    progress
        Show the package's progress bar, with its loss.

    Raises
    ------
    DataError
        On fitting, also: trials of different lengths, or more components of an axis than it is
        long. Where latents are asked for: a trial that was not fitted, or with other counts.

    Notes
    -----
    It is transductive: each trial has parameters of its own, so it can describe only trials that
    it was fitted on, and what it says of test trials it has learnt from them. Fit it on all
    trials and set its scores apart. Trials are found again by their numbers.

    Reconstructions are clipped at 0. Components have invariances of their own (a sum of two can
    be written in many ways), which the package's `invariance` can settle on `model`.

    References
    ----------
    Pellegrino, Stein and Cayco-Gajic 2024, "Dimensionality reduction beyond neural subspaces
    with slice tensor component analysis".

    Examples
    --------
    >>> counts = np.tile([[4, 0], [2, 2], [0, 4]], (5, 1))
    >>> trials = np.repeat(np.arange(5), 3)
    >>> tca = SliceTCA(number_components=(0, 1, 0), max_iter=50, device="cpu")
    >>> tca.fit(counts, trials).transform(counts, trials).shape
    (15, 1)
    >>> tca.transform(counts[:3] + 1, trials[:3])
    Traceback (most recent call last):
    ...
    saebook.errors.DataError: counts of trial 0 are not those that sliceTCA was fitted on. It is transductive: it describes only its own trials, so fit it on all that you ask for
    """

    name: ClassVar[str] = "sliceTCA"
    temporal: ClassVar[bool] = True
    transductive: ClassVar[bool] = True
    stochastic: ClassVar[bool] = True
    model: Any = None

    def __init__(
        self,
        *,
        number_components: tuple[int, int, int] = (2, 4, 2),
        random_state: int = 0,
        positive: bool = False,
        initialization: Literal["uniform", "normal"] = "uniform",
        learning_rate: float = 5e-3,
        batch_prop: float = 0.2,
        max_iter: int = 10_000,
        min_std: float = 1e-5,
        iter_std: int = 100,
        weight_decay: float | None = None,
        device: str = "auto",
        progress: bool = False,
    ) -> None:
        if np.shape(number_components) != (3,) or min(number_components) < 0:
            raise ConfigError(
                f"number_components={number_components}: give three numbers, of components of "
                "trials, of units and of bins"
            )
        if not any(number_components):
            raise ConfigError("number_components=(0, 0, 0): ask for at least one component")
        self.number_components = tuple(int(number) for number in number_components)
        self.random_state, self.device = random_state, device
        self._settings: dict[str, Any] = {
            "positive": positive,
            "initialization": "uniform-positive" if positive else initialization,
            "learning_rate": learning_rate,
            "batch_prop": batch_prop,
            "max_iter": max_iter,
            "min_std": min_std,
            "iter_std": iter_std,
            "weight_decay": weight_decay,
            "progress_bar": progress,
        }

    def _fit(self, x: np.ndarray, trials: Trials, y: Any) -> None:
        tensor = stack_trials(x, trials)
        for number, size, axis in zip(self.number_components, tensor.shape, AXES):
            if number > size:
                raise DataError(
                    f"number_components={self.number_components}, but there are {size} {axis}: "
                    f"ask for at most {size} components of {axis}"
                )
        import torch

        package = import_package("slicetca")
        device = self.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        data = torch.as_tensor(tensor, dtype=torch.float32, device=device)
        with seeded(self.random_state):
            factors, self.model = package.decompose(
                data, self.number_components, seed=self.random_state, **self._settings
            )
        n_iterations = len(self.model.losses)
        if n_iterations >= self._settings["max_iter"]:
            self.fit_messages = (f"the loss still moved after max_iter={n_iterations} iterations",)
        with torch.no_grad():
            self._fitted = self.model.construct().cpu().numpy()  # [n_trials, n_units, n_bins]
        self._latents = component_norms(factors)  # [n_trials, n_bins, n_components]
        self._counts = tensor
        self._places = {number: place for place, number in enumerate(trials)}

    def _transform(self, x: np.ndarray, trials: Trials) -> np.ndarray:
        return np.concatenate([self._latents[place] for place in self._own(x, trials)])

    def _reconstruct(self, x: np.ndarray, trials: Trials) -> np.ndarray:
        fitted = np.concatenate([self._fitted[place].T for place in self._own(x, trials)])
        return np.maximum(fitted, 0.0)

    def _own(self, x: np.ndarray, trials: Trials) -> list[int]:
        remedy = "It is transductive: it describes only its own trials, so fit it on all that you ask for"
        for number, rows in trials.items():
            if number not in self._places:
                raise DataError(f"sliceTCA was not fitted on trial {number}. {remedy}")
            if not np.array_equal(x[rows].T, self._counts[self._places[number]]):
                raise DataError(
                    f"counts of trial {number} are not those that sliceTCA was fitted on. {remedy}"
                )
        return [self._places[number] for number in trials]


def stack_trials(x: np.ndarray, trials: Trials) -> np.ndarray:
    """Counts [n, n_units] as a tensor [n_trials, n_units, n_bins].

    Parameters
    ----------
    x
        Counts [n, n_units].
    trials
        Rows of each trial.

    Raises
    ------
    DataError
        Trials of different lengths.

    Examples
    --------
    >>> stack_trials(np.array([[1, 5], [2, 6], [3, 7], [4, 8]]), {0: slice(0, 2), 1: slice(2, 4)})
    array([[[1, 2],
            [5, 6]],
    <BLANKLINE>
           [[3, 4],
            [7, 8]]])
    """
    lengths = {number: rows.stop - rows.start for number, rows in trials.items()}
    shortest, longest = min(lengths, key=lengths.__getitem__), max(lengths, key=lengths.__getitem__)
    if lengths[shortest] != lengths[longest]:
        raise DataError(
            f"trial {shortest} has {lengths[shortest]} bins and trial {longest} {lengths[longest]}: "
            "sliceTCA needs trials of one length; cut each to the same time around an event"
        )
    return np.stack([x[rows].T for rows in trials.values()])


def component_norms(factors: list[list[np.ndarray]]) -> np.ndarray:
    """How far each component moves the population in each bin of each trial, with its sign.

    Parameters
    ----------
    factors
        For trials, units and bins: vectors [r, length of the axis] and matrices [r, …] over the
        other two axes in their order, as the package gives them.

    Returns
    -------
    ndarray
        [n_trials, n_bins, n_components].

    Examples
    --------
    >>> none = [np.zeros((0, 1)), np.zeros((0, 1, 1))]
    >>> units = [np.array([[3.0, 4.0]]), np.array([[[1.0, -2.0]]])]  # one trial, two bins
    >>> component_norms([none, units, none])[0].ravel().tolist()
    [5.0, -10.0]
    """
    (of_trials, units_bins), (of_units, trials_bins), (of_bins, trials_units) = factors
    lengths = [  # each [r, n_trials, n_bins]
        of_trials[:, :, None] * np.linalg.norm(units_bins, axis=1)[:, None, :],
        trials_bins * np.linalg.norm(of_units, axis=1)[:, None, None],
        of_bins[:, None, :] * np.linalg.norm(trials_units, axis=2)[:, :, None],
    ]
    return np.concatenate([part for part in lengths if len(part)]).transpose(1, 2, 0)
