"""Penalties on how many latents are active, with a gradient to the thresholds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.autograd import Function

from saebook.losses.reduction import mean_of_sums


class StepFunction(Function):
    """``H(h - θ)``, whose derivative to θ is a rectangular kernel's estimate."""

    generate_vmap_rule = True

    @staticmethod
    def forward(h: Tensor, threshold: Tensor, bandwidth: Tensor) -> Tensor:
        """1 where h exceeds its threshold, 0 elsewhere; of h's dtype."""
        del bandwidth
        return (h > threshold).to(h.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Keep what the threshold's gradient needs."""
        del output
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor | None, None]:
        """Gradient to the threshold alone."""
        if not ctx.needs_input_grad[1]:
            return None, None, None
        (gradient,) = gradients
        h, threshold, bandwidth = ctx.saved_tensors
        near = (h - threshold).abs() < bandwidth / 2
        # Summed over the batch in the threshold's dtype: in half precision it would drift.
        density = (gradient.to(threshold.dtype) * near).sum_to_size(threshold.shape)
        return None, -density / bandwidth, None


def step(h: Tensor, threshold: Tensor, bandwidth: float | Tensor) -> Tensor:
    """Which latents are active, with a straight-through gradient to their thresholds.

    Parameters
    ----------
    h
        Floats [..., d_sae]: pre-activations. They get no gradient.
    threshold
        Floats [d_sae], or 0-d: θ, in the units of h.
    bandwidth
        ε, a positive number or 0-d tensor, in the units of h: only pre-activations within
        ε/2 of θ move it.

    Returns
    -------
    Tensor
        Floats [..., d_sae]: ``H(h - θ)``, 1 where ``h > θ`` and 0 elsewhere. Its derivative
        to θ is taken as ``-(1/ε) · 1[|h - θ| < ε/2]``, whose mean over examples estimates
        minus the density of h at θ: the derivative of the expected count.

    References
    ----------
    Rajamanoharan et al. 2024, "Jumping Ahead" (arXiv 2407.14435), the pseudo-derivative of
    the Heaviside step with a rectangular kernel.

    Examples
    --------
    >>> import torch
    >>> threshold = torch.tensor([1.0, 1.0], requires_grad=True)
    >>> active = step(torch.tensor([[1.1, 5.0], [0.9, 1.2]]), threshold, bandwidth=0.5)
    >>> active.tolist()
    [[1.0, 1.0], [0.0, 1.0]]
    >>> active.sum().backward()
    >>> threshold.grad.tolist()  # two values and one within 0.25 of θ, each -1 / 0.5
    [-4.0, -2.0]
    """
    if not isinstance(bandwidth, Tensor):
        bandwidth = threshold.new_full((), bandwidth)
    return StepFunction.apply(h, threshold, bandwidth)  # pyright: ignore[reportReturnType]


def l0_step(
    h: Tensor,
    threshold: Tensor,
    bandwidth: float | Tensor,
    *,
    weights: Tensor | None = None,
) -> Tensor:
    """How many latents are active, averaged over examples.

    Parameters
    ----------
    h
        Floats [..., d_sae]: pre-activations. They get no gradient.
    threshold
        Floats [d_sae], or 0-d: θ, in the units of h.
    bandwidth
        ε of :func:`step`, in the units of h.
    weights
        Floats [d_sae] multiplying each latent's contribution. Default: all 1.

    Returns
    -------
    Tensor
        A 0-d tensor: ``mean_n Σ_j w_j H(h_nj - θ_j)``, in latents per example.

    References
    ----------
    Rajamanoharan et al. 2024, "Jumping Ahead" (arXiv 2407.14435), the L0 penalty.

    Examples
    --------
    >>> import torch
    >>> h, threshold = torch.tensor([[1.1, 5.0], [0.9, 0.0]]), torch.tensor([1.0, 1.0])
    >>> l0_step(h, threshold, bandwidth=0.5).item()  # (2 + 0) / 2
    1.0
    """
    return mean_of_sums(step(h, threshold, bandwidth), weights)


def l0_quadratic(
    h: Tensor,
    threshold: Tensor,
    bandwidth: float | Tensor,
    target: float | Tensor,
    *,
    over_batch: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Squared relative distance of the batch's mean L0 from a target.

    Parameters
    ----------
    h
        Floats [..., d_sae]: pre-activations. They get no gradient.
    threshold
        Floats [d_sae], or 0-d: θ, in the units of h.
    bandwidth
        ε of :func:`step`, in the units of h.
    target
        Wanted number of active latents per example, positive.
    over_batch
        Where h is one share of a batch: makes the mean L0 of the whole batch from the share's
        own, 0-d.

    Returns
    -------
    Tensor
        A 0-d tensor: ``(L0 / target - 1)²``, L0 the mean over the batch. Below the target it
        lowers thresholds, above it raises them.

    Notes
    -----
    Not additive over parts of a batch: it holds the mean L0 to the target and leaves each
    example free.

    References
    ----------
    Rajamanoharan et al. 2024, "Jumping Ahead" (arXiv 2407.14435), with the squared distance
    to a target that dictionary_learning's JumpReLU trainer uses.

    Examples
    --------
    >>> import torch
    >>> h, threshold = torch.tensor([[1.1, 5.0], [0.9, 0.0]]), torch.tensor([1.0, 1.0])
    >>> l0_quadratic(h, threshold, bandwidth=0.5, target=2.0).item()  # (1 / 2 - 1)²
    0.25
    """
    l0 = l0_step(h, threshold, bandwidth)
    return ((l0 if over_batch is None else over_batch(l0)) / target - 1.0).square()
