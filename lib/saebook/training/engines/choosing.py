"""Which engine takes the coming step."""

from __future__ import annotations

import os
from importlib.util import find_spec

import torch
from torch import Tensor

from saebook.errors import ConfigError
from saebook.models import SAE

# Rules that choose a number of latents known beforehand, among rows or among a batch.
COUNTING = ("row", "batch")
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
        On a CPU ``"sparse"`` where few latents are active and ``"lean"`` where many are; on a
        CUDA GPU ``"fused"`` where few are and their number is known beforehand; and ``"dense"``
        for what these don't take, or small steps.

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
    if sae.selection.found_by in COUNTING:
        density = max(sae.k_of_level(level) for level in range(len(sae.config.levels)))
        density /= sae.config.d_sae
    if x.device.type != "cpu":
        return "fused" if density <= SPARSE_DENSITY and _is_fusible(sae, x) else "dense"
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
    """Whether it encodes as SAEs do, rows or windows, and no term asks for everything."""
    return (
        x.ndim == (2 if sae.config.seq_len == 1 else 3)
        and type(sae).encode_scaled is SAE.encode_scaled
        and not set(NEEDS_ALL) & set(sae.config.objective.auxiliary)
    )


def _is_fusible(sae: SAE, x: Tensor) -> bool:
    """Whether kernels for a GPU can take its steps."""
    found_by = sae.selection.found_by
    if x.device.type != "cuda" or found_by not in COUNTING:
        return False
    # A cut that several processes share is found on the host.
    return (found_by == "row" or sae.shares is None) and fused_runs_on(x.device)


def fused_runs_on(device: torch.device) -> bool:
    """Whether the kernels of the fused engine run here.

    Parameters
    ----------
    device
        A CUDA device; or a CPU where ``TRITON_INTERPRET=1`` is set, which serves tests alone.

    Returns
    -------
    bool
        False wherever Triton, which torch's builds for CUDA bring with them, isn't installed.

    Examples
    --------
    >>> fused_runs_on(torch.device("meta"))
    False
    """
    if find_spec("triton") is None:
        return False
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    return device.type == "cuda" or (device.type == "cpu" and interpreted)


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
    if engine == "fused" and config.selection.found_by not in COUNTING:
        reasons.append(f"how many latents of {config.architecture} are active is not known before")
    if engine == "fused" and not fused_runs_on(device):
        installed = find_spec("triton") is not None
        found = f"the device is {device.type}" if installed else "triton is not installed"
        reasons.append(f"it runs on a CUDA GPU by Triton, and {found}")
    if engine in ("fused", "sparse", "lean") and needing:
        reasons.append(f"auxiliary={needing[0]!r} asks for every pre-activation")
    if engine == "lean" and precision != "fp32":
        reasons.append(f"it computes in fp32 alone, and precision is {precision!r}")
    if reasons:
        raise ConfigError(f"engine={engine!r}: {reasons[0]}; use engine='auto' or 'dense'")
