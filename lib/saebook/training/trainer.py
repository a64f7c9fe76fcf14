"""The training step: everything that changes while an SAE learns lives here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar, cast

import torch
from torch import Tensor

from saebook.data.store import Batch
from saebook.errors import CheckpointError, ConfigError
from saebook.models import SAE
from saebook.training.captured import LARGEST, CapturedSteps, capturing, reads_dials
from saebook.training.config import TrainConfig
from saebook.training.dead import Dead, DeadCount, Silence
from saebook.training.devices import resolve_device
from saebook.training.dials import Dials
from saebook.training.distributed import Processes
from saebook.training.engines import CurrentEngine, StepResult
from saebook.training.memory import keep_freed_memory
from saebook.training.resampling import resample, resampling_is_due
from saebook.training.retirement import Retirement
from saebook.training.schedules import FEEDBACK, LearningRate
from saebook.training.sparsity import SparsityCoefficient
from saebook.training.stacking import SAEStack, members_of, parts_of, per_model, shape_of
from saebook.training.temporal import Temporal
from saebook.training.temporal.state import Paired
from saebook.training.updating import make_update

Model = TypeVar("Model", SAE, SAEStack)


@dataclass(frozen=True)
class Moment:
    """What the host decides about a step before it is taken.

    Attributes
    ----------
    n_examples
        Of the batch, all processes together.
    at_most
        Dead latents of each model, as far as is known.
    selects_topk
        Whether training still begins with topk.
    watches, retires, keeps_silent
        Whether contributions are measured, surplus latents retired, and retired ones kept silent.
    frozen
        Members of a stack that learn no more.
    """

    n_examples: int
    at_most: tuple[int, ...]
    selects_topk: bool
    watches: bool
    retires: bool
    keeps_silent: bool
    frozen: frozenset[int]


class Trainer(Generic[Model]):
    """Holds the state of training and takes one step at a time.

    The model computes; the trainer owns coefficients, learning rate, dead-latent counters
    and optimiser, forms ``total = Σ cᵢ · termᵢ``, and keeps decoder rows at unit norm where
    the configuration says so.

    Parameters
    ----------
    sae
        The model, or a stack of them (:class:`saebook.training.stacking.SAEStack`), of which
        each learns as it would alone; it is moved to the device and put in training mode.
    config
        Settings of the run.
    n_steps
        Length of the run; schedules are fractions of it. Default: ``config.n_steps``.
    rate_factors
        For the members of a stack: what the learning rate of each is multiplied by.
    processes
        Those that train this model together, of which each is given its share of every batch:
        :func:`saebook.training.distributed.find_processes`. Default: this one alone.

    Attributes
    ----------
    step_number : int
        Steps taken so far.
    schedule : LearningRate
        Of the learning rate; tell it logged losses with ``schedule.observe``.
    sparsity : SparsityCoefficient
        Of the sparsity term.
    silence : Silence
        Of each latent, and when that makes it dead.
    update : Update
        Takes the optimiser's steps.
    rate_factors : list of float
        Of each model.

    Examples
    --------
    >>> import torch
    >>> from saebook.models import SAEConfig
    >>> sae = SAE(SAEConfig(d_in=8, d_sae=32, k=4))
    >>> trainer = Trainer(sae, TrainConfig(n_steps=20, device="cpu"))
    >>> x = torch.rand(64, 8, generator=torch.Generator().manual_seed(0))
    >>> history = [trainer.step(x) for _ in range(20)]
    >>> bool(history[-1]["mse"] < history[0]["mse"])
    True
    """

    def __init__(
        self,
        sae: Model,
        config: TrainConfig,
        n_steps: int | None = None,
        rate_factors: Sequence[float] | None = None,
        processes: Processes | None = None,
    ):
        n_steps = config.n_steps if n_steps is None else n_steps
        if n_steps is None or n_steps < 1:
            raise ConfigError(f"n_steps = {n_steps}: a trainer needs the length of its run, ≥ 1")
        self.processes = processes or Processes()
        self.device = resolve_device(self.processes.device_name(config.device))
        if self.device.type == "cpu":
            keep_freed_memory()
        self.members = members_of(sae)
        # Asked before the move: reading from a device means waiting for it.
        self._inputs_fitted = all(int(member.scaling.n_rows) > 0 for member in self.members)
        self.sae = sae.to(self.device).train()
        self.config = config
        self.n_steps = n_steps
        self.step_number = 0
        self.schedule = LearningRate(config)
        self.sparsity = SparsityCoefficient(sae, config)
        self._auxiliary = per_model(sae, lambda config: config.aux_coefficient or 0.0)
        self.engine = CurrentEngine(sae, config.engine, config.precision, self.device)
        self.rate_factors = list(rate_factors or [1.0] * len(self.members))
        self.processes.spread(self.sae)
        shards = config.shard_optimizer and self.processes.size > 1
        self.update = make_update(sae, config, self.rate_factors, shards)
        self.retirement = Retirement(sae, config)
        self.temporal = Temporal(self.members, config, self.processes.size)
        self.silence = Silence(sae, config, n_steps)
        self._dead_count = DeadCount(len(self.members), sae.config.d_sae, self.device)
        recorder = capturing(config, self.device) if self.processes.size == 1 else None
        self._captured = None if recorder is None else CapturedSteps(recorder)
        on_device = self.device if reads_dials(config, self.device) else None
        self._dials = Dials(self._numbers, on_device, config.schedule not in FEEDBACK)

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """Of all parameters."""
        return self.update.optimizer

    @property
    def alive(self) -> Tensor:
        """0-d boolean, or [n] for a stack: whether every gradient so far was finite.

        That of a member of a stack is zero once one was not, so that its weights stay finite.
        """
        return self.update.alive

    @property
    def fraction(self) -> float:
        """Fraction of the run that has passed."""
        return self.step_number / self.n_steps

    @property
    def n_recordings(self) -> int:
        """Kinds of step recorded so far; 0 where none is."""
        return 0 if self._captured is None else self._captured.n_recordings

    def learning_rate(self) -> float:
        """Learning rate of the coming step: the schedule at the step's middle."""
        return self.schedule.at((self.step_number + 0.5) / self.n_steps)

    def coefficients(self) -> dict[str, float | Tensor]:
        """Weight of every term of the objective at the coming step."""
        return self._coefficients(self.sparsity.share(self.fraction))

    def _coefficients(self, share: float | Tensor) -> dict[str, float | Tensor]:
        objective = self.sae.config.objective
        # Thresholds that select nothing yet are not to be moved by their penalty.
        sparsity = 0.0 if self.sae.selects_topk else self.sparsity.full * share
        return (
            dict.fromkeys((objective.reconstruction, *objective.companions), 1.0)
            | dict.fromkeys(objective.sparsity, sparsity)
            | dict.fromkeys(objective.auxiliary, self._auxiliary)
            | self.temporal.coefficients(self.fraction)
        )

    def _numbers(self, step: int) -> list[float]:
        """What the dials show at a step."""
        rate = self.schedule.at((step + 0.5) / self.n_steps)
        return [*self.update.rates(rate), self.sparsity.share(step / self.n_steps)]

    @property
    def silent_examples(self) -> Tensor:
        """Examples seen since each latent last fired, [d_sae]; [n, d_sae] for a stack."""
        return self.silence.examples

    def dead(self, batch_size: int) -> Tensor:
        """Which latents are dead, booleans [d_sae]; retired ones are not meant to live."""
        return self.silence.dead(batch_size) & ~self.retirement.retired

    def step(self, batch: Tensor | Batch) -> dict[str, Tensor]:
        """Take one full training step.

        Parameters
        ----------
        batch
            Examples [batch, ...] in the caller's units, or a ``Batch`` holding them as ``x``
            (and, for a transcoder, what they should become as ``target``; for a temporal term,
            ``positive`` and ``group``). The first one also fits the input scaling when nothing has
            before. With several processes, this one's share, as large as the others'; what is
            returned is of the whole batch.

        Returns
        -------
        dict of str to Tensor
            Detached 0-d tensors, or [n] for a stack: every term, ``total``, ``l0``, ``fvu`` (of
            this batch, against the variance of the training targets), ``worst_example`` (the same
            of its worst example alone), ``dead`` (share of latents), ``grad_norm``, and the
            sparsity coefficient where there is one. Reading them as floats waits for the device;
            this method never does, except where it resamples or asks other processes.
        """
        batch = batch if isinstance(batch, Batch) else Batch(batch)
        with self.engine.threads(batch.x):
            return self._step(batch)

    def _step(self, batch: Batch) -> dict[str, Tensor]:
        x, target = batch.x.to(self.device, non_blocking=True), batch.target
        if target is not None:
            target = target.to(self.device, non_blocking=True)
        if not self._inputs_fitted:
            whole, wanted = self._whole(x, target)
            for member in self.members:
                member.fit_inputs(whole, wanted)
            self.processes.spread(self.sae)
            self._inputs_fitted = True
        self._follow_selection(x)
        self._dials.turn(self.step_number)
        pairs = self.temporal.pairs(batch, self.fraction, self.device)
        moment = self._moment(len(x) * self.processes.size)
        if self._captured is None or pairs or moment.retires or not self._is_small(x):
            logged = self._take(moment, x, target, pairs)
        else:
            step = partial(self._take, moment)
            logged = self._captured.take(moment, step, x, target)
        self.step_number += 1
        if resampling_is_due(self.config, self.step_number, self.n_steps):
            logged["resampled"] = self._resample(*self._whole(x, target))
        return logged

    def _moment(self, n_examples: int) -> Moment:
        return Moment(
            n_examples=n_examples,
            at_most=self._dead_count.at_most(lambda: self.dead(n_examples)),
            selects_topk=self.sae.selects_topk,
            watches=self.retirement.watches(self.fraction),
            retires=self.retirement.is_due((self.step_number + 1) / self.n_steps),
            keeps_silent=self.retirement.done,
            frozen=frozenset(self.update.frozen),
        )

    def _take(
        self, moment: Moment, x: Tensor, target: Tensor | None, pairs: Sequence[Paired] = ()
    ) -> dict[str, Tensor]:
        """Do all of a step that the device does; on the host only a retirement leaves a trace."""
        self.optimizer.zero_grad(set_to_none=True)
        coefficients = self._coefficients(self._dials.share)
        bf16 = self.config.precision == "bf16"
        with (
            torch.autocast(self.device.type, torch.bfloat16, enabled=bf16),
            self.processes.sharing(self.sae),
        ):
            dead = Dead(self.dead(moment.n_examples), moment.at_most)
            result = self.engine.step(x, target, coefficients, dead, moment.watches, pairs)
        self.temporal.observe()
        result = self.processes.add_up(self.sae, result)
        grad_norm = self.update(self._dials.rates)
        if result.contributions is not None:
            self.retirement.observe(result.contributions)
        if moment.retires:
            self.retirement.retire(self.sae, self.optimizer)
        if moment.retires or moment.keeps_silent:
            self.retirement.keep_silent(self.sae)
        logged = self._observe(result, moment.n_examples) | {"grad_norm": grad_norm.detach()}
        for name in self.sae.config.objective.sparsity:
            given = coefficients[name]
            # Zero until thresholds set in.
            value = given if isinstance(given, Tensor) else torch.zeros_like(self.sparsity.full)
            logged["sparsity_coefficient"] = value.expand(shape_of(self.sae))
        return logged

    def _is_small(self, x: Tensor) -> bool:
        """Whether asking the device for a step takes longer than the step."""
        product = len(self.members) * len(x) * self.sae.config.d_sae * self.sae.config.d_encoder
        return self.config.capture == "always" or product <= LARGEST

    def freeze(self, member: int) -> None:
        """Leave one member of a stack as it is from here on."""
        self.update.frozen.add(member)

    @torch.no_grad()
    def _follow_selection(self, x: Tensor) -> None:
        """Begin with TopK where the architecture does, and end that when its time has come."""
        rule = self.sae.config.selection
        begins = rule.begins_as_topk and self.fraction < self.config.selection_warmup_fraction
        if self.sae.selects_topk and not begins:
            x = self.processes.whole(x)
            for member in self.members:
                rule.fit(member, member.pre_activations(x))
            self.processes.spread(self.sae)
        self.sae.selects_topk = begins

    def _whole(self, x: Tensor, target: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The batch, from this process's share."""
        whole = self.processes.whole
        return whole(x), None if target is None else whole(target)

    @torch.no_grad()
    def _observe(self, result: StepResult, n_examples: int) -> dict[str, Tensor]:
        self.silence.observe(result.fired, n_examples)
        rule = self.sae.config.selection
        whole = cast("SAE", self.sae)  # elementwise: a stack will do
        rule.constrain(whole)
        if result.smallest_active is not None and not self.sae.selects_topk:
            rule.observe(whole, result.smallest_active)
        self.sparsity.observe(result.l0, self._dials.share)
        self.engine.observe(result)
        return result.losses | {
            "l0": result.l0,
            "fvu": result.squared_error / self.sae.target_variance,
            "worst_example": result.squared_errors.amax(dim=-1) / self.sae.target_variance,
            "dead": self.dead(n_examples).float().mean(dim=-1),
        }

    @torch.no_grad()
    def _resample(self, x: Tensor, target: Tensor | None) -> Tensor:
        dead = self.dead(len(x))
        counts = []
        for member, own in zip(self.members, parts_of(self.sae, dead)):
            forward = member.pass_through(x, target)
            counts.append(resample(member, self.optimizer, forward, own, seed=self.step_number))
        n = torch.stack(counts).reshape(shape_of(self.sae))
        self.processes.spread(self.sae)
        # What could not be resampled is as dead as before.
        self.silent_examples.masked_fill_(dead & (n > 0)[..., None], 0)
        return n.to(torch.float32)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on exactly where this trainer stands.

        With several processes all have to ask, and the first is told everything.
        """
        return {
            "step_number": self.step_number,
            "densities": self.engine.densities,
            "alive": self.alive,
            "frozen": sorted(self.update.frozen),
            "n_steps": self.n_steps,
            "sae": self.sae.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "silent_examples": self.silent_examples,
            "schedule": self.schedule.state_dict(),
            "sparsity": self.sparsity.state_dict(),
            "retirement": self.retirement.state_dict(),
            "temporal": self.temporal.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the state of another trainer of the same model and run."""
        if state["n_steps"] != self.n_steps:
            raise CheckpointError(
                f"the checkpoint belongs to a run of {state['n_steps']} steps, this one has "
                f"{self.n_steps}: its schedules would not go on where they stopped"
            )
        self.sae.load_state_dict(state["sae"])
        self._inputs_fitted = all(int(member.scaling.n_rows) > 0 for member in self.members)
        self.optimizer.load_state_dict(state["optimizer"])
        self.silent_examples.copy_(state["silent_examples"])
        self.schedule.load_state_dict(state["schedule"])
        self.sparsity.load_state_dict(state["sparsity"])
        self.retirement.load_state_dict(state["retirement"])
        self.temporal.load_state_dict(state["temporal"])
        self.step_number = state["step_number"]
        self.engine.densities = list(state["densities"])
        self.alive.copy_(state["alive"])
        if self._captured is not None:
            # Recordings know the optimiser's tensors of before.
            self._captured.forget()
        self.update.frozen = set(state["frozen"])
        # What the step before this one did; the coming one decides whether that ends.
        self.sae.selects_topk = (
            self.sae.config.selection.begins_as_topk
            and (self.step_number - 1) / self.n_steps < self.config.selection_warmup_fraction
        )
