"""Engines for a stack of SAEs: all at once, or each by the engine that is fastest for it."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from saebook.models import SAE, Selecting, select_among_all
from saebook.models.entries import AllEntries, Selected
from saebook.training.auxiliary import AUXILIARY
from saebook.training.dead import Dead
from saebook.training.engines.autograd import summary
from saebook.training.engines.result import StepResult
from saebook.training.stacking import SAEStack, with_settings
from saebook.training.temporal.state import Paired

Coefficients = dict[str, float | Tensor]


class AllAtOnce:
    """The plain pass, vectorised over the members: one batched product where each had its own.

    Its numbers are those of each member alone, but for rounding.

    Parameters
    ----------
    selecting_of
        How the pass encodes and selects, for so many members, with each one's k (0-d within
        `vmap`) where they differ in it, of which no k is larger than the last:
        :meth:`saebook.models.sparse.gpu.selecting.SelectFused.for_stack`. Default: the plain way.
    """

    def __init__(
        self, selecting_of: Callable[[int, Tensor | None, int], Selecting] | None = None
    ) -> None:
        self._selecting_of = selecting_of
        self._one: _OneOfMany | None = None
        # Made once for each rule of selection: a number of the host's would be copied every step.
        self._settings: dict[str | None, dict[str, Any]] = {}

    def __call__(
        self,
        stack: SAEStack,
        x: Tensor,
        target: Tensor | None,
        coefficients: Coefficients,
        dead: Dead,
        measure_contributions: bool = False,
    ) -> StepResult:
        """Give every member the gradients of its own loss on the batch.

        Parameters
        ----------
        stack
            In training mode.
        x, target
            As for :class:`saebook.training.engines.autograd.Autograd`: one batch for all.
        coefficients
            Weight of every term of the objective: a number, 0-d, or [n] for n members.
        dead
            Dead latents of each member.
        measure_contributions
            Also measure how much each latent lowers the error.

        Returns
        -------
        StepResult
            Every tensor with the members as its first axis.
        """
        if self._one is None:
            self._one = _OneOfMany(stack, self._selecting_of)
        one = self._one
        one.measure_contributions = measure_contributions
        one.sae.selects_topk = stack.selects_topk
        tensors, axes = one.tensors(stack)
        each = {name: _for_each(c, dead.mask) for name, c in coefficients.items()}

        def run(
            tensors: dict[str, Tensor],
            coefficients: dict[str, Tensor],
            mask: Tensor,
            settings: dict[str, Any],
        ) -> tuple[Tensor, dict[str, Any]]:
            own = Dead(mask, dead.at_most)
            return functional_call(one, tensors, (x, target, coefficients, own, settings))

        found_by = stack.selection.found_by
        if found_by not in self._settings:
            self._settings[found_by] = _differing_settings(stack)
        settings = self._settings[found_by]
        totals, found = vmap(run, in_dims=(axes, 0, 0, 0))(tensors, each, dead.mask, settings)
        parameters = stack.stacked_parameters()
        gradients = torch.autograd.grad(totals.sum(), [*parameters.values()], allow_unused=True)
        stack.set_gradients(dict(zip(parameters, gradients)))
        absent = dict.fromkeys(("smallest_active", "contributions"))
        return StepResult(**{**absent, **found, "density": 1.0})


class EachByItself:
    """Each member by an engine of its own, in a thread of its own.

    On a CPU the engines that leave out what is zero gain more than a shared product does, and
    threads that share a small product wait for each other more than they work.

    Parameters
    ----------
    make
        Makes an engine for one SAE, by its name.
    """

    def __init__(self, make: Callable[[str], Any]):
        self._make = make
        self._engines: dict[tuple[int, str], Any] = {}
        self.names: Sequence[str] = ()

    def __call__(
        self,
        stack: SAEStack,
        x: Tensor,
        target: Tensor | None,
        coefficients: Coefficients,
        dead: Dead,
        measure_contributions: bool = False,
        pairs: Sequence[Paired] = (),
    ) -> StepResult:
        """As :class:`AllAtOnce`, by the engine that ``names`` has for each member.

        ``pairs`` are those of each member, if any.
        """
        from saebook.models.sparse.threads import run_each

        weights = {name: _for_each(c, dead.mask).unbind() for name, c in coefficients.items()}
        bf16 = torch.is_autocast_enabled(x.device.type)

        def step(i: int) -> StepResult:
            own: Coefficients = {term: each[i] for term, each in weights.items()}
            stack.members[i].zero_grad(set_to_none=True)
            # Autocast is each thread's own.
            with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
                rest = (dead.of(i), measure_contributions, *pairs[i : i + 1])
                return self._engine(i)(stack.members[i], x, target, own, *rest)

        results = run_each([partial(step, i) for i in range(len(stack.members))])
        stack.gather_gradients()
        return _stacked(results)

    def _engine(self, i: int) -> Any:
        key = (i, self.names[i])
        if key not in self._engines:
            self._engines[key] = self._make(self.names[i])
        return self._engines[key]


class _OneOfMany(nn.Module):
    """One member's step as a function of its tensors, for `functional_call`."""

    def __init__(
        self,
        stack: SAEStack,
        selecting_of: Callable[[int, Tensor | None, int], Selecting] | None,
    ):
        super().__init__()
        # The structure alone: every tensor is given at the call.
        self.sae: SAE = copy.deepcopy(stack.members[0]).to("meta")
        self.measure_contributions = False
        self._largest_k = max(_k(member) for member in stack.members)
        self._n_members = len(stack.members)
        self._selecting_of = selecting_of

    def tensors(self, stack: SAEStack) -> tuple[dict[str, Tensor], dict[str, int | None]]:
        """Parameters and buffers by name, and their axis of members; None where all share one."""
        tensors: dict[str, Tensor] = {}
        axes: dict[str, int | None] = {}
        for name, whole in (stack.stacked_parameters() | stack.stacked_buffers()).items():
            # An input that is scaled alike for all is scaled once.
            shared = name in stack.shared_buffers
            tensors[f"sae.{name}"] = whole[0] if shared else whole
            axes[f"sae.{name}"] = None if shared else 0
        return tensors, axes

    def forward(
        self,
        x: Tensor,
        target: Tensor | None,
        coefficients: dict[str, Tensor],
        dead: Dead,
        settings: dict[str, Any],
    ) -> tuple[Tensor, dict[str, Any]]:
        """The member's objective, and what a trainer wants to know of its pass."""
        sae, plain = self.sae, self.sae.config
        ranked = settings.get("k")
        selecting = self._selecting(ranked)
        sae.config = with_settings(plain, {n: v for n, v in settings.items() if n != "k"})
        try:
            forward = sae.pass_through(x, target, selecting)
            terms = sae.losses(forward)
            for name in sae.config.objective.auxiliary:
                terms[name] = AUXILIARY[name](sae, forward, dead)
            total = torch.stack([coefficients[name] * term for name, term in terms.items()]).sum()
            result = summary(sae, forward, {**terms, "total": total}, self.measure_contributions)
        finally:
            sae.config = plain
        found = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
        return total, {n: v for n, v in found.items() if isinstance(v, Tensor | dict)}

    def _selecting(self, k: Tensor | None) -> Selecting:
        if self._selecting_of is not None:
            return self._selecting_of(self._n_members, k, self._largest_k)
        return select_among_all if k is None else self._select_ranked(k)

    def _select_ranked(self, k: Tensor) -> Selecting:
        """Selection where k is a tensor: by rank among the largest k that any member has."""

        def selecting(sae: SAE, x_scaled: Tensor) -> Sequence[Selected]:
            h = sae.encode_scaled(x_scaled)
            competing = h.relu()
            n = self._largest_k
            if sae.selection.found_by == "batch":
                n_examples = h.shape[:-1].numel()
                competing, n, wanted = competing.flatten(), n * n_examples, k * n_examples
            else:
                wanted = k
            values, indices = competing.topk(min(n, competing.shape[-1]), dim=-1, sorted=True)
            values = values * (torch.arange(values.shape[-1], device=h.device) < wanted)
            latents = torch.zeros_like(competing).scatter(-1, indices, values).view_as(h)
            return [Selected(AllEntries(sae.config.d_sae), h, latents)]

        return selecting


def _k(sae: SAE) -> int:
    """Active latents per example, of the rules that count them."""
    return 0 if sae.config.prefix_k else sae.k_of_level(-1)


def _differing_settings(stack: SAEStack) -> dict[str, Any]:
    """Settings that members read and that differ between them, as tensors [n]."""
    device = stack.W_dec.device
    settings: dict[str, Any] = {}
    targets = [config.target_l0 for config in stack.configs]
    if len(set(targets)) > 1:
        settings["target_l0"] = torch.tensor(targets, device=device)
    weights = [config.prefix_weights for config in stack.configs]
    if len(set(weights)) > 1:
        settings["prefix_weights"] = tuple(torch.tensor(weights, device=device).unbind(dim=1))
    ks = [_k(member) for member in stack.members]
    if stack.selection.found_by in ("row", "batch") and len(set(ks)) > 1:
        settings["k"] = torch.tensor(ks, device=device)
    return settings


def _for_each(value: float | Tensor, dead: Tensor) -> Tensor:
    """A coefficient as [n]."""
    if isinstance(value, Tensor):
        return value.expand(len(dead))
    return torch.full((len(dead),), value, device=dead.device)


def _stacked(results: Sequence[StepResult]) -> StepResult:
    """The results of the members as one."""

    def together(values: list[Any]) -> Any:
        if isinstance(values[0], dict):
            return {name: together([value[name] for value in values]) for name in values[0]}
        if isinstance(values[0], Tensor):
            return torch.stack(values)
        return values if isinstance(values[0], float) else values[0]

    names = [field.name for field in dataclasses.fields(StepResult)]
    return StepResult(**{n: together([getattr(r, n) for r in results]) for n in names})


def _fused_at_once() -> AllAtOnce:
    from saebook.models.sparse.gpu.selecting import SelectFused

    return AllAtOnce(SelectFused().for_stack)


# Engines that take all members of a stack at once, by name.
AT_ONCE: dict[str, Callable[[], AllAtOnce]] = {"dense": AllAtOnce, "fused": _fused_at_once}
