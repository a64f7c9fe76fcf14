"""Terms that give dead latents a gradient."""

from __future__ import annotations

from torch import Tensor


def auxk(residual: Tensor, auxiliary_reconstruction: Tensor) -> Tensor:
    """Error of the dead latents' reconstruction of what the living ones left over.

    Parameters
    ----------
    residual
        Floats [batch, d_in]: ``x - x̂``. It is detached here: only the dead latents learn.
    auxiliary_reconstruction
        Floats [batch, d_in]: decoded from the strongest dead latents alone, without bias.

    Returns
    -------
    Tensor
        A 0-d tensor: ``Σ‖e - ê‖² / Σ‖e - mean(e)‖²``; 1 when the dead latents explain
        nothing. A constant residual (no variance) gives 0.

    References
    ----------
    Gao et al. 2024, "Scaling and evaluating sparse autoencoders", section 2.4.

    Examples
    --------
    >>> import torch
    >>> residual = torch.tensor([[2.0, 0.0], [0.0, 2.0]])  # variance about its mean: 4
    >>> auxk(residual, torch.tensor([[1.0, 0.0], [0.0, 1.0]])).item()  # 2 / 4
    0.5
    """
    residual = residual.detach()
    variance = (residual - residual.mean(dim=0)).square().sum()
    error = (residual - auxiliary_reconstruction).square().sum()
    tiny = variance.new_tensor(1e-30)
    return (error / variance.clamp_min(tiny)).where(variance > tiny, error * 0.0)
