"""An optimiser whose state is spread over processes (ZeRO, stage 1)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

with warnings.catch_warnings():
    # Its neighbours there compile themselves in a way that torch is giving up.
    warnings.simplefilter("ignore", DeprecationWarning)
    from torch.distributed.optim import ZeroRedundancyOptimizer


class ShardedOptimizer(ZeroRedundancyOptimizer):
    """Each process keeps the moments of some parameters, updates those, and sends them round.

    Whole parameters are dealt out, largest first: an SAE has two large ones, so that the moments
    of each process shrink to half, and with more than two processes no further.

    Parameters
    ----------
    parameters
        Of the whole model.
    make
        Makes the optimiser of some of them, given as groups of ``torch.optim``.

    References
    ----------
    Rajbhandari et al. 2020, "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models".
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        make: Callable[[Any], torch.optim.Optimizer],
    ):
        super().__init__(parameters, make)  # pyright: ignore[reportArgumentType]
        # What forgets rows of a parameter's state finds it here.
        self.state = self.optim.state

    def state_dict(self) -> dict[str, Any]:
        """That of the same optimiser in one process; of use in the first process alone.

        Every process has to ask, since each sends its part.
        """
        self.consolidate_state_dict(to=0)
        return super().state_dict() if self.rank == 0 else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up this process's part of the state of the same optimiser, sharded or not."""
        everyone = [p for group in self.param_groups for p in group["params"]]
        number = {id(parameter): i for i, parameter in enumerate(everyone)}
        groups = [
            given | {"params": [number[id(p)] for p in own["params"]]}
            for given, own in zip(state_dict["param_groups"], self.optim.param_groups, strict=True)
        ]
        mine = {i for group in groups for i in group["params"]}
        state = {i: moments for i, moments in state_dict["state"].items() if i in mine}
        self.optim.load_state_dict({"state": state, "param_groups": groups})
        for own, shown in zip(self.optim.param_groups, self.param_groups, strict=True):
            shown.update({name: value for name, value in own.items() if name != "params"})
        self.state = self.optim.state
