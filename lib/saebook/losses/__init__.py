"""Loss terms: pure functions, each with its reduction, its source and a worked number.

Reconstruction terms are summed over ``d_in`` and averaged over examples; sparsity terms are
summed over latents and averaged over examples. A coefficient then means the same at any
batch size and any ``d_sae``.
"""

from collections.abc import Callable

from torch import Tensor

from saebook.losses.dead import auxk
from saebook.losses.reconstruction import mse
from saebook.losses.sparsity import l1, l1_decoder_norm

RECONSTRUCTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"mse": mse}

__all__ = ["RECONSTRUCTIONS", "auxk", "l1", "l1_decoder_norm", "mse"]
