"""The sparsity coefficient: its schedule, and the controller that finds it for a target L0."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from saebook.models import SAE
from saebook.training.config import TrainConfig
from saebook.training.schedules import SPARSITY_SCHEDULES
from saebook.training.stacking import SAEStack, per_model

# One batch alone says little about L0; the mean of the last ten or so does.
L0_DECAY = 0.9
# A coefficient this many times smaller or larger than where it began no longer steers: L0 then
# follows something else, and the coefficient would run away from it.
SMALLEST_FACTOR, LARGEST_FACTOR = 1e-3, 30.0
# Largest logarithm of L0 / target that moves the coefficient: far from the target L0 says only
# in which direction to go.
LARGEST_ERROR = 1.0
# Share of L0's own relative change that the coefficient makes too. L0 follows the coefficient
# tens of steps late; without damping it swings past its target and takes latents along: 1,500
# steps of a ReLU SAE [16, 48] at L0 = 4 ended with 98 % of them dead, and end with 2 %.
DAMPING = 0.5


class SparsityCoefficient:
    """Coefficient of the sparsity term at each step.

    Without a target it is ``sparsity_coefficient`` × schedule. With one it is multiplied, after
    each step, by ``exp(share · (rate · log(L0 / target) + damping · Δ log L0))``: above the
    target it grows, below it shrinks, and it gives way as L0 falls. The share is the
    schedule's: a coefficient that isn't felt yet can't be judged by the L0 it leads to, and
    would grow without bounds. Nothing is read back from the device.

    Parameters
    ----------
    sae
        The model, or a stack of them: then coefficient, target and L0 are [n].
    train
        Settings of the run; ``controller_rate`` is the speed.

    Examples
    --------
    >>> import torch
    >>> from saebook.models import SAEConfig
    >>> sae = SAE(SAEConfig(d_in=8, d_sae=32, architecture="relu", target_l0=4.0))
    >>> sparsity = SparsityCoefficient(sae, TrainConfig(n_steps=100))
    >>> before = float(sparsity.full)
    >>> sparsity.observe(torch.tensor(12.0))  # three times the target
    >>> bool(sparsity.full > before)
    True
    """

    def __init__(self, sae: SAE | SAEStack, train: TrainConfig):
        self.train = train
        config = sae.config
        self.controlled = config.target_l0 is not None and config.sparsity != "l0_quadratic"
        self.target = per_model(sae, lambda config: config.target_l0 or 1.0)
        # The product of the steps can only move what is not zero.
        least = 1e-6 if self.controlled else 0.0
        self.start = per_model(sae, lambda config: config.sparsity_coefficient or least)
        self.full = self.start.clone()
        self.l0 = torch.full_like(self.start, math.nan)

    def at(self, fraction: float) -> Tensor:
        """Coefficient after this fraction of the run, of the target's shape."""
        return self.full * self.share(fraction)

    def share(self, fraction: float) -> float:
        """Share of the full coefficient that the schedule allows after this fraction of the run."""
        return SPARSITY_SCHEDULES[self.train.sparsity_schedule](fraction, self.train)

    def observe(self, l0: Tensor, share: float | Tensor = 1.0) -> None:
        """Take note of a batch's L0, to which this share of it led, and move to the target."""
        if not self.controlled:
            return
        before, l0 = self.l0, l0.to(self.l0)
        smoothed = torch.where(before.isnan(), l0, torch.lerp(l0, before, L0_DECAY))
        # Silence counts as one active latent in a hundred examples: its logarithm is finite.
        error = (smoothed.clamp_min(0.01) / self.target).log()
        error = error.clamp(-LARGEST_ERROR, LARGEST_ERROR)
        change = (smoothed.clamp_min(0.01) / before.clamp_min(0.01)).log().nan_to_num()
        step = self.train.controller_rate * error + DAMPING * change
        moved = self.full * (share * step).exp()
        # In place: a recorded step finds them where they were.
        self.l0.copy_(smoothed)
        self.full.copy_(moved.clamp(self.start * SMALLEST_FACTOR, self.start * LARGEST_FACTOR))

    def state_dict(self) -> dict[str, Any]:
        """Coefficient and the running L0."""
        return {"full": self.full, "l0": self.l0}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another one stood."""
        self.full.copy_(state["full"])
        self.l0.copy_(state["l0"])
