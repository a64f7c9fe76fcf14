"""Which engine takes the coming step."""

from __future__ import annotations

from torch import Tensor

from saebook.models import SAE

# Share of latents below which those that are zero are better left out …
SPARSE_DENSITY = 0.1
# … where a step is large enough for that to show: multiplications of its encoder.
SPARSE_PRODUCT = 2**23
# Auxiliary terms that ask for every pre-activation.
NEEDS_ALL = ("ghost", "preactivation")


def choose_engine(sae: SAE, x: Tensor, density: float) -> str:
    """Name of the fastest engine for a batch, by what it will cost.

    Parameters
    ----------
    sae
        The model, on its device.
    x
        The batch [n, ...].
    density
        Share of latents that were active in the step before; 1 when there was none.

    Returns
    -------
    str
        ``"sparse"`` where few latents are active, or ``"dense"``.

    Examples
    --------
    >>> import torch
    >>> from saebook.models import SAEConfig
    >>> sae = SAE(SAEConfig(d_in=64, d_sae=1024, architecture="topk", k=8))
    >>> choose_engine(sae, torch.zeros(512, 64), density=1.0)
    'sparse'
    """
    if not allows_sparse(sae, x):
        return "dense"
    if sae.selection.found_by != "floor":
        density = max(sae.k_of_level(level) for level in range(len(sae.config.levels)))
        density /= sae.config.d_sae
    product = len(x) * sae.config.d_sae * sae.config.d_encoder
    return "sparse" if density <= SPARSE_DENSITY and product >= SPARSE_PRODUCT else "dense"


def allows_sparse(sae: SAE, x: Tensor) -> bool:
    """Whether the sparse engine can take this batch at all."""
    return (
        x.device.type == "cpu"
        and sae.selection.found_by is not None
        and not set(NEEDS_ALL) & set(sae.config.objective.auxiliary)
        and x.ndim == (2 if sae.config.seq_len == 1 else 3)
    )
