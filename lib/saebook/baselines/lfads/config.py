"""Settings of LFADS: sizes of its networks, strengths of its regularisers, how it is trained."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Self

from saebook.errors import ConfigError

AT_LEAST_ONE = (
    "encoder_dim",
    "controller_dim",
    "generator_dim",
    "initial_dim",
    "n_factors",
    "batch_size",
    "max_epochs",
    "patience",
    "lr_patience",
    "n_samples",
)
POSITIVE = (
    "learning_rate",
    "min_learning_rate",
    "clip_norm",
    "loss_scale",
    "state_clip",
    "initial_prior_variance",
    "input_prior_variance",
    "input_prior_tau",
)
NOT_NEGATIVE = (
    "n_inputs",
    "input_lag",
    "kl_initial",
    "kl_inputs",
    "l2",
    "ramp_epochs",
    "weight_decay",
)
# 0 ≤ p < 1, and 0 < p < 1.
SHARES = ("dropout", "coordinated_dropout")
FRACTIONS = ("validation_fraction", "smoothing", "lr_decay")


@dataclass(frozen=True)
class LFADSConfig:
    """How large LFADS is and how it is trained; defaults are those used for MC_Maze.

    Parameters
    ----------
    encoder_dim
        States of each direction of both encoders.
    controller_dim
        States of the controller.
    generator_dim
        States of the generator.
    initial_dim
        Dimensions of the code of the initial state.
    n_factors
        Factors: the latents. They are not bounded by the number of units.
    n_inputs
        Inferred inputs per bin; 0 leaves the controller out, and the generator runs on its own.
    input_lag
        Bins between the counts that an inferred input may see and its own, on either side.
    state_clip
        Largest absolute state of the generator.
    dropout
        Share of encoder and generator states left out in training.
    coordinated_dropout
        Share of the counts that the encoders don't see in a training step, and from which alone
        that step learns. 0: the model may copy its input.
    kl_initial, kl_inputs
        Weights of the divergences, in nats summed over dimensions and time, beside the negative
        log-likelihood averaged over counts.
    l2
        Weight of half the mean square of the recurrent weights.
    ramp_epochs
        Epochs over which the three weights rise linearly from 0.
    initial_prior_variance
        Variance of the prior of the initial state's code; its mean is learned.
    input_prior_variance, input_prior_tau
        Where the AR(1) prior of the inputs begins: variance of its innovations, and its time
        constant in bins. Both are learned.
    learning_rate, min_learning_rate, lr_decay, lr_patience
        AdamW begins at the first; each time that the smoothed validation score hasn't improved
        for `lr_patience` epochs the rate is multiplied by `lr_decay`, down to the second.
    weight_decay
        That of AdamW.
    batch_size
        Windows per step.
    max_epochs, patience
        Training stops after so many epochs, or so many without a better validation score.
    clip_norm, loss_scale
        Largest norm of the gradient of the loss times `loss_scale`.
    smoothing
        Weight of the last epoch in the smoothed validation score.
    validation_fraction
        Share of trials set aside to choose the epoch, where none are given.
    window_bins
        Length of the windows that a network sees. Default: the shortest trial, at most 150.
    overlap_bins
        What successive windows of a longer trial share at least. Default: a quarter of a window.
    n_samples
        Draws from the posterior over which factors and rates are averaged.

    Raises
    ------
    ConfigError
        A value of the wrong type or out of range.

    Examples
    --------
    >>> LFADSConfig().generator_dim, LFADSConfig.compact().generator_dim
    (200, 64)
    >>> LFADSConfig(dropout=1.0)
    Traceback (most recent call last):
    ...
    saebook.errors.ConfigError: LFADSConfig.dropout = 1.0: it must be at least 0 and below 1
    """

    encoder_dim: int = 64
    controller_dim: int = 64
    generator_dim: int = 200
    initial_dim: int = 100
    n_factors: int = 100
    n_inputs: int = 4
    input_lag: int = 1
    state_clip: float = 5.0
    dropout: float = 0.3
    coordinated_dropout: float = 0.3
    kl_initial: float = 1e-7
    kl_inputs: float = 1e-7
    l2: float = 1e-4
    ramp_epochs: int = 80
    initial_prior_variance: float = 0.1
    input_prior_variance: float = 0.1
    input_prior_tau: float = 10.0
    learning_rate: float = 4e-3
    min_learning_rate: float = 1e-5
    lr_decay: float = 0.95
    lr_patience: int = 6
    weight_decay: float = 0.0
    batch_size: int = 256
    max_epochs: int = 1000
    patience: int = 200
    clip_norm: float = 200.0
    loss_scale: float = 1e4
    smoothing: float = 0.3
    validation_fraction: float = 0.2
    window_bins: int | None = None
    overlap_bins: int | None = None
    n_samples: int = 50

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            self._check_type(field.name, str(field.type))
        for name in AT_LEAST_ONE:
            self._need(name, getattr(self, name) >= 1, "at least 1")
        for name in POSITIVE:
            self._need(name, getattr(self, name) > 0, "above 0")
        for name in NOT_NEGATIVE:
            self._need(name, getattr(self, name) >= 0, "at least 0")
        for name in SHARES:
            self._need(name, 0 <= getattr(self, name) < 1, "at least 0 and below 1")
        for name in FRACTIONS:
            self._need(name, 0 < getattr(self, name) < 1, "between 0 and 1")
        window, overlap = self.window_bins, self.overlap_bins
        self._need("window_bins", window is None or window >= 2, "at least 2")
        self._need("overlap_bins", overlap is None or overlap >= 0, "at least 0")
        if window is not None and overlap is not None:
            self._need("overlap_bins", overlap < window, f"below window_bins = {window}")
        if self.min_learning_rate > self.learning_rate:
            self._need("min_learning_rate", False, f"at most learning_rate = {self.learning_rate}")

    @classmethod
    def compact(cls, **changes: Any) -> Self:
        """Settings for some hundred trials on a laptop: minutes instead of hours."""
        return cls(**COMPACT | changes)

    @classmethod
    def tiny(cls, **changes: Any) -> Self:
        """Settings that show the steps within seconds, and no more."""
        return cls(**TINY | changes)

    def to_dict(self) -> dict[str, Any]:
        """Every setting, ready for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> Self:
        """Settings from what :meth:`to_dict` gave; unknown names are refused."""
        unknown = sorted(set(settings) - {field.name for field in dataclasses.fields(cls)})
        if unknown:
            raise ConfigError(f"{cls.__name__} has no setting {unknown[0]!r}")
        return cls(**settings)

    def _check_type(self, name: str, annotation: str) -> None:
        value = getattr(self, name)
        if value is None and "None" in annotation:
            return
        whole = isinstance(value, int) and not isinstance(value, bool)
        if "int" in annotation:
            self._need(name, whole, "a whole number")
        else:
            number = whole or (isinstance(value, float) and math.isfinite(value))
            self._need(name, number, "a finite number")

    def _need(self, name: str, good: bool, what: str) -> None:
        if not good:
            value = getattr(self, name)
            raise ConfigError(f"{type(self).__name__}.{name} = {value!r}: it must be {what}")


COMPACT: dict[str, Any] = {
    "encoder_dim": 32,
    "controller_dim": 32,
    "generator_dim": 64,
    "initial_dim": 32,
    "n_factors": 32,
    "dropout": 0.15,
    "kl_initial": 1e-5,
    "kl_inputs": 1e-5,
    "batch_size": 64,
    "max_epochs": 200,
    "patience": 40,
}
TINY: dict[str, Any] = {
    "encoder_dim": 16,
    "controller_dim": 16,
    "generator_dim": 32,
    "initial_dim": 16,
    "n_factors": 16,
    "n_inputs": 2,
    "batch_size": 32,
    "max_epochs": 40,
    "patience": 20,
    "ramp_epochs": 20,
    "n_samples": 10,
}
