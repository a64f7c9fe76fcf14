"""How far a reconstruction is from its input."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from saebook.losses.reduction import mean_of_sums

# Rates below it are read as this inside pkl's logarithm: x / rate then stays finite.
MIN_RATE = 1e-8


def mse(x: Tensor, reconstruction: Tensor) -> Tensor:
    """Squared error, summed over ``d_in``, averaged over examples.

    Parameters
    ----------
    x, reconstruction
        Floats [..., d_in], of the same shape.

    Returns
    -------
    Tensor
        A 0-d tensor: ``mean_n Σ_d (x_nd - x̂_nd)²``.

    Notes
    -----
    Many libraries average over ``d_in`` as well, which makes every sparsity coefficient
    ``d_in`` times as strong as the same number here.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    >>> mse(x, torch.tensor([[1.0, 0.0], [0.0, 4.0]])).item()  # (4 + 9) / 2
    6.5
    """
    # One pass over memory each way, where subtracting and squaring would take seven.
    return F.mse_loss(reconstruction, x, reduction="sum") / x.shape[:-1].numel()


def lmse(target: Tensor, reconstruction: Tensor, tau: float = 1.0) -> Tensor:
    """Squared error between logarithms of counts, summed over ``d_in``, averaged over examples.

    Parameters
    ----------
    target
        Floats [..., d_in]: counts per bin, ≥ 0.
    reconstruction
        Floats [..., d_in]: expected counts per bin, > -1: at -1 the term is infinite, below
        it NaN. A ReLU or softplus output keeps it in range.
    tau
        Factor on the reconstruction's logarithm. Anything but 1 biases the target: one count
        x is then best reconstructed by ``(x+1)^(1/tau) - 1``.

    Returns
    -------
    Tensor
        A 0-d tensor: ``mean_n Σ_d (tau · log(x̂_nd + 1) - log(x_nd + 1))²``.

    Notes
    -----
    Biased low by design, at tau 1 too: the best constant is ``exp(E log(x+1)) - 1``, which
    lies below the mean. For Poisson counts of mean 5 it is 4.55, of mean 0.5 it is 0.37.
    :func:`mse` and :func:`pkl` are smallest at the mean.

    References
    ----------
    The squared logarithmic error of regression (scikit-learn's ``mean_squared_log_error``),
    summed over ``d_in``.

    Examples
    --------
    >>> import torch
    >>> counts, rates = torch.tensor([[0.0, 3.0]]), torch.tensor([[1.0, 1.0]])
    >>> round(lmse(counts, rates).item(), 4)  # (log 2)² + (log 2 - log 4)²
    0.9609
    >>> round(lmse(counts, rates, tau=2.0).item(), 4)  # (2 log 2)² + (2 log 2 - log 4)²
    1.9218
    """
    return mean_of_sums((tau * reconstruction.log1p() - target.log1p()).square())


def pkl(target: Tensor, reconstruction: Tensor) -> Tensor:
    """Poisson Kullback-Leibler divergence, summed over ``d_in``, averaged over examples.

    Parameters
    ----------
    target
        Floats [..., d_in]: counts per bin, ≥ 0. A negative count gives NaN.
    reconstruction
        Floats [..., d_in]: expected counts per bin, > 0 (use a softplus output). Inside the
        logarithm, values below 1e-8 count as 1e-8 and keep that point's gradient, so that a
        rate of 0 costs a finite amount and is still pushed up.

    Returns
    -------
    Tensor
        A 0-d tensor: ``mean_n Σ_d (x log(x/x̂) - x + x̂)``, with ``0 log 0 = 0`` exactly: a
        count of 0 costs x̂. It is half the Poisson deviance, and the negative Poisson
        log-likelihood less that of a model which predicts each count.

    References
    ----------
    McCullagh and Nelder 1989, "Generalized Linear Models", section 2.3: the Poisson deviance.

    Examples
    --------
    >>> import torch
    >>> counts, rates = torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 1.0]])
    >>> round(pkl(counts, rates).item(), 4)  # 1 + (2 log 2 - 2 + 1)
    1.3863
    >>> pkl(counts, counts).item()
    0.0
    """
    floor = MIN_RATE + (reconstruction - reconstruction.detach())
    rate = torch.where(reconstruction < MIN_RATE, floor, reconstruction)
    # Apart, not as xlogy(x, x / rate): that one's gradient is 0 / 0 where the count is 0.
    log_ratio = torch.xlogy(target, target) - torch.xlogy(target, rate)
    return mean_of_sums(log_ratio - target + reconstruction)
