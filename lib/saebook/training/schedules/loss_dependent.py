"""Schedules that react to the loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saebook.training.config import TrainConfig

SMALLEST_IMPROVEMENT = 1e-4  # relative to the best loss so far, as in torch's ReduceLROnPlateau


class LossDependentDecay:
    """Cut the learning rate whenever the loss has not improved for a while.

    Kept for comparison rather than for use: an SAE's loss rises for good reasons (latents die
    and are replaced, sparsity sets in), and this decay takes each of them for a plateau. It
    acts on logged losses only, so that no step waits for the device.

    Parameters
    ----------
    patience
        Fraction of the run without improvement after which the rate is cut.
    factor
        What it is multiplied by then.

    Attributes
    ----------
    multiplier : float
        Product of the cuts so far.

    Examples
    --------
    >>> decay = LossDependentDecay(patience=0.1, factor=0.5)
    >>> losses = [3.0, 2.0, 2.0, 2.5, 2.5]
    >>> [decay.update(loss, fraction=0.08 * i) for i, loss in enumerate(losses)]
    [1.0, 1.0, 1.0, 0.5, 0.5]
    """

    def __init__(self, patience: float, factor: float):
        self.patience = patience
        self.factor = factor
        self.multiplier = 1.0
        self._best = float("inf")
        self._since = 0.0

    def update(self, loss: float, fraction: float) -> float:
        """Take note of a loss, after this fraction of the run, and return the multiplier."""
        # Written so that a first loss, and never NaN, counts as an improvement.
        if self._best == float("inf"):
            improved = loss < self._best
        else:
            improved = loss < self._best - SMALLEST_IMPROVEMENT * abs(self._best)
        if improved:
            self._best, self._since = loss, fraction
        elif fraction - self._since > self.patience:
            self.multiplier *= self.factor
            self._since = fraction
        return self.multiplier

    def state_dict(self) -> dict[str, Any]:
        """Everything that later updates depend on."""
        return {"multiplier": self.multiplier, "best": self._best, "since": self._since}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another one stood."""
        self.multiplier = state["multiplier"]
        self._best, self._since = state["best"], state["since"]


def plateau(config: TrainConfig) -> LossDependentDecay:
    """The decay that a run's settings ask for."""
    return LossDependentDecay(config.plateau_patience, config.plateau_factor)


FEEDBACK: dict[str, Callable[[TrainConfig], LossDependentDecay]] = {"loss_dependent": plateau}
