"""The one place from which kernels are started."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor


def launch(
    kernel: Any, grid: tuple[int, ...], *arguments: Tensor | int, warps: int = 4, **constants: Any
) -> None:
    """Start a kernel on the device of its first argument.

    Parameters
    ----------
    kernel
        Compiled when it meets these types, constants and divisibilities for the first time.
    grid
        Programs along each axis; nothing is started where one of them is 0.
    *arguments
        In the order of the kernel's parameters.
    warps
        Groups of 32 threads to each program.
    **constants
        Compiled in.
    """
    if 0 in grid:
        return
    first = arguments[0]
    assert isinstance(first, Tensor)
    elsewhere = first.is_cuda and first.get_device() != torch.cuda.current_device()
    with torch.cuda.device(first.get_device()) if elsewhere else nullcontext():
        kernel[grid](*arguments, num_warps=warps, **constants)
