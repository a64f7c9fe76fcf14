"""Which of a device's kernels a step spends its time in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import DeviceType  # pyright: ignore[reportPrivateImportUsage]
from torch.profiler import ProfilerActivity, profile

MOST_ROWS = 16
NAME_LENGTH = 120


def kernels_of(
    step: Callable[[], object], device: torch.device, n_steps: int = 5
) -> dict[str, Any]:
    """Profile some steps.

    Parameters
    ----------
    step
        Taken before, so that nothing is compiled any more.
    device
        A CUDA device, or a CPU, whose operations are counted instead.
    n_steps
        To profile.

    Returns
    -------
    dict
        ``busy_us``: time of a step in all kernels; ``kernels``: rows of the largest with their
        ``name``, ``us`` and ``calls`` in a step, and ``share`` of ``busy_us``.
    """
    on_gpu = device.type == "cuda"
    kind = ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU
    with profile(activities=[kind], acc_events=True) as profiled:
        for _ in range(n_steps):
            step()
        if on_gpu:
            torch.cuda.synchronize(device)
    wanted = DeviceType.CUDA if on_gpu else DeviceType.CPU
    rows = []
    for event in profiled.key_averages():
        if event.device_type != wanted:
            continue
        spent = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        rows.append((spent / n_steps, event.count / n_steps, event.key[:NAME_LENGTH]))
    busy = sum(us for us, _, _ in rows)
    largest = sorted(rows, reverse=True)[:MOST_ROWS]
    return {
        "busy_us": busy,
        "launches": sum(calls for _, calls, _ in rows),
        "kernels": [
            {"name": name, "us": us, "calls": calls, "share": us / busy if busy else 0.0}
            for us, calls, name in largest
        ],
    }
