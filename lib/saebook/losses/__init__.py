"""Loss terms: pure functions, each with its reduction, its source and a worked number.

Reconstruction terms are summed over ``d_in`` and averaged over examples; sparsity terms are
summed over latents and averaged over examples. A coefficient then means the same at any
batch size and any ``d_sae``; :func:`lambda_equivalent` converts one from other conventions.
"""

from collections.abc import Callable

from torch import Tensor

from saebook.losses.contrastive import (
    info_nce,
    info_nce_at_chance,
    paired_cross_entropy,
    same_sequence,
    smoothness,
)
from saebook.losses.conventions import lambda_at_width, lambda_equivalent
from saebook.losses.dead import auxk, ghost, preactivation
from saebook.losses.l0 import l0_quadratic, l0_step, step
from saebook.losses.reconstruction import lmse, mse, pkl
from saebook.losses.reduction import mean_of_sums
from saebook.losses.sparsity import l1, l1_decoder_norm, tanh

RECONSTRUCTIONS: dict[str, Callable[..., Tensor]] = {"mse": mse, "lmse": lmse, "pkl": pkl}

# These compare counts as they are; the others compare scaled values.
COUNT_RECONSTRUCTIONS = frozenset({"lmse", "pkl"})

__all__ = [
    "COUNT_RECONSTRUCTIONS",
    "RECONSTRUCTIONS",
    "auxk",
    "ghost",
    "info_nce",
    "info_nce_at_chance",
    "l0_quadratic",
    "l0_step",
    "l1",
    "l1_decoder_norm",
    "lambda_at_width",
    "lambda_equivalent",
    "lmse",
    "mean_of_sums",
    "mse",
    "paired_cross_entropy",
    "pkl",
    "preactivation",
    "same_sequence",
    "smoothness",
    "step",
    "tanh",
]
