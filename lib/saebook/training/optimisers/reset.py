"""Forgetting what an optimiser has learnt about chosen latents."""

from __future__ import annotations

import torch
from torch import Tensor

from saebook.errors import TrainingError


@torch.no_grad()
def reset_state(optimizer: torch.optim.Optimizer, parameter: Tensor, rows: Tensor) -> None:
    """Zero an optimiser's moments for chosen rows of a parameter.

    A latent that is resampled would otherwise be moved by the moments of the one it replaces.

    Parameters
    ----------
    optimizer
        Any entry of ``OPTIMIZERS``; one that hasn't stepped yet has nothing to forget.
    parameter
        One of its parameters, [d_sae, …].
    rows
        Booleans over the leading axes of the parameter, or indices [n] into its first axis.
        A mask is never read back to the host.

    Raises
    ------
    TrainingError
        The parameter is not one of the optimiser's, or the mask has another shape than its
        leading axes.

    Notes
    -----
    The step count belongs to the whole parameter and stays. Late in a run Adam's first update
    of a reset row is therefore ``(1 - beta1) / sqrt(1 - beta2)`` times the learning rate, 3.2
    times at the defaults.

    Examples
    --------
    >>> w = torch.nn.Parameter(torch.ones(3, 2))
    >>> optimizer = torch.optim.SGD([w], momentum=0.9)
    >>> w.grad = torch.ones(3, 2)
    >>> optimizer.step()
    >>> reset_state(optimizer, w, torch.tensor([False, True, False]))
    >>> optimizer.state[w]["momentum_buffer"].tolist()
    [[1.0, 1.0], [0.0, 0.0], [1.0, 1.0]]
    """
    if not any(parameter is p for group in optimizer.param_groups for p in group["params"]):
        raise TrainingError(
            f"a parameter of shape {tuple(parameter.shape)} is not one of this optimiser's: "
            "pass the very object that it was made with"
        )
    if rows.dtype == torch.bool and rows.shape != parameter.shape[: rows.ndim]:
        raise TrainingError(
            f"a mask of shape {tuple(rows.shape)} does not fit a parameter of shape "
            f"{tuple(parameter.shape)}: it must cover its leading axes"
        )
    for moment in optimizer.state.get(parameter, {}).values():
        # Moments have their parameter's shape; step counts and the like don't.
        if not isinstance(moment, Tensor) or moment.shape != parameter.shape:
            continue
        if rows.dtype == torch.bool:
            trailing = [1] * (moment.ndim - rows.ndim)
            moment.masked_fill_(rows.reshape(*rows.shape, *trailing), 0.0)
        else:
            moment.index_fill_(0, rows, 0.0)
