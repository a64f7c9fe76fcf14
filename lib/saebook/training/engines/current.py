"""The engine of a trainer's coming step, which may be another one than that of the step before."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from saebook.models import SAE
from saebook.training.dead import Dead
from saebook.training.engines.choosing import (
    check_engine,
    choose_engine,
    shares_no_operation,
)
from saebook.training.engines.registry import ENGINES, Engine
from saebook.training.engines.result import StepResult
from saebook.training.engines.stacked import AT_ONCE, AllAtOnce, EachByItself
from saebook.training.stacking import SAEStack, members_of
from saebook.training.temporal.state import Paired


class CurrentEngine:
    """Takes each step by the engine that was asked for, or by the fastest.

    Parameters
    ----------
    sae
        The model, or a stack of them: on a GPU and for small steps all members at once, else each
        by the engine that is fastest for it.
    wanted
        A name of ``ENGINES``, or ``"auto"``.
    precision
        ``"fp32"`` or ``"bf16"``.
    device
        Where the model is.

    Raises
    ------
    ConfigError
        The engine that was asked for can't train this model here.

    Attributes
    ----------
    densities : list of float
        Of each model, the share of pre-activations that its last step had to look at.
    names : list of str
        Of each model, the engine of its last step.
    """

    def __init__(self, sae: SAE | SAEStack, wanted: str, precision: str, device: torch.device):
        self._sae, self._members, self._wanted = sae, members_of(sae), wanted
        check_engine(self._members[0], wanted, precision, device)
        self.densities = [1.0] * len(self._members)
        self.names: list[str] = []
        self._made: dict[str, Engine] = {}
        self._at_once: dict[str, AllAtOnce] = {}
        self._each_by_itself = EachByItself(lambda name: ENGINES[name]())

    def step(
        self,
        x: Tensor,
        target: Tensor | None,
        coefficients: dict[str, float | Tensor],
        dead: Dead,
        measure_contributions: bool = False,
        pairs: Sequence[Paired] = (),
    ) -> StepResult:
        """Give the parameters the gradients of one batch; see :class:`Autograd`.

        ``pairs`` are those of each model, if any.
        """
        self.names = self._names(x)
        rest = (x, target, coefficients, dead, measure_contributions)
        if not isinstance(self._sae, SAEStack):
            (name,) = self.names
            if name not in self._made:
                self._made[name] = ENGINES[name]()
            return self._made[name](self._sae, *rest, *pairs)
        name, *others = self.names
        # A queue is one model's own.
        if name in AT_ONCE and set(others) <= {name} and not pairs:
            if name not in self._at_once:
                self._at_once[name] = AT_ONCE[name]()
            return self._at_once[name](self._sae, *rest)
        self._each_by_itself.names = self.names
        return self._each_by_itself(self._sae, *rest, pairs)

    def threads(self, x: Tensor) -> AbstractContextManager[None]:
        """Within it the coming step, on this batch, has the threads that suit it."""
        if not isinstance(self._sae, SAEStack):
            engine = self._name(self._sae, x, self.densities[0])
            if shares_no_operation(self._sae, x, engine):
                # Imports numba, as that engine will.
                from saebook.models.sparse.threads import one_torch_thread

                return one_torch_thread()
        return nullcontext()

    def observe(self, result: StepResult) -> None:
        """Note how dense the step was, where the next one's engine depends on it."""
        if self._members[0].selection.found_by != "floor" or result.l0.device.type != "cpu":
            return
        active = (result.l0 / self._sae.config.d_sae).reshape(-1).tolist()
        looked_at = result.density if isinstance(result.density, list) else [result.density]
        if len(looked_at) < len(active):
            looked_at = looked_at * len(active)
        # What a sparse step looked at; after a dense one, what it would have found.
        self.densities = [d if d < 1.0 else a for d, a in zip(looked_at, active)]

    def _names(self, x: Tensor) -> list[str]:
        names = [self._name(m, x, d) for m, d in zip(self._members, self.densities)]
        # Where members go one after the other only on a CPU, they all take the same.
        if x.device.type != "cpu" and len(set(names)) > 1:
            return ["dense"] * len(names)
        return names

    def _name(self, sae: SAE, x: Tensor, density: float) -> str:
        return choose_engine(sae, x, density) if self._wanted == "auto" else self._wanted
