"""Which engine takes the coming step."""

from __future__ import annotations

import torch
from torch import Tensor

from saebook.errors import ConfigError
from saebook.models import SAE

# Share of latents below which those that are zero are better left out.
SPARSE_DENSITY = 0.1
# Multiplications of its encoder from which a step is worth any such care.
WORTHWHILE_PRODUCT = 2**22
# Numbers in a tensor up to which torch's threads cost a sparse step more than they save.
SMALL_TENSOR = 2**18
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
        ``"sparse"`` where few latents are active, ``"lean"`` where many are, and ``"dense"`` for
        what these don't take, or small steps.

    Examples
    --------
    >>> import torch
    >>> from saebook.models import SAEConfig
    >>> sae = SAE(SAEConfig(d_in=64, d_sae=1024, architecture="topk", k=8))
    >>> choose_engine(sae, torch.zeros(512, 64), density=1.0)
    'sparse'
    """
    product = len(x) * sae.config.d_sae * sae.config.d_encoder
    if product < WORTHWHILE_PRODUCT or not _is_plain(sae, x):
        return "dense"
    if sae.selection.found_by not in (None, "floor"):
        density = max(sae.k_of_level(level) for level in range(len(sae.config.levels)))
        density /= sae.config.d_sae
    if sae.selection.found_by is not None and density <= SPARSE_DENSITY:
        return "sparse"
    return "dense" if torch.is_autocast_enabled(x.device.type) else "lean"


def shares_no_operation(sae: SAE, x: Tensor, engine: str) -> bool:
    """Whether a step does best with one thread for each of torch's operations.

    So it is where the sparse engine, which spreads its products and loops over threads itself,
    leaves only operations on small tensors.

    Examples
    --------
    >>> import torch
    >>> from saebook.models import SAEConfig
    >>> sae = SAE(SAEConfig(d_in=64, d_sae=1024, architecture="topk", k=8))
    >>> shares_no_operation(sae, torch.zeros(512, 64), "sparse")
    True
    """
    largest = max(len(x), sae.config.d_sae) * max(sae.config.d_encoder, sae.config.d_target)
    return engine == "sparse" and largest <= SMALL_TENSOR


def _is_plain(sae: SAE, x: Tensor) -> bool:
    """Whether it encodes as SAEs do, on a CPU, rows or windows, and no term asks for everything."""
    return (
        x.device.type == "cpu"
        and x.ndim == (2 if sae.config.seq_len == 1 else 3)
        and type(sae).encode_scaled is SAE.encode_scaled
        and not set(NEEDS_ALL) & set(sae.config.objective.auxiliary)
    )


def check_engine(sae: SAE, engine: str, precision: str, device: torch.device) -> None:
    """Refuse an engine that was asked for and can't train this model here.

    Raises
    ------
    ConfigError
        With the reason; ``engine="auto"`` never is refused.
    """
    config = sae.config
    needing = sorted(set(NEEDS_ALL) & set(config.objective.auxiliary))
    reasons = []
    if engine == "sparse" and device.type != "cpu":
        reasons.append(f"it runs on a CPU, and the device is {device.type}")
    if engine == "sparse" and config.selection.found_by is None:
        reasons.append(f"latents of {config.architecture} are never zero")
    if engine in ("sparse", "lean") and needing:
        reasons.append(f"auxiliary={needing[0]!r} asks for every pre-activation")
    if engine == "lean" and precision != "fp32":
        reasons.append(f"it computes in fp32 alone, and precision is {precision!r}")
    if reasons:
        raise ConfigError(f"engine={engine!r}: {reasons[0]}; use engine='auto' or 'dense'")
