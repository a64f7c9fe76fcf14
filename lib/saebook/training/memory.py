"""How much memory a run has needed."""

from __future__ import annotations

import resource
import sys

import torch

GIGABYTE = 1e9


def peak_memory_gb(device: torch.device) -> float:
    """Largest memory use so far, in gigabytes of 10⁹ bytes.

    Parameters
    ----------
    device
        A GPU: the most that its tensors have taken at once in this process. The CPU: the
        largest resident size of the whole process, the data among it.

    Examples
    --------
    >>> peak_memory_gb(torch.device("cpu")) > 0.01
    True
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIGABYTE
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in KiB, macOS in bytes.
    return peak * (1 if sys.platform == "darwin" else 1024) / GIGABYTE
