"""Devices by name."""

from __future__ import annotations

import torch

from saebook.errors import TrainingError


def resolve_device(name: str) -> torch.device:
    """Turn ``"auto"`` or a device name into a device that exists here.

    Raises
    ------
    TrainingError
        The device is not to be had on this machine.

    Examples
    --------
    >>> resolve_device("cpu").type
    'cpu'
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise TrainingError(
            f"device {name!r} can't be used here ({str(error).splitlines()[0]}); "
            "use device='cpu' or 'auto'"
        ) from error
    return device
