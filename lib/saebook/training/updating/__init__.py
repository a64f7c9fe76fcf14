"""From gradients to new weights: the plain way, and one pass over each row on a GPU."""

from __future__ import annotations

from collections.abc import Sequence

from saebook.models import SAE
from saebook.training.config import TrainConfig
from saebook.training.engines.choosing import fused_runs_on
from saebook.training.stacking import SAEStack
from saebook.training.updating.fused import FusedUpdate, takes
from saebook.training.updating.plain import Update

__all__ = ["FusedUpdate", "Update", "make_update"]


def make_update(
    sae: SAE | SAEStack, config: TrainConfig, rate_factors: Sequence[float], shards: bool
) -> Update:
    """The fastest update of a model on its device; see :class:`Update` for the parameters."""
    on_gpu = sae.W_dec.device.type == "cuda" and fused_runs_on(sae.W_dec.device)
    make = FusedUpdate if on_gpu and takes(sae, config, shards) else Update
    return make(sae, config, rate_factors, shards)
