"""How much memory a run has needed, and how it is kept."""

from __future__ import annotations

import ctypes
import resource
import sys

import torch

GIGABYTE = 1e9
# Names of two settings in glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


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


def keep_freed_memory() -> bool:
    """Have this process keep memory that it frees, for its next allocation.

    By default large blocks go back to the system at once, and every step waits for it to clear
    them anew: of a dense step of 4,096 examples and latents that was two fifths.

    Returns
    -------
    bool
        Whether the allocator took it; only glibc's, that of most Linux systems, does.

    Examples
    --------
    >>> keep_freed_memory() in (True, False)
    True
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    never = 2**31 - 1
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, never))
