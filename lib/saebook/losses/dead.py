"""Terms that give dead latents a gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from saebook.losses.reduction import mean_of_sums


# A variance up to here is none.
TINY = 1e-30


def auxk(
    residual: Tensor, auxiliary_reconstruction: Tensor, *, variance: Tensor | None = None
) -> Tensor:
    """Error of the dead latents' reconstruction of what the living ones left over.

    Parameters
    ----------
    residual
        Floats [batch, d_in]: ``x - x̂``. It is detached here: only the dead latents learn.
    auxiliary_reconstruction
        Floats [batch, d_in]: decoded from the strongest dead latents alone, without bias.
    variance
        What to divide by, 0-d, where that of these residuals won't do: they may be one share of a
        batch.

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
    if variance is None:
        variance = (residual - residual.mean(dim=0)).square().sum()
    error = (residual - auxiliary_reconstruction).square().sum()
    return (error / variance.clamp_min(TINY)).where(variance > TINY, error * 0.0)


def ghost(residual: Tensor, ghost_reconstruction: Tensor) -> Tensor:
    """Error of the dead latents' rescaled guess at the residual, as large as the residual's own.

    Parameters
    ----------
    residual
        Floats [..., d_in]: ``x - x̂``. It is detached here: only the dead latents learn.
    ghost_reconstruction
        Floats [..., d_in]: decoded, without bias, from ``exp(h)`` of the dead latents alone,
        h being their pre-activations. The exponential gives them a gradient however negative
        they are.

    Returns
    -------
    Tensor
        A 0-d tensor: ``mean_n c_n ‖e_n - s_n g_n‖²`` with ``s_n = ‖e_n‖ / (2 ‖g_n‖)`` and
        ``c_n = ‖e_n‖² / ‖e_n - s_n g_n‖²``, both detached. Its value is therefore the squared
        error ``mean_n ‖e_n‖²`` of the residual, and only its gradient carries news. An example
        whose ghost reconstruction is zero (no dead latent) contributes 0.

    Notes
    -----
    Both factors are set per example, so that examples don't depend on their batch. Its
    authors later found no gain from it, and loss spikes (update of March 2024).

    References
    ----------
    Jermyn and Templeton 2024, "Ghost Grads" (Anthropic, Circuits Updates, January 2024).

    Examples
    --------
    >>> import torch
    >>> residual = torch.tensor([[0.0, 2.0]], dtype=torch.float64)
    >>> guess = torch.tensor([[1.0, 0.0]], dtype=torch.float64, requires_grad=True)
    >>> term = ghost(residual, guess)
    >>> term.item()  # s = 2 / 2, c = 4 / 5
    4.0
    >>> term.backward()
    >>> guess.grad.tolist()  # 2 c s (s g - e)
    [[1.6, -3.2]]
    """
    residual = residual.detach()
    with torch.no_grad():
        size = ghost_reconstruction.norm(dim=-1, keepdim=True)  # [..., 1]
        scale = (residual.norm(dim=-1, keepdim=True) / (2 * size)).where(size > 0, 0.0)
    error = (residual - scale * ghost_reconstruction).square()
    with torch.no_grad():
        # A guess of half the residual's norm misses by half of it or more, so that the
        # factor is at most 4 wherever there is a residual.
        wanted, found = (e.sum(dim=-1, keepdim=True) for e in (residual.square(), error))
        factor = (wanted / found).where((found > 0) & (scale > 0), 0.0)
    return mean_of_sums(factor * error)


def preactivation(h: Tensor, threshold: Tensor, decoder_norms: Tensor, dead: Tensor) -> Tensor:
    """How far dead latents are below their thresholds, summed, averaged over examples.

    Parameters
    ----------
    h
        Floats [..., d_sae]: pre-activations.
    threshold
        Floats [d_sae], or 0-d: θ, in the units of h.
    decoder_norms
        Floats [d_sae]: the Euclidean norm of each decoder row.
    dead
        Booleans [d_sae]: which latents count as dead.

    Returns
    -------
    Tensor
        A 0-d tensor: ``mean_n Σ_{j dead} ReLU(θ_j - h_nj) ‖d_j‖``. Its gradient raises h and
        lowers θ of dead latents (and shrinks their decoder rows: detach the norms to keep
        them).

    Notes
    -----
    The source sums over all latents; restricting it to dead ones, as SAELens does, leaves
    the silence of living latents free.

    References
    ----------
    Anthropic, "Circuits Updates", January 2025, the pre-activation loss.

    Examples
    --------
    >>> import torch
    >>> h, threshold = torch.tensor([[-1.0, -9.0], [3.0, -9.0]]), torch.tensor([2.0, 2.0])
    >>> dead = torch.tensor([True, False])
    >>> preactivation(h, threshold, torch.tensor([0.5, 1.0]), dead).item()  # (3 + 0) / 2 · 0.5
    0.75
    """
    return mean_of_sums((threshold - h).relu() * dead, decoder_norms)
