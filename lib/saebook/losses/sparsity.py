"""What it costs to be active: penalties on latents, summed over latents."""

from __future__ import annotations

from torch import Tensor


def l1(latents: Tensor) -> Tensor:
    """Sum of absolute latents, averaged over examples.

    Parameters
    ----------
    latents
        Floats [..., d_sae].

    Returns
    -------
    Tensor
        A 0-d tensor: ``mean_n Σ_j |f_nj|``.

    Notes
    -----
    With free decoder norms this penalty can be cheated: latents shrink while decoder rows
    grow. Use :func:`l1_decoder_norm`, or hold decoder rows at unit norm.

    Examples
    --------
    >>> import torch
    >>> l1(torch.tensor([[1.0, 0.0, 2.0], [0.0, 0.0, 4.0]])).item()  # (3 + 4) / 2
    3.5
    """
    return latents.abs().sum(dim=-1).mean()


def l1_decoder_norm(latents: Tensor, decoder_norms: Tensor) -> Tensor:
    """Latents weighted by the norm of their decoder rows, summed, averaged over examples.

    Parameters
    ----------
    latents
        Floats [..., d_sae].
    decoder_norms
        Floats [d_sae]: the Euclidean norm of each decoder row.

    Returns
    -------
    Tensor
        A 0-d tensor: ``mean_n Σ_j |f_nj| ‖d_j‖``. It stays the same when a latent is scaled
        by c and its decoder row by 1/c, so shrinking latents gains nothing.

    References
    ----------
    Templeton et al. 2024, "Scaling Monosemanticity" (the update of April 2024 on training).

    Examples
    --------
    >>> import torch
    >>> latents = torch.tensor([[1.0, 0.0], [3.0, 2.0]])
    >>> l1_decoder_norm(latents, torch.tensor([1.0, 0.5])).item()  # (1 + 3 + 1) / 2
    2.5
    """
    return (latents.abs() @ decoder_norms).mean()
