"""How much memory there is, how much a run has needed, and how it is kept."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from pathlib import Path

import torch

from saebook.models import SAEConfig

GIGABYTE = 1e9
# Matrices [batch, d_sae] that a dense step holds at once, about.
MATRICES = 6
# Of a device's memory beside a model, examples take no more: other programs and graphs want some.
LARGEST_SHARE = 0.8
# Names of two settings in glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
# Folder of a control group's files, and those of its limit and its use; version 2, version 1.
CONTROL_GROUPS = (
    ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    (
        "/sys/fs/cgroup/memory",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "total_inactive_file",
    ),
)


def available_memory() -> int:
    """Bytes of main memory that this process could take without swapping.

    What the system says is available, but no more than the control groups of the process (a
    container, a batch job) still allow; the whole memory where the system doesn't say.

    Examples
    --------
    >>> available_memory() > 0
    True
    """
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        fields = dict(line.split(":") for line in meminfo.read_text().splitlines())
        available = int(fields["MemAvailable"].split()[0]) * 1024
    else:
        available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(min([available, *_left_in_groups()]), 0)


def _left_in_groups() -> list[int]:
    """Bytes left in each control group with a limit that the process is in."""
    left = []
    try:
        own = [line.split(":", 2)[2] for line in Path("/proc/self/cgroup").read_text().splitlines()]
    except OSError:
        return []
    for root, limit, used, cache in CONTROL_GROUPS:
        innermost = [Path(root, path.strip("/")) for path in own]
        for group in {group for path in innermost for group in (path, *path.parents)}:
            try:
                most = (group / limit).read_text().strip()
                taken = int((group / used).read_text())
                statistics = (group / "memory.stat").read_text().split()
            except OSError:
                continue
            if most != "max":
                # Files in the page cache count as use, but give way.
                freed = int(dict(zip(statistics[::2], statistics[1::2]))[cache])
                left.append(int(most) - taken + freed)
    return left


def free_memory(device: torch.device) -> int:
    """Bytes of a GPU that this process could take: what nobody has, and what it keeps unused."""
    free, _ = torch.cuda.mem_get_info(device)
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return free + kept


def fits_beside(
    config: SAEConfig, batch_size: int, n_bytes: int, free: int, n_models: int = 1
) -> bool:
    """Whether examples leave a device room for what trains on them.

    Parameters
    ----------
    config
        Of the model: weights, gradients and two moments of float32, and a few matrices of one
        number for each example of a batch and latent.
    batch_size
        Examples of a step.
    n_bytes
        Of the examples.
    free
        Bytes of the device that nothing takes.
    n_models
        Models that train side by side.

    Examples
    --------
    >>> config = SAEConfig(d_in=1000, d_sae=1000, k=8)
    >>> [fits_beside(config, 1000, n, free=10**9) for n in (10**8, 9 * 10**8)]
    [True, False]
    """
    weights = config.d_sae * (config.d_encoder + config.d_target)
    latents = MATRICES * batch_size * config.d_sae
    return n_bytes <= LARGEST_SHARE * (free - n_models * 4 * (4 * weights + latents))


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
