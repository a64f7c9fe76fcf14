"""What a temporal term sees of a step, and what it has to say about itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    from saebook.training.temporal.config import TemporalConfig


Places = tuple[np.ndarray, np.ndarray] | None


@dataclass(frozen=True)
class PairedLatents:
    """The first latents of a batch's anchors and of their positives.

    Attributes
    ----------
    anchors, positives
        Floats [batch, width], with gradients, from one encoder call.
    paired
        Booleans [batch]: anchors that have a positive; those of the others don't count.
    group
        Integers [batch]: the sequence of each pair.
    learning
        Of anchors and of positives, the entries that take up a gradient, as columns [n_entries]
        and starts [batch + 1]; None where all may.
    """

    anchors: Tensor
    positives: Tensor
    paired: Tensor
    group: Tensor
    learning: tuple[Places, Places] = (None, None)


class TemporalTerm(ABC):
    """A term of the objective that compares latents at nearby times, with its state.

    Parameters
    ----------
    config
        Its settings, with its own defaults filled in.
    width
        Latents that it sees.
    like
        A parameter of the model, whose type and device its state has.
    """

    # Settings that only some terms have, and what they are where none are given.
    settings: ClassVar[dict[str, Any]]
    # Whether rows of one sequence are no negatives of each other, so that it needs several.
    masks_sequences: ClassVar[bool] = False

    def __init__(self, config: TemporalConfig, width: int, like: Tensor):
        del width, like
        self.config = config

    @abstractmethod
    def __call__(self, latents: PairedLatents) -> tuple[Tensor, dict[str, Tensor]]:
        """The term, 0-d, and detached 0-d tensors to log beside it."""

    def observe(self) -> None:  # noqa: B027 - most have nothing to take up
        """Take up what the last call saw, once its gradients are computed."""

    def state_dict(self) -> dict[str, Any]:
        """What it needs to go on exactly here."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another one stood."""
        del state
