"""LFADS as a method among others: fit, transform, reconstruct, rates of held-out units, files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import pandas as pd

from saebook.baselines.lfads.config import LFADSConfig
from saebook.baselines.lfads.windows import chop, merge, window_length
from saebook.baselines.method import Method, Trials, check_counts
from saebook.errors import DataError

if TYPE_CHECKING:
    from saebook.baselines.lfads.model import LFADSModel
    from saebook.baselines.lfads.training import Windows

# Fewer trials than this are not divided: the end of each is set aside instead.
FEWEST_TRIALS = 5


class LFADS(Method):
    """Latent factor analysis via dynamical systems: a generator network behind the counts.

    The latents are its factors; :class:`LFADSModel` has the equations. Trials of equal length up
    to 150 bins are taken whole. Longer or unequal ones are cut into overlapping windows, and
    what comes out of them is joined again.

    Parameters
    ----------
    n_components
        Number of factors. Default: the settings' own. It is not bounded by the number of units.
    config
        All settings; default those used for MC_Maze. `LFADSConfig.compact()` suits a laptop.
    random_state
        Seed of everything that is drawn. On a CPU the same seed gives the same numbers.
    device
        "auto" takes a GPU where there is one.
    progress
        Show a bar over epochs.

    Attributes
    ----------
    history : DataFrame
        One row per epoch: see :func:`saebook.baselines.lfads.training.train`.
    model : LFADSModel
        The trained networks.

    Notes
    -----
    The encoders see a bin's own count, so the reconstruction of the counts that they saw must
    not be scored by its likelihood: give `targets` with further units, and score those.

    References
    ----------
    See :class:`saebook.baselines.lfads.model.LFADSModel`.

    Examples
    --------
    >>> counts = np.random.default_rng(0).poisson(0.3, (200, 6))
    >>> trials = np.repeat(np.arange(20), 10)
    >>> method = LFADS(config=LFADSConfig.tiny(max_epochs=1), n_components=3)
    >>> method.fit(counts[:, :4], trials, targets=counts).transform(counts[:, :4], trials).shape
    (200, 3)
    >>> method.rates(counts[:, :4], trials).shape
    (200, 6)
    """

    name: ClassVar[str] = "LFADS"
    temporal: ClassVar[bool] = True
    stochastic: ClassVar[bool] = True
    dimension: ClassVar[str | None] = "n_components"

    def __init__(
        self,
        *,
        n_components: int | None = None,
        config: LFADSConfig | None = None,
        random_state: int = 0,
        device: str = "auto",
        progress: bool = False,
    ) -> None:
        config = LFADSConfig() if config is None else config
        if n_components is not None:
            config = LFADSConfig.from_dict(config.to_dict() | {"n_factors": n_components})
        self.config, self.random_state, self.progress = config, random_state, progress
        self.device = device
        self.model: LFADSModel | None = None
        self.history = pd.DataFrame()
        self._targets: Any = None
        self._validation: Any = None

    def fit(
        self,
        x: Any,
        trials: Any = None,
        *,
        y: Any = None,
        targets: Any = None,
        validation: Any = None,
    ) -> Self:
        """Train on counts; see :meth:`Method.fit` for what is common to all methods.

        Parameters
        ----------
        x, trials
            Counts [n, n_units] that the encoders see, and the trial of each row.
        y
            Left alone.
        targets
            Counts [n, n_targets] to predict: the columns of x first, then those of units that the
            encoders don't see. Default: x.
        validation
            Booleans [n], the same for all rows of a trial: true for trials that choose the epoch
            and are not learned from. Default: a fifth of the trials, drawn by `random_state`; of
            fewer than five trials, the last fifth of each.

        Raises
        ------
        DataError
            As for :meth:`Method.fit`; or targets don't begin with x, a trial is shorter than
            the window, or nothing is left to train on or to validate with.
        TrainingError
            A loss is not finite.
        """
        self._targets, self._validation = targets, validation
        try:
            return super().fit(x, trials, y=y)
        finally:
            self._targets = self._validation = None

    def rates(self, x: Any, trials: Any = None) -> np.ndarray:
        """Spikes expected of all units of `targets`, averaged over draws from the posterior.

        Parameters
        ----------
        x, trials
            As for :meth:`transform`: only the units that the encoders see.

        Returns
        -------
        ndarray
            float32 [n, n_targets], spikes per bin.
        """
        x, rows = self._known_units(x, trials)
        return self._posterior_means(x, rows)[1]

    def save(self, path: str | Path) -> Path:
        """Write settings, weights and history to a folder, which appears whole.

        Parameters
        ----------
        path
            The folder; one that holds a saved LFADS is replaced.

        Returns
        -------
        Path
            The folder.
        """
        from saebook.baselines.lfads.files import write_model

        model = self._fitted()
        about = {
            "random_state": self.random_state,
            "window": self._window,
            "n_units": self._n_units,
        }
        return write_model(Path(path), model, about, self.history)

    @classmethod
    def load(cls, path: str | Path, *, device: str = "auto") -> Self:
        """Read what :meth:`save` wrote.

        Parameters
        ----------
        path
            The folder.
        device
            Where to compute.

        Raises
        ------
        CheckpointError
            No such folder, or a missing, damaged or foreign file.
        """
        from saebook.baselines.lfads.files import read_model
        from saebook.baselines.lfads.inference import resolve_device

        model, about, history = read_model(Path(path))
        method = cls(config=model.config, random_state=about["random_state"], device=device)
        method.model, method.history = model.to(resolve_device(device)), history
        method._window, method._n_units = about["window"], about["n_units"]
        return method

    def _fit(self, x: np.ndarray, trials: Trials, y: Any) -> None:
        from saebook.baselines.lfads.inference import resolve_device
        from saebook.baselines.lfads.model import LFADSModel
        from saebook.baselines.lfads.training import train

        device = resolve_device(self.device)
        targets = x if self._targets is None else check_counts(self._targets)
        n_units = x.shape[1]
        if len(targets) != len(x) or not np.array_equal(targets[:, :n_units], x):
            raise DataError(
                f"targets {targets.shape} don't begin with the columns of x {x.shape}: give "
                "np.hstack([x, counts of the units to hold out])"
            )
        training, validation = self._divide(trials)
        shortest = min(rows.stop - rows.start for rows in training + validation)
        self._window = window_length([shortest], self.config.window_bins)
        if shortest < self._window or shortest < 2:
            raise DataError(
                f"a trial has {shortest} bins, a window {max(self._window, 2)}: lower window_bins, "
                "or leave that trial out"
            )
        sets = [self._windows(rows, x, targets).to(device) for rows in (training, validation)]
        for name, windows in zip(("training", "validation"), sets):
            scored = windows.targets[:, :, n_units * windows.has_held_out :]
            if not scored.any():
                which = "held-out units" if windows.has_held_out else "units"
                raise DataError(
                    f"the {which} have no spike in the {name} trials: give longer ones, or others"
                )
        seed = self.random_state
        self.model = LFADSModel(self.config, n_units, targets.shape[1], seed=seed).to(device)
        self.history = train(self.model, *sets, seed=seed, progress=self.progress)
        since = len(self.history) - 1 - int(self.history["best"].to_numpy().argmax())
        self.fit_messages = (
            ()
            if since >= self.config.patience
            else (
                f"training ended at max_epochs = {self.config.max_epochs}, {since} epochs after the "
                f"best: {self.config.patience} without improvement would have ended it",
            )
        )

    def _transform(self, x: np.ndarray, trials: Trials) -> np.ndarray:
        return self._posterior_means(x, trials)[0]

    def _reconstruct(self, x: np.ndarray, trials: Trials) -> np.ndarray:
        return self._posterior_means(x, trials)[1][:, : x.shape[1]]

    def _divide(self, trials: Trials) -> tuple[list[slice], list[slice]]:
        """Rows of each trial to learn from, and of each to validate with."""
        rows, share = list(trials.values()), self.config.validation_fraction
        if self._validation is not None:
            marked = np.asarray(self._validation)
            if marked.shape != (rows[-1].stop,) or marked.dtype != bool:
                raise DataError(
                    f"validation is {marked.dtype} of shape {marked.shape}: give one boolean for "
                    f"each of {rows[-1].stop} rows"
                )
            torn = [name for name, own in trials.items() if len(np.unique(marked[own])) > 1]
            if torn:
                raise DataError(f"validation divides trial {torn[0]}: give whole trials")
            chosen = [bool(marked[own.start]) for own in rows]
        elif len(rows) < FEWEST_TRIALS:
            cuts = [own.stop - max(1, round(share * (own.stop - own.start))) for own in rows]
            pieces = [slice(own.start, cut) for own, cut in zip(rows, cuts) if cut > own.start]
            return pieces, [slice(cut, own.stop) for own, cut in zip(rows, cuts)]
        else:
            n = min(max(1, round(share * len(rows))), len(rows) - 1)
            drawn = np.random.default_rng(self.random_state).permutation(len(rows))[:n]
            chosen = np.isin(np.arange(len(rows)), drawn).tolist()
        if all(chosen) or not any(chosen):
            raise DataError(
                f"{sum(chosen)} of {len(rows)} trials are for validation: give some, not all"
            )
        return [r for r, v in zip(rows, chosen) if not v], [r for r, v in zip(rows, chosen) if v]

    def _windows(self, trials: list[slice], x: np.ndarray, targets: np.ndarray) -> Windows:
        import torch

        from saebook.baselines.lfads.training import Windows

        cut = [piece for rows in trials for piece in chop(rows, self._window, self._overlap)]
        seen, wanted = (
            torch.from_numpy(np.stack([values[piece] for piece in cut])).float()
            for values in (x, targets)
        )
        return Windows(seen, wanted)

    @property
    def _overlap(self) -> int:
        asked = self.config.overlap_bins
        return min(self._window // 4 if asked is None else asked, self._window - 1)

    def _posterior_means(self, x: np.ndarray, trials: Trials) -> tuple[np.ndarray, np.ndarray]:
        """Factors [n, n_factors] and rates [n, n_targets], means over draws."""
        from saebook.baselines.lfads.inference import posterior_means

        windows = [p for rows in trials.values() for p in chop(rows, self._window, self._overlap)]
        found = posterior_means(
            self._fitted(), [x[rows] for rows in windows], seed=self.random_state
        )
        factors, rates = (merge(windows, each, len(x)) for each in found)
        return factors, rates

    def _fitted(self) -> LFADSModel:
        if self.model is None or self._n_units is None:
            raise DataError("LFADS was not fitted: call fit(x, trials) first")
        return self.model
