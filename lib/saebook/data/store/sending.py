"""Copies to a device that the host doesn't wait for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def sendable(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return the same values in memory that a device can read by itself.

    For a GPU that is page-locked memory of the host: from any other, a copy waits for all that
    the GPU was asked to do before. On other devices, and of values that are on one, it is the
    tensor as it came.

    Parameters
    ----------
    values : torch.Tensor
        Of any shape and type.
    device : torch.device
        That is to read them.

    Examples
    --------
    >>> import torch
    >>> values = torch.arange(3)
    >>> sendable(values, torch.device("cpu")) is values
    True
    """
    import torch

    if device.type != "cuda" or values.device.type != "cpu" or values.is_pinned():
        return values
    # Memory is locked by way of a device, and that of a new thread is the first one.
    with torch.cuda.device(device):
        return values.pin_memory()


def send(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return the same values on a device, where they arrive before what is asked of it next.

    Parameters
    ----------
    values : torch.Tensor
        Of any shape and type. They may change afterwards only where they were not page-locked.
    device : torch.device
        Where to.

    Examples
    --------
    >>> import torch
    >>> send(torch.arange(3), torch.device("meta")).device.type
    'meta'
    """
    return sendable(values, device).to(device, non_blocking=True)
