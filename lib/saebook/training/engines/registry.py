"""Engines by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from saebook.models import SAE
from saebook.training.dead import Dead
from saebook.training.engines.autograd import Autograd
from saebook.training.engines.result import StepResult
from saebook.training.temporal.state import Paired


class Engine(Protocol):
    """What an entry of ``ENGINES`` makes: see :class:`Autograd` for what it takes."""

    def __call__(
        self,
        sae: SAE,
        x: Tensor,
        target: Tensor | None,
        coefficients: dict[str, float | Tensor],
        dead: Dead,
        measure_contributions: bool = False,
        pairs: Paired | None = None,
    ) -> StepResult:
        """Add the gradients of one batch to the model's parameters."""
        ...


# numba, which these need, takes half a second to import.
def _sparse() -> Engine:
    from saebook.models.sparse import SelectAmongFew

    return Autograd(SelectAmongFew())


def _lean() -> Engine:
    from saebook.models.sparse import select_among_many

    return Autograd(select_among_many)


def _fused() -> Engine:
    from saebook.models.sparse.gpu.selecting import SelectFused

    return Autograd(SelectFused())


ENGINES: dict[str, Callable[[], Engine]] = {
    "dense": Autograd,
    "fused": _fused,
    "lean": _lean,
    "sparse": _sparse,
}
