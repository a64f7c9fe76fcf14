"""What it costs to be active: penalties on latents, summed over latents."""

from __future__ import annotations

from torch import Tensor

from saebook.losses.reduction import mean_of_sums


def l1(latents: Tensor, *, weights: Tensor | None = None) -> Tensor:
    """Sum of absolute latents, averaged over examples.

    Parameters
    ----------
    latents
        Floats [..., d_sae].
    weights
        Floats [d_sae] multiplying each latent's contribution. Default: all 1.

    Returns
    -------
    Tensor
        A 0-d tensor: ``mean_n Σ_j w_j |f_nj|``.

    Notes
    -----
    With free decoder norms this penalty can be cheated: latents shrink while decoder rows
    grow. Use :func:`l1_decoder_norm`, or hold decoder rows at unit norm.

    References
    ----------
    Bricken et al. 2023, "Towards Monosemanticity", with unit decoder rows.

    Examples
    --------
    >>> import torch
    >>> latents = torch.tensor([[1.0, 0.0, 2.0], [0.0, 0.0, 4.0]])
    >>> l1(latents).item()  # (3 + 4) / 2
    3.5
    >>> l1(latents, weights=torch.tensor([1.0, 1.0, 0.5])).item()  # (2 + 2) / 2
    2.0
    """
    return mean_of_sums(latents.abs(), weights)


def l1_decoder_norm(
    latents: Tensor, decoder_norms: Tensor, *, weights: Tensor | None = None
) -> Tensor:
    """Latents weighted by the norm of their decoder rows, summed, averaged over examples.

    Parameters
    ----------
    latents
        Floats [..., d_sae].
    decoder_norms
        Floats [d_sae]: the Euclidean norm of each decoder row.
    weights
        Floats [d_sae] multiplying each latent's contribution. Default: all 1.

    Returns
    -------
    Tensor
        A 0-d tensor: ``mean_n Σ_j w_j |f_nj| ‖d_j‖``. It stays the same when a latent is
        scaled by c and its decoder row by 1/c, so shrinking latents gains nothing.

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
    if weights is not None:
        decoder_norms = decoder_norms * weights
    return (latents.abs() @ decoder_norms).mean()


def tanh(
    latents: Tensor,
    decoder_norms: Tensor,
    a: float | Tensor,
    b: float | Tensor,
    *,
    weights: Tensor | None = None,
) -> Tensor:
    """A penalty per latent that is L1 for weak latents and levels off for strong ones.

    Parameters
    ----------
    latents
        Floats [..., d_sae].
    decoder_norms
        Floats [d_sae]: the Euclidean norm of each decoder row.
    a
        Slope at 0: a weak latent costs ``a |f| ‖d‖``, as under L1.
    b
        Inverse of the activity at which the penalty levels off; a strong latent costs
        ``a / b`` however strong it is, as under L0. Positive.
    weights
        Floats [d_sae] multiplying each latent's contribution. Default: all 1.

    Returns
    -------
    Tensor
        A 0-d tensor: ``mean_n (a/b) Σ_j w_j tanh(b |f_nj| ‖d_j‖)``.

    Notes
    -----
    The tanh is inside the sum. Around it, all latents of an example would level off at once,
    and none of them would feel the penalty any more.

    References
    ----------
    Anthropic, "Circuits Updates", February 2024 (tanh penalty) and January 2025 (with decoder
    norms).

    Examples
    --------
    >>> import torch
    >>> latents, norms = torch.tensor([[0.0, 0.5, 100.0]]), torch.tensor([1.0, 2.0, 1.0])
    >>> round(tanh(latents, norms, a=3.0, b=1.0).item(), 4)  # 3 · (0 + tanh 1 + 1)
    5.2848
    """
    cost = (b * latents.abs() * decoder_norms).tanh()
    return (a / b) * mean_of_sums(cost, weights)
