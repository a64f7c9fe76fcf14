"""The training step: everything that changes while an SAE learns lives here."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Generic, TypeVar, cast

import torch
from torch import Tensor, nn

from saebook.data.store import Batch
from saebook.errors import CheckpointError, ConfigError
from saebook.models import SAE, SAEConfig
from saebook.training.config import TrainConfig
from saebook.training.devices import resolve_device
from saebook.training.distributed import Processes, sharded
from saebook.training.engines import CurrentEngine, StepResult
from saebook.training.memory import keep_freed_memory
from saebook.training.optimisers import OPTIMIZERS
from saebook.training.resampling import resample
from saebook.training.retirement import Retirement
from saebook.training.schedules import LearningRate
from saebook.training.sparsity import SparsityCoefficient
from saebook.training.stacking import SAEStack, members_of, parts_of, per_model, shape_of
from saebook.training.temporal import Temporal

ROUNDING = 1e-9  # 0.3 / 0.1 is a little less than 3
RATE_FACTOR = "rate_factor"
LARGEST_DEAD_WINDOW = 0.1  # of the run: a longer one would never be reached in time to help


Model = TypeVar("Model", SAE, SAEStack)


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
    silent_examples : Tensor [d_sae]
        Examples seen since each latent last fired.
    alive : Tensor
        0-d boolean, or [n] for a stack: whether every gradient so far was finite. That of a
        member of a stack is zero once one was not, so that its weights stay finite.
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
        self.sae = sae.to(self.device).train()
        self.config = config
        self.n_steps = n_steps
        self.step_number = 0
        self.schedule = LearningRate(config)
        self.members = members_of(sae)
        self.sparsity = SparsityCoefficient(sae, config)
        self._auxiliary = per_model(sae, lambda config: config.aux_coefficient or 0.0)
        self.engine = CurrentEngine(sae, config.engine, config.precision, self.device)
        self._inputs_fitted = all(int(member.scaling.n_rows) > 0 for member in self.members)
        self.rate_factors = list(rate_factors or [1.0] * len(self.members))
        self.processes.spread(self.sae)
        shards = config.shard_optimizer and self.processes.size > 1
        self.optimizer = _make_optimizer(self.members, config, self.rate_factors, shards)
        self.retirement = Retirement(sae, config)
        self.temporal = Temporal(self.members, config, self.processes.size)
        shape = shape_of(sae)
        self._dead_after: dict[int, Tensor] = {}
        self._frozen: set[int] = set()
        self.alive = torch.ones(shape, dtype=torch.bool, device=self.device)
        self.silent_examples = torch.zeros(
            *shape, sae.config.d_sae, dtype=torch.int64, device=self.device
        )

    @property
    def fraction(self) -> float:
        """Fraction of the run that has passed."""
        return self.step_number / self.n_steps

    def learning_rate(self) -> float:
        """Learning rate of the coming step: the schedule at the step's middle."""
        return self.schedule.at((self.step_number + 0.5) / self.n_steps)

    def coefficients(self) -> dict[str, float | Tensor]:
        """Weight of every term of the objective at the coming step."""
        objective = self.sae.config.objective
        # Thresholds that select nothing yet are not to be moved by their penalty.
        sparsity = 0.0 if self.sae.selects_topk else self.sparsity.at(self.fraction)
        return (
            dict.fromkeys((objective.reconstruction, *objective.companions), 1.0)
            | dict.fromkeys(objective.sparsity, sparsity)
            | dict.fromkeys(objective.auxiliary, self._auxiliary)
            | self.temporal.coefficients(self.fraction)
        )

    def dead_after_examples(self, batch_size: int) -> Tensor:
        """Silent examples after which a latent counts as dead, 0-d; [n] for a stack.

        As long as a latent of average density takes to fire ``dead_after_firings`` times,
        but at least ten batches and at most a tenth of the run.
        """
        longest = LARGEST_DEAD_WINDOW * self.n_steps * batch_size

        def examples(config: SAEConfig) -> int:
            average_density = (config.k or config.target_l0 or 1) / config.d_sae
            wanted = self.config.dead_after_firings / average_density
            return int(min(max(wanted, 10 * batch_size), max(longest, batch_size)))

        return per_model(self.sae, examples, torch.int64)

    def dead(self, batch_size: int) -> Tensor:
        """Which latents are dead, booleans [d_sae]; retired ones are not meant to live."""
        if batch_size not in self._dead_after:
            self._dead_after[batch_size] = self.dead_after_examples(batch_size)
        silent = self.silent_examples >= self._dead_after[batch_size][..., None]
        return silent & ~self.retirement.retired

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
        x, target = batch.x.to(self.device, non_blocking=True), batch.target
        if target is not None:
            target = target.to(self.device, non_blocking=True)
        if not self._inputs_fitted:
            whole, wanted = self._whole(x, target)
            for member in self.members:
                member.fit_inputs(whole, wanted)
            self.processes.spread(self.sae)
            self._inputs_fitted = True
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate() * group.get(RATE_FACTOR, 1.0)
        self.optimizer.zero_grad(set_to_none=True)

        self._follow_selection(x)
        coefficients = self.coefficients()
        bf16, n_examples = self.config.precision == "bf16", len(x) * self.processes.size
        with (
            torch.autocast(self.device.type, torch.bfloat16, enabled=bf16),
            self.processes.sharing(self.sae),
        ):
            watched = self.retirement.watches(self.fraction)
            pairs = self.temporal.pairs(batch, self.fraction, self.device)
            dead = self.dead(n_examples)
            result = self.engine.step(x, target, coefficients, dead, watched, pairs)
        self.temporal.observe()
        result = self.processes.add_up(self.sae, result)

        unit_norm = self.sae.config.decoder_norm == "unit"
        if unit_norm:
            self._project_decoder_gradient()
        grad_norm = self._clip()
        for i in self._frozen:
            self.members[i].zero_grad(set_to_none=True)
        self.optimizer.step()
        if unit_norm:
            self._normalise_decoder()
        if result.contributions is not None:
            self.retirement.observe(result.contributions)
        self.retirement.retire(self.sae, self.optimizer, (self.step_number + 1) / self.n_steps)
        logged = self._finish_step(result, n_examples) | {"grad_norm": grad_norm.detach()}
        if self._resamples_now():
            logged["resampled"] = self._resample(*self._whole(x, target))
        for name in self.sae.config.objective.sparsity:
            coefficient = torch.as_tensor(coefficients[name], device=self.device)
            logged["sparsity_coefficient"] = coefficient.expand(shape_of(self.sae))
        return logged

    def freeze(self, member: int) -> None:
        """Leave one member of a stack as it is from here on."""
        self._frozen.add(member)

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
    def _clip(self) -> Tensor:
        """Norm of each model's gradient, which is cut to the limit."""
        limit = self.config.clip_norm if self.config.clip_norm is not None else float("inf")
        gradients = [p.grad for p in self.sae.parameters() if p.grad is not None]
        n = len(shape_of(self.sae))
        own_axes = [tuple(range(n, gradient.ndim)) for gradient in gradients]
        norms = [torch.linalg.vector_norm(g, dim=axes) for g, axes in zip(gradients, own_axes)]
        norm = torch.stack(norms).norm(dim=0)
        self.alive &= norm.isfinite()
        factor = (limit / (norm + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(_beside(factor, gradient))
            if n:
                gradient.masked_fill_(_beside(~self.alive, gradient), 0.0)
        return norm

    @torch.no_grad()
    def _project_decoder_gradient(self) -> None:
        """Drop the part of each row's gradient that would only change its norm."""
        gradient, rows = self.sae.W_dec.grad, self.sae.W_dec
        assert gradient is not None
        gradient.addcmul_(rows, (gradient * rows).sum(dim=-1, keepdim=True), value=-1.0)

    @torch.no_grad()
    def _normalise_decoder(self) -> None:
        self.sae.W_dec.div_(self.sae.W_dec.norm(dim=-1, keepdim=True).clamp_min(1e-12))

    @torch.no_grad()
    def _finish_step(self, result: StepResult, n_examples: int) -> dict[str, Tensor]:
        self.silent_examples.add_(n_examples).masked_fill_(result.fired, 0)
        rule, whole = (
            self.sae.config.selection,
            cast("SAE", self.sae),
        )  # elementwise: a stack will do
        rule.constrain(whole)
        if result.smallest_active is not None and not self.sae.selects_topk:
            rule.observe(whole, result.smallest_active)
        self.sparsity.observe(result.l0, self.fraction)
        self.engine.observe(result)
        self.step_number += 1
        return result.losses | {
            "l0": result.l0,
            "fvu": result.squared_error / self.sae.target_variance,
            "worst_example": result.squared_errors.amax(dim=-1) / self.sae.target_variance,
            "dead": self.dead(n_examples).float().mean(dim=-1),
        }

    def _resamples_now(self) -> bool:
        every, until = self.config.resample_every, self.config.resample_until
        if every is None or self.fraction > until + ROUNDING:
            return False

        def multiples(step: int) -> int:
            return int(step / self.n_steps / every + ROUNDING)

        return multiples(self.step_number) > multiples(self.step_number - 1)

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
            "frozen": sorted(self._frozen),
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
        self._frozen = set(state["frozen"])
        # What the step before this one did; the coming one decides whether that ends.
        self.sae.selects_topk = (
            self.sae.config.selection.begins_as_topk
            and (self.step_number - 1) / self.n_steps < self.config.selection_warmup_fraction
        )


def _make_optimizer(
    members: Sequence[SAE], config: TrainConfig, rate_factors: Sequence[float], shards: bool
) -> torch.optim.Optimizer:
    """One optimiser of all parameters, in a group for each learning rate."""
    make = OPTIMIZERS[config.optimizer]
    if shards:
        return sharded(list(members[0].parameters()), partial(make, config=config))
    if set(rate_factors) == {1.0}:
        return make([p for member in members for p in member.parameters()], config)
    groups: dict[float, list[nn.Parameter]] = {}
    for member, factor in zip(members, rate_factors, strict=True):
        groups.setdefault(factor, []).extend(member.parameters())
    return make([{"params": ps, RATE_FACTOR: factor} for factor, ps in groups.items()], config)


def _beside(values: Tensor, gradient: Tensor) -> Tensor:
    """What belongs to each model, with the axes that it needs to be multiplied with a gradient."""
    return values.reshape(*values.shape, *[1] * (gradient.ndim - values.ndim))
