"""CEBRA: embeddings trained to tell near moments from far ones, by time or by behaviour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np

from saebook.baselines.cebra_trials import keep_within_trials, long_trials
from saebook.baselines.method import (
    Method,
    Trials,
    check_dimensions,
    import_package,
    split_trials,
)
from saebook.baselines.seeding import seeded
from saebook.errors import ConfigError, DataError


class CEBRATime(Method):
    """CEBRA-Time: bins a fixed time apart are alike, others are not (cebra).

    Its latents lie on a sphere (for cosines), so that the field decodes them by nearest
    neighbours. It has no decoder.

    Parameters
    ----------
    output_dimension
        Dimensions.
    random_state
        Seed of weights and batches. The package seeds its own sampling at random; it is seeded
        here, so that a run can be repeated.
    model_architecture
        As the package names them; the number in `offset10-model` is the bins that it sees
        around each. Must be convolutional or see one bin.
    time_offsets
        Bins between the two of a positive pair.
    max_iterations, batch_size, learning_rate, num_hidden_units
        As the package names them.
    temperature, temperature_mode, min_temperature, distance
        As the package names them.
    device
        `auto` takes an accelerator where there is one; else as torch names them.
    progress
        Show the package's progress bar, with its losses.

    Raises
    ------
    DataError
        On fitting, also: no trial is long enough for the model's window and for a pair.

    Notes
    -----
    One stretch is fitted exactly as the package does. Of several trials, windows are moved to
    lie within their trial, as the package moves those at the ends of a session; pairs across
    trials are not drawn; trials too short for a window or a pair are left out of the fit
    (`fit_messages` say how many). In `transform` each trial is padded with its first and last bin.

    References
    ----------
    Schneider, Lee and Mathis 2023, "Learnable latent embeddings for joint behavioural and neural
    analysis".

    Examples
    --------
    >>> counts = np.random.default_rng(0).poisson(1.0, (60, 5))
    >>> cebra = CEBRATime(output_dimension=3, max_iterations=3, batch_size=16, device="cpu")
    >>> np.linalg.norm(cebra.fit(counts).transform(counts), axis=1)[:3].round(4).tolist()
    [1.0, 1.0, 1.0]
    """

    name: ClassVar[str] = "CEBRA-Time"
    temporal: ClassVar[bool] = True
    reconstructs: ClassVar[bool] = False
    stochastic: ClassVar[bool] = True
    dimension: ClassVar[str | None] = "output_dimension"
    estimator: Any = None

    def __init__(
        self,
        *,
        output_dimension: int = 8,
        random_state: int = 0,
        model_architecture: str = "offset10-model",
        time_offsets: int = 10,
        max_iterations: int = 5000,
        batch_size: int = 512,
        learning_rate: float = 3e-4,
        num_hidden_units: int = 32,
        temperature: float = 1.0,
        temperature_mode: Literal["constant", "auto"] = "constant",
        min_temperature: float = 0.1,
        distance: Literal["cosine", "euclidean"] = "cosine",
        device: str = "auto",
        progress: bool = False,
    ) -> None:
        for key, value in (
            ("time_offsets", time_offsets),
            ("max_iterations", max_iterations),
            ("batch_size", batch_size),
        ):
            if not isinstance(value, int) or value < 1:
                raise ConfigError(f"{key}={value!r}: give a whole number, at least 1")
        self.output_dimension, self.random_state = output_dimension, random_state
        self.progress = progress
        self._settings: dict[str, Any] = {
            "output_dimension": output_dimension,
            "model_architecture": model_architecture,
            "time_offsets": time_offsets,
            "max_iterations": max_iterations,
            "batch_size": batch_size,
            "learning_rate": learning_rate,
            "num_hidden_units": num_hidden_units,
            "temperature": temperature,
            "temperature_mode": temperature_mode,
            "min_temperature": min_temperature,
            "distance": distance,
            "device": "cuda_if_available" if device == "auto" else device,
            "conditional": "time",
            "verbose": progress,
        }

    def _fit(self, x: np.ndarray, trials: Trials, y: Any) -> None:
        check_dimensions(self.output_dimension, x, name="output_dimension")
        self._train(x, trials, ())

    def _train(self, x: np.ndarray, trials: Trials, labels: Sequence[np.ndarray]) -> None:
        package = import_package("cebra")
        known = package.CEBRA.supported_model_architectures()
        if self._settings["model_architecture"] not in known:
            raise ConfigError(
                f"model_architecture={self._settings['model_architecture']!r}: the package has "
                f"{', '.join(sorted(known))}"
            )
        self.estimator = package.CEBRA(**self._settings)
        with seeded(self.random_state):
            window = len(self.estimator._compute_offset())
        pairs_in_time = not labels or labels[0].dtype.kind == "f"
        pairs_in_time &= self._settings["conditional"] != "delta_normal"
        least = max(window, self._settings["time_offsets"] + 1 if pairs_in_time else 1, 2)
        used = long_trials(trials, least)
        if not used.all():
            self.fit_messages = (f"{(~used).sum()} trials of under {least} bins were left out",)
            kept = [rows for rows, is_used in zip(trials.values(), used) if is_used]
            x, *labels = (np.concatenate([v[rows] for rows in kept]) for v in (x, *labels))
            numbers = np.repeat(np.arange(len(kept)), [rows.stop - rows.start for rows in kept])
            trials = split_trials(numbers, len(x))
        x = np.ascontiguousarray(x, dtype=np.float32)
        with seeded(self.random_state):
            # What `fit` would prepare, made first so that its own generators can be seeded.
            self.estimator.state_ = self.estimator._prepare_fit(x, *labels)
            loader = self.estimator.state_[2]
            seed_sampling(loader.distribution, self.random_state)
            if len(trials) > 1:
                keep_within_trials(loader, trials)
            self.estimator.fit(x, *labels)

    def _transform(self, x: np.ndarray, trials: Trials) -> np.ndarray:
        import torch

        rows = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))
        # The estimator refuses trials shorter than the window; its solver pads those too.
        solver = self.estimator.solver_
        return np.concatenate(
            [solver.transform(rows[own]).cpu().numpy() for own in trials.values()]
        )


class CEBRABehavior(CEBRATime):
    """CEBRA-Behaviour: bins of like behaviour are alike, others are not (cebra).

    Parameters
    ----------
    conditional
        For continuous behaviour: `time_delta` draws the partner of a bin near its behaviour plus
        a change that happened elsewhere within `time_offsets` bins; `delta_normal` near its
        behaviour plus normal noise of `delta`; `time` as CEBRA-Time does. For discrete behaviour
        a partner is any bin of the same label.
    delta
        Standard deviation of that noise, in the unit of y.
    **settings
        As for :class:`CEBRATime`.

    Raises
    ------
    DataError
        On fitting, also: y is missing, of another length, not finite, or of one value only.

    Notes
    -----
    Distances between behaviours are Euclidean: bring the columns of y to one scale first. `fit`
    needs y; `transform` does not, so that test rows are embedded without it.

    References
    ----------
    Schneider, Lee and Mathis 2023, as for :class:`CEBRATime`.

    Examples
    --------
    >>> counts = np.random.default_rng(0).poisson(1.0, (60, 5))
    >>> cebra = CEBRABehavior(output_dimension=3, max_iterations=3, batch_size=16, device="cpu")
    >>> cebra.fit(counts, y=np.linspace(0, 1, 60)).transform(counts).shape
    (60, 3)
    >>> cebra.fit(counts)
    Traceback (most recent call last):
    ...
    saebook.errors.DataError: CEBRA-Behaviour learns from behaviour: give fit(x, trials, y=…)
    """

    name: ClassVar[str] = "CEBRA-Behaviour"

    def __init__(
        self,
        *,
        conditional: Literal["time_delta", "delta_normal", "time"] = "time_delta",
        delta: float | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        if conditional not in ("time_delta", "delta_normal", "time"):
            raise ConfigError(
                f"conditional={conditional!r}: give 'time_delta', 'delta_normal' or 'time'"
            )
        if conditional == "delta_normal" and (delta is None or not delta > 0):
            raise ConfigError(f"delta={delta}: 'delta_normal' needs a number above 0")
        self._settings |= {"conditional": conditional, "delta": delta}

    def _fit(self, x: np.ndarray, trials: Trials, y: Any) -> None:
        check_dimensions(self.output_dimension, x, name="output_dimension")
        self._train(x, trials, (behavior_labels(y, len(x)),))


def behavior_labels(y: Any, n: int) -> np.ndarray:
    """Behaviour as the package takes it.

    Parameters
    ----------
    y
        Floats [n, n_y] or [n]; or integers or truths [n].
    n
        Rows.

    Returns
    -------
    ndarray
        float32 [n, n_y], or int64 [n] numbered 0, 1, … in the order of the labels.

    Raises
    ------
    DataError
        See :class:`CEBRABehavior`.

    Examples
    --------
    >>> behavior_labels([7, 7, 2], 3).tolist()
    [1, 1, 0]
    """
    if y is None:
        raise DataError("CEBRA-Behaviour learns from behaviour: give fit(x, trials, y=…)")
    y = np.asarray(y)
    discrete = y.dtype.kind in "biu"
    if len(y) != n or y.ndim > (1 if discrete else 2) or y.dtype.kind not in "biuf":
        raise DataError(
            f"y is {y.dtype} of shape {y.shape} for {n} bins: give floats [n, n_y] or [n], or "
            "integers [n]"
        )
    if discrete:
        values, labels = np.unique(y, return_inverse=True)
        if len(values) < 2:
            raise DataError(f"y is {values[0]} in every bin: there is nothing to learn from")
        return labels.astype(np.int64)
    y = y.astype(np.float32).reshape(n, -1)
    if not np.isfinite(y).all():
        row, column = np.argwhere(~np.isfinite(y))[0]
        raise DataError(
            f"y is {y[row, column]} in row {row}, column {column}: leave out bins without behaviour"
        )
    if (y == y[0]).all():
        raise DataError("y is the same in every bin: there is nothing to learn from")
    return y


def seed_sampling(distribution: Any, random_state: int) -> None:
    """Seed the generators of a distribution of the package, each differently.

    Parameters
    ----------
    distribution
        What the package draws reference, positive and negative bins from.
    random_state
        Seed.
    """
    # Of one seed, the changes of behaviour would be those of the very bins they are added to.
    owners = [distribution, getattr(distribution, "prior", None)]
    for owner, sequence in zip(owners, np.random.SeedSequence(random_state).spawn(len(owners))):
        if hasattr(owner, "generator"):
            owner.generator.manual_seed(int(sequence.generate_state(1)[0]))  # type: ignore[union-attr]
