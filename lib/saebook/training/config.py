"""Settings of one training run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from saebook.errors import ConfigError
from saebook.models.settings import as_json, build, check_choice, check_types
from saebook.training.engines import ENGINES
from saebook.training.optimisers import OPTIMIZERS
from saebook.training.schedules import SCHEDULES, SPARSITY_SCHEDULES
from saebook.training.schedules.sparsity import sparsity_reached
from saebook.training.temporal.config import TemporalConfig

PRECISIONS = ("fp32", "bf16")
CAPTURES = ("auto", "always", "never")

POSITIVE = (
    "n_steps",
    "n_epochs",
    "learning_rate",
    "clip_norm",
    "dead_after_firings",
    "controller_rate",
    "resample_every",
    "cycle_period",
    "plateau_patience",
    "plateau_factor",
    "resident_gb",
)
AT_LEAST_ONE = ("batch_size", "n_logs")
NOT_NEGATIVE = ("n_checkpoints", "weight_decay")
BELOW_ONE = ("beta1", "beta2", "momentum")
FRACTIONS = (
    "warmup_fraction",
    "hold_fraction",
    "final_fraction",
    "cycle_amplitude",
    "cycle_period",
    "plateau_patience",
    "plateau_factor",
    "momentum_decay",
    "sparsity_ramp_fraction",
    "sparsity_start_fraction",
    "resample_every",
    "resample_until",
    "selection_warmup_fraction",
    "retire_at",
    "retire_window",
)


@dataclass(frozen=True)
class TrainConfig:
    """How to train; schedules are fractions of the run, never step counts.

    Parameters
    ----------
    n_steps
        Optimiser steps. Leave it out to count in ``n_epochs``; with neither, the run is as
        long as it takes for ``DEFAULT_EXAMPLES`` examples.
    n_epochs
        Passes over the training examples, instead of ``n_steps``.
    batch_size
        Examples per step, of all processes together; a data set smaller than this is one batch.
    learning_rate
        Peak learning rate. The default suits short runs on spike counts: 1e-3 learns more slowly
        there, and 1e-2 can overfit and lose latents. Lower it for longer runs.
    schedule
        ``"warmup_hold_cosine"`` (warm-up, hold, cosine to ``final_fraction``),
        ``"warmup_linear"`` (warm-up, hold, linear to ``final_fraction``),
        ``"warmup_constant"``, ``"constant"``, or ``"loss_dependent"`` (warm-up, then cut
        whenever the logged loss stalls; SAE losses rise for good reasons, so prefer the others).
    warmup_fraction, hold_fraction, final_fraction
        The rate rises linearly until ``warmup_fraction`` of the run, stays until
        ``hold_fraction``, and ends at ``final_fraction`` of its peak.
    cycle_amplitude, cycle_period
        A cosine ripple on any schedule: over each ``cycle_period`` of the run the rate dips to
        ``1 - cycle_amplitude`` of what the schedule says, and never exceeds it. 0: none.
    plateau_patience, plateau_factor
        For ``"loss_dependent"``: fraction of the run without improvement after which the rate
        is cut, and what it is multiplied by.
    optimizer
        ``"adam"``, ``"adamw"``, ``"nadam"``, ``"lamb"`` (layer-wise adaptive Adam), ``"sgd"``
        or ``"muon"`` (for matrices, with AdamW for the rest).
    beta1, beta2
        Moment decays of the Adam family.
    momentum_decay
        For nadam: how fast its momentum grows to ``beta1``.
    momentum
        For sgd and muon.
    weight_decay
        Pull of every parameter towards 0: a part of the gradient in adam, nadam and sgd, a
        share of the learning rate in adamw, lamb and muon.
    clip_norm
        Largest norm of the whole gradient; ``None`` clips nothing.
    precision
        ``"fp32"``, or ``"bf16"``: passes in bfloat16 by autocast, weights kept in fp32.
    engine
        ``"auto"`` takes the fastest for each step. ``"dense"`` is the plain one, ``"lean"`` leaves
        out products that nobody needs, ``"sparse"`` (on a CPU) latents that are zero, and so does
        ``"fused"`` (on a CUDA GPU, for topk and batchtopk); their numbers agree but for rounding.
    capture
        ``"auto"`` records the steps of small models on a GPU (as a CUDA graph) and plays them
        back, since asking for their many small operations takes longer than doing them. Steps
        with a temporal term, of several processes or with other optimisers than adam and adamw
        are not recorded. ``"always"`` and ``"never"`` at any size. No number depends on it.
    sparsity_schedule
        ``"ramp"`` (from 0 at the start), ``"two_phase"`` (0 until ``sparsity_start_fraction``,
        then a ramp) or ``"none"`` (full strength throughout).
    sparsity_ramp_fraction
        The sparsity coefficient rises linearly from 0 over this fraction of the run.
    sparsity_start_fraction
        For ``"two_phase"``: where its second phase begins.
    selection_warmup_fraction
        For batchtopk and jumprelu: until this fraction of the run the k largest latents of each
        example are selected, so that every example teaches the dictionary alike; thresholds and
        competition within the batch set in after. 0: from the start.
    retire_at, retire_window
        Fraction of the run at which surplus latents (copies and remnants that hardly lower the
        error) are retired, judged by their contributions over ``retire_window`` of the run
        before it; ``None`` retires none. See :mod:`saebook.training.retirement`.
    controller_rate
        Speed, per step, of the controller that finds the coefficient for a target L0.
    dead_after_firings
        A latent is dead once it has been silent for as long as an average latent takes to
        fire this often, though never longer than a tenth of the run.
    resample_every
        Fraction of the run between resamplings of dead latents; ``None`` never resamples.
    resample_until
        No latent is resampled after this fraction of the run: it needs the rest to learn.
    n_logs
        Rows of history, spread over the run.
    log_memory
        Also log the largest memory use of the device so far, as ``memory_gb``.
    n_checkpoints
        Checkpoints, spread over the run; only written when the run has a folder.
    keep_checkpoints
        Increasing fractions of the run at which a copy of the SAE is kept for good, in
        ``checkpoints/<step>`` of the run's folder.
    resident_gb
        Memory for the examples of a store, in gigabytes of 10⁹ bytes. Where its training split
        takes more, batches are streamed from disk: a quarter of it goes to each of two shuffle
        buffers and to evenly spaced training and validation rows, for what looks at all rows at
        once. More of it mixes better. ``None``: whatever takes more than half of the memory that
        is available is streamed, through a gibibyte.
    device
        ``"auto"`` (a GPU when there is one), ``"cpu"``, ``"cuda"``, ``"cuda:1"``, …
    shard_optimizer
        With several processes, spread the optimiser's moments over them, parameter by parameter:
        less memory, more to send, the same numbers. Of no effect in one process.
    temporal
        A term that has the first latents say the same at nearby times; ``None`` for none.

    Raises
    ------
    ConfigError
        A value is of the wrong type, out of range, or contradicts another one.

    Examples
    --------
    >>> TrainConfig(n_steps=500).learning_rate
    0.003
    >>> TrainConfig(n_steps=500, n_epochs=2)
    Traceback (most recent call last):
    ...
    saebook.errors.ConfigError: n_steps = 500 and n_epochs = 2: give one of them
    """

    n_steps: int | None = None
    n_epochs: float | None = None
    batch_size: int = 1024
    learning_rate: float = 3e-3
    schedule: str = "warmup_hold_cosine"
    warmup_fraction: float = 0.1
    hold_fraction: float = 0.5
    final_fraction: float = 0.01
    cycle_amplitude: float = 0.0
    cycle_period: float = 0.1
    plateau_patience: float = 0.1
    plateau_factor: float = 0.5
    optimizer: str = "adam"
    beta1: float = 0.9
    beta2: float = 0.999
    momentum_decay: float = 0.004
    momentum: float = 0.9
    weight_decay: float = 0.0
    clip_norm: float | None = 1.0
    precision: str = "fp32"
    engine: str = "auto"
    capture: str = "auto"
    sparsity_schedule: str = "ramp"
    sparsity_ramp_fraction: float = 0.05
    sparsity_start_fraction: float = 0.5
    selection_warmup_fraction: float = 0.5
    retire_at: float | None = 0.75
    retire_window: float = 0.1
    controller_rate: float = 0.02
    dead_after_firings: float = 20.0
    resample_every: float | None = None
    resample_until: float = 0.5
    n_logs: int = 100
    log_memory: bool = False
    n_checkpoints: int = 10
    keep_checkpoints: tuple[float, ...] = ()
    resident_gb: float | None = None
    device: str = "auto"
    shard_optimizer: bool = False
    temporal: TemporalConfig | None = None

    def __post_init__(self):
        check_types(self)
        check_choice("schedule", self.schedule, SCHEDULES)
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        check_choice("sparsity_schedule", self.sparsity_schedule, SPARSITY_SCHEDULES)
        check_choice("precision", self.precision, PRECISIONS)
        check_choice("engine", self.engine, ("auto", *ENGINES))
        check_choice("capture", self.capture, CAPTURES)
        self._check_ranges()
        self._check_together()

    def _check_ranges(self) -> None:
        def refuse(names: tuple[str, ...], bad: Callable[[float], bool], rule: str) -> None:
            for name in names:
                value = getattr(self, name)
                if value is not None and bad(value):
                    raise ConfigError(f"{name} = {value}: {rule}")

        refuse(POSITIVE, lambda value: value <= 0, "it must be greater than 0")
        refuse(AT_LEAST_ONE, lambda value: value < 1, "it must be at least 1")
        refuse(NOT_NEGATIVE, lambda value: value < 0, "it can't be negative")
        refuse(BELOW_ONE, lambda value: not 0 <= value < 1, "it must be in [0, 1)")
        refuse(FRACTIONS, lambda value: not 0 <= value <= 1, "a fraction lies in [0, 1]")

    def _check_together(self) -> None:
        if self.n_steps is not None and self.n_epochs is not None:
            raise ConfigError(
                f"n_steps = {self.n_steps} and n_epochs = {self.n_epochs:g}: give one of them"
            )
        if self.warmup_fraction > self.hold_fraction:
            raise ConfigError(
                f"warmup_fraction = {self.warmup_fraction} is after hold_fraction = "
                f"{self.hold_fraction}: the rate can't hold before it has risen; raise "
                "hold_fraction, or shorten the warm-up"
            )
        if self.learning_rate * self.weight_decay >= 1:
            raise ConfigError(
                f"weight_decay = {self.weight_decay} with learning_rate = {self.learning_rate}: "
                "every step would carry the weights to zero or past it; their product must stay "
                "well below 1"
            )
        full_strength_at = self.sparsity_start_fraction + self.sparsity_ramp_fraction
        if self.sparsity_schedule == "two_phase" and full_strength_at >= 1:
            raise ConfigError(
                f"sparsity_start_fraction = {self.sparsity_start_fraction} and "
                f"sparsity_ramp_fraction = {self.sparsity_ramp_fraction}: the second phase would "
                "not reach its full coefficient before the run ends; start it earlier"
            )
        if self.resample_every is not None and self.resample_every > self.resample_until:
            raise ConfigError(
                f"resample_every = {self.resample_every} is after resample_until = "
                f"{self.resample_until}: no latent would ever be resampled; resample more often, "
                "or until later"
            )
        if self.shard_optimizer and self.optimizer == "muon":
            raise ConfigError(
                "shard_optimizer=True with optimizer='muon', which is two optimisers in one: use "
                "another one, such as 'adam', or shard_optimizer=False"
            )
        self._check_temporal()
        kept = self.keep_checkpoints
        if any(not 0 < fraction <= 1 for fraction in kept) or list(kept) != sorted(set(kept)):
            raise ConfigError(
                f"keep_checkpoints = {list(kept)}: give increasing fractions of the run, in (0, 1]"
            )

    def _check_temporal(self) -> None:
        if self.temporal is None:
            return
        start, rises = self.temporal.start_fraction, self.temporal.ramp_fraction
        start = sparsity_reached(self) if start is None else start
        if start + rises >= 1:
            raise ConfigError(
                f"temporal begins at {start:g} of the run and rises over {rises:g}: it would not "
                "reach its full coefficient before the run ends; set temporal.start_fraction or "
                "temporal.ramp_fraction lower"
            )

    def to_dict(self) -> dict[str, Any]:
        """Every setting, ready for JSON."""
        return as_json(self)

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> TrainConfig:
        """Build from a dictionary, refusing names that it does not know."""
        if isinstance(settings.get("temporal"), dict):
            settings = settings | {"temporal": TemporalConfig.from_dict(settings["temporal"])}
        return build(cls, settings)
