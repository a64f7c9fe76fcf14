"""Contrastive: each anchor is to tell its positive from rows of other sequences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from saebook import losses
from saebook.training.temporal.base import PairedLatents, TemporalTerm
from saebook.training.temporal.contrasting import contrast
from saebook.training.temporal.queue import Queue

if TYPE_CHECKING:
    from saebook.training.temporal.config import TemporalConfig


class Contrastive(TemporalTerm):
    """InfoNCE of cosines: :func:`saebook.losses.info_nce`.

    Negatives are the positives of the batch's other anchors, which get gradients, and a queue of
    earlier ones, which don't. Rows of the anchor's own sequence are left out of both: they share
    what varies slowly, which the term is to keep.
    """

    settings: ClassVar[dict[str, Any]] = {
        "coefficient": 1.0,
        "temperature": 0.1,
        "queue_size": 16384,
    }
    masks_sequences = True

    def __init__(self, config: TemporalConfig, width: int, like: Tensor):
        super().__init__(config, width, like)
        assert config.queue_size is not None and config.temperature is not None
        self.queue = Queue(config.queue_size, width, like)
        self._temperature = config.temperature
        self._seen: tuple[Tensor, Tensor] | None = None

    def __call__(self, latents: PairedLatents) -> tuple[Tensor, dict[str, Tensor]]:
        """The term; what it would be by chance, how many rows were left out, and their age."""
        found = contrast(latents, self.queue, self._temperature)
        self._seen = found.keys, latents.group
        chance = losses.info_nce_at_chance(found.n_negatives).to(found.term)
        return found.term, {
            "temporal_over_chance": found.term.detach() / chance.clamp_min(1e-12),
            "temporal_false_negatives": found.n_excluded.to(found.term).mean(),
            "temporal_queue_age": self.queue.mean_age().to(found.term),
        }

    def observe(self) -> None:
        """Enqueue the batch's positives."""
        if self._seen is not None:
            self.queue.add(*self._seen)
            self._seen = None

    def state_dict(self) -> dict[str, Any]:
        """That of the queue."""
        return self.queue.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """That of the queue."""
        self.queue.load_state_dict(state)
