"""BatchTopK: the batch shares k × batch active latents; at inference one threshold decides."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from saebook.errors import ConfigError
from saebook.models.architectures.base import Architecture
from saebook.models.architectures.cut import cut_between
from saebook.models.shares import kept_over

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
    default_auxiliary = "auxk"
    begins_as_topk = True
    found_by = "batch"
    follows_smallest = True

    def buffers(self, config: SAEConfig) -> dict[str, Tensor]:
        """Thresholds [n], in units of the latents, -1 until set: one, or one per prefix's k."""
        return {"threshold": torch.full((max(1, len(config.prefix_k)),), UNSET)}

    def select(self, sae: SAE, pre_activations: Tensor, level: int = -1) -> Tensor:
        """Training: the largest of the batch. Eval: what exceeds the threshold."""
        positive = pre_activations.relu()
        if not sae.training:
            return positive * (positive > self._threshold(sae, level))
        flat = positive.reshape(-1)
        n_examples = flat.numel() // positive.shape[-1]
        n_active = min(sae.k_of_level(level) * n_examples, flat.numel())
        if sae.shares is not None:
            return positive * kept_over(sae.shares, positive.detach(), n_active)
        values, indices = flat.topk(n_active, sorted=False)
        return torch.zeros_like(flat).scatter(0, indices, values).view_as(positive)

    def observe(self, sae: SAE, smallest_active: Tensor) -> None:
        """Follow the smallest active latent with an exponential moving average."""
        # Under autocast latents are of lower precision than the threshold.
        smallest_active = smallest_active.to(sae.threshold)
        moved = torch.lerp(smallest_active, sae.threshold, THRESHOLD_DECAY)
        moved = torch.where(sae.threshold < 0, smallest_active, moved)
        sae.threshold.copy_(torch.where(smallest_active.isfinite(), moved, sae.threshold))

    def finish(self, sae: SAE, x: Tensor) -> None:
        """Set the threshold at which training rows have k active latents on average."""
        calibrate_threshold(sae, x)

    @staticmethod
    def _threshold(sae: SAE, level: int) -> Tensor:
        threshold = sae.threshold[level if len(sae.threshold) > 1 else 0]
        if threshold < 0:
            raise ConfigError(
                "this BatchTopK SAE has no inference threshold yet: train it, or call "
                "calibrate_threshold(sae, x) with training rows"
            )
        return threshold


@torch.no_grad()
def calibrate_threshold(sae: SAE, x: Tensor) -> float:
    """Set ``sae.threshold`` so that examples of ``x`` have k active latents on average.

    Parameters
    ----------
    sae
        A BatchTopK SAE; its ``threshold`` buffer is changed, for every prefix with its own k.
    x
        Training examples [n, ...], in the caller's units. At most 2²⁴ pre-activations are
        looked at: evenly spaced examples when there are more.

    Returns
    -------
    float
        The threshold of the whole dictionary: midway between the last pre-activation kept and
        the first dropped.
    """
    sae.selects_topk = False
    rows = max(1, CALIBRATION_ENTRIES // sae.config.d_sae)
    x = x[:: -(-len(x) // rows)]
    positive = sae.pre_activations(x).relu()
    for level in range(len(sae.threshold)):
        size = sae.config.prefixes[level] if sae.config.prefix_k else sae.config.d_sae
        k = sae.k_of_level(level if sae.config.prefix_k else -1)
        sae.threshold[level] = cut_between(positive[..., :size].flatten(), k * len(x))
    return float(sae.threshold[-1])
