"""The temporal term of a trainer: its schedule, its state, and what an engine is given of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from saebook.data.store import Batch
from saebook.errors import ConfigError, DataError
from saebook.models import Forward
from saebook.training.schedules.sparsity import ramp, sparsity_reached
from saebook.training.temporal.base import PairedLatents, TemporalTerm
from saebook.training.temporal.registry import TEMPORAL

if TYPE_CHECKING:
    from saebook.models import SAE
    from saebook.training.config import TrainConfig

SHARED_REMEDY = "train it in one process, or leave `temporal` out"


@dataclass(frozen=True)
class Paired:
    """The positives of a batch, and the term that compares them with its examples.

    Attributes
    ----------
    name
        Of the term, as it is logged.
    positive
        [batch, ...], in the caller's units.
    paired, group
        [batch], as :class:`saebook.training.temporal.base.PairedLatents` has them.
    width
        Latents that the term sees.
    coefficient
        Weight of the term at this step.
    term
        It, with its state.
    """

    name: str
    positive: Tensor
    paired: Tensor
    group: Tensor
    width: int
    coefficient: float
    term: TemporalTerm

    def __call__(self, forward: Forward) -> tuple[Tensor, dict[str, Tensor]]:
        """The term of a pass that had the positives, and what is logged beside it."""
        assert forward.positives is not None
        chosen = (forward.selected[-1], forward.positives)
        # Cosines over a temperature need more digits than autocast leaves them.
        with torch.autocast(self.positive.device.type, enabled=False):
            both = [part.entries.prefix(part.latents, self.width) for part in chosen]
            both = [x.float() if x.dtype == torch.bfloat16 else x for x in both]
            learning = [part.entries.places(self.width) for part in chosen]
            latents = PairedLatents(
                both[0], both[1], self.paired, self.group, (learning[0], learning[1])
            )
            term, logged = self.term(latents)
        with torch.no_grad():
            silent = ~latents.anchors.any(dim=1)
            logged["temporal_silent"] = silent.to(term).mean()
            logged["temporal_coefficient"] = term.new_tensor(self.coefficient)
            logged["temporal_unpaired"] = 1 - self.paired.to(term).mean()
        return term, logged


class Temporal:
    """The temporal term of each model that a trainer trains; none where the settings have none.

    The batch's examples are the anchors: they alone are reconstructed, penalised and counted.
    Their positives share the encoder call, and with batchtopk the competition, and serve the term.

    Parameters
    ----------
    members
        The models.
    train
        Settings of the run; ``temporal`` is the term's.
    n_processes
        That train the model together.

    Raises
    ------
    ConfigError
        There are several processes: each would have the queue of its own share.
    """

    def __init__(self, members: Sequence[SAE], train: TrainConfig, n_processes: int = 1):
        self._config = config = train.temporal
        self.terms: list[TemporalTerm] = []
        if config is None:
            return
        if n_processes > 1:
            raise ConfigError(
                f"temporal with {n_processes} processes: each would compare its own share of a "
                f"batch alone; {SHARED_REMEDY}"
            )
        self._width = config.width(members[0].config.d_sae)
        start = config.start_fraction
        self._start = sparsity_reached(train) if start is None else start
        make = TEMPORAL[config.kind]
        self.terms = [make(config, self._width, member.W_dec) for member in members]

    def coefficients(self, fraction: float) -> dict[str, float]:
        """Weight of the term after this fraction of the run; empty where it plays no part."""
        if self._config is None or not self._config.coefficient:
            return {}
        if fraction < self._start:
            return {}
        share = ramp(fraction - self._start, self._config.ramp_fraction)
        return {self._config.kind: share * self._config.coefficient} if share else {}

    def pairs(self, batch: Batch, fraction: float, device: torch.device) -> list[Paired]:
        """For each model, the positives of a batch and its term; none where it plays no part.

        Raises
        ------
        DataError
            The batch has no positives.
        """
        weights = self.coefficients(fraction)
        if not weights:
            return []
        if batch.positive is None or batch.group is None:
            raise DataError(
                "a batch without positives, and the settings have a temporal term: give "
                "Batch(x, positive=…, group=…), or train with fit, which draws them"
            )
        positive, group = (v.to(device, non_blocking=True) for v in (batch.positive, batch.group))
        paired = batch.paired
        if paired is None:
            paired = torch.ones(len(positive), dtype=torch.bool)
        paired = paired.to(device, non_blocking=True)
        ((name, coefficient),) = weights.items()
        width = self._width
        return [
            Paired(name, positive, paired, group, width, coefficient, term) for term in self.terms
        ]

    def observe(self) -> None:
        """Have each term take up what it saw, once gradients are computed."""
        for term in self.terms:
            term.observe()

    def state_dict(self) -> list[dict[str, Any]]:
        """State of each model's term."""
        return [term.state_dict() for term in self.terms]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Go on where another one stood."""
        for term, state in zip(self.terms, states, strict=True):
            term.load_state_dict(state)
