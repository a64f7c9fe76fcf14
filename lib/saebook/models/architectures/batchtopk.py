"""BatchTopK: the batch shares k × batch active latents; at inference one threshold decides."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from saebook.errors import ConfigError
from saebook.models.architectures.base import Architecture

if TYPE_CHECKING:
    from saebook.models.config import SAEConfig
    from saebook.models.sae import SAE

UNSET = -1.0
THRESHOLD_DECAY = 0.99
CALIBRATION_ENTRIES = 2**24


class BatchTopK(Architecture):
    """The ``k · batch`` largest positive pre-activations of a batch (Bussmann et al. 2024).

    In training the batch competes as a whole. In eval mode a latent is active when it
    exceeds ``sae.threshold``, so a result never depends on what else is in the batch.
    """

    uses_k = True
    default_aux_coefficient = 1 / 32

    def buffers(self, config: SAEConfig) -> dict[str, Tensor]:
        """One threshold, in units of the latents; -1 until it has been set."""
        del config
        return {"threshold": torch.tensor(UNSET)}

    def select(self, sae: SAE, pre_activations: Tensor) -> Tensor:
        """Training: the largest of the batch. Eval: what exceeds the threshold."""
        positive = pre_activations.relu()
        if not sae.training:
            return positive * (positive > self._threshold(sae))
        flat = positive.reshape(-1)
        n_examples = flat.numel() // sae.config.d_sae
        n_active = min((sae.config.k or 1) * n_examples, flat.numel())
        values, indices = flat.topk(n_active, sorted=False)
        return torch.zeros_like(flat).scatter(0, indices, values).view_as(positive)

    def observe(self, sae: SAE, smallest_active: Tensor) -> None:
        """Follow the smallest active latent with an exponential moving average."""
        moved = torch.lerp(smallest_active, sae.threshold, THRESHOLD_DECAY)
        moved = torch.where(sae.threshold < 0, smallest_active, moved)
        sae.threshold.copy_(torch.where(smallest_active.isfinite(), moved, sae.threshold))

    def finish(self, sae: SAE, x: Tensor) -> None:
        """Set the threshold at which training rows have k active latents on average."""
        calibrate_threshold(sae, x)

    @staticmethod
    def _threshold(sae: SAE) -> Tensor:
        if sae.threshold < 0:
            raise ConfigError(
                "this BatchTopK SAE has no inference threshold yet: train it, or call "
                "calibrate_threshold(sae, x) with training rows"
            )
        return sae.threshold


@torch.no_grad()
def calibrate_threshold(sae: SAE, x: Tensor) -> float:
    """Set ``sae.threshold`` so that rows of ``x`` have k active latents on average.

    Parameters
    ----------
    sae
        A BatchTopK SAE; its ``threshold`` buffer is changed.
    x
        Training rows [n, d_in], in the caller's units. At most 2²⁴ pre-activations are
        looked at: evenly spaced rows when there are more.

    Returns
    -------
    float
        The threshold: midway between the last pre-activation kept and the first dropped.
    """
    rows = max(1, CALIBRATION_ENTRIES // sae.config.d_sae)
    x = x[:: -(-len(x) // rows)]
    positive = sae.pre_activations(x).relu().reshape(-1)
    n_active = min((sae.config.k or 1) * len(x), positive.numel())
    kept_last = positive.kthvalue(positive.numel() - n_active + 1).values
    below = positive[positive < kept_last]
    dropped_first = below.max() if len(below) else kept_last.new_zeros(())
    threshold = (kept_last + dropped_first) / 2
    sae.threshold.copy_(threshold)
    return float(threshold)
