"""Loss terms: pure functions, each with its reduction, its source and a worked number.

Reconstruction terms are summed over ``d_in`` and averaged over examples; sparsity terms are
summed over latents and averaged over examples. A coefficient then means the same at any
batch size and any ``d_sae``.
"""

from saebook.losses.dead import auxk
from saebook.losses.reconstruction import mse
from saebook.losses.sparsity import l1, l1_decoder_norm

__all__ = ["auxk", "l1", "l1_decoder_norm", "mse"]
